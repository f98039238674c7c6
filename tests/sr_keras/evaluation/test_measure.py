"""Patches are scored as the 8-bit images that files hold, each method beside the other."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.config import DegradeOptions
from pipelines.degrade import degrade
from pipelines.pixels import quantise, to_float
from sr_keras import metrics
from sr_keras.evaluation import METRICS, bicubic, score, score_images


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
