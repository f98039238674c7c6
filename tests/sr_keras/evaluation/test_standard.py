"""The standard list is scored on all that the data has, the same numbers every time."""
from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from pipelines.config import PatchOptions
from pipelines.dataset import evaluation_dataset
from sr_keras.evaluation import bicubic, score, standard
from sr_keras.evaluation.conditions import condition_named
from sr_keras.evaluation.patches import find_sets
from sr_keras.evaluation.standard import score_standard, write_standard

SIDE = 64
FEW = ("pairs", "textbook", "noise-0.03")


def sharpened(lr):
    """A model that is not bicubic: its contrast is raised."""
    return np.clip(1.2 * np.asarray(bicubic(lr, 4)) - 0.1, 0, 1)


def by_name(gains):
    return {gain.condition.name: gain for gain in gains}


@pytest.fixture
def few(monkeypatch):
    """Three kinds of LR of the twenty: that is enough to see how they are scored."""
    monkeypatch.setattr(standard, "standard_conditions", lambda scale, real: tuple(
        condition_named(name).at_scale(scale) for name in FEW if real or name != "pairs"))


@pytest.fixture
def sets(plain_folder, pair_folder, tmp_path, few):
    return find_sets([str(plain_folder), str(pair_folder)], tmp_path / "data",
                     PatchOptions(patch_size=SIDE, min_tissue=0), 4)


def test_made_lr_takes_every_slide_and_real_lr_those_of_pairs_and_the_files_tell(sets, tmp_path):
    gains = score_standard(sharpened, sets, 4, per_slide=2)
    found = by_name(gains)
    assert tuple(found) == FEW
    assert {name: slide.patches for name, slide in found["pairs"].slides.items()} == {"paired": 2, "shared": 2}
    for name in FEW[1:]:
        assert {name: slide.patches for name, slide in found[name].slides.items()} == {
            "paired": 2, "plain": 1, "shared": 2}

    paths = [tmp_path / f"standard.{suffix}" for suffix in ("md", "csv", "json", "png")]
    table = write_standard(gains, paths, "Model m, data d: all", {"model": "m"})
    page = paths[0].read_text(encoding="utf-8")
    assert page.startswith("Model m, data d: all\n\n" + table)
    assert "**Gain in PSNR by slide**" in page
    assert "| real pairs |" in table
    assert json.loads(paths[2].read_text())["lr"].keys() == set(FEW)
    assert len(paths[1].read_text().splitlines()) == 1 + 2 + 2 * 3
    assert paths[3].stat().st_size > 10_000


def test_gains_are_those_of_the_patches_scored_one_by_one(sets):
    gain = by_name(score_standard(sharpened, sets[:1], 4, per_slide=None))["textbook"]
    rows = score(sharpened, evaluation_dataset(sets[0], lr="made", batch_size=1))
    found = {method: np.mean([row["psnr"] for row in rows if row["slide_id"] == "shared" and row["method"] == method])
             for method in ("bicubic", "sr")}
    assert gain.slides["shared"].sr["psnr"] == pytest.approx(found["sr"], rel=1e-5)
    assert gain.of_slides("psnr")["shared"] == pytest.approx(found["sr"] - found["bicubic"], abs=1e-4)


def test_bicubic_gains_nothing_over_itself(sets):
    gains = score_standard(partial(bicubic, scale=4), sets[:1], 4, per_slide=1)
    assert tuple(by_name(gains)) == FEW[1:]  # there are no pairs in this data
    for gain in gains:
        assert gain.mean("psnr") == gain.mean("rrmse") == gain.below == 0


def test_the_seed_decides_what_is_random_and_nothing_else_does(sets):
    first, again, other = (by_name(score_standard(sharpened, sets[:1], 4, 1, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first["textbook"] == other["textbook"]
    assert first["noise-0.03"] != other["noise-0.03"]


def test_pairs_of_another_scale_than_the_model_are_refused(sets):
    with pytest.raises(ValueError, match="pairs of paired"):
        score_standard(partial(bicubic, scale=2), sets, 2, per_slide=1)
