# SPDX-License-Identifier: Apache-2.0
"""`sr-keras uncertainty` trains a head that opens, on slides that it does not score."""
from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from scipy.stats import gennorm

from pipelines.degrade import degrade
from pipelines.pixels import to_float, to_uint8
from sr_keras import uncertainty as command
from sr_keras.model.loading import load_generator
from sr_keras.model.uncertainty_head import LEVELS, load_uncertainty
from sr_keras.networks import generator
from sr_keras.uncertainty import Group, Spread, check_sets, covered, fit_factor, predicts, split

SMALL = ("--steps=40", "--per_slide=3", "--crop=8", "--batch_size=4", "--head_filters=4", "--patch_size=128",
         "--learning_rate=0.02")


@pytest.fixture
def program(run_program) -> Callable[..., int]:
    return partial(run_program, command)


@pytest.fixture
def model(tmp_path) -> Path:
    """An untrained generator, which is bilinear interpolation: its errors are those of real pictures."""
    path = tmp_path / "run" / "generator.keras"
    path.parent.mkdir()
    keras.utils.set_random_seed(0)
    generator(scale=4, blocks=1, filters=16).save(path)
    return path.parent


def test_program_writes_a_head_beside_the_generator_that_learned_the_size_of_its_errors(
        program, model, tile_folder, sample_slide, histology, tmp_path, capsys):
    assert program(f"--model={model}", f"--train_data={tile_folder}", f"--val_data={sample_slide}", *SMALL) == 0
    found = load_uncertainty(model)
    (coverage,) = found.facts.coverage
    assert coverage.slide == sample_slide.stem
    assert f"| {coverage.slide} | {coverage.lr} | {coverage.calibrated[0]:.1%} ({coverage.raw[0]:.1%}) |" in \
        capsys.readouterr().out
    assert np.abs(np.array(coverage.calibrated) - LEVELS).max() < 0.2  # the slides are parts of one picture
    lr = to_uint8(degrade(to_float(histology[np.newaxis]))).numpy()
    error = np.abs(histology - load_generator(model)(lr)[0].astype(float)).mean()
    expected = np.asarray(found.expected(lr)).mean()
    assert expected == pytest.approx(error, rel=0.4)
    facts = (model / "uncertainty" / "uncertainty.json").read_text()
    assert 0 < json.loads(facts)["cost"] < 0.15
    assert str(tmp_path) not in facts


def test_existing_head_is_kept_unless_it_may_be_replaced(program, model, tile_folder):
    (model / "uncertainty").mkdir()
    with pytest.raises(ValueError, match=r"`output` must not exist; .*--overwrite"):
        program(f"--model={model}", f"--train_data={tile_folder}", f"--val_data={tile_folder}", *SMALL)
    assert list((model / "uncertainty").iterdir()) == []


def test_old_head_is_kept_if_the_new_one_can_not_be_written(program, model, tile_folder, sample_slide, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    (model / "uncertainty").mkdir()
    (model / "uncertainty" / "old").touch()
    monkeypatch.setattr("sr_keras.formats.signatures.write_uncertainty", fail)
    with pytest.raises(OSError, match="No space left"):
        program(f"--model={model}", f"--train_data={tile_folder}", f"--val_data={sample_slide}", "--overwrite", *SMALL)
    assert [path.name for path in (model / "uncertainty").iterdir()] == ["old"]


@pytest.mark.parametrize(("flags", "message"), [
    (("--val_data={0}",), "`train_data` must be given"),
    (("--train_data={0}",), "`val_data` must be given"),
    (("--train_data={0}", "--val_data=nowhere"), "`val_data` must exist"),
    (("--train_data={0}", "--val_data={0}/slide-a"), "`val_data` must have other slides and cases than .*slide-a"),
    (("--train_data={0}/slide-a", "--val_data={0}/slide-b"), "`train_data` must have slides of two cases or more"),
    (("--train_data={0}", "--val_data=sample", "--head_filters=999"), "`head_filters` must keep the head below 15%"),
    (("--train_data={0}", "--val_data=sample", "--crop=7"), "`crop` must be 8 or more"),
])
def test_bad_input_is_refused_by_one_line_and_nothing_is_written(program, model, tile_folder, flags, message):
    given = [flag.format(tile_folder) for flag in flags]
    small = [flag for flag in SMALL if flag.split("=")[0] not in {one.split("=")[0] for one in given}]
    with pytest.raises(ValueError, match=message) as caught:
        program(f"--model={model}", *small, *given)
    assert "\n" not in str(caught.value)
    assert [path.name for path in model.iterdir()] == ["generator.keras"]


def spread_of(scale: float, shape: float, seed: int = 0) -> Spread:
    """Residuals of a scale, told by a head that says 1."""
    relative = np.abs(gennorm.rvs(shape, scale=scale, size=100_000, random_state=seed))
    return Spread("case", "", relative, np.full(relative.shape, shape), *np.zeros((3, 1)))


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_coverage_of_a_head_that_is_right_is_the_level(shape):
    assert covered(spread_of(1, shape), 1.0, LEVELS) == pytest.approx(LEVELS, abs=0.005)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_factor_corrects_scales_that_are_wrong_alike(scale):
    spreads = [spread_of(scale, shape, seed) for seed, shape in enumerate((0.8, 1.5))]
    factor = fit_factor(spreads, LEVELS)
    assert factor == pytest.approx(scale, rel=0.02)
    assert covered(spread_of(scale, 1.2, 9), factor, LEVELS) == pytest.approx(LEVELS, abs=0.01)


def test_prediction_is_that_of_counting_pairs():
    rng = np.random.default_rng(0)
    error = rng.gamma(2, size=300)
    given = error + rng.normal(size=300)
    worst = error > np.quantile(error, 0.9)
    pairs = given[worst][:, np.newaxis] - given[~worst]
    spearman, auc = predicts(given, error)
    assert auc == pytest.approx((pairs > 0).mean())
    ranks = [np.argsort(np.argsort(values)) for values in (given, error)]
    assert spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert predicts(error, error) == (1, 1)
    assert predicts(np.ones(300), error) == (0, 0.5)
    assert predicts(given, np.ones(300)) == (0, 0.5)


def test_every_fifth_slide_fits_the_factor_and_trains_nothing():
    groups = [Group(slide, kind, *np.zeros((4, 1))) for slide in "abcdefg" for kind in ("real pairs", "made")]
    trained, held_out = split(groups)
    assert {group.slide for group in held_out} == {"a", "f"}
    assert {group.slide for group in trained} == set("bcdeg")
    assert len(trained) + len(held_out) == len(groups)


def test_slides_of_one_patient_are_on_one_side():
    slides = [f"TCGA-AA-000{i}-01Z-00-DX{j}" for i in range(3) for j in (1, 2)]
    trained, held_out = split([Group(slide, "made", *np.zeros((4, 1))) for slide in slides])
    assert [group.slide for group in held_out] == slides[:2]
    assert [group.slide for group in trained] == slides[2:]
    one, other = ([SimpleNamespace(slide_ids=[slide], patch_size=256)] for slide in slides[:2])
    with pytest.raises(ValueError, match=r"`val_data` must have other slides and cases than .*TCGA-AA-0000"):
        check_sets(one, other, 4)
