# SPDX-License-Identifier: Apache-2.0
"""How similar synthetic LR is to real LR of the same HR: power spectra and residuals, one value per image.

Images are float [h, w, 3] in [0, 1]; statistics are of their brightness, the mean of the three channels. NumPy only.

    spectrum       synthetic / real power in dB, by frequency band: above 0 sharper or noisier, below 0 blurred
    residual       LR - mean of the scale x scale HR pixels below it: how LR differs from an ideal camera's. Standard
                   deviation, excess kurtosis, correlation of neighbouring pixels, and blockiness
    difference     root mean square of synthetic - real
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise

import numpy as np

from pipelines.errors import require

BANDS = (1 / 32, 1 / 8, 1 / 4, 3 / 8, 1 / 2)  # edges, in cycles per LR pixel
BLOCK = 8  # side of JPEG's brightness blocks, in LR pixels
GREY_LEVELS = 255
WIDTH = 15  # of a column of the table


@dataclass(frozen=True)
class Residual:
    """How an LR image differs from the mean of its HR pixels: see `residual_of`."""

    std: float
    kurtosis: float
    correlation: float
    blockiness: float


@dataclass(frozen=True)
class Likeness:
    """One synthetic LR beside the real one: dB by band, its residual, and the root mean square difference."""

    spectrum: tuple[float, ...]
    residual: Residual
    difference: float


def compare(made: np.ndarray, real: np.ndarray, hr: np.ndarray) -> Likeness:
    """Return how similar synthetic LR [h, w, 3] is to the real LR of the same HR [scale*h, scale*w, 3]."""
    ratios = band_powers(made) / band_powers(real)
    difference = GREY_LEVELS * float(np.sqrt(np.mean((made - real) ** 2)))
    return Likeness(tuple(10 * np.log10(ratios)), residual_of(made, hr), difference)


def band_powers(image: np.ndarray) -> np.ndarray:
    """Return the power spectral density of a float image [h, w, 3] in each of BANDS, averaged over all directions.

    The mean is subtracted and a Hann window applied, so that the border is not an edge. White noise of variance s^2 has
    the power s^2 in every band.

    Raises:
        ValueError: A side is shorter than 32 pixels.
    """
    require(min(image.shape[:2]) >= 1 / BANDS[0], "image", f"have sides of at least {1 / BANDS[0]:g} pixels",
            "take larger patches", image.shape)
    plane = image.mean(axis=-1)
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in plane.shape))
    power = np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2 / np.sum(window**2)
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in plane.shape), indexing="ij"))
    band = np.digitize(frequency, BANDS)
    return np.array([power[band == number].mean() for number in range(1, len(BANDS))])


def residual_of(lr: np.ndarray, hr: np.ndarray) -> Residual:
    """Return how an LR image differs from the mean of the HR pixels of each of its pixels.

    The standard deviation is in grey levels of 255. Kurtosis is the excess over a Gaussian's. Correlation is that of
    horizontal and vertical neighbours: 0 for noise, positive for blur, negative for sharpening. Kurtosis and
    correlation of a constant residual are 0.
    """
    scale = hr.shape[0] // lr.shape[0]
    means = hr.reshape(lr.shape[0], scale, lr.shape[1], scale, 3).mean(axis=(1, 3, 4))
    residual = lr.mean(axis=-1) - means
    centred = residual - residual.mean()
    variance = np.mean(centred**2)
    if variance < 1e-12:  # a millionth of full scale: only rounding
        return Residual(0.0, 0.0, 0.0, 0.0)
    correlation = np.mean([np.mean(centred[1:] * centred[:-1]), np.mean(centred[:, 1:] * centred[:, :-1])]) / variance
    return Residual(GREY_LEVELS * float(np.sqrt(variance)), float(np.mean(centred**4) / variance**2 - 3),
                    float(correlation), blockiness(residual))


def blockiness(plane: np.ndarray) -> float:
    """Return by how much steps between pixels are larger on a grid of 8x8 blocks than elsewhere, as a share.

    The grid may start anywhere: of the eight possible columns the one with the largest steps is taken, and so for rows.
    Plain noise has about 0.1 for 63 x 63 pixels, since the largest of eight is taken.
    """
    return float(np.mean([_largest_phase(np.abs(np.diff(plane, axis=axis)).mean(axis=1 - axis)) for axis in (0, 1)]))


def _largest_phase(steps: np.ndarray) -> float:
    phases = np.array([steps[phase::BLOCK].mean() for phase in range(BLOCK)])
    others = (phases.sum() - phases.max()) / (BLOCK - 1)
    return phases.max() / others - 1 if others > 0 else 0.0


def likeness_table(rows: Mapping[str, Sequence[Likeness]]) -> str:
    """Return the table: a row per name, with mean and (standard deviation) over its images."""
    bands = [f"{low:.3g}-{high:.3g}" for low, high in pairwise(BANDS)]
    names = [*bands, *(field.name for field in fields(Residual)), "difference"]
    lines = [f"{'':10}{'power over real, dB, by cycles/pixel':^{WIDTH * len(bands)}}{'residual':^{4 * WIDTH}}",
             f"{'':10}" + "".join(f"{name:>{WIDTH}}" for name in names)]
    for name, some in rows.items():
        values = np.array([(*one.spectrum, *astuple(one.residual), one.difference) for one in some])
        moments = (np.round(moment, 2) + 0.0 for moment in (values.mean(axis=0), values.std(axis=0)))  # no "-0.00"
        cells = (f"{mean:.2f} ({std:.2f})" for mean, std in zip(*moments, strict=True))
        lines.append(f"{name:10}" + "".join(f"{cell:>{WIDTH}}" for cell in cells))
    return "\n".join(lines)
