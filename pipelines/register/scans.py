# SPDX-License-Identifier: Apache-2.0
"""Register two files: find the transform, compare every patch, and write the result.

A patch is judged by the median of these two scans, since how well sharp patches match depends on both scanners.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median

import numpy as np
from scipy import ndimage
from skimage.transform import downscale_local_mean
from tqdm import tqdm

from pipelines.errors import require
from pipelines.planes import Matrix, Plane, aligned, moved
from pipelines.register.fine import fit_patch
from pipelines.register.locate import LEAST_CORRELATION, Scan, correlated, locate, places, scans_of, spread
from pipelines.register.overlay import draw_overlay
from pipelines.scan_pairs import Fit, Lines, Registration, Rejected, density, scan_file, write_registration
from pipelines.slide import SlideError, open_slide

# Relative to the median of all patches that correlate: least correlation of the worst part, largest factor of the
# sharpness either way, least detail of HR.
WEAKEST, FOCUS, DETAIL = 0.6, 1.6, 0.5
MOST_RESIDUAL = 0.25  # LR pixels
SMOOTH = 5  # LR pixels to average over, so that noise and sharpness of the scanners do not count
LEAST_SPREAD = 1e-3
COLOURED = 64  # patches that the colours are fitted to


def examine(lr: Scan, hr: Scan, matrix: Matrix, size: int, scale: int, most: int,
            progress: bool = True) -> tuple[list[Fit], list[Rejected]]:
    """Compare all patches with tissue, or `most` of them from all over; matrix, size and scale are those of `locate`.

    Returns the patches that fit, and those rejected with the reason, row by row.

    Raises:
        ValueError: Too few fit: the scans show different glass.
    """
    planes = Plane(lr.slide, 1), Plane(hr.slide, 1)
    fits: list[Fit] = []
    rejected: list[Rejected] = []
    chosen = spread(places(lr, hr, planes[0], matrix, size), most)
    for x, y in tqdm(chosen, "comparing", unit="patch", disable=not progress):
        try:
            found = fit_patch(*planes, matrix, x, y, size, scale)
        except SlideError:
            found = "not readable"
        fits.append(found) if isinstance(found, Fit) else rejected.append(Rejected(x, y, found))
    usual = _Usual(correlated(lr, hr, fits), scale)
    reasons = [usual.objection(fit) for fit in fits]
    rejected += [Rejected(fit.x, fit.y, reason) for fit, reason in zip(fits, reasons, strict=True) if reason]
    accepted = [fit for fit, reason in zip(fits, reasons, strict=True) if reason is None]
    return accepted, sorted(rejected, key=lambda item: (item.y, item.x))


class _Usual:
    """The medians of these two scans, by which each patch is judged."""

    def __init__(self, fits: Iterable[Fit], scale: int) -> None:
        good = list(fits)
        self._weakest = median(fit.weakest for fit in good)
        self._sharpness = median(fit.sharpness for fit in good)
        self._detail = median(fit.detail for fit in good)
        self._most_residual = MOST_RESIDUAL * scale

    def objection(self, fit: Fit) -> str | None:
        """Return why a patch is rejected, None if it is not."""
        if fit.correlation < LEAST_CORRELATION or fit.weakest < WEAKEST / 2 * self._weakest:
            return "does not match"
        if fit.sharpness * FOCUS < self._sharpness:
            return "lr out of focus"
        if fit.sharpness > FOCUS * self._sharpness or fit.detail < DETAIL * self._detail:
            return "hr out of focus"
        if fit.weakest < WEAKEST * self._weakest or fit.residual > self._most_residual:
            return "does not match"
        return None


def register_scans(lr_path: Path, hr_path: Path, output: Path, patch_size: int, max_patches: int,
                   progress: bool = True) -> Registration:
    """Find the transform between two scans; write it to `output` (JSON) and a picture beside it (.png).

    `patch_size` is the side of the compared patches in LR pixels, `max_patches` their greatest number.

    Raises:
        FileNotFoundError: A file does not exist.
        SlideError: A file cannot be read.
        ValueError: They show different glass, are the same file, or have no known scale.
    """
    with open_slide(lr_path) as lr_slide, open_slide(hr_path) as hr_slide:
        require(not lr_path.samefile(hr_path), "hr", "be another file than lr", "give two scans of one glass",
                str(hr_path))
        lr, hr = scans_of(lr_slide, hr_slide)
        matrix, scale = locate(lr, hr, patch_size)
        fits, rejected = examine(lr, hr, matrix, patch_size, scale, max_patches, progress)
        some = fits[::max(1, len(fits) // COLOURED)]
        colours = fit_colours(Plane(lr_slide, 1), Plane(hr_slide, 1), matrix, some, patch_size, scale)
        found = Registration(
            scan_file(lr_path, lr_slide), scan_file(hr_path, hr_slide), tuple(map(tuple, matrix.tolist())), scale,
            patch_size, colours, tuple(fits), tuple(rejected))
        draw_overlay(output.with_suffix(".png"), lr, hr, found)
        write_registration(output, found)
    return found


def fit_colours(lr: Plane, hr: Plane, matrix: Matrix, fits: Iterable[Fit], size: int, scale: int) -> Lines:
    """Return the lines that give HR's optical density the mean and standard deviation of LR's, in some patches."""
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
