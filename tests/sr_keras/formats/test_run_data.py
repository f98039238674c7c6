# SPDX-License-Identifier: Apache-2.0
"""An export reads tissue and facts from the run, and has the built-in picture where there is no run."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.config import DEGRADATIONS, DegradeOptions, PatchOptions
from pipelines.degrade import degrade
from pipelines.patches import find_sources
from pipelines.pixels import to_float, to_uint8
from pipelines.shards import open_shards, write_shards
from sr_keras.formats.run_data import (
    BUILT_IN,
    CALIBRATED,
    CALIBRATED_SIDE,
    calibration_tissue,
    compared_tissue,
    departure_batches,
    facts_of,
)
from sr_keras.model.facts import ModelFacts

OPTIONS = DegradeOptions(4)


@pytest.fixture(scope="module")
def run(sample_slide, tmp_path_factory) -> Path:
    """A run folder as far as its data goes."""
    folder = tmp_path_factory.mktemp("run")
    for part, size in (("train", 128), ("val", 168)):
        write_shards(find_sources(sample_slide), folder / "data" / part, PatchOptions(size, min_tissue=0.1))
    (folder / "parts.json").write_text(json.dumps({
        part: {"folders": [str(folder / "data" / part)], "slides": [sample_slide.stem]} for part in ("train", "val")}))
    return folder


def assert_pairs(tissue, scale: int) -> None:
    assert tissue.hr.dtype == tissue.lr.dtype == np.uint8
    assert tissue.hr.shape == (len(tissue.lr), *(scale * side for side in tissue.lr.shape[1:3]), 3)
    expected = to_uint8(degrade(to_float(tissue.hr), scale).numpy())
    inner = (slice(None), slice(3, -3), slice(3, -3))  # away from where patches were cut smaller
    np.testing.assert_array_equal(tissue.lr[inner], expected[inner])
    assert tissue.hr.std() > 20


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_built_in_picture_gives_pairs_at_every_scale(scale):
    for tissue in (compared_tissue(None, DegradeOptions(scale)), calibration_tissue(None, None, DegradeOptions(scale))):
        assert tissue.name == BUILT_IN
        assert_pairs(tissue, scale)


def test_run_is_compared_on_val_and_calibrated_with_train(run):
    compared, calibration = compared_tissue(run, OPTIONS), calibration_tissue(None, run, OPTIONS)
    assert "validation" in compared.name
    assert compared.hr.shape == (2, 168, 168, 3)
    assert_pairs(compared, 4)
    assert "training" in calibration.name
    assert calibration.lr.shape[1:] == (CALIBRATED_SIDE, CALIBRATED_SIDE, 3)
    assert 4 <= len(calibration.lr) <= CALIBRATED


def test_run_whose_patches_are_gone_gets_the_built_in_picture_and_says_so(run, tmp_path):
    moved = shutil.copytree(run, tmp_path / "run", ignore=lambda folder, names: ["data"])
    parts = json.loads((moved / "parts.json").read_text())
    for part in parts.values():
        part["folders"] = [str(tmp_path / "gone")]
    (moved / "parts.json").write_text(json.dumps(parts))
    assert compared_tissue(moved, OPTIONS).name == BUILT_IN
    assert calibration_tissue(None, moved, OPTIONS).name == BUILT_IN


def test_patches_too_small_for_ms_ssim_are_not_compared_on(run, tmp_path):
    parts = json.loads((run / "parts.json").read_text())
    (tmp_path / "parts.json").write_text(json.dumps({**parts, "val": parts["train"]}))
    assert compared_tissue(tmp_path, OPTIONS).name == BUILT_IN


def test_calibration_takes_a_run_shards_or_tiles(run, tile_folder):
    of_run = calibration_tissue(str(run), None, OPTIONS)
    of_shards = calibration_tissue(str(run / "data" / "train"), None, OPTIONS)
    np.testing.assert_array_equal(of_run.lr, of_shards.lr)
    of_tiles = calibration_tissue(str(tile_folder), run, OPTIONS)
    assert of_tiles.name == "patches of slide-a, slide-b"  # and not where they lie on this machine
    assert of_tiles.lr.shape == (CALIBRATED, CALIBRATED_SIDE, CALIBRATED_SIDE, 3)
    assert len(np.unique(of_tiles.lr.reshape(CALIBRATED, -1), axis=0)) == CALIBRATED


def test_calibration_data_that_is_not_there_is_an_error(run):
    with pytest.raises(FileNotFoundError, match=r"`calibration_data` must exist; .*/no/such"):
        calibration_tissue("/no/such", run, OPTIONS)


@pytest.fixture
def shards(sample_slide, tmp_path) -> Path:
    folder = tmp_path / "shards"
    write_shards(find_sources([str(sample_slide)]), folder, PatchOptions(128, max_patches=2))
    return folder


@pytest.fixture
def sample_run(shards, tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "flags.txt").write_text("--blur_sigma=0.8\n--scale=4\n")
    part = {"slides": list(open_shards(shards).slide_ids), "folders": [str(shards)]}
    (folder / "parts.json").write_text(json.dumps({name: part for name in ("train", "val", "test")}))
    return folder


def test_run_says_the_resolution_of_its_patches_and_its_degradation(sample_run):
    assert facts_of(sample_run, 4) == ModelFacts(lr_mpp=(2.0, 2.0), degradation=DegradeOptions(blur_sigma=0.8),
                                          flags="--blur_sigma=0.8\n--scale=4\n")


def test_what_is_given_wins(sample_run):
    facts = facts_of(sample_run, 4, lr_mpp=(0.9, 2.1), stain="H&E", trained_on="slides")
    assert (facts.lr_mpp, facts.stain, facts.trained_on) == ((0.9, 2.1), "H&E", "slides")


def test_folder_that_is_no_run_says_nothing(tmp_path):
    assert facts_of(tmp_path, 4) == ModelFacts()


def test_range_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`lr_mpp` must have its low end first"):
        facts_of(tmp_path, 4, lr_mpp=(2.0, 1.0))


@pytest.mark.parametrize("degradation", [DegradeOptions(), DEGRADATIONS["scanner"]])
def test_validation_slides_of_the_run_are_departure_batches(degradation, sample_run, shards, tmp_path):
    generator = SimpleNamespace(scale=4, degrade=degradation)
    assert list(departure_batches(None, tmp_path, generator, 12)) == []  # no run
    for data, patches, expected in ((None, 12, 2), (None, 1, 1), (str(shards), 12, 2), (str(sample_run), 12, 2)):
        found = list(departure_batches(data, sample_run, generator, patches))
        assert sum(len(one["lr"]) for one in found) == expected
        assert found[0]["lr"].shape[1:] == (32, 32, 3)
