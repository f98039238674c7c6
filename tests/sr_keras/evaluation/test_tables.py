# SPDX-License-Identifier: Apache-2.0
"""Means, intervals and gains are over slides, checked by hand; tables and files say what was left out."""
from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from sr_keras.evaluation.conditions import REAL, condition_named, noisy
from sr_keras.evaluation.tables import (
    Gain,
    by_slide,
    gain_table,
    markdown_table,
    slide_table,
    standard_page,
    summarise,
    write_gains_csv,
    write_gains_json,
)

TEXTBOOK = condition_named("textbook")


def rows_of(bicubic, sr, slides, **more):
    """A row per patch and method with these PSNRs."""
    return [{"example_id": f"{slide}/{i}", "slide_id": slide, "method": method, "psnr": float(value),
             "rrmse": 1 / value, **more}
            for i, (one, two, slide) in enumerate(zip(bicubic, sr, slides, strict=True))
            for method, value in (("bicubic", one), ("sr", two))]


@pytest.fixture
def two_slides():
    return rows_of([20, 20, 20, 30], [21, 21, 21, 34], ["a", "a", "a", "b"], ssim=0.5, qilv=0.5)


def test_mean_is_over_slides_and_not_over_patches(two_slides):
    estimates = summarise(two_slides).estimates
    assert estimates["bicubic"]["psnr"].mean == pytest.approx((20 + 30) / 2)
    assert estimates["sr"]["psnr"].mean == pytest.approx((21 + 34) / 2)
    assert estimates["difference"]["psnr"].mean == pytest.approx((1 + 4) / 2)


def test_interval_of_two_slides_spans_both(two_slides):
    one = summarise(two_slides).estimates["sr"]["psnr"]
    assert (one.low, one.high) == pytest.approx((21, 34))


def test_interval_of_many_slides_covers_like_a_normal_one():
    rng = np.random.default_rng(0)
    values = rng.normal(25, 2, 200)
    one = summarise(rows_of(values, values, [f"s{i}" for i in range(200)])).estimates["sr"]["psnr"]
    reach = 1.96 * values.std() / np.sqrt(200)
    assert (one.low, one.high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.1)


def test_interval_by_slide_is_wider_than_by_patch_where_patches_are_alike():
    rng = np.random.default_rng(1)
    means = rng.normal(25, 2, 12)
    values = np.repeat(means, 50) + rng.normal(0, 0.1, 600)
    by_slide = summarise(rows_of(values, values, np.repeat([f"s{i}" for i in range(12)], 50))).estimates["sr"]["psnr"]
    by_patch = summarise(rows_of(values, values, ["one"] * 600)).estimates["sr"]["psnr"]
    assert by_slide.high - by_slide.low > 4 * (by_patch.high - by_patch.low)


def test_difference_is_surer_than_the_scores_it_is_of():
    rng = np.random.default_rng(2)
    rival = rng.normal(25, 3, 40)
    estimates = summarise(rows_of(rival, rival + 1 + rng.normal(0, 0.1, 40), [f"s{i}" for i in range(40)])).estimates
    assert estimates["difference"]["psnr"].low > 0.9
    assert estimates["sr"]["psnr"].low < estimates["bicubic"]["psnr"].high


def test_summary_is_the_same_every_time(two_slides):
    assert summarise(two_slides) == summarise(two_slides)


def test_single_slide_is_resampled_by_patch_and_the_table_says_so():
    summary = summarise(rows_of([20, 30], [21, 34], ["a", "a"]))
    one = summary.estimates["bicubic"]["psnr"]
    assert (one.low, one.mean, one.high) == pytest.approx((20, 25, 30))
    assert "with a single slide it says nothing about other slides" in markdown_table(summary)


def test_few_slides_are_said_to_be_few(two_slides):
    assert "too narrow" in markdown_table(summarise(two_slides))
    many = rows_of(range(20, 32), range(20, 32), [f"s{i}" for i in range(12)])
    assert "too narrow" not in markdown_table(summarise(many))


