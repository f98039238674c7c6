"""How blurred pictures of tissue are, from their spectrum; no truth is needed.

    sigma = blur_of(windows)                  # in pixels of the windows
    low, high = blur_range(options)           # of what a `DegradeOptions` gives, in LR pixels

Tissue has power that falls with frequency as f^-b, b its own; a blur multiplies it by exp(-4 pi^2 sigma^2 f^2). Both
are fitted to the logarithm of the mean power of all windows, as far as it stands out from rounding to 8 bit:

    log P(f) = a - b log f - 4 pi^2 (sigma^2 + OFFSET) f^2        0.05 < f < 0.4 cycles a pixel

Measured on 27 H&E slides of 20x to 40x, 8 patches of each, degraded to a quarter: for LR of no blur the last term is
0.10 on the median, -0.16 to 0.44, and a blur adds what it should (sigma of 0.8 pixels: 0.68; 1.2: 1.44; 1.6: 2.55). So
0.6 pixels can't be told from none. Beside the widest blur of the preset "scanner", 0.9 pixels, nothing is said of sigma
0.8 or of 16 slides' own coarse levels, and of 1.2 on 28 of 29 sets of patches. JPEG of quality 75 changes little.
Sharpening that a scanner adds is not seen, since tissue differs by more; and noise hides blur: with 0.01 of it 1.2
reads as 0.85.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.config import DegradeOptions

SIDE = 64  # of the squares whose spectra are averaged
BAND = (0.05, 0.4)
STEP = 0.02
OFFSET = 0.10
UNSURE = 0.36  # pixels^2: the most that one of the slides was off
TAPER = np.outer(np.hanning(SIDE), np.hanning(SIDE))
ROUNDING = np.square(TAPER).sum() / 36  # power of three channels' rounding to 8 bit: below it there is no tissue
ABOVE_ROUNDING, LEAST_BINS = 10, 6
LEAST_POWER = 1.0  # grey levels^2: of what is flatter nothing is known


def blur_of(windows: Sequence[np.ndarray]) -> float | None:
    """Return sigma in pixels, 0 where it is nothing; None where windows are too small or show nothing.

    Args:
        windows: uint8 [h, w, 3] of tissue, of any sides.
    """
    squares = [window[y:y + SIDE, x:x + SIDE].mean(-1) for window in windows
               for y in range(0, window.shape[0] - SIDE + 1, SIDE) for x in range(0, window.shape[1] - SIDE + 1, SIDE)]
    squares = [square - square.mean() for square in squares if square.var() > LEAST_POWER]
    if not squares:
        return None
    frequency, power = _spectrum(np.stack(squares))
    inside = (frequency > BAND[0]) & (frequency < BAND[1])
    inside &= (power > ABOVE_ROUNDING * ROUNDING) | (np.cumsum(inside) <= LEAST_BINS)
    f = frequency[inside]
    terms = np.stack([np.ones_like(f), -np.log(f), -4 * np.pi**2 * f**2], 1)
    variance = np.linalg.lstsq(terms, np.log(power[inside] + 1e-9), rcond=None)[0][2] - OFFSET
    return float(np.sqrt(max(0.0, variance)))


def blur_range(options: DegradeOptions) -> tuple[float, float]:
    """Return the least and the largest sigma of a degradation in LR pixels, its resampling counted in."""
    blurs = {"none": (0.0, 0.0), "gaussian": options.range_of("blur_sigma"),
             "disc": tuple(radius / 2 for radius in options.disc_radius),
             "airy": (_airy(options, 0, 1, 1), _airy(options, 1, 0, 0))}
    averaged = (options.scale**2 - 1) / 12
    resampled = {"nth": 0.0, "box": averaged, "cascade": averaged, "bicubic": averaged, "lanczos": averaged}
    least = min(blurs[name][0] for name in options.blurs)**2 + min(resampled[name] for name in options.resamplings)
    most = max(blurs[name][1] for name in options.blurs)**2 + max(resampled[name] for name in options.resamplings)
    return float(np.sqrt(least)) / options.scale, float(np.sqrt(most)) / options.scale


def is_blurrier(sigma: float, limit: float) -> bool:
    """Whether a sigma that was measured is surely above another, both in pixels."""
    return sigma**2 > limit**2 + UNSURE


def _airy(options: DegradeOptions, wavelength: int, aperture: int, mpp: int) -> float:
    """Return the sigma of the Gaussian nearest to an Airy pattern, in HR pixels, at ends of the ranges."""
    return 0.21 * options.wavelength[wavelength] / options.numerical_aperture[aperture] / options.optics_mpp[mpp]


def _spectrum(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies in cycles a pixel and the mean power there: [N, SIDE, SIDE] -> two [K]."""
    power = np.square(np.abs(np.fft.fft2(squares * TAPER))).mean(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    starts = np.arange(0.03, 0.5 - STEP, STEP)
    return starts + STEP / 2, np.array([power[(frequency >= low) & (frequency < low + STEP)].mean() for low in starts])
