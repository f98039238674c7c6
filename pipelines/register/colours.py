"""What the two scanners make of one stain: per channel, a straight line between their optical densities.

HR's colours are taken to LR's, never LR's to HR's: LR has to stay what the scanner gave, to the byte, since the same
scanner's pixels are what a model will be given.
"""
from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import ndimage
from skimage.transform import downscale_local_mean

from pipelines.pixels import WHITE, to_float, to_uint8
from pipelines.register.planes import Matrix, Plane, aligned, moved
from pipelines.register.registration import Fit

Lines = tuple[tuple[float, float], ...]  # per channel (gain, offset)
SMOOTH = 5  # LR pixels: what noise and sharpness of the two scanners are averaged away over
LEAST_SPREAD = 1e-3


def fit_colours(lr: Plane, hr: Plane, matrix: Matrix, fits: Iterable[Fit], size: int, scale: int) -> Lines:
    """Return the lines that give HR's optical density the mean and standard deviation of LR's, over some patches."""
    densities: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for fit in fits:
        finer = aligned(hr, moved(matrix, fit.shift), fit.x, fit.y, size, scale, order=1)
        if finer is not None:
            pair = lr.read(fit.x, fit.y, size, size), downscale_local_mean(finer, (scale, scale, 1))
            for kept, image in zip(densities, pair, strict=True):
                kept.append(ndimage.uniform_filter(density(image), (SMOOTH, SMOOTH, 0)).reshape(-1, 3))
    target, source = (np.concatenate(kept) for kept in densities)
    gain = target.std(axis=0) / np.maximum(source.std(axis=0), LEAST_SPREAD)
    offset = target.mean(axis=0) - gain * source.mean(axis=0)
    return tuple((round(float(g), 5), round(float(o), 5)) for g, o in zip(gain, offset, strict=True))


def recoloured(pixels: np.ndarray, lines: Lines) -> np.ndarray:
    """Return uint8 [H, W, 3] with each channel's optical density taken along its line."""
    gain, offset = np.array(lines, np.float32).T
    return to_uint8(_transmitted(gain * density(to_float(pixels)) + offset))


def density(image: np.ndarray) -> np.ndarray:
    """Return the optical density of an image in [0, 1]; black is kept finite by one grey level."""
    return -np.log((image * WHITE + 1) / (WHITE + 1))


def _transmitted(densities: np.ndarray) -> np.ndarray:
    return (np.exp(-densities) * (WHITE + 1) - 1) / WHITE
