"""Levels that were averaged from finer ones are sharper than LR of `degrade`: blur them by what they lack.

    variance = softening(downsample=4, scale=4, blur_sigma=1.6)     # 0.106 pixels^2 of the level
    lr = soften(pixels, variance)                                   # uint8 [h + 2, w + 2, 3] -> [h, w, 3]

A generator takes what is sharper than its training for contrast and exaggerates it: on H&E averaged over 4x4 pixels a
model that is 2.5 dB better than bicubic on LR of `degrade` is 0.4 dB worse; softened, it is 2 dB better again. A scan
needs none: an objective of NA 0.3 at 1 mpp blurs by 0.48 pixels, its diffraction and the pixel together, where
`degrade` blurs by 0.4.
"""
from __future__ import annotations

import numpy as np

SCANNED = 1.5  # a level of no more pixels than this to one is a scan, or nearly so
# Added variances fit worse than 1.3 times as much, since a mean and a Gaussian have other tails. Of 2, 4 and 8 pixels
# and sigmas of 0.8, 1.6 and 3.2, on H&E and on DAB, the best factor is 1.2 to 1.4; a third of the difference is left.
FACTOR = 1.3
MOST = 0.5  # three pixels can't blur by more
STRIP = 256


def softening(downsample: float, scale: int, blur_sigma: float) -> float:
    """Return how much blur a level lacks beside the LR of `degrade`.

    Args:
        downsample: pixels of the finest level to one of this, a side.
        scale, blur_sigma: those of `degrade`.

    Returns:
        A variance in pixels of the level, 0 to MOST; 0 for a level that was scanned.
    """
    if downsample <= SCANNED:
        return 0.0
    averaged = (1 - downsample**-2) / 12  # of the mean of n pixels: (n^2 - 1) / 12, in pixels of the level
    return min(MOST, FACTOR * max(0.0, (blur_sigma / scale)**2 - averaged))


def soften(pixels: np.ndarray, variance: float) -> np.ndarray:
    """Blur by three pixels a side, of a variance up to MOST: uint8 [h + 2, w + 2, C] -> its inner [h, w, C]."""
    side, middle = variance / 2, 1 - variance
    softened = np.empty((pixels.shape[0] - 2, pixels.shape[1] - 2, pixels.shape[2]), np.uint8)
    for top in range(0, len(softened), STRIP):  # floats of a whole window would take more memory than the network
        rows = pixels[top:top + STRIP + 2].astype(np.float32)
        rows = side * (rows[:-2] + rows[2:]) + middle * rows[1:-1]
        rows = side * (rows[:, :-2] + rows[:, 2:]) + middle * rows[:, 1:-1]
        softened[top:top + STRIP] = np.rint(rows)
    return softened
