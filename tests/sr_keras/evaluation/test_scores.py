# SPDX-License-Identifier: Apache-2.0
"""Patches are scored as 8-bit images, means and intervals are over slides, and tables say what was left out."""
from __future__ import annotations

import csv

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.config import DegradeOptions
from pipelines.degrade import degrade
from pipelines.pixels import quantise, to_float
from sr_keras import metrics
from sr_keras.evaluation import (
    METRICS,
    bicubic,
    markdown_table,
    pick,
    score,
    score_images,
    slide_table,
    summarise,
    write_csv,
)


@pytest.fixture(scope="module")
def hr(histology):
    return to_float(np.stack([histology[y:y + 64, x:x + 64] for y in (0, 200) for x in (0, 200)]))


@pytest.fixture(scope="module")
def lr(hr):
    return quantise(degrade(hr)).numpy()


def batches_of(lr, hr, size):
    """What `evaluation_dataset` gives, the last batch smaller."""
    ids = np.array([f"s{i % 2}/p{i}".encode() for i in range(len(lr))])
    slides = np.array([f"s{i % 2}".encode() for i in range(len(lr))])
    return [{"example_id": ids[i:i + size], "slide_id": slides[i:i + size], "lr": lr[i:i + size], "hr": hr[i:i + size]}
            for i in range(0, len(lr), size)]


def test_bicubic_is_8_bit_and_close_to_pillow_inside(lr):
    ours = np.asarray(bicubic(lr, 4))
    np.testing.assert_array_equal(ours, quantise(ours))
    for image, small in zip(ours, lr, strict=True):
        pillow = Image.fromarray(np.rint(small * 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(image[8:-8, 8:-8], np.asarray(pillow)[8:-8, 8:-8] / 255, atol=1.01 / 255)


def test_bicubic_is_centred(hr):
    one = degrade(hr, 4)
    turned = np.asarray(bicubic(one[:, ::-1, ::-1], 4))[:, ::-1, ::-1]
    np.testing.assert_allclose(bicubic(one, 4), turned, atol=1.01 / 255)


def test_score_images_equals_the_metrics(hr, lr):
    sr = bicubic(lr, 4)
    values = score_images(hr, sr, lr)
    for name in ("psnr", "ssim", "qilv", "rrmse"):
        np.testing.assert_allclose(values[name], getattr(metrics, name)(hr, sr), rtol=1e-4)
    np.testing.assert_allclose(values["lr_consistency"], metrics.lr_consistency(lr, sr, 4, 1.6), rtol=1e-4)


@pytest.mark.parametrize(("side", "there"), [(160, False), (164, True)])
def test_score_images_leaves_ms_ssim_out_under_161_pixels(side, there, histology):
    hr = to_float(histology[np.newaxis, :side, :side])
    assert ("ms_ssim" in score_images(hr, hr, degrade(hr))) is there


def test_every_score_has_what_a_table_needs(hr, lr):
    assert set(score_images(hr, hr, lr)) == set(METRICS) - {"ms_ssim"}


def test_lr_consistency_takes_the_degradation_it_is_given(hr):
    lr = degrade(hr, 4, 3.0)
    assert np.all(score_images(hr, hr, lr, DegradeOptions(blur_sigma=3.0))["lr_consistency"] < 1e-6)
    assert np.all(score_images(hr, hr, lr)["lr_consistency"] > 1e-3)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_score_gives_a_row_per_patch_and_method_whatever_the_batches(size, hr, lr):
    rows = score(lambda images: bicubic(images, 4), batches_of(lr, hr, size))
    assert [(row["example_id"], row["slide_id"], row["method"]) for row in rows] == [
        (f"s{i % 2}/p{i}", f"s{i % 2}", method) for i in range(4) for method in ("bicubic", "sr")]
    expected = metrics.psnr(hr, bicubic(lr, 4)).numpy()
    for method in ("bicubic", "sr"):
        np.testing.assert_allclose([row["psnr"] for row in rows if row["method"] == method], expected, rtol=1e-4)


def test_score_takes_a_dataset_as_it_is(hr, lr):
    names = tf.constant(["a/0", "a/1", "b/0", "b/1"])
    slides = tf.constant(["a", "a", "b", "b"])
    dataset = tf.data.Dataset.from_tensor_slices({"example_id": names, "slide_id": slides, "lr": lr, "hr": hr}).batch(2)
    assert [row["slide_id"] for row in score(lambda images: bicubic(images, 4), dataset)][::2] == ["a", "a", "b", "b"]


def test_model_is_scored_as_an_8_bit_image(hr, lr):
    outside = np.where(hr > 0.5, 1.4, -0.3).astype(np.float32)
    rows = score(lambda images: outside, batches_of(lr, hr, 4))
    expected = metrics.psnr(hr, np.clip(outside, 0, 1))
    np.testing.assert_allclose([row["psnr"] for row in rows if row["method"] == "sr"], expected, rtol=1e-4)


def test_score_refuses_no_patches_and_another_scale(hr, lr):
    with pytest.raises(ValueError, match="at least one patch"):
        score(lambda images: images, [])
    with pytest.raises(ValueError, match="`sr` must have the shape of hr"):
        score(lambda images: images, batches_of(lr, hr, 4))
    with pytest.raises(ValueError, match="`lr` must be hr's sides over scale=2"):
        score_images(hr, hr, lr, DegradeOptions(scale=2))


# Summaries

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


def test_infinite_scores_are_left_out_and_counted():
    rows = rows_of([20, 20, 30], [np.inf, 24, 34], ["a", "a", "b"])
    summary = summarise(rows)
    assert summary.estimates["sr"]["psnr"].mean == pytest.approx((24 + 34) / 2)
    assert summary.estimates["difference"]["psnr"].mean == pytest.approx(4)
    assert "PSNR (dB): 1 infinite values are left out." in markdown_table(summary)


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


def test_csv_holds_every_row_and_no_other_file_is_left(two_slides, tmp_path):
    write_csv(two_slides, tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as handle:
        found = list(csv.DictReader(handle))
    assert list(found[0]) == ["example_id", "slide_id", "method", "psnr", "rrmse", "ssim", "qilv"]
    assert [float(row["psnr"]) for row in found] == [row["psnr"] for row in two_slides]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_pick_names_best_median_and_worst_by_sr():
    values = [5, 1, 9, 3, 7, 2, 8]
    rows = rows_of(values[::-1], values, ["a"] * 7)
    assert pick(rows, "psnr", each=1) == {"a/2": "best", "a/0": "median", "a/1": "worst"}
    assert pick(rows, "rrmse", each=1) == {"a/2": "best", "a/0": "median", "a/1": "worst"}  # lower is better


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_pick_of_few_patches_takes_each_once(count):
    assert len(pick(rows_of(range(1, count + 1), range(1, count + 1), ["a"] * count), "psnr")) == count
