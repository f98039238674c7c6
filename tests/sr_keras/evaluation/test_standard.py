# SPDX-License-Identifier: Apache-2.0
"""The standard list is scored on all the data, reproducibly; gains are means of slides, checked by hand."""
from __future__ import annotations

import csv
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.dataset import evaluation_dataset
from sr_keras.evaluation import bicubic, score, standard
from sr_keras.evaluation.conditions import CURVES, REAL, condition_named, noisy
from sr_keras.evaluation.shard_sets import find_sets
from sr_keras.evaluation.standard import (
    draw_curves,
    gain_of,
    gain_table,
    score_standard,
    score_table,
    slide_gain_table,
    standard_rows,
    write_gains_csv,
    write_gains_json,
    write_standard,
)

SIDE = 64
TEXTBOOK = condition_named("textbook")
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


# Gains

def rows_of(bicubic, sr, slides, **more):
    """Rows as `score` gives them: PSNR as given, RRMSE a tenth of its distance from 30."""
    return [{"example_id": f"{slide}/{i}", "slide_id": slide, "method": method, "psnr": float(psnr),
             "qilv": 0.5, "rrmse": (30 - psnr) / 10, **more}
            for i, (slide, *both) in enumerate(zip(slides, bicubic, sr, strict=True))
            for method, psnr in zip(("bicubic", "sr"), both, strict=True)]


@pytest.fixture
def gain():
    """Slide a gains 2, 2 and 5, slide b loses 1: by slides +3 and -1, their mean +1 (by patches it would be +2)."""
    return gain_of(TEXTBOOK, rows_of([20, 20, 20, 25], [22, 22, 25, 24], "aaab"))


def test_every_slide_counts_once(gain):
    assert gain.slides["a"].patches == 3
    assert gain.slides["a"].bicubic["psnr"] == 20
    assert gain.slides["a"].sr["psnr"] == pytest.approx(23)
    assert gain.of_slides("psnr") == pytest.approx({"a": 3, "b": -1})
    assert gain.mean("psnr") == pytest.approx(1)
    assert gain.mean("rrmse") == pytest.approx(-0.1)
    assert gain.mean("qilv") == 0


def test_the_worst_slide_and_those_below_bicubic_are_told(gain):
    assert gain.worst == ("b", pytest.approx(-1))
    assert gain.below == 1
    level = gain_of(TEXTBOOK, rows_of([20, 20], [20, 21], "ab"))
    assert level.below == 0  # as good as bicubic is not below it
    assert level.worst == ("a", 0)


def test_an_infinite_score_is_left_out_of_its_slide(gain):
    found = gain_of(TEXTBOOK, rows_of([20, 20, 30], [21, np.inf, np.inf], "aab"))
    assert found.of_slides("psnr") == {"a": 1}
    assert found.mean("psnr") == 1
    assert found.worst == ("a", 1)
    assert "| 0 of 1 |" in gain_table([found])


def test_rows_of_one_method_only_are_refused():
    with pytest.raises(ValueError, match="once as bicubic and once as sr"):
        gain_of(TEXTBOOK, rows_of([20], [21], "a")[:1])


def test_compact_table_has_a_row_per_kind_of_lr(gain):
    table = gain_table([gain, gain_of(REAL, rows_of([20, 20], [19, 18], "ab", ms_ssim=0.9))])
    assert table.splitlines() == [
        "| LR | PSNR (dB) ↑ | QILV ↑ | RRMSE ↓ | worst slide, PSNR | slides below bicubic |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| textbook (sigma 1.6) | +1.00 | +0.000 | -0.1000 | -1.00 (b) | 1 of 2 |",
        "| real pairs | -1.50 | +0.000 | +0.1500 | -2.00 (b) | 2 of 2 |"]


def test_ms_ssim_has_its_column_where_all_patches_have_it():
    gain = gain_of(REAL, rows_of([20], [21], "a", ms_ssim=0.9))
    assert "| PSNR (dB) ↑ | MS-SSIM ↑ | QILV ↑ | RRMSE ↓ |" in gain_table([gain])


def test_tables_by_slide_and_of_scores(gain):
    real = gain_of(REAL, rows_of([20, 20], [19, 18], "bc"))
    assert slide_gain_table([gain, real]).splitlines()[2:] == [
        "| textbook (sigma 1.6) | +3.00 | -1.00 |  |", "| real pairs |  | -1.00 | -2.00 |"]
    assert "| textbook (sigma 1.6) | 22.50 → 23.50 | 0.500 → 0.500 | 0.7500 → 0.6500 |" in score_table([gain])


def test_points_of_curves_are_no_rows_of_the_table(gain):
    extra, real = (gain_of(condition, rows_of([20], [21], "a")) for condition in (noisy(0.02), REAL))
    assert standard_rows([gain, extra, real]) == [real, gain]


def test_csv_and_json_hold_what_the_table_shows(gain, tmp_path):
    write_gains_csv([gain], tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as handle:
        found = list(csv.DictReader(handle))
    assert [(row["lr"], row["slide_id"], row["patches"]) for row in found] == [("textbook", "a", "3"),
                                                                               ("textbook", "b", "1")]
    assert [float(row["gain_psnr"]) for row in found] == [3, -1]
    write_gains_json([gain], tmp_path / "a.json", {"model": "m"})
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["model"] == "m"
    assert told["lr"]["textbook"]["gain"] == {"psnr": 1, "qilv": 0, "rrmse": -0.1}
    assert (told["lr"]["textbook"]["worst_slide"], told["lr"]["textbook"]["worst_psnr"]) == ("b", -1)
    assert told["lr"]["textbook"]["slides_below"] == 1
    assert told["lr"]["textbook"]["slides"]["a"]["sr"]["psnr"] == 23


def test_json_has_null_for_what_is_not_finite(tmp_path):
    write_gains_json([gain_of(REAL, rows_of([20], [np.inf], "a"))], tmp_path / "a.json", {})
    told = json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert told["lr"]["pairs"]["gain"]["psnr"] is None


def test_picture_shows_a_panel_per_curve_and_metric(tmp_path):
    points = {condition.name: condition for curve in CURVES for _, condition in curve.points}
    gains = [gain_of(condition, rows_of([20, 22], [21 + i, 21 - i], "ab"))
             for i, condition in enumerate((*points.values(), REAL))]
    draw_curves(gains, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        width, height = image.size
        pixels = np.asarray(image.convert("RGB"))
    assert width == 3 * 420
    assert height == 2 * 290 + 60  # MS-SSIM has no row where it was not measured
    ink = (pixels < 200).any(2)
    for row in range(2):
        for column in range(3):
            panel = ink[60 + row * 280:300 + row * 280, 60 + column * 420:400 + column * 420]
            assert panel.mean() > 0.005, (row, column)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
