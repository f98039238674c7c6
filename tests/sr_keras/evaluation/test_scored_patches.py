# SPDX-License-Identifier: Apache-2.0
"""Each slide is scored once on each kind of LR; patches are scored as 8-bit images."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pipelines.config import DegradeOptions, PatchOptions
from pipelines.degrade import degrade
from pipelines.pixels import quantise, to_float
from pipelines.shards import open_shards, write_shards
from pipelines.sources import find_sources
from sr_keras import metrics
from sr_keras.evaluation.conditions import REAL, condition_named
from sr_keras.evaluation.scored_patches import (
    METRICS,
    bicubic,
    find_sets,
    find_shards,
    limit_of,
    lr_dataset,
    pairs_of,
    score,
    score_images,
    sets_of,
)

SIDE = 64
OPTIONS = PatchOptions(patch_size=SIDE, min_tissue=0)


# Sets

@pytest.fixture
def sets(plain_folder, pair_folder, tmp_path):
    return find_sets([str(pair_folder), str(plain_folder)], tmp_path / "scores" / "data", OPTIONS, 4)


def slides_of(sets):
    return [one.slide_ids for one in sets]


def test_pairs_are_a_set_of_their_own_after_the_others(sets):
    assert slides_of(sets) == [("plain", "shared"), ("paired", "shared")]
    assert [one.shards[0].pair_scale for one in sets] == [None, 4]


def test_a_slide_in_both_gives_its_hr_once(sets):
    made = condition_named("box")
    assert slides_of(sets_of(made, sets, 4)) == [("plain", "shared"), ("paired",)]
    assert slides_of(sets_of(made, [sets[1]], 4)) == slides_of(sets_of(REAL, sets, 4)) == [("paired", "shared")]


def test_limit_is_the_same_for_each_slide_as_far_as_it_has_patches(sets):
    assert [limit_of(one, None) for one in sets] == [None, None]
    assert [limit_of(one, 2) for one in sets] == [1 + 2, 2 + 2]
    assert [limit_of(one, 100) for one in sets] == [1 + 4, 2 + 3]
    for batch in lr_dataset(sets[0], condition_named("box"), 4, limit_of(sets[0], 2), seed=0):
        assert sorted(batch["slide_id"].numpy().tolist()) == [b"plain", b"shared", b"shared"]


def test_shards_are_sets_as_they_are_given(plain_folder, pair_folder, tmp_path):
    for name, data in (("a", plain_folder), ("b", pair_folder)):
        write_shards(find_sources(str(data)), tmp_path / name, OPTIONS)
    sets = find_sets([str(tmp_path / "b"), str(tmp_path / "a")], tmp_path / "scores" / "data", OPTIONS, 4)
    assert slides_of(sets) == [("plain", "shared"), ("paired", "shared")]
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("find", [find_sets, find_shards])
def test_slides_of_several_magnifications_are_told(find, plain_folder, tmp_path, capsys):
    (plain_folder / "shared" / "mpp.txt").write_text("0.25")
    (plain_folder / "plain" / "mpp.txt").write_text("0.5")
    find([str(plain_folder)], tmp_path / "scores" / "data", OPTIONS, 4)
    assert capsys.readouterr().out.count("slides of 0.25 to 0.5 microns per pixel are mixed") == 1


def test_patches_of_two_sizes_are_two_sets(write_pairs, tmp_path):
    write_pairs(tmp_path / "pairs" / "small", 2)
    write_pairs(tmp_path / "pairs" / "large", 2, side=2 * SIDE)
    sets = find_sets([str(tmp_path / "pairs")], tmp_path / "scores" / "data", OPTIONS, 4)
    assert sorted(one.patch_size for one in sets) == [SIDE, 2 * SIDE]


def test_real_lr_is_what_lies_beside_hr(sets):
    (batch,) = lr_dataset(pairs_of(sets[1], 4), REAL, 4, None, seed=0).unbatch().batch(5).as_numpy_iterator()
    assert len(batch["lr"]) == 5
    hr, lr = (np.rint(batch[name] * 255) for name in ("hr", "lr"))
    mean = hr.reshape(5, SIDE // 4, 4, SIDE // 4, 4, 3).mean((2, 4))
    np.testing.assert_array_equal(lr, np.rint(mean))


def test_data_without_pairs_has_no_real_lr(sets):
    for refused in (lambda: pairs_of(sets[0], 4), lambda: sets_of(REAL, sets[:1], 4)):
        with pytest.raises(ValueError, match=r"`data` must contain pairs.*name such data"):
            refused()


def test_pairs_of_another_scale_are_refused_by_name(write_pairs, tmp_path):
    write_pairs(tmp_path / "half", 2, scale=2)
    write_shards(find_sources(str(tmp_path / "half")), tmp_path / "shards", OPTIONS)
    with pytest.raises(ValueError, match=r"pairs of half"):
        pairs_of(open_shards(tmp_path / "shards"), 4)


def test_output_among_the_tiles_is_refused(plain_folder):
    with pytest.raises(ValueError, match="`output` must be outside of the data"):
        find_sets([str(plain_folder)], plain_folder / "scores" / "data", OPTIONS, 4)


# Scores

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
