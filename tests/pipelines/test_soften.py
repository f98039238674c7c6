"""What a level lacks of blur, and giving it: against `degrade` on real tissue, and against SciPy."""
from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import convolve1d

from pipelines.degrade import degrade
from pipelines.pixels import to_float
from pipelines.soften import MOST, soften, softening


def averaged(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width, channels = pixels.shape
    means = pixels.reshape(height // side, side, width // side, side, channels).mean((1, 3))
    return np.rint(means).astype(np.uint8)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_averaged_level_becomes_like_the_lr_of_training(histology, scale):
    sigma = 0.4 * scale
    lr = 255 * degrade(to_float(histology[np.newaxis]), scale, sigma).numpy()[0]
    level = averaged(histology, scale)
    softened = soften(np.pad(level, ((1, 1), (1, 1), (0, 0)), "edge"), softening(scale, scale, sigma))
    before, after = (np.sqrt(np.mean((pixels - lr)**2)) for pixels in (level, softened))
    assert after < 0.5 * before


def test_soften_is_three_taps_of_the_variance(histology):
    pixels, variance = histology[:300, :64], 0.2
    taps = [variance / 2, 1 - variance, variance / 2]
    expected = convolve1d(convolve1d(pixels.astype(float), taps, axis=0), taps, axis=1)[1:-1, 1:-1]
    assert np.abs(soften(pixels, variance) - expected).max() <= 0.5 + 1e-4


def test_scan_is_left_as_it_is():
    assert softening(1.0, 4, 1.6) == 0
    assert softening(1.2, 4, 1.6) == 0


def test_blur_that_a_mean_has_already_is_not_added_again():
    assert softening(4, 4, 1.0) == 0
    assert softening(4, 4, 100.0) == MOST
