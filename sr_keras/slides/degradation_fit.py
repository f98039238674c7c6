# SPDX-License-Identifier: Apache-2.0
"""Find the degradation that turns an output back into its input, and apply it.

    fitted = fit_degradation(pairs, scale=4)          # a Gaussian blur with a sigma of 1.2 HR pixels, every 4th pixel
    again = degrade_again(sr, fitted)                 # float [h, w, 3]

The point spread of a slide is unknown. Tried are textbook blurs and the mean over `scale` x `scale` pixels; chosen is
the one that comes nearest to the input of this slide.
"""
from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from pipelines.config import DegradeOptions
from pipelines.pixels import to_float

SIGMAS = tuple(0.05 * step for step in range(17))  # Gaussian blurs tried, in LR pixels: up to 3.2 HR pixels at scale 4


def candidates(scale: int) -> list[DegradeOptions]:
    """Return the degradations that are tried."""
    return [box_average(scale), *(DegradeOptions(scale, blur_sigma=round(scale * sigma, 3)) for sigma in SIGMAS)]


def box_average(scale: int) -> DegradeOptions:
    """Return the mean over `scale` x `scale` pixels."""
    return DegradeOptions(scale, blurs=("none",), resamplings=("box",))


def fit_degradation(pairs: Iterable[tuple[np.ndarray, np.ndarray]], scale: int) -> DegradeOptions:
    """Return the candidate that makes the LR of the SR with the least squared error.

    Args:
        pairs: Windows of LR and SR, uint8 [h, w, 3] and [scale*h, scale*w, 3]. Borders that are affected by pixels
            outside of the window are ignored, unless the window has nothing else.
        scale: SR side over LR side.
    """
    tried = candidates(scale)
    errors, margin = np.zeros(len(tried)), max(reach(options) for options in tried)
    for lr, sr in pairs:
        rows, columns = (slice(margin, -margin) if side > 2 * margin else slice(None) for side in lr.shape[:2])
        lr_planes, sr_planes = (np.moveaxis(to_float(pixels), -1, 0) for pixels in (lr, sr))
        for i, options in enumerate(tried):
            down, right = (_matrix(options, side) for side in lr.shape[:2])
            errors[i] += np.square(down @ sr_planes @ right.T - lr_planes)[:, rows, columns].sum()
    return tried[int(errors.argmin())]


def degrade_again(sr: np.ndarray, options: DegradeOptions) -> np.ndarray:
    """Return float [H, W, 3] degraded by a candidate, or another textbook blur: [H/scale, W/scale, 3]."""
    if options.is_textbook:
        from pipelines.degrade import degrade  # imports TensorFlow, which --help does not need

        return degrade(sr[np.newaxis], options.scale, options.range_of("blur_sigma")[0]).numpy()[0]
    side = options.scale
    return sr.reshape(sr.shape[0] // side, side, sr.shape[1] // side, side, -1).mean((1, 3))


def reach(options: DegradeOptions) -> int:
    """Return how far `degrade_again` looks beyond a window, in LR pixels."""
    if not options.is_textbook:
        return 0
    from pipelines.degrade import taps

    first, weights = taps(options.scale, options.range_of("blur_sigma")[0])
    return -(-max(-first, first + len(weights) - options.scale) // options.scale)


@lru_cache(maxsize=128)
def _matrix(options: DegradeOptions, side: int) -> np.ndarray:
    """Return a candidate as a matrix along one axis, float32 [side, scale*side]; all of them are separable."""
    from pipelines.degrade import taps

    scale = options.scale
    first, weights = taps(scale, options.range_of("blur_sigma")[0]) if options.is_textbook else (0, [1 / scale] * scale)
    at = scale * np.arange(side)[:, np.newaxis] + first + np.arange(len(weights))
    at %= 2 * scale * side  # mirrored, as degrade does
    matrix = np.zeros((side, scale * side), np.float32)
    np.add.at(matrix, (np.arange(side)[:, np.newaxis], np.minimum(at, 2 * scale * side - 1 - at)),
              np.asarray(weights, np.float32))
    return matrix
