"""What a model is made for follows from what is given, else from its run, else nothing is said."""
from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipelines.config import DEGRADATIONS, DegradeOptions, PatchOptions
from pipelines.patches import find_sources
from pipelines.shards import open_shards, write_shards
from sr_keras.formats.purpose import facts_of, measured_on, read_mpp
from sr_keras.model.facts import ModelFacts


@pytest.fixture
def shards(sample_slide, tmp_path) -> Path:
    folder = tmp_path / "shards"
    write_shards(find_sources([str(sample_slide)]), folder, PatchOptions(128, max_patches=2))
    return folder


@pytest.fixture
def run(shards, tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "flags.txt").write_text("--blur_sigma=0.8\n--scale=4\n")
    part = {"slides": list(open_shards(shards).slide_ids), "folders": [str(shards)]}
    (folder / "parts.json").write_text(json.dumps({name: part for name in ("train", "val", "test")}))
    return folder


def test_mpp_of_patches_is_that_of_their_slide(shards, tmp_path):
    assert read_mpp(open_shards(shards)) == (0.5, 0.5)
    for i in range(2):
        (tmp_path / "tiles" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), 90 * i, np.uint8)).save(tmp_path / "tiles" / "a" / f"{i}.png")
    write_shards(find_sources([str(tmp_path / "tiles")]), tmp_path / "plain", PatchOptions(64, min_tissue=0.0))
    assert read_mpp(open_shards(tmp_path / "plain")) is None


def test_run_says_the_resolution_of_its_patches_and_its_degradation(run):
    assert facts_of(run, 4) == ModelFacts(lr_mpp=(2.0, 2.0), degradation=DegradeOptions(blur_sigma=0.8),
                                          flags="--blur_sigma=0.8\n--scale=4\n")


def test_what_is_given_wins(run):
    facts = facts_of(run, 4, lr_mpp=(0.9, 2.1), stain="H&E", trained_on="slides")
    assert (facts.lr_mpp, facts.stain, facts.trained_on) == ((0.9, 2.1), "H&E", "slides")


def test_folder_that_is_no_run_says_nothing(tmp_path):
    assert facts_of(tmp_path, 4) == ModelFacts()


def test_range_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`lr_mpp` must have its low end first"):
        facts_of(tmp_path, 4, lr_mpp=(2.0, 1.0))


@pytest.mark.parametrize("degradation", [DegradeOptions(), DEGRADATIONS["scanner"]])
def test_validation_slides_of_the_run_are_measured_on(degradation, run, shards, tmp_path):
    generator = SimpleNamespace(scale=4, degrade=degradation)
    assert list(measured_on(None, tmp_path, generator, 12)) == []  # no run
    for data, patches, expected in ((None, 12, 2), (None, 1, 1), (str(shards), 12, 2), (str(run), 12, 2)):
        found = list(measured_on(data, run, generator, patches))
        assert sum(len(one["lr"]) for one in found) == expected
        assert found[0]["lr"].shape[1:] == (32, 32, 3)
