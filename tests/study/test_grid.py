# SPDX-License-Identifier: Apache-2.0
"""Grids: their cells, the flags of a cell, and what is refused."""
from __future__ import annotations

from pathlib import Path

import pytest

from sr_keras.config import METHODS
from sr_keras.training.flags import define_train_flags, objective
from study.grid import Cell, cell_flags, parse_grids

TRAIN_FLAGS = ("epsilon", "discriminator_learning_rate", "crop_size", "seed", "run")


def cells(*grids: str, seeds=(0,)) -> list[Cell]:
    return parse_grids(grids, seeds, TRAIN_FLAGS)


def objective_of(cell: Cell, **keywords):
    """Return the objective that `sr_keras.train` makes of a cell's flags."""
    from absl import flags

    values = flags.FlagValues()
    define_train_flags(values)
    values(["train", *cell_flags(cell, **keywords)])
    return objective(values)


def test_grid_is_every_combination_of_its_values_for_every_seed():
    found = cells("method=srgan,srgan_sqe; fraction=0.3,0.5", seeds=(0, 1))
    assert len(found) == len(set(found)) == 8
    assert [cell.seed for cell in found] == [0] * 4 + [1] * 4  # a study that stops has whole seeds


def test_cell_that_two_grids_name_is_one_cell():
    assert len(cells("method=srgan_sqe; q=0.5; fraction=0.3", "method=srgan_sqe; fraction=0.3")) == 1


def test_kind_and_side_of_no_corruption_do_not_tell_cells_apart():
    (cell,) = cells("method=srgan; fraction=0; kind=noise,blur; side=lr,hr")
    assert cell.name == "srgan-q2-paper-clean-seed0"


def test_q_left_out_is_the_methods_own():
    assert [cell.q for cell in cells("method=srgan,srgan_e,srgan_qe,srgan_sqe")] == [2, 2, 0.5, 0.5]


def test_names_tell_cells_apart():
    found = cells("method=srgan_sqe,fidelity; q=0.5,2; balance=paper,equal; fraction=0,0.3; kind=noise,blur; "
                  "side=lr,hr",
                  "method=srgan_sqe; fraction=0.3; epsilon=0.01,0.001; crop_size=32", seeds=(0, 1))
    assert len({cell.name for cell in found}) == len(found)


@pytest.mark.parametrize("method", list(METHODS))
def test_method_of_the_paper_has_the_papers_objective(method):
    assert objective_of(Cell(method, METHODS[method].q)) == METHODS[method]


@pytest.mark.parametrize(("method", "kept"), [
    ("fidelity", None), ("fidelity_m", "lambda_m"), ("fidelity_s", "lambda_s"), ("fidelity_d", "lambda_d")])
def test_term_alone_keeps_its_weight_and_no_other(method, kept):
    made = objective_of(Cell(method, 0.75))
    assert made.q == 0.75
    for name in ("lambda_m", "lambda_s", "lambda_d", "lambda_v"):
        assert getattr(made, name) == (getattr(METHODS["srgan_sqe"], name) if name == kept else 0)


def test_factors_multiply_the_weights():
    made = objective_of(Cell("srgan_sqe", 2, "equal"), factors={"m": 3.0, "s": 0.05, "d": 0.5})
    assert (made.lambda_m, made.lambda_s, made.lambda_d) == pytest.approx((0.6, 0.1, 0.008))


def test_corruption_and_variant_become_flags():
    (cell,) = cells("method=srgan_sqe; fraction=0.3; kind=outlier; side=lr; epsilon=0.01")
    flags = cell_flags(cell)
    assert {"--corrupt_fraction=0.3", "--corrupt_kinds=outlier", "--corrupt_side=lr", "--epsilon=0.01"} <= set(flags)
    assert cell.variant == "epsilon=0.01"


def test_weight_that_varies_overrides_the_methods():
    (cell,) = cells("method=srgan_sqe; lambda_s=0.5")
    assert objective_of(cell).lambda_s == 0.5
    assert cell.variant == "lambda_s=0.5"


@pytest.mark.parametrize(("grid", "message"), [
    ("method=srgan_sqe; fracton=0.3", "correct 'fracton'"),
    ("method=srgan_sqe; run=x", "correct 'run'"),
    ("fraction=0.3", "`grid` must have a method axis"),
    ("method", "AXIS=VALUES"),
    ("method=srgan_sqe; method=srgan", "contain each axis once"),
    ("method=esrgan", "`method` must be one of"),
    ("method=srgan_sqe; q=3", r"`q` must lie in \(0, 2\]"),
    ("method=srgan_sqe; q=half", "must have numbers"),
    ("method=srgan_sqe; fraction=30", r"`fraction` must lie in \[0, 1\]"),
    ("method=srgan_sqe; fraction=0.3; kind=dust", "`kind` must be one of"),
    ("method=srgan_sqe; balance=mine", "`balance` must be one of"),
])
def test_wrong_grid_is_refused_by_name(grid, message):
    with pytest.raises(ValueError, match=message):
        cells(grid)


@pytest.mark.parametrize(("flagfile", "count"), [("study_small.flags", 102), ("study_paper.flags", 195)])
def test_flagfile_is_a_study(monkeypatch, flagfile, count):
    from study.__main__ import FLAGS, TRAIN

    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    FLAGS.unparse_flags()
    FLAGS(["study", f"--flagfile=sr_keras/flagfiles/{flagfile}"])
    found = parse_grids(FLAGS.grid, [int(seed) for seed in FLAGS.seeds], list(TRAIN))
    assert len(found) == count
    assert FLAGS.best_by == "last"  # nothing is chosen on the slides that are scored


def test_no_grid_is_refused():
    with pytest.raises(ValueError, match="`grid` must be set"):
        cells()
