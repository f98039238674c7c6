# SPDX-License-Identifier: Apache-2.0
"""Point spread and resampling beside PIL, scipy and formulas; and where LR pixels lie."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage, special, stats
from skimage.draw import disk

from pipelines.config import BLURS, RESAMPLINGS, SCALES, DegradeOptions, degradation
from pipelines.degrade.kernels import degraded, largest_reach, point_spread

SEED = tf.constant([3, 4], tf.int64)
PIL_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}


def options_of(blur="none", resampling="box", **ranges):
    return DegradeOptions(blurs=(blur,), resamplings=(resampling,), **ranges)


def lr_of(hr, options, seed=SEED):
    return degraded(tf.constant(hr, tf.float32), options, seed).numpy()


def spread_of(options, between=False, seed=SEED):
    kernel, _ = point_spread(options, seed, tf.constant(0), tf.constant(between))
    distance = np.arange(len(kernel)) - largest_reach(options) - (0.5 if between else 0.0)
    return kernel.numpy(), distance


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", PIL_FILTERS)
def test_resampling_is_that_of_pil_away_from_the_border(name, scale, histology):
    side = 16 * scale
    hr = histology[:side, :side]
    expected = np.asarray(Image.fromarray(hr).resize((16, 16), PIL_FILTERS[name]), np.float32)
    found = 255 * np.clip(lr_of(hr / 255, options_of(resampling=name, scale=scale)), 0, 1)
    # PIL rounds after rows and after columns, to 8 bit.
    np.testing.assert_allclose(found[4:-4, 4:-4], expected[4:-4, 4:-4], atol=1.6)


@pytest.mark.parametrize("scale", SCALES)
def test_cascade_halves_and_rounds_as_pyramids_do(scale, histology):
    level = histology[:64, :64].astype(np.float32)
    for _ in range(round(math.log2(scale))):
        level = np.floor(level.reshape(len(level) // 2, 2, len(level) // 2, 2, 3).mean((1, 3)) + 0.5)
    found = 255 * lr_of(histology[:64, :64] / 255, options_of(resampling="cascade", scale=scale))
    np.testing.assert_allclose(found, level, atol=0.01)


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("blur", BLURS)
def test_lr_pixels_lie_on_half_pixel_centres_of_hr(blur, resampling):
    """A ramp shows it: whatever is averaged symmetrically about a place has the value of that place."""
    y, x = np.mgrid[:96, :96].astype(np.float32)
    hr = np.stack([y, x, 0.3 * y + 0.6 * x], -1) / 255
    lr = lr_of(hr, options_of(blur, resampling, anisotropy=(1.0, 2.0), blur_sigma=(0.5, 2.0)))
    centre = (4 * np.arange(24) + 1.5) / 255
    inner = slice(8, -8)
    tolerance = 0.76 / 255 if resampling == "cascade" else 1e-4
    np.testing.assert_allclose(lr[inner, inner, 0], np.broadcast_to(centre[inner, None], (8, 8)), atol=tolerance)
    np.testing.assert_allclose(lr[inner, inner, 1], np.broadcast_to(centre[None, inner], (8, 8)), atol=tolerance)


@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_flat_image_stays_flat_up_to_the_border(resampling):
    lr = lr_of(np.full((32, 48, 3), 102 / 255), options_of("airy", resampling))
    assert lr.shape == (8, 12, 3)
    np.testing.assert_allclose(lr, 102 / 255, atol=1e-5)


def test_gaussian_and_box_equal_scipys_gaussian_averaged(histology):
    hr = histology[:128, :128] / 255
    blurred = ndimage.gaussian_filter(hr, (2.4, 2.4, 0), mode="reflect", truncate=4)
    expected = blurred.reshape(32, 4, 32, 4, 3).mean((1, 3))
    np.testing.assert_allclose(lr_of(hr, options_of("gaussian", blur_sigma=2.4)), expected, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (252, 256), (132, 60)])
def test_kernel_is_correlated_as_scipy_does_it(height, width, histology):
    """An oblique kernel: a transposed or mirrored one would show. Large images are computed in groups of pixels."""
    options = options_of("gaussian", "nth", blur_sigma=(1.5, 1.5), anisotropy=(2.5, 2.5))
    kernel, _ = spread_of(options, between=True)
    hr = histology[:height, :width] / 255
    planes = [ndimage.correlate(hr[..., c], kernel, mode="reflect", origin=-1)[1::4, 1::4] for c in range(3)]
    np.testing.assert_allclose(lr_of(hr, options), np.stack(planes, -1), atol=1e-4)


@pytest.mark.parametrize("anisotropy", [1.0, 2.0])
def test_gaussian_has_the_two_sigmas_it_was_asked_for(anisotropy):
    kernel, distance = spread_of(options_of("gaussian", blur_sigma=(2.0, 2.0), anisotropy=(anisotropy,) * 2))
    down, right = np.meshgrid(distance, distance, indexing="ij")
    covariance = np.cov(np.stack([down.ravel(), right.ravel()]), aweights=kernel.ravel(), ddof=0)
    short, long = np.sqrt(np.linalg.eigvalsh(covariance))
    assert long / short == pytest.approx(anisotropy, rel=0.02)
    assert (long**2 + short**2) / 2 == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("anisotropy", [1.0, 1.6, 3.0])
@pytest.mark.parametrize("between", [False, True])
def test_gaussian_is_scipys_normal_density_at_the_angle_it_drew(anisotropy, between):
    options = options_of("gaussian", blur_sigma=(2.0, 2.0), anisotropy=(anisotropy,) * 2)
    kernel, distance = spread_of(options, between)
    places = np.stack(np.meshgrid(distance, distance, indexing="ij"), -1)
    covariance = np.cov(places.reshape(-1, 2).T, aweights=kernel.ravel(), ddof=0)
    expected = stats.multivariate_normal(cov=covariance).pdf(places)
    np.testing.assert_allclose(kernel, expected, atol=0.01 * expected.max())


@pytest.mark.parametrize("radius", [1.5, 3.0, 6.0])
def test_disc_is_scikit_images_averaged_over_pixels(radius):
    kernel, distance = spread_of(options_of("disc", disc_radius=(radius, radius)))
    fine, side = 31, len(distance)
    centre = (np.argmin(np.abs(distance)) + 0.5) * fine - 0.5
    drawn = np.zeros((side * fine, side * fine))
    drawn[disk((centre, centre), radius * fine)] = 1
    shares = drawn.reshape(side, fine, side, fine).mean((1, 3))
    np.testing.assert_allclose(kernel, shares / shares.sum(), atol=0.1 * shares.max() / shares.sum())


def test_disc_has_the_second_moment_of_a_disc():
    kernel, distance = spread_of(options_of("disc", disc_radius=(4.0, 4.0)))
    assert (kernel.sum(0) * distance**2).sum() == pytest.approx(4.0**2 / 4, rel=0.03)
    assert kernel.max() == pytest.approx(1 / (math.pi * 16), rel=0.02)


def test_airy_pattern_is_scipys_bessel_function_and_dark_at_its_first_ring():
    options = options_of("airy", numerical_aperture=(0.25, 0.25), wavelength=(0.5, 0.5), optics_mpp=(0.122, 0.122))
    kernel, distance = spread_of(options)
    middle = np.argmin(np.abs(distance))
    v = 2 * math.pi * 0.25 / 0.5 * 0.122 * np.abs(distance[:-1])
    v[middle] = 1e-3
    expected = (2 * special.j1(v) / v) ** 2
    np.testing.assert_allclose(kernel[middle, :-1] / kernel[middle, middle], expected, atol=1e-5)
    first_zero = round(0.61 * 0.5 / 0.25 / 0.122)  # 10 pixels
    assert kernel[middle, middle + first_zero] < 1e-4 * kernel[middle, middle]


def test_no_blur_is_a_point_on_pixels_and_the_central_four_between_them():
    kernel, distance = spread_of(options_of())
    assert kernel[np.argmin(np.abs(distance)), np.argmin(np.abs(distance))] == pytest.approx(1)
    between, distance = spread_of(options_of(), between=True)
    assert between[np.ix_(np.abs(distance) < 1, np.abs(distance) < 1)].sum() == pytest.approx(1)


def test_every_kind_that_is_listed_is_drawn(histology):
    """With one draw a kind, equal to it alone: no kind is left out, none comes that is not listed."""
    hr = histology[:32, :32] / 255
    mixed = DegradeOptions(blurs=("gaussian",), blur_sigma=1.0, resamplings=("nth", "box", "lanczos"))
    alone = {name: lr_of(hr, replace(mixed, resamplings=(name,))) for name in mixed.resamplings}
    seen = set()
    for number in range(40):
        lr = lr_of(hr, mixed, tf.constant([number, 0], tf.int64))
        seen |= {name for name, expected in alone.items() if np.allclose(lr, expected, atol=1e-5)}
    assert seen == set(mixed.resamplings)


def test_widest_point_spread_of_a_preset_fits_its_kernel():
    for name in ("scanner", "pyramid"):
        options = degradation(name)
        for number in range(30):
            kernel, _ = point_spread(options, tf.constant([number, 1], tf.int64),
                                     tf.constant(number % len(options.blurs)), tf.constant(True))
            edge = np.concatenate([kernel[0], kernel[-1], kernel[:, 0], kernel[:, -1]])
            assert edge.sum() < 2e-3, (name, number)
