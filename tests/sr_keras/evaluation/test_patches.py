# SPDX-License-Identifier: Apache-2.0
"""A kind of LR means one thing; each slide is scored once on each kind; patches are scored as 8-bit images."""
from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import tensorflow as tf

from pipelines.config import DEGRADATIONS, DegradeOptions, PatchOptions
from pipelines.degrade import degrade, degrade_example
from pipelines.pixels import quantise, to_float
from pipelines.shards import open_shards, write_shards
from pipelines.sources import find_sources
from sr_keras import metrics
from sr_keras.evaluation.patches import (
    CURVES,
    METRICS,
    REAL,
    STANDARD,
    bicubic,
    condition_named,
    find_sets,
    limit_of,
    lr_dataset,
    pairs_of,
    score,
    score_images,
    share_out,
    standard_conditions,
    trained_condition,
)

SIDE = 64
OPTIONS = PatchOptions(patch_size=SIDE, min_tissue=0)
ALL = standard_conditions(4, real=True)
MADE = [condition for condition in ALL if not condition.is_real]


def test_names_and_labels_tell_conditions_apart():
    assert len({condition.name for condition in ALL}) == len({condition.label for condition in ALL}) == len(ALL) == 20
    assert [condition.name for condition in ALL[:len(STANDARD)]] == [condition.name for condition in STANDARD]


@pytest.mark.parametrize("condition", MADE, ids=lambda condition: condition.name)
def test_a_condition_draws_nothing_but_its_noise(condition):
    options = condition.degrade
    assert len(options.blurs) == len(options.resamplings) == len(options.jpeg_subsamplings) == 1
    assert max(options.jpeg_passes) == 1
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, tuple) and len(value) == 2:
            assert value[0] == value[1], field.name


def test_jpeg_80_is_the_textbook_compressed_once_with_chroma_at_half_resolution():
    assert condition_named("jpeg-80").degrade == DegradeOptions(
        blur_sigma=1.6, jpeg_passes=(0, 1, 0), jpeg_quality=(80, 80), jpeg_subsamplings=("420",))
    assert condition_named("jpeg-80").label == "textbook + JPEG 80 4:2:0"
    assert condition_named("jpeg-90-444").degrade.jpeg_subsamplings == ("444",)


def test_the_real_lr_is_no_degradation_and_left_out_where_there_is_none():
    assert REAL.is_real
    assert [condition.name for condition in ALL if condition.is_real] == ["pairs"]
    assert standard_conditions(4, real=False) == tuple(MADE)


def test_curves_rise_and_share_their_points_with_the_list():
    for points in CURVES.values():
        values = [value for value, _ in points]
        assert values == sorted(set(values))
        assert {condition.name for _, condition in points} <= {condition.name for condition in ALL}
    sigma, quality, noise = CURVES.values()
    assert [condition.degrade.blur_sigma for _, condition in sigma] == [0.8, 1.2, 1.6, 2.4, 3.2]
    assert [condition.degrade.jpeg_quality[0] for _, condition in quality] == [50, 60, 70, 80, 90, 98]
    assert [condition.degrade.read_noise[1] for _, condition in noise] == [0, 0.005, 0.01, 0.02, 0.03]


def test_a_condition_is_of_the_models_scale():
    assert {condition.degrade.scale for condition in standard_conditions(2, real=False)} == {2}
    assert REAL.at_scale(8) == REAL


@pytest.mark.parametrize("name", [name for name in DEGRADATIONS if name != "textbook"])
def test_presets_are_known_by_their_names(name):
    assert condition_named(name).degrade == DEGRADATIONS[name]


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"`lr` must be one of standard, pairs, textbook, .*scanner, pyramid;.*boxes"):
        condition_named("boxes")


def test_what_a_model_was_trained_on_has_words():
    assert trained_condition(DegradeOptions(2, blur_sigma=0.8)).label == "blur of 0.8 HR pixels"
    assert trained_condition(DEGRADATIONS["scanner"]).label == "drawn from the preset 'scanner'"
    assert trained_condition(DegradeOptions(blur_sigma=(0.5, 2.0))).label == "drawn as in training"


def test_lr_is_that_of_the_condition(histology):
    """The textbook's by its own function; noise as strong as its name says; and each kind another picture."""
    hr = tf.constant(to_float(histology[:128, :128]))
    lr = {condition.name: degrade_example(hr, condition.degrade, tf.constant([1, 2])).numpy() for condition in MADE}
    textbook = quantise(degrade(hr[tf.newaxis], 4, 1.6))[0].numpy()
    assert (lr["textbook"] == textbook).all()
    for name, deviation in (("noise-0.01", 0.01), ("noise-0.03", 0.03)):
        inside = (textbook > 0.15) & (textbook < 0.85)
        assert (lr[name] - textbook)[inside].std() == pytest.approx(deviation, rel=0.1)
    assert len({values.tobytes() for values in lr.values()}) == len(MADE)
    assert all(values.shape == (32, 32, 3) for values in lr.values())


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
    assert slides_of(share_out(sets)) == [("plain", "shared"), ("paired",)]
    assert slides_of(share_out([sets[1]])) == [("paired", "shared")]


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
    with pytest.raises(ValueError, match=r"`data` must contain pairs.*name such data"):
        pairs_of(sets[0], 4)


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
