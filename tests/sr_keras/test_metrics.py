# SPDX-License-Identifier: Apache-2.0
"""Every metric against a second source: scikit-image, scipy in float64, or a value worked out by hand."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import skimage.metrics
import tensorflow as tf
from PIL import Image
from scipy.ndimage import correlate1d

from pipelines.degrade import degrade
from pipelines.pixels import quantise
from sr_keras import metrics

PAIRS = {"rrmse": metrics.rrmse, "psnr": metrics.psnr, "ssim": metrics.ssim, "ms_ssim": metrics.ms_ssim,
         "qilv": metrics.qilv}
PERFECT = {"rrmse": 0.0, "psnr": np.inf, "ssim": 1.0, "ms_ssim": 1.0, "qilv": 1.0}


@pytest.fixture(scope="module")
def hr(histology):
    """Two 176x184 patches, float32."""
    return (np.stack([histology[:176, :184], histology[300:476, 200:384]]) / 255).astype(np.float32)


@pytest.fixture(scope="module")
def noisy(hr):
    return np.clip(hr + np.random.default_rng(0).normal(0, 0.05, hr.shape), 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def blurred(hr):
    taps = np.exp(-np.arange(-4, 5) ** 2 / 4.5)
    return correlate1d(correlate1d(hr, taps / taps.sum(), 1), taps / taps.sum(), 2).astype(np.float32)


@pytest.mark.parametrize("name", PAIRS)
def test_metric_of_equal_images_is_perfect(name, hr):
    np.testing.assert_allclose(PAIRS[name](hr, hr), [PERFECT[name]] * 2, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_metric_ranks_a_small_error_before_a_large_one(name, hr):
    noise = np.random.default_rng(1).normal(0, 1, hr.shape)
    small, large = (PAIRS[name](hr, (hr + size * noise).astype(np.float32)).numpy() for size in (0.03, 0.1))
    assert np.all(small < large if name == "rrmse" else small > large)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", ["noisy", "blurred"])
def test_metric_is_one_float32_per_image_alike_for_arrays_tensors_and_xla(name, kind, hr, request):
    sr = request.getfixturevalue(kind)
    values = PAIRS[name](hr, sr)
    assert values.dtype == tf.float32
    assert values.shape == [2]
    np.testing.assert_allclose(PAIRS[name](hr[1:], sr[1:]), values[1:], rtol=1e-5)
    np.testing.assert_array_equal(PAIRS[name](tf.constant(hr), tf.constant(sr)), values)
    np.testing.assert_allclose(tf.function(PAIRS[name], jit_compile=True)(hr, sr), values, rtol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("levels", [(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5), (0.3, 0.9)])
def test_metric_of_flat_images_is_no_nan(name, levels):
    one, other = (np.full([1, 161, 161, 3], level, np.float32) for level in levels)
    assert not np.isnan(PAIRS[name](one, other)).any()


def test_rrmse_equals_values_worked_out_by_hand():
    hr = np.zeros([2, 1, 2, 3], np.float32)
    hr[:, 0, 0] = [0.2, 0.4, 0.4]  # norm 0.6
    sr = hr.copy()
    sr[0, 0, 1] = [0.0, 0.3, 0.0]
    np.testing.assert_allclose(metrics.rrmse(hr, sr), [0.5, 0.0], rtol=1e-6)


def test_rrmse_of_black_hr_is_inf_unless_equal():
    black, grey = np.zeros([1, 4, 4, 3], np.float32), np.full([1, 4, 4, 3], 0.5, np.float32)
    assert np.isinf(metrics.rrmse(black, grey)).all()
    assert metrics.rrmse(black, black).numpy() == [0]


def test_psnr_equals_scikit_image(hr, noisy):
    expected = [skimage.metrics.peak_signal_noise_ratio(one, other, data_range=1)
                for one, other in zip(hr, noisy, strict=True)]
    np.testing.assert_allclose(metrics.psnr(hr, noisy), expected, rtol=1e-5)


def test_psnr_of_a_tenth_off_everywhere_is_20_db():
    np.testing.assert_allclose(metrics.psnr(np.full([1, 4, 4, 3], 0.5), np.full([1, 4, 4, 3], 0.6)), [20], rtol=1e-5)


@pytest.mark.parametrize("kind", ["noisy", "blurred"])
def test_ssim_equals_scikit_image_on_the_interior(kind, hr, request):
    sr = request.getfixturevalue(kind)
    expected = [skimage.metrics.structural_similarity(
        one.astype(np.float64), other.astype(np.float64), data_range=1, channel_axis=2, gaussian_weights=True,
        sigma=1.5, use_sample_covariance=False) for one, other in zip(hr, sr, strict=True)]
    np.testing.assert_allclose(metrics.ssim(hr, sr), expected, atol=2e-5)  # float32 sums of tf.image.ssim


def ms_ssim_in_float64(hr, sr):
    """Wang et al. 2003, equation 7, in scipy, with odd sides padded by their last pixel before they are halved."""
    taps = np.exp(-np.arange(-5, 6) ** 2 / 4.5)
    taps /= taps.sum()

    def mean(images):
        return correlate1d(correlate1d(images, taps, 1), taps, 2)[:, 5:-5, 5:-5]

    def half(images):
        images = np.pad(images, [(0, 0), *((0, side % 2) for side in images.shape[1:3]), (0, 0)], mode="edge")
        return (images[:, ::2, ::2] + images[:, 1::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, 1::2]) / 4

    x, y, result = hr.astype(np.float64), sr.astype(np.float64), 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        m_x, m_y = mean(x), mean(y)
        s_x, s_y, s_xy = mean(x * x) - m_x**2, mean(y * y) - m_y**2, mean(x * y) - m_x * m_y
        factor = (2 * s_xy + 9e-4) / (s_x + s_y + 9e-4)
        if weight == 0.1333:
            factor *= (2 * m_x * m_y + 1e-4) / (m_x**2 + m_y**2 + 1e-4)
        result = result * np.maximum(factor.mean((1, 2)), 0) ** weight
        x, y = half(x), half(y)
    return result.mean(1)


@pytest.mark.parametrize("kind", ["noisy", "blurred"])
@pytest.mark.parametrize("sides", [(161, 161), (176, 184), (173, 166)])
def test_ms_ssim_equals_its_formula_in_float64(kind, sides, hr, request):
    one, other = (images[:, :sides[0], :sides[1]] for images in (hr, request.getfixturevalue(kind)))
    np.testing.assert_allclose(metrics.ms_ssim(one, other), ms_ssim_in_float64(one, other), atol=2e-5)


def test_ms_ssim_of_inverted_image_is_zero_and_no_nan(hr):
    np.testing.assert_array_equal(metrics.ms_ssim(hr, 1 - hr), [0, 0])


@pytest.mark.parametrize("name", ["ssim", "ms_ssim", "qilv"])
def test_windowed_metric_refuses_images_smaller_than_its_windows(name):
    side = {"ssim": 11, "ms_ssim": 161, "qilv": 11}[name]
    smallest = np.random.default_rng(0).random((1, side, side, 3))
    np.testing.assert_allclose(PAIRS[name](smallest, smallest), [1], atol=1e-6)
    with pytest.raises(ValueError, match=f"sides of {side} pixels or more"):
        PAIRS[name](smallest[:, 1:], smallest[:, 1:])


# qilv


def qilv_in_float64(one, other):
    """Aja-Fernandez et al. 2006 in scipy and NumPy: mean, deviation and covariance of maps of local variance."""
    taps = np.exp(-np.arange(-5, 6) ** 2 / 4.5)
    taps /= taps.sum()

    def mean(image):
        return correlate1d(correlate1d(image, taps, 0), taps, 1)[5:-5, 5:-5]

    def local_variance(image):
        luma = 255 * (image.astype(np.float64) @ [0.299, 0.587, 0.114])
        return mean(luma**2) - mean(luma) ** 2

    v, w = local_variance(one), local_variance(other)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    covariance = np.mean((v - v.mean()) * (w - w.mean()))
    return ((2 * v.mean() * w.mean() + c1) / (v.mean() ** 2 + w.mean() ** 2 + c1)
            * (2 * v.std() * w.std() + c2) / (v.std() ** 2 + w.std() ** 2 + c2)
            * (covariance + c2 / 2) / (v.std() * w.std() + c2 / 2))


@pytest.mark.parametrize("kind", ["noisy", "blurred"])
def test_qilv_equals_its_formula_in_float64(kind, hr, request):
    sr = request.getfixturevalue(kind)
    expected = [qilv_in_float64(one, other) for one, other in zip(hr, sr, strict=True)]
    np.testing.assert_allclose(metrics.qilv(hr, sr), expected, rtol=1e-4)


def test_qilv_is_more_sensitive_to_blur_than_to_noise_and_ms_ssim_the_other_way_round(hr, noisy, blurred):
    assert np.all(metrics.qilv(hr, blurred).numpy() < metrics.qilv(hr, noisy).numpy())
    faint = (hr + blurred) / 2
    strong = hr + np.random.default_rng(2).normal(0, 0.15, hr.shape).astype(np.float32)
    assert np.all(metrics.ms_ssim(hr, strong).numpy() < metrics.ms_ssim(hr, faint).numpy())


def test_qilv_does_not_see_a_shift_in_brightness(hr):
    dim = hr * 0.8
    np.testing.assert_allclose(metrics.qilv(dim, dim + 0.1), [1, 1], atol=1e-4)


def test_qilv_of_halved_contrast_equals_value_worked_out_by_hand(hr):
    # Half the contrast is a quarter of every variance: the first two factors become 2*4/(1+16), the third stays 1.
    np.testing.assert_allclose(metrics.qilv(hr, hr / 2), [(8 / 17) ** 2] * 2, rtol=5e-3)


# lr_consistency


@pytest.mark.parametrize(("scale", "blur_sigma"), [(4, 1.6), (2, 0.8), (8, 3.2)])
def test_lr_consistency_of_what_lr_was_made_from_is_zero(scale, blur_sigma, hr):
    lr = degrade(hr, scale, blur_sigma)
    np.testing.assert_allclose(metrics.lr_consistency(lr, hr, scale, blur_sigma), [0, 0], atol=1e-6)


def test_lr_consistency_is_the_error_in_lr_and_blind_to_what_the_scanner_is_blind_to(hr):
    lr = degrade(hr, 4, 1.6)
    np.testing.assert_allclose(metrics.lr_consistency(lr, hr + np.float32(0.1), 4, 1.6), [0.1, 0.1], rtol=1e-4)
    checks = 0.05 * (np.indices(hr.shape[1:3]).sum(0) % 2 * 2 - 1).astype(np.float32)[np.newaxis, ..., np.newaxis]
    assert np.all(metrics.lr_consistency(lr, hr + checks, 4, 1.6).numpy() < 1e-4)


def test_lr_consistency_refuses_another_scale(hr):
    with pytest.raises(ValueError, match=r"`degrade\(sr\)` must have the shape of lr"):
        metrics.lr_consistency(degrade(hr, 4), hr, scale=2)


# bicubic, and metrics as Keras classes


def test_bicubic_is_8_bit_and_close_to_pillow_inside(hr):
    lr = quantise(np.asarray(degrade(hr, 4)))
    ours = np.asarray(metrics.bicubic(lr, 4))
    np.testing.assert_array_equal(ours, quantise(ours))
    for image, small in zip(ours, lr, strict=True):
        pillow = Image.fromarray(np.rint(small * 255).astype(np.uint8)).resize((184, 176), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(image[8:-8, 8:-8], np.asarray(pillow)[8:-8, 8:-8] / 255, atol=1.01 / 255)


def test_bicubic_is_centred(hr):
    lr = degrade(hr, 4)
    turned = np.asarray(metrics.bicubic(lr[:, ::-1, ::-1], 4))[:, ::-1, ::-1]
    np.testing.assert_allclose(metrics.bicubic(lr, 4), turned, atol=1.01 / 255)


CLASSES = {"rrmse": metrics.RRMSE, "psnr": metrics.PSNR, "ssim": metrics.SSIM, "ms_ssim": metrics.MSSSIM,
           "qilv": metrics.QILV}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("as_class", [True, False])
def test_keras_takes_the_mean_of_a_metric_over_the_images_of_all_batches_and_saves_it(name, as_class, hr, noisy,
                                                                                      tmp_path):
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Identity()(image))
    model.compile(loss="mse", metrics=[CLASSES[name]() if as_class else PAIRS[name]], run_eagerly=True)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    scores = again.evaluate(noisy, hr, batch_size=1, return_dict=True, verbose=0)
    np.testing.assert_allclose(scores[name], np.mean(PAIRS[name](hr, noisy)), rtol=1e-5)


@pytest.mark.parametrize("metric", CLASSES.values())
def test_metric_keeps_its_name_and_type_and_weighs_examples(metric, hr, noisy):
    made = keras.metrics.deserialize(keras.metrics.serialize(metric(name="mine", dtype="float64")))
    assert (type(made), made.name, made.dtype) == (metric, "mine", "float64")
    made.update_state(hr, noisy, sample_weight=[1, 3])
    one, other = PAIRS[metric().name](hr, noisy).numpy()
    np.testing.assert_allclose(made.result(), (one + 3 * other) / 4, rtol=1e-5)
    made.reset_state()
    assert made.result() == 0


def test_keras_classes_equal_scikit_image(hr, noisy):
    compared = {metrics.PSNR: lambda one, other: skimage.metrics.peak_signal_noise_ratio(one, other, data_range=1),
                metrics.SSIM: lambda one, other: skimage.metrics.structural_similarity(
                    one, other, data_range=1, channel_axis=2, gaussian_weights=True, use_sample_covariance=False)}
    for metric, golden in compared.items():
        made = metric()
        made.update_state(hr, noisy)
        expected = np.mean([golden(np.float64(one), np.float64(other)) for one, other in zip(hr, noisy, strict=True)])
        np.testing.assert_allclose(made.result(), expected, rtol=1e-4)


# what all of them refuse


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("hr", "sr", "says"), [
    (np.zeros([1, 164, 164, 3]), np.zeros([1, 164, 168, 3]), "`sr` must have the shape of hr"),
    (np.zeros([2, 164, 164, 3]), np.zeros([1, 164, 164, 3]), "`sr` must have the shape of hr"),
    (np.zeros([164, 164, 3]), np.zeros([164, 164, 3]), r"`hr` must have shape \[B, H, W, 3\]"),
    (np.zeros([1, 164, 164, 1]), np.zeros([1, 164, 164, 1]), r"`hr` must have shape \[B, H, W, 3\]"),
    (np.zeros([1, 164, 164, 3], np.uint8), np.zeros([1, 164, 164, 3], np.uint8), "divide 8-bit .* by 255.*to_float"),
    (np.zeros([1, 164, 164, 3]), np.zeros([1, 164, 164, 3], np.uint8), "`sr` must be float.*to_float")])
def test_metric_refuses(name, hr, sr, says):
    with pytest.raises(ValueError, match=says):
        PAIRS[name](hr, sr)


@pytest.mark.parametrize("name", PAIRS)
def test_metric_of_half_precision_is_computed_in_float32(name, hr, noisy):
    half = [images.astype(np.float16) for images in (hr, noisy)]
    np.testing.assert_array_equal(PAIRS[name](*half), PAIRS[name](*(images.astype(np.float32) for images in half)))
