# SPDX-License-Identifier: Apache-2.0
"""`degrade` beside two Gaussians that others wrote, and where its pixels lie."""
from __future__ import annotations

import warnings

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from pipelines.config import SCALES
from pipelines.degrade import TRUNCATE, degrade, taps

SIGMA = 1.6


@pytest.fixture(scope="module")
def tfio_gaussian():
    """tensorflow-io's Gaussian. Importing it warns of compiled ops that this TensorFlow cannot load; it needs none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("tensorflow_io").experimental.filter.gaussian


def images_of(*shape, dtype=np.float32):
    return np.random.default_rng(0).random(shape).astype(dtype)


def twice_as_fine(hr):
    """Put HR on a grid twice as fine with zeros between: the point between two HR pixels is then a grid point."""
    fine = np.zeros((hr.shape[0], 2 * hr.shape[1], 2 * hr.shape[2], hr.shape[3]), hr.dtype)
    fine[:, ::2, ::2] = hr
    return fine


def blur_then_slice(blur, hr, scale, border):
    """Blur on the finer grid, normalise by what ones give there, and slice at 2 (scale*i + (scale-1)/2)."""
    padded = np.pad(hr, ((0, 0), (border, border), (border, border), (0, 0)), mode="symmetric")
    weights = blur(twice_as_fine(np.ones_like(padded)))
    rows, columns = (slice(2 * border + scale - 1, 2 * (border + side), 2 * scale) for side in hr.shape[1:3])
    return blur(twice_as_fine(padded))[:, rows, columns] / weights[:, rows, columns]


@pytest.mark.parametrize("scale", SCALES)
def test_degrade_equals_blur_then_slice_of_tensorflow_io(scale, tfio_gaussian):
    hr = images_of(1, 64, 48, 3)
    steps = 2 * (len(taps(scale, SIGMA)[1]) - 1) + 1  # the finer grid's points from the first tap to the last

    def blur(fine):
        return tfio_gaussian(fine, steps, 2 * SIGMA).numpy()

    np.testing.assert_allclose(degrade(hr, scale, SIGMA), blur_then_slice(blur, hr, scale, border=16), atol=2e-6)


@pytest.mark.parametrize("scale", [1, 3, 5])
@pytest.mark.parametrize("sigma", [0.7, SIGMA])
def test_degrade_by_an_odd_scale_equals_scipy_gaussian_then_slice(scale, sigma):
    hr = images_of(2, 30, 45, 3)
    blurred = ndimage.gaussian_filter(hr, sigma, axes=(1, 2), mode="reflect", radius=int(np.ceil(TRUNCATE * sigma)))
    golden = blurred[:, scale // 2::scale, scale // 2::scale]
    np.testing.assert_allclose(degrade(hr, scale, sigma), golden, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_degrade_by_an_even_scale_equals_scipy_on_a_finer_grid(scale):
    hr = images_of(2, 24, 24, 2, dtype=np.float64)
    radius = len(taps(scale, SIGMA)[1]) - 1

    def blur(fine):
        return ndimage.gaussian_filter(fine, 2 * SIGMA, axes=(1, 2), mode="constant", radius=radius)

    np.testing.assert_allclose(degrade(hr, scale, SIGMA), blur_then_slice(blur, hr, scale, border=16), atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("sigma", [0.0, 0.3, SIGMA])
def test_linear_ramp_stays_centred(scale, sigma):
    side = 12 * scale
    ramp = np.broadcast_to(np.arange(side, dtype=np.float64)[:, np.newaxis, np.newaxis], (1, side, side, 1))
    inside = slice(int(np.ceil(8 / scale)), -int(np.ceil(8 / scale)))
    expected = (scale * np.arange(12) + (scale - 1) / 2)[inside]
    np.testing.assert_allclose(degrade(ramp, scale, sigma)[0, inside, 5, 0], expected, atol=1e-9)
    np.testing.assert_allclose(degrade(ramp.swapaxes(1, 2), scale, sigma)[0, 5, inside, 0], expected, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_half_pixel_centres_are_those_of_bilinear_resize(scale):
    ramp = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32)[:, np.newaxis, np.newaxis], (1, 64, 64, 1))
    enlarged = tf.image.resize(degrade(ramp, scale), (64, 64), "bilinear")
    np.testing.assert_allclose(enlarged[:, 24:40, 24:40], ramp[:, 24:40, 24:40], atol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("side", [1, 2, 7])
def test_constant_stays_constant_to_the_border(scale, side):
    hr = np.full((1, scale * side, scale, 3), 0.7, np.float32)
    np.testing.assert_allclose(degrade(hr, scale, SIGMA), np.full((1, side, 1, 3), 0.7), atol=1e-6)


def test_image_shorter_than_the_kernel_is_mirrored_again_and_again():
    hr = images_of(1, 4, 4, 1)
    tiled = np.pad(hr, ((0, 0), (24, 24), (24, 24), (0, 0)), mode="symmetric")
    np.testing.assert_allclose(degrade(hr), degrade(tiled)[:, 6:7, 6:7], atol=1e-6)


def test_turning_and_mirroring_commute_with_degrade():
    hr = images_of(1, 32, 48, 3)
    np.testing.assert_allclose(degrade(hr[:, ::-1, ::-1]), degrade(hr)[:, ::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(degrade(hr.swapaxes(1, 2)), tf.transpose(degrade(hr), (0, 2, 1, 3)), atol=1e-6)


def test_no_blur_leaves_the_mean_of_the_central_pixels():
    hr = images_of(1, 16, 16, 3)
    central = (hr[:, 1::4, 1::4] + hr[:, 2::4, 1::4] + hr[:, 1::4, 2::4] + hr[:, 2::4, 2::4]) / 4
    np.testing.assert_allclose(degrade(hr, 4, 0.0), central, atol=1e-6)
    np.testing.assert_array_equal(degrade(hr[:, :15, :15], 3, 0.0), hr[:, 1:15:3, 1:15:3])


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("sigma", [0.0, 1e-6, 0.4, SIGMA, 5.0])
def test_taps_are_symmetric_normalised_and_reach_four_sigma(scale, sigma):
    first, weights = taps(scale, sigma)
    distance = first + np.arange(len(weights)) - (scale - 1) / 2
    np.testing.assert_allclose(distance, -distance[::-1])
    np.testing.assert_allclose(weights, weights[::-1])
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert TRUNCATE * sigma <= distance[-1] < TRUNCATE * sigma + 1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_of_unknown_shape_and_xla_agree_with_eager(jit_compile):
    hr = images_of(2, 32, 16, 3)
    signature = None if jit_compile else [tf.TensorSpec([None] * 4)]
    compiled = tf.function(degrade, input_signature=signature, jit_compile=jit_compile)
    np.testing.assert_allclose(compiled(tf.constant(hr)), degrade(hr), atol=1e-6)


def test_degrade_inside_map_agrees_with_eager_and_keeps_the_shape_known():
    hr = images_of(3, 32, 16, 3)
    dataset = tf.data.Dataset.from_tensor_slices(hr).map(lambda image: degrade(image[tf.newaxis])[0])
    assert dataset.element_spec.shape == (8, 4, 3)
    np.testing.assert_allclose(list(dataset.as_numpy_iterator()), degrade(hr), atol=1e-6)


def test_gradient_gives_every_hr_pixel_its_weight():
    hr = tf.constant(images_of(1, 16, 16, 1))
    with tf.GradientTape() as tape:
        tape.watch(hr)
        total = tf.reduce_sum(degrade(hr))
    gradient = tape.gradient(total, hr)
    assert float(tf.reduce_min(gradient)) > 0
    assert float(tf.reduce_sum(gradient)) == pytest.approx(16, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_is_kept(dtype):
    lr = degrade(images_of(1, 8, 8, 3, dtype=dtype))
    assert (lr.dtype, lr.shape) == (dtype, (1, 2, 2, 3))


@pytest.mark.parametrize(("argument", "hr", "scale", "sigma"), [
    ("hr", images_of(1, 30, 32, 3), 4, 1.6), ("hr", images_of(1, 32, 30, 3), 4, 1.6),
    ("hr", images_of(8, 8, 3), 4, 1.6), ("hr", images_of(1, 0, 8, 3), 4, 1.6),
    ("hr", np.zeros((1, 8, 8, 3), np.uint8), 4, 1.6),
    ("scale", images_of(1, 8, 8, 3), 0, 1.6), ("blur_sigma", images_of(1, 8, 8, 3), 4, -1.0),
    ("blur_sigma", images_of(1, 8, 8, 3), 4, np.inf),
])
def test_wrong_argument_is_named(argument, hr, scale, sigma):
    with pytest.raises(ValueError, match=f"^`{argument}` must"):
        degrade(hr, scale, sigma)


def test_sides_known_only_at_run_time_are_checked_then():
    compiled = tf.function(degrade, input_signature=[tf.TensorSpec([None] * 4)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="divisible by scale=4"):
        compiled(images_of(1, 30, 32, 3))
