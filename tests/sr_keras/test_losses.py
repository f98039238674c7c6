# SPDX-License-Identifier: Apache-2.0
"""Every term by identity, by a value worked out by hand, by its gradient, and by what it refuses."""
from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import correlate1d, gaussian_filter

from pipelines.degrade import degrade
from sr_keras import losses

QS = (0.1, 0.5, 1.0, 1.5, 2.0)


def pair(shape=(2, 24, 31, 3), noise=0.1, seed=0):
    """Smooth images and noisy ones, float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    smooth = correlate1d(correlate1d(rng.random(shape), np.full(7, 1 / 7), 1), np.full(7, 1 / 7), 2)
    hr = (smooth - smooth.min()) / np.ptp(smooth)
    return hr.astype(np.float32), np.clip(hr + rng.normal(0, noise, shape), 0, 1).astype(np.float32)


def value_and_gradient(function, values):
    values = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = function(values)
    return result.numpy(), tape.gradient(result, values).numpy()


# quasi_norm


@pytest.mark.parametrize("q", QS)
def test_quasi_norm_of_zero_is_epsilon_to_half_q(q):
    np.testing.assert_allclose(losses.quasi_norm(tf.zeros([2, 4, 4, 3]), q, 1e-4), [1e-4 ** (q / 2)] * 2, rtol=1e-6)


def test_quasi_norm_equals_value_worked_out_by_hand():
    residual = tf.constant([[0.0, 0.6], [0.8, -0.8]])  # with epsilon 0.64: roots of 0.64, 1.00, 1.28, 1.28
    expected = [(0.8 + 1.0) / 2, math.sqrt(1.28)]
    np.testing.assert_allclose(losses.quasi_norm(residual, q=1.0, epsilon=0.64), expected, rtol=1e-6)


def test_quasi_norm_of_two_is_squared_error():
    hr, sr = pair()
    expected = ((sr - hr) ** 2).mean((1, 2, 3)) + 1e-4
    np.testing.assert_allclose(losses.quasi_norm(sr - hr, q=2.0), expected, rtol=1e-5)


def test_quasi_norm_sum_is_the_printed_form():
    residual = np.random.default_rng(0).normal(0, 0.1, [2, 8, 8, 3])
    printed = [sum((abs(a) ** 2 + 1e-4) ** (0.5 / 2) for a in image.ravel()) for image in residual]
    np.testing.assert_allclose(losses.quasi_norm(residual, 0.5, 1e-4, reduction="sum"), printed, rtol=1e-5)


@pytest.mark.parametrize("q", QS)
def test_quasi_norm_gradient_is_zero_and_finite_at_zero_and_known_elsewhere(q):
    residual = np.float32([[0.0, 1e-20, 1e-3, 0.3, -1.0]])
    _, gradient = value_and_gradient(lambda r: losses.quasi_norm(r, q, 1e-4, "sum"), residual)
    assert gradient[0, 0] == 0
    exact = residual.astype(np.float64)
    np.testing.assert_allclose(gradient, q * exact * (exact**2 + 1e-4) ** (q / 2 - 1), rtol=1e-4)


def test_quasi_norm_ignores_outlier_more_than_l2():
    clean = np.full([1, 10, 10, 3], 0.05, np.float32)
    outlier = clean.copy()
    outlier[0, 0, 0] = 1.0
    growth = {q: (losses.quasi_norm(outlier, q) / losses.quasi_norm(clean, q)).numpy()[0] for q in QS}
    assert growth[0.5] < 1.05
    assert growth[2.0] > 4
    assert sorted(growth.values()) == [growth[q] for q in QS]


def test_quasi_norm_gradient_of_outlier_falls_with_its_size_below_one():
    _, gradient = value_and_gradient(lambda r: losses.quasi_norm(r, 0.5), np.float32([[0.05, 0.2, 1.0]]))
    assert gradient[0, 0] > gradient[0, 1] > gradient[0, 2] > 0


@pytest.mark.parametrize(("changed", "name"), [
    ({"q": 0.0}, "q"), ({"q": -0.5}, "q"), ({"q": 2.1}, "q"), ({"q": float("nan")}, "q"),
    ({"epsilon": 0.0}, "epsilon"), ({"reduction": "none"}, "reduction")])
def test_quasi_norm_refuses(changed, name):
    with pytest.raises(ValueError, match=f"^`{name}` must"):
        losses.quasi_norm(tf.zeros([1, 4, 4, 3]), **changed)


def test_quasi_norm_refuses_integers():
    with pytest.raises(ValueError, match="to_float"):
        losses.quasi_norm(np.zeros([1, 4, 4, 3], np.uint8))


def test_quasi_norm_loss_is_its_mean_and_survives_serialisation():
    hr, sr = pair()
    loss = keras.losses.deserialize(keras.losses.serialize(losses.QuasiNorm(q=0.7, epsilon=1e-3)))
    np.testing.assert_allclose(loss(hr, sr), tf.reduce_mean(losses.quasi_norm(sr - hr, 0.7, 1e-3)), rtol=1e-6)


def test_ssim_loss_is_its_mean_and_survives_serialisation():
    hr, sr = pair()
    loss = keras.losses.deserialize(keras.losses.serialize(losses.SSIMLoss(name="mine")))
    assert loss.name == "mine"
    np.testing.assert_allclose(loss(hr, sr), -ssim_in_float64(hr, sr).mean(), rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.QuasiNorm(q=2.0), losses.SSIMLoss()])
def test_keras_trains_by_a_loss_with_weights_of_examples_and_saves_it(loss, tmp_path):
    hr, sr = pair()
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Identity()(image))
    model.compile(loss=loss, metrics=[loss], run_eagerly=True)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    each = ((sr - hr) ** 2 + 1e-4 if loss.name == "quasi_norm" else -ssim_in_float64(hr, sr)).mean((1, 2, 3))
    weighted = again.evaluate(sr, hr, sample_weight=np.float32([1, 3]), verbose=0)
    assert np.shape(weighted) == (2,)
    assert weighted[0] == pytest.approx((each[0] + 3 * each[1]) / 2, rel=1e-4)


# structural


def ssim_in_float64(hr, sr):
    """SSIM from scipy's correlations: Wang et al. 2004, equation 13, 5x5 Gaussian of sigma 1.5."""
    taps = np.exp(-np.arange(-2, 3) ** 2 / 4.5)
    taps /= taps.sum()

    def mean(images):
        return correlate1d(correlate1d(images, taps, 1), taps, 2)[:, 2:-2, 2:-2]

    x, y = hr.astype(np.float64), sr.astype(np.float64)
    m_x, m_y = mean(x), mean(y)
    s_x, s_y, s_xy = mean(x * x) - m_x**2, mean(y * y) - m_y**2, mean(x * y) - m_x * m_y
    return (2 * m_x * m_y + 1e-4) * (2 * s_xy + 9e-4) / ((m_x**2 + m_y**2 + 1e-4) * (s_x + s_y + 9e-4))