def test_a_patch_without_a_finite_score_is_left_out_of_all_columns_and_named():
    rows = rows_of([20, 20, np.inf, 30], [np.inf, 24, 37, 34], ["a", "a", "a", "b"])
    summary = summarise(rows)
    for name, mean in (("bicubic", (20 + 30) / 2), ("sr", (24 + 34) / 2), ("difference", 4)):
        assert summary.estimates[name]["psnr"].mean == pytest.approx(mean)
    assert ("PSNR (dB): 2 patches are left out of all columns, since bicubic or SR has no finite score there: a/0, a/2."
            in markdown_table(summary))
    assert "| a | 3 | 20.00 → 24.00 |" in slide_table(rows)


@pytest.mark.parametrize("seed", range(20))
def test_difference_of_means_is_the_mean_of_differences(seed):
    """For any scores with infinities and NaN, of one slide or several, some of them with no pair at all."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 30)
    pairs = rng.normal(30, 5, (2, count))
    for value in (np.inf, -np.inf, np.nan):
        pairs[rng.random(pairs.shape) < 0.15] = value
    rows = rows_of(*pairs, rng.choice(["a", "b", "c"][:rng.integers(1, 4)], count))
    slides = {slide_id: slide.means for slide_id, slide in by_slide(rows).items()}
    means = {method: {name: one.mean for name, one in found.items()}
             for method, found in summarise(rows).estimates.items()}
    gain = Gain(TEXTBOOK, by_slide(rows))
    kept = {method: {"psnr": gain.mean("psnr", method)} for method in ("bicubic", "sr", "difference")}
    for found in (means, kept, *slides.values()):
        assert found["sr"]["psnr"] - found["bicubic"]["psnr"] == pytest.approx(found["difference"]["psnr"], nan_ok=True)
    finite = np.isfinite(pairs).all(0)
    assert sum(len(slide.left_out["psnr"]) for slide in by_slide(rows).values()) == (~finite).sum()


def test_scores_that_are_all_infinite_leave_no_number_and_no_error():
    rows = rows_of([np.inf, np.inf], [np.inf, np.inf], ["a", "b"])
    assert np.isnan(summarise(rows).estimates["sr"]["psnr"].mean)
    assert "nan" in markdown_table(summarise(rows))
    assert "nan" in slide_table(rows)


def test_table_has_bicubic_beside_sr_arrows_and_the_better_in_bold():
    lines = markdown_table(summarise(rows_of([20, 20], [25, 25], ["a", "b"]))).splitlines()
    assert lines[0] == "| | PSNR (dB) ↑ | RRMSE ↓ |"
    assert lines[2] == "| bicubic | 20.00 (20.00 to 20.00) | 0.0500 (0.0500 to 0.0500) |"
    assert lines[3] == "| SR | **25.00** (25.00 to 25.00) | **0.0400** (0.0400 to 0.0400) |"
    assert lines[4] == "| SR − bicubic | +5.00 (+5.00 to +5.00) | -0.0100 (-0.0100 to -0.0100) |"
    assert lines[6].startswith("2 patches of 2 slides.")


def test_table_says_that_ms_ssim_is_left_out(two_slides):
    assert "MS-SSIM is left out: it needs patches of 161 pixels" in markdown_table(summarise(two_slides))
    with_it = [{**row, "ms_ssim": 0.9} for row in two_slides]
    assert "left out" not in markdown_table(summarise(with_it))


def test_slide_table_has_a_line_per_slide(two_slides):
    lines = slide_table(two_slides).splitlines()
    assert lines[2].startswith("| a | 3 | 20.00 → 21.00 |")
    assert lines[3].startswith("| b | 1 | 30.00 → 34.00 |")
    assert len(lines) == 4


def test_rows_of_one_method_only_are_refused(two_slides):
    with pytest.raises(ValueError, match="once as bicubic and once as sr"):
        summarise([row for row in two_slides if row["method"] == "sr"])
    with pytest.raises(ValueError, match="`rows` must"):
        summarise([])


# Gains

def gain_rows(bicubic, sr, slides, **more):
    """Rows as `score` gives them: PSNR as given, RRMSE a tenth of its distance from 30."""
    return [{"example_id": f"{slide}/{i}", "slide_id": slide, "method": method, "psnr": float(psnr),
             "qilv": 0.5, "rrmse": (30 - psnr) / 10, **more}
            for i, (slide, *both) in enumerate(zip(slides, bicubic, sr, strict=True))
            for method, psnr in zip(("bicubic", "sr"), both, strict=True)]


def gain_on(condition, rows):
    return Gain(condition, by_slide(rows))


@pytest.fixture
def gain():
    """Slide a gains 2, 2 and 5, slide b loses 1: by slides +3 and -1, their mean +1 (by patches it would be +2)."""
    return gain_on(TEXTBOOK, gain_rows([20, 20, 20, 25], [22, 22, 25, 24], "aaab"))


def test_every_slide_counts_once(gain):
    assert gain.slides["a"].patches == 3
    assert gain.slides["a"].means["bicubic"]["psnr"] == 20
    assert gain.slides["a"].means["sr"]["psnr"] == pytest.approx(23)
    assert gain.of_slides("psnr") == pytest.approx({"a": 3, "b": -1})
    assert gain.mean("psnr") == pytest.approx(1)
    assert gain.mean("rrmse") == pytest.approx(-0.1)
    assert gain.mean("qilv") == 0


def test_the_worst_slide_and_those_below_bicubic_are_told(gain):
    assert gain.worst == ("b", pytest.approx(-1))
    assert gain.below == 1
    level = gain_on(TEXTBOOK, gain_rows([20, 20], [20, 21], "ab"))
    assert level.below == 0  # as good as bicubic is not below it
    assert level.worst == ("a", 0)


def test_the_page_and_the_json_name_what_is_left_out_of_gains(tmp_path):
    found = gain_on(TEXTBOOK, gain_rows([20, 20, 30], [21, np.inf, np.inf], "aab"))
    assert found.of_slides("psnr") == {"a": 1}
    assert found.mean("psnr") == 1
    assert found.mean("psnr", "sr") - found.mean("psnr", "bicubic") == 1
    assert found.worst == ("a", 1)
    assert "| 0 of 1 |" in gain_table([found])
    assert "PSNR (dB): 2 patches are left out of all columns" in standard_page([found])
    assert "a/1 (textbook), b/2 (textbook)." in standard_page([found])
    write_gains_json([found], tmp_path / "a.json", {})
    assert json.loads((tmp_path / "a.json").read_text())["lr"]["textbook"]["slides"]["b"]["left_out"]["psnr"] == ["b/2"]


def test_compact_table_has_a_row_per_kind_of_lr(gain):
    table = gain_table([gain, gain_on(REAL, gain_rows([20, 20], [19, 18], "ab", ms_ssim=0.9))])
    assert table.splitlines() == [
        "| LR | PSNR (dB) ↑ | QILV ↑ | RRMSE ↓ | worst slide, PSNR | slides below bicubic |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| textbook (sigma 1.6) | +1.00 | +0.000 | -0.1000 | -1.00 (b) | 1 of 2 |",
        "| real pairs | -1.50 | +0.000 | +0.1500 | -2.00 (b) | 2 of 2 |"]


def test_ms_ssim_has_its_column_where_all_patches_have_it():
    gain = gain_on(REAL, gain_rows([20], [21], "a", ms_ssim=0.9))
    assert "| PSNR (dB) ↑ | MS-SSIM ↑ | QILV ↑ | RRMSE ↓ |" in gain_table([gain])


def test_page_has_tables_by_slide_and_of_scores(gain):
    real = gain_on(REAL, gain_rows([20, 20], [19, 18], "bc"))
    page = standard_page([gain, real])
    assert "| real pairs |  | -1.00 | -2.00 |\n| textbook (sigma 1.6) | +3.00 | -1.00 |  |\n" in page
    assert "| textbook (sigma 1.6) | 22.50 → 23.50 | 0.500 → 0.500 | 0.7500 → 0.6500 |" in page


def test_points_of_curves_are_no_rows_of_the_page(gain):
    extra = gain_on(noisy(0.02), gain_rows([20], [21], "a"))
    assert standard_page([gain, extra]) == standard_page([gain])


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
    write_gains_json([gain_on(REAL, gain_rows([20], [np.inf], "a"))], tmp_path / "a.json", {})
    told = json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert told["lr"]["pairs"]["gain"]["psnr"] is None
