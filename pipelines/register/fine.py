# SPDX-License-Identifier: Apache-2.0
"""Compare a patch of two scans: the shift between them, and whether they show the same.

Both are compared on LR's pixel grid: HR is resampled to a grid `fine` times finer and averaged. Slow variation (stain,
lamp) is removed, the border fades out (Hann), and cross-correlation gives the shift to 1/64 of an LR pixel. (Plain
cross-correlation, not phase correlation: on blurred, noisy, compressed scans its median error is a third, 0.07 HR
pixels against 0.19 at scale 4.)

Source: Guizar-Sicairos, Thurman, Fienup, "Efficient subpixel image registration algorithms", Optics Letters 2008,
through scikit-image.
"""
from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage
from skimage.filters import window
from skimage.registration import phase_cross_correlation
from skimage.transform import downscale_local_mean

from pipelines.planes import Matrix, Plane, aligned, magnification, moved
from pipelines.scan_pairs import Fit

STEPS_PER_PIXEL = 64
SLOW, FAST = 4.0, 1.5  # sigmas in LR pixels: slower variation is removed; faster variation measures focus
FLAT = 0.004  # standard deviation, on [0, 1], of a blank patch with noise and compression
FAINT = 0.3  # of the patch's contrast: parts with less are left out
PASSES, SETTLED = 3, 0.1  # repeat at the corrected place until the shift is this small, in LR pixels
PARTS, BLOCKS = 2, 4  # along a side, for shifts and for correlations of parts


def fit_patch(lr: Plane, hr: Plane, matrix: Matrix, x: int, y: int, size: int, fine: int) -> Fit | str:
    """Compare one patch (x, y, size in pixels of `lr`); `matrix` maps pixels of `lr` to those of `hr`.

    Returns the fit, or why there is none: "outside" of HR, or "blank".

    Raises:
        SlideError: The pixels cannot be decoded.
    """
    whole = lr.read(x, y, size, size).mean(axis=2)
    target = _structure(whole, SLOW)
    if target.std() < FLAT:
        return "blank"
    shift = np.zeros(2)
    for _ in range(PASSES):
        found = aligned(hr, moved(matrix, shift), x, y, size, fine, order=1, grey=True)
        if found is None:
            return "outside"
        finer = found
        averaged = downscale_local_mean(finer, (fine, fine))
        image = _structure(averaged, SLOW)
        if image.std() < FLAT:
            return "blank"
        left = _shift(target, image)
        shift -= matrix[:, :2] @ left
        if np.hypot(*left) <= SETTLED:
            break
    correlation, weakest = _correlations(target, image)
    fast_target, fast_image = _structure(whole, FAST), _structure(averaged, FAST)
    return Fit(
        x, y, (float(shift[0]), float(shift[1])), correlation, weakest,
        residual=_residual(target, image, left) * magnification(matrix),
        sharpness=float((fast_target * fast_image).sum() / (fast_image**2).sum()),
        detail=float(_structure(finer, 1.0).std() / fast_image.std()))


def _structure(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return an image without variation slower than `sigma`."""
    return image - ndimage.gaussian_filter(image, sigma)


@cache
def _fade(size: int) -> np.ndarray:
    return window("hann", (size, size))


def _shift(target: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return the shift (x, y) of `image` to `target`, in pixels; both have mean zero."""
    fade = _fade(len(target))
    found, _, _ = phase_cross_correlation(target * fade, image * fade, upsample_factor=STEPS_PER_PIXEL,
                                          normalization=None)
    return found[::-1]


def _correlations(target: np.ndarray, image: np.ndarray) -> tuple[float, float]:
    """Return the correlation of the whole, and of the worst of BLOCKS x BLOCKS parts that are not faint."""
    blocks = [(one, other) for one, other in _parts(target, image, BLOCKS)
              if one.std() >= FAINT * target.std() or other.std() >= FAINT * image.std()]
    return _correlation(target, image), min(_correlation(*block) for block in blocks)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / max(np.sqrt((one**2).sum() * (other**2).sum()), 1e-12))


def _residual(target: np.ndarray, image: np.ndarray, left: np.ndarray) -> float:
    """Return the root mean square of the parts' own shifts, in LR pixels, without faint parts."""
    shifts = [_shift(*part) - left for part in _parts(target, image, PARTS)
              if min(part[0].std() / target.std(), part[1].std() / image.std()) >= FAINT]
    return float(np.sqrt(np.mean(np.sum(np.square(shifts), axis=1)))) if shifts else 0.0


def _parts(target: np.ndarray, image: np.ndarray, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut both into count x count parts."""
    side = len(target) // count
    return [(target[i:i + side, j:j + side], image[i:i + side, j:j + side])
            for i in range(0, side * count, side) for j in range(0, side * count, side)]