def test_structural_of_equal_images_is_minus_one():
    hr, _ = pair()
    np.testing.assert_allclose(losses.structural(hr, hr), [-1, -1], atol=1e-6)


def test_structural_of_flat_images_is_the_luminance_factor():
    black, half = np.zeros([1, 6, 6, 3], np.float32), np.full([1, 6, 6, 3], 0.5, np.float32)
    np.testing.assert_allclose(losses.structural(black, half), [-1e-4 / (0.25 + 1e-4)], rtol=1e-3)


@pytest.mark.parametrize("shape", [(2, 24, 31, 3), (1, 5, 5, 3), (1, 5, 40, 3), (3, 16, 16, 1)])
@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_structural_equals_negative_ssim(shape, noise):
    hr, sr = pair(shape, noise)
    np.testing.assert_allclose(losses.structural(hr, sr), -ssim_in_float64(hr, sr).mean((1, 2, 3)), atol=3e-6)


def test_structural_equals_negative_ssim_on_histology(histology):
    hr = (histology[np.newaxis, :128, :128] / 255).astype(np.float32)
    sr = np.roll(hr, 1, axis=2)
    np.testing.assert_allclose(losses.structural(hr, sr), -ssim_in_float64(hr, sr).mean((1, 2, 3)), atol=3e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_structural_gradient_is_that_of_its_value_and_the_same_for_both_images(jit_compile):
    hr, sr = pair((1, 8, 9, 3))
    ours = tf.function(lambda x: losses.structural(hr, x), jit_compile=jit_compile)
    _, gradient = value_and_gradient(ours, sr)
    step = 1e-4
    for place in [(0, 0, 0, 0), (0, 4, 4, 1), (0, 7, 3, 2)]:
        near = [np.array(sr, np.float64) for _ in range(2)]
        near[0][place] += step
        near[1][place] -= step
        up, down = (-ssim_in_float64(hr, image).mean() for image in near)
        np.testing.assert_allclose(gradient[place], (up - down) / (2 * step), rtol=2e-3, atol=1e-6)
    _, other_way = value_and_gradient(lambda x: losses.structural(x, hr), sr)
    np.testing.assert_allclose(other_way, gradient, atol=1e-5 * abs(gradient).max())


def test_structural_gradient_is_finite_on_flat_and_equal_images():
    for level in (0.0, 0.5, 1.0):
        hr = np.full([1, 16, 16, 3], level, np.float32)
        value, gradient = value_and_gradient(lambda sr, hr=hr: losses.structural(hr, sr), hr)
        np.testing.assert_allclose(value, [-1], atol=1e-6)
        assert np.isfinite(gradient).all()


def test_structural_sum_is_the_printed_form():
    hr, sr = pair()
    printed = -ssim_in_float64(hr, sr).sum((1, 2, 3))  # over every 5x5 neighbourhood and R, G, B
    np.testing.assert_allclose(losses.structural(hr, sr, reduction="sum"), printed, rtol=1e-5)


def test_structural_takes_sides_known_only_at_run_time():
    hr, sr = pair()
    spec = tf.TensorSpec([None, None, None, 3])
    open_sides = tf.function(losses.structural, input_signature=[spec, spec])
    np.testing.assert_allclose(open_sides(hr, sr), losses.structural(hr, sr), atol=5e-6)


@pytest.mark.parametrize(("hr", "sr", "says"), [
    ([1, 8, 8, 3], [1, 8, 9, 3], "shape of hr"),
    ([8, 8, 3], [8, 8, 3], r"\[B, H, W, C\]"),
    ([1, 4, 8, 3], [1, 4, 8, 3], "sides of 5 or more")])
def test_structural_refuses_shapes(hr, sr, says):
    with pytest.raises(ValueError, match=says):
        losses.structural(tf.zeros(hr), tf.zeros(sr))


def test_structural_refuses_integers_and_unknown_reductions():
    with pytest.raises(ValueError, match="to_float"):
        losses.structural(np.zeros([1, 8, 8, 3], np.uint8), np.zeros([1, 8, 8, 3], np.uint8))
    with pytest.raises(ValueError, match="reduction"):
        losses.structural(tf.zeros([1, 8, 8, 3]), tf.zeros([1, 8, 8, 3]), reduction="max")


# adversarial, feature


def test_adversarial_losses_of_an_undecided_discriminator_are_log_two():
    logits, log_2 = tf.zeros([3, 1]), math.log(2)
    np.testing.assert_allclose(losses.adversarial_generator(logits), [log_2] * 3, rtol=1e-6)
    np.testing.assert_allclose(losses.adversarial_discriminator(logits, logits), [2 * log_2] * 3, rtol=1e-6)


def test_adversarial_losses_equal_the_paper_on_probabilities():
    logits_hr, logits_sr = tf.constant([[0.3], [-2.0]]), tf.constant([[1.2], [-0.7]])
    d_hr, d_sr = tf.sigmoid(logits_hr)[:, 0], tf.sigmoid(logits_sr)[:, 0]
    np.testing.assert_allclose(losses.adversarial_generator(logits_sr), -tf.math.log(d_sr), rtol=1e-5)
    np.testing.assert_allclose(losses.adversarial_discriminator(logits_hr, logits_sr),
                               -(tf.math.log(1 - d_sr) + tf.math.log(d_hr)), rtol=1e-5)


def test_adversarial_losses_and_gradients_are_finite_when_the_discriminator_is_sure():
    sure = np.float32([[-300.0], [300.0]])
    for function in (losses.adversarial_generator, lambda x: losses.adversarial_discriminator(x, -x)):
        value, gradient = value_and_gradient(function, sure)
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()
    _, gradient = value_and_gradient(losses.adversarial_generator, sure)
    np.testing.assert_allclose(gradient, [[-1], [0]], atol=1e-6)  # non-saturating: D sure of SR gives the full gradient


def test_feature_is_the_mean_squared_difference():
    ones, threes = np.ones([2, 4, 4, 8], np.float32), np.full([2, 4, 4, 8], 3, np.float32)
    np.testing.assert_array_equal(losses.feature(ones, threes), [4, 4])
    np.testing.assert_array_equal(losses.feature(ones, ones), [0, 0])


@pytest.mark.parametrize("scale", [2, 4])
def test_consistency_is_the_mean_squared_difference_from_a_gaussian_blur_of_sr(scale):
    _, sr = pair((2, 24, 32, 3))
    lr = np.random.default_rng(1).random((2, 24 // scale, 32 // scale, 3)).astype(np.float32)
    # Twice as fine, so that the middle between two pixels is one; scipy's Gaussian is an independent one.
    fine = np.repeat(np.repeat(sr, 2, 1), 2, 2)
    blurred = gaussian_filter(fine, (0, 3.2, 3.2, 0), mode="reflect", truncate=4)
    middle = [slice(scale - 1, None, 2 * scale), slice(scale, None, 2 * scale)]
    again = np.mean([blurred[:, y][:, :, x] for y in middle for x in middle], axis=0)
    np.testing.assert_allclose(losses.consistency(lr, sr), np.mean((again - lr)**2, (1, 2, 3)), rtol=0.01)


def test_consistency_of_constant_images_is_the_square_of_their_difference():
    lr, sr = np.full([2, 4, 5, 3], 0.3, np.float32), np.full([2, 16, 20, 3], 0.5, np.float32)
    np.testing.assert_allclose(losses.consistency(lr, sr), [0.04, 0.04], rtol=1e-5)
    np.testing.assert_allclose(losses.consistency(lr, sr, reduction="sum"), [60 * 0.04] * 2, rtol=1e-5)


def test_consistency_is_blind_to_what_the_scanner_can_not_see():
    _, hr = pair((1, 32, 32, 3))
    finest = 0.2 * (np.indices((32, 32)).sum(0) % 2)[..., None].astype(np.float32)
    lr = degrade(hr)
    np.testing.assert_allclose(losses.consistency(lr, hr), [0], atol=1e-12)
    np.testing.assert_allclose(losses.consistency(lr, hr + finest - finest.mean()), [0], atol=1e-7)


def test_consistency_refuses_sides_of_two_scales():
    with pytest.raises(ValueError, match="`sr` must have the sides of lr"):
        losses.consistency(tf.zeros([1, 4, 4, 3]), tf.zeros([1, 16, 8, 3]))


def test_consistency_refuses_sides_known_only_at_run_time():
    anything = tf.TensorSpec([None, None, None, 3])
    with pytest.raises(ValueError, match="`lr` must have known sides"):
        tf.function(losses.consistency, autograph=False).get_concrete_function(anything, anything)


# all of them

TERMS = {
    "quasi_norm": lambda hr, sr: losses.quasi_norm(sr - hr),
    "structural": losses.structural,
    "adversarial_generator": lambda hr, sr: losses.adversarial_generator(sr),
    "adversarial_discriminator": losses.adversarial_discriminator,
    "feature": losses.feature,
    "consistency": lambda hr, sr: losses.consistency(hr[:, :12, :15], sr[:, :, :30]),
}


@pytest.mark.parametrize("term", TERMS)
def test_term_is_one_float32_per_image_and_does_not_mix_images(term):
    hr, sr = pair()
    both = TERMS[term](hr, sr)
    assert both.dtype == tf.float32
    assert both.shape == [2]
    np.testing.assert_allclose(TERMS[term](hr[1:], sr[1:]), both[1:], rtol=1e-6)


@pytest.mark.parametrize("term", TERMS)
def test_term_is_equal_under_xla(term):
    hr, sr = pair()
    np.testing.assert_allclose(tf.function(TERMS[term], jit_compile=True)(hr, sr), TERMS[term](hr, sr), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("term", TERMS)
def test_term_of_half_precision_is_computed_in_float32(term, dtype):
    hr, sr = (tf.cast(images, dtype) for images in pair())
    if term == "quasi_norm":
        half, full = losses.quasi_norm(sr), losses.quasi_norm(tf.cast(sr, tf.float32))
    else:
        half, full = TERMS[term](hr, sr), TERMS[term](tf.cast(hr, tf.float32), tf.cast(sr, tf.float32))
    assert half.dtype == tf.float32
    np.testing.assert_array_equal(half, full)
