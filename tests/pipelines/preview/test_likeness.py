# SPDX-License-Identifier: Apache-2.0
"""Likeness: spectra and residuals against scipy, scikit-image and known transfer functions."""
from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import fft, ndimage, signal, stats
from skimage.transform import downscale_local_mean

from pipelines.preview.likeness import (
    BANDS,
    Likeness,
    Residual,
    band_powers,
    blockiness,
    compare,
    likeness_table,
    residual_of,
)


def grey(plane):
    return np.repeat(plane[..., np.newaxis], 3, axis=-1)


def white(seed=0, side=63, std=0.1):
    return np.random.default_rng(seed).normal(0.5, std, (side, side))


def jpeg(plane, quality):
    held = io.BytesIO()
    Image.fromarray((255 * plane).astype(np.uint8)).save(held, "JPEG", quality=quality)
    return np.asarray(Image.open(held)) / 255


# Spectrum


def test_white_noise_has_its_variance_in_every_band():
    powers = np.mean([band_powers(grey(white(seed))) for seed in range(20)], axis=0)
    np.testing.assert_allclose(powers, 0.01, rtol=0.1)


@pytest.mark.parametrize("shape", [(63, 63), (48, 70)])
def test_band_powers_equal_scipy(shape):
    image = np.random.default_rng(1).random((*shape, 3))
    plane = image.mean(axis=-1) - image.mean()
    windows = [signal.windows.hann(side + 2)[1:-1] for side in shape]
    window = windows[0][:, np.newaxis] * windows[1]
    power = np.abs(fft.fft2(plane * window)) ** 2 / (window**2).sum()
    rows, columns = (fft.fftfreq(side) for side in shape)
    for low, high, found in zip(BANDS, BANDS[1:], band_powers(image), strict=False):
        inside = [power[i, j] for i, f in enumerate(rows) for j, g in enumerate(columns)
                  if low <= np.hypot(f, g) < high]
        assert found == pytest.approx(np.mean(inside))


@pytest.mark.parametrize("sigma", [0.5, 0.8])
def test_blur_takes_from_each_band_what_its_transfer_function_says(sigma):
    frequency = np.hypot(*np.meshgrid(fft.fftfreq(256), fft.fftfreq(256)))
    transfer = np.exp(-2 * (np.pi * sigma * frequency) ** 2) ** 2
    sharp = white(side=256)
    soft = ndimage.fourier_gaussian(fft.fft2(sharp), sigma)
    ratio = band_powers(grey(fft.ifft2(soft).real)) / band_powers(grey(sharp))
    for low, high, found in zip(BANDS, BANDS[1:], ratio, strict=False):
        expected = transfer[(frequency >= low) & (frequency < high)].mean()
        assert 10 * np.log10(found) == pytest.approx(10 * np.log10(expected), abs=0.3)


def test_wave_is_in_the_band_of_its_frequency():
    for band, frequency in enumerate((0.08, 0.2, 0.3, 0.45)):
        wave = np.sin(2 * np.pi * frequency * np.arange(64)) * np.ones((64, 1))
        assert np.argmax(band_powers(grey(wave))) == band


def test_image_without_the_lowest_band_is_refused():
    with pytest.raises(ValueError, match=r"^`image` must have sides of at least 32 pixels"):
        band_powers(np.zeros((64, 31, 3)))


# Residual


@pytest.mark.parametrize("scale", [2, 4])
def test_residual_equals_scipy_and_scikit_image(scale):
    rng = np.random.default_rng(2)
    lr, hr = rng.random((40, 36, 3)) ** 3, rng.random((40 * scale, 36 * scale, 3))
    residual = (lr - downscale_local_mean(hr, (scale, scale, 1))).mean(axis=-1)
    found = residual_of(lr, hr)
    assert found.std == pytest.approx(255 * residual.std())
    assert found.kurtosis == pytest.approx(stats.kurtosis(residual.ravel()))
    beside = [np.corrcoef(a.ravel(), b.ravel())[0, 1]
              for a, b in ((residual[1:], residual[:-1]), (residual[:, 1:], residual[:, :-1]))]
    assert found.correlation == pytest.approx(np.mean(beside), abs=0.01)


def test_correlation_tells_noise_from_blur_and_sharpening():
    hr = np.zeros((256, 256, 3))
    soft = ndimage.gaussian_filter(white(side=64), 1.0)
    sharp = white(side=64) - ndimage.uniform_filter(white(side=64), 3)
    assert abs(residual_of(grey(white(side=64)), hr).correlation) < 0.05
    assert residual_of(grey(soft), hr).correlation > 0.5
    assert residual_of(grey(sharp), hr).correlation < -0.05


def test_mean_of_hr_itself_has_no_residual():
    hr = np.random.default_rng(3).random((64, 64, 3)).astype(np.float32)
    assert residual_of(downscale_local_mean(hr, (4, 4, 1)), hr) == Residual(0.0, 0.0, 0.0, 0.0)


# Blocks


def test_blockiness_of_noise_is_small_and_of_a_flat_plane_none():
    assert 0 < np.mean([blockiness(white(seed)) for seed in range(10)]) < 0.2
    assert blockiness(np.full((32, 32), 0.5)) == 0


def test_compression_makes_blocks_the_more_the_stronger(histology):
    plane = ndimage.gaussian_filter(histology[:128, :128].mean(axis=-1) / 255, 1.0)
    found = [blockiness(plane), *(blockiness(jpeg(plane, quality)) for quality in (60, 30, 10))]
    assert found == sorted(found)
    assert found[-1] > 3 * found[0]


def test_blocks_are_found_wherever_their_grid_begins(histology):
    plane = jpeg(histology[:136, :136].mean(axis=-1) / 255, 10)
    found = [blockiness(plane[row:row + 128, column:column + 128]) for row, column in ((0, 0), (3, 0), (0, 5), (7, 6))]
    assert max(found) < 1.1 * min(found)


# All together


def test_an_image_is_like_itself(histology):
    hr = histology[:256, :256] / 255
    lr = downscale_local_mean(hr, (4, 4, 1))
    same = compare(lr, lr, hr)
    np.testing.assert_array_equal(same.spectrum, 0)
    assert same.difference == 0
    brighter = compare(lr + 2 / 255, lr, hr)
    assert brighter.difference == pytest.approx(2)
    np.testing.assert_allclose(brighter.spectrum, 0, atol=1e-6)


def test_table_shows_means_and_deviations():
    one = Likeness((1.0, 0.0, -1.0, -2.0), Residual(4.0, 0.5, 0.1, 0.2), 9.0)
    other = Likeness((3.0, 0.0, -1.0, -2.0), Residual(6.0, 0.5, 0.1, 0.2), 9.0)
    lines = likeness_table({"real": [one], "scanner": [one, other]}).splitlines()
    assert lines[1].split()[-5:] == ["std", "kurtosis", "correlation", "blockiness", "difference"]
    assert lines[3].split()[:3] == ["scanner", "2.00", "(1.00)"]
    assert "5.00 (1.00)" in lines[3]
