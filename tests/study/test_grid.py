# SPDX-License-Identifier: Apache-2.0
"""Grids: their settings, the flags of a setting, and what is refused."""
from __future__ import annotations

from pathlib import Path

import pytest
from absl import flags

from sr_keras.config import METHODS, define_train_flags, objective
from study.grid import Cell, Setting, parse_grids, setting_flags

TRAIN_FLAGS = ("epsilon", "discriminator_learning_rate", "crop_size", "seed", "run")


def settings(*grids: str) -> list[Setting]:
    return parse_grids(grids, TRAIN_FLAGS)


def objective_of(setting: Setting):
    """Return the objective that `sr_keras.train` makes of a setting's flags."""
    values = flags.FlagValues()
    define_train_flags(values)
    values(["train", *setting_flags(setting)])
    return objective(values)


def test_grid_is_every_combination_of_its_values_in_their_order():
    found = settings("method=srgan,srgan_sqe; fraction=0.5,0.3", "method=srgan_e")
    assert [(one.method, one.fraction) for one in found] == [
        ("srgan", 0.5), ("srgan", 0.3), ("srgan_sqe", 0.5), ("srgan_sqe", 0.3), ("srgan_e", 0)]


def test_setting_that_two_grids_name_is_one_setting():
    assert len(settings("method=srgan_sqe; q=0.5; fraction=0.3", "method=srgan_sqe; fraction=0.3")) == 1


def test_kind_and_side_of_no_corruption_do_not_tell_settings_apart():
    (one,) = settings("method=srgan; fraction=0; kind=noise,blur; side=lr,hr")
    assert one.name == "srgan-q2-clean"


def test_q_left_out_is_the_methods_own():
    assert [one.q for one in settings("method=srgan,srgan_e,srgan_qe,srgan_sqe")] == [2, 2, 0.5, 0.5]


def test_names_tell_cells_apart():
    found = settings("method=srgan_sqe,fidelity; q=0.5,2; fraction=0,0.3; kind=noise,blur; side=lr,hr",
                     "method=srgan_sqe; fraction=0.3; epsilon=0.01,0.001; crop_size=32")
    assert len({Cell(one, fold).name for one in found for fold in (0, 1)}) == 2 * len(found)


@pytest.mark.parametrize("method", list(METHODS))
def test_method_of_the_paper_has_the_papers_objective(method):
    assert objective_of(Setting(method, METHODS[method].q)) == METHODS[method]


def test_fidelity_has_no_other_term():
    made = objective_of(Setting("fidelity", 0.75))
    assert made.q == 0.75
    assert {made.lambda_m, made.lambda_s, made.lambda_d, made.lambda_v} == {0}


def test_corruption_and_variant_become_flags():
    (one,) = settings("method=srgan_sqe; fraction=0.3; kind=outlier; side=lr; epsilon=0.01")
    assert {"--corrupt_fraction=0.3", "--corrupt_kinds=outlier", "--corrupt_side=lr",
            "--epsilon=0.01"} <= set(setting_flags(one))
    assert one.variant == "epsilon=0.01"


def test_weight_that_varies_overrides_the_methods():
    (one,) = settings("method=srgan_sqe; lambda_d=0")
    assert objective_of(one).lambda_d == 0
    assert objective_of(one).lambda_s == METHODS["srgan_sqe"].lambda_s
    assert one.name == "srgan_sqe-q0.5-clean-lambda_d=0"


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
])
def test_wrong_grid_is_refused_by_name(grid, message):
    with pytest.raises(ValueError, match=message):
        settings(grid)


def test_no_grid_is_refused():
    with pytest.raises(ValueError, match="`grid` must be set"):
        settings()


def test_flagfile_is_a_study_that_chooses_nothing_on_the_scored_slides(monkeypatch):
    from study.__main__ import FLAGS, TRAIN

    monkeypatch.chdir(Path(__file__).parents[2])
    FLAGS.unparse_flags()
    FLAGS(["study", "--flagfile=sr_keras/flagfiles/study_slides.flags"])
    found = parse_grids(FLAGS.grid, list(TRAIN))
    assert len(found) == 36
    assert {one.fraction for one in found[:12]} == {0, 0.3, 0.5}  # whole families first
    assert {one.method for one in found[:12]} == set(METHODS)
    assert FLAGS.best_by == "last"
