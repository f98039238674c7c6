"""Which degradation makes the input of the output: one of a few, by the windows where it is compared.

    fitted = fit_degradation(pairs, scale=4)          # a Gaussian blur of 1.2 HR pixels, every 4th pixel
    again = degrade_again(sr, fitted)                 # float [h, w, 3]

A slide's own point spread is not known, and a model trained on many takes what it finds. To ask how far an output
departs from its input, the output is degraded by whichever of the textbook's blurs, or mean over `scale` x `scale`
pixels, comes nearest to the input on this very slide.
"""
from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from pipelines.config import DegradeOptions
from pipelines.pixels import to_float

# Gaussian blurs that are tried, in LR pixels: none to 3.2 HR pixels at scale 4.
SIGMAS = tuple(0.05 * step for step in range(17))


def candidates(scale: int) -> list[DegradeOptions]:
    """Return the degradations that are tried."""
    return [box(scale), *(DegradeOptions(scale, blur_sigma=round(scale * sigma, 3)) for sigma in SIGMAS)]


def box(scale: int) -> DegradeOptions:
    """Return the mean over `scale` x `scale` pixels."""
    return DegradeOptions(scale, blurs=("none",), resamplings=("box",))


def fit_degradation(pairs: Iterable[tuple[np.ndarray, np.ndarray]], scale: int) -> DegradeOptions:
    """Return which of `candidates` makes the LR of the SR, by squared error over all pairs.

    Args:
        pairs: uint8 [h, w, 3] and [scale*h, scale*w, 3], windows that belong together. Borders where the furthest blur
            would look beyond the window do not count, unless nothing else is left.
        scale: SR side over LR side.
    """
    tried = candidates(scale)
    errors, margin = np.zeros(len(tried)), max(reach(options) for options in tried)
    for lr, sr in pairs:
        rows, columns = (slice(margin, -margin) if side > 2 * margin else slice(None) for side in lr.shape[:2])
        seen, made = (np.moveaxis(to_float(pixels), -1, 0) for pixels in (lr, sr))
        for i, options in enumerate(tried):
            down, right = (_matrix(options, side) for side in lr.shape[:2])
            errors[i] += np.square(down @ made @ right.T - seen)[:, rows, columns].sum()
    return tried[int(errors.argmin())]


def degrade_again(sr: np.ndarray, options: DegradeOptions) -> np.ndarray:
    """Return float [H, W, 3] degraded by one of `candidates`, or by another textbook blur: [H/scale, W/scale, 3]."""
    if options.is_textbook:
        from pipelines.degrade import degrade  # TensorFlow: who asks for help does not wait for it

        return degrade(sr[np.newaxis], options.scale, options.range_of("blur_sigma")[0]).numpy()[0]
    side = options.scale
    return sr.reshape(sr.shape[0] // side, side, sr.shape[1] // side, side, -1).mean((1, 3))


def reach(options: DegradeOptions) -> int:
    """Return how many LR pixels beyond a window `degrade_again` looks."""
    if not options.is_textbook:
        return 0
    from pipelines.degrade import taps

    first, weights = taps(options.scale, options.range_of("blur_sigma")[0])
    return -(-max(-first, first + len(weights) - options.scale) // options.scale)


@lru_cache(maxsize=128)
def _matrix(options: DegradeOptions, side: int) -> np.ndarray:
    """Return what one of `candidates` does along an axis, float32 [side, scale*side]; all of them are separable."""
    from pipelines.degrade import taps

    scale = options.scale
    first, weights = taps(scale, options.range_of("blur_sigma")[0]) if options.is_textbook else (0, [1 / scale] * scale)
    at = scale * np.arange(side)[:, np.newaxis] + first + np.arange(len(weights))
    at %= 2 * scale * side  # mirrored, as degrade does
    matrix = np.zeros((side, scale * side), np.float32)
    np.add.at(matrix, (np.arange(side)[:, np.newaxis], np.minimum(at, 2 * scale * side - 1 - at)),
              np.asarray(weights, np.float32))
    return matrix
