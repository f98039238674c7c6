# SPDX-License-Identifier: Apache-2.0
"""Register two files: find the transform, compare every patch, and write the result and a picture to judge it by.

A patch is judged by the median of these two scans, since how well sharp patches match depends on both scanners.

The picture is a checkerboard of both scans, in which a seam in the tissue shows an error. HR has LR's colours, so that
stain makes no seams. Left: the whole glass, with each patch framed by its result. Right: patches at LR's resolution,
from the best to the worst accepted one.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage
from skimage.transform import AffineTransform, downscale_local_mean, warp
from tqdm import tqdm

from pipelines import scan_pairs
from pipelines.errors import require
from pipelines.files import atomic_path, side_product
from pipelines.names import printable
from pipelines.pixels import to_float, to_uint8
from pipelines.planes import Matrix, Plane, aligned, compose, inverse, moved
from pipelines.register.locate import (
    LEAST_CORRELATION,
    Scan,
    correlated,
    fit_patch,
    locate,
    places,
    scans_of,
    spread,
)
from pipelines.slide import SlideError, open_slide

# Relative to the median of all patches that correlate: least correlation of the worst part, largest factor of the
# sharpness either way, least detail of HR.
WEAKEST, FOCUS, DETAIL = 0.6, 1.6, 0.5
MOST_RESIDUAL = 0.25  # LR pixels
SMOOTH = 5  # LR pixels to average over, so that noise and sharpness of the scanners do not count
LEAST_SPREAD = 1e-3
COLOURED = 64  # patches that the colours are fitted to
# Of the picture: fields of the checkerboard along the whole, side of a field in a patch (LR pixels), patches.
FIELDS, FIELD, SHOWN = 12, 16, 4
COLOURS = {"accepted": "tab:green", "does not match": "tab:red", "lr out of focus": "tab:orange",
           "hr out of focus": "gold", "blank": "0.5", "outside": "tab:blue", "not readable": "black"}


def examine(lr: Scan, hr: Scan, matrix: Matrix, size: int, scale: int, most: int,
            progress: bool = True) -> tuple[list[scan_pairs.Fit], list[scan_pairs.Rejected]]:
    """Compare all patches with tissue, or `most` of them from all over; matrix, size and scale are those of `locate`.

    Returns the patches that fit, and those rejected with the reason, row by row.

    Raises:
        ValueError: Too few fit: the scans show different glass.
    """
    planes = Plane(lr.slide, 1), Plane(hr.slide, 1)
    fits: list[scan_pairs.Fit] = []
    rejected: list[scan_pairs.Rejected] = []
    chosen = spread(places(lr, hr, planes[0], matrix, size), most)
    for x, y in tqdm(chosen, "comparing", unit="patch", disable=not progress):
        try:
            found = fit_patch(*planes, matrix, x, y, size, scale)
        except SlideError:
            found = "not readable"
        fits.append(found) if isinstance(found, scan_pairs.Fit) else rejected.append(scan_pairs.Rejected(x, y, found))
    good = correlated(lr, hr, fits)
    usual = {name: median(getattr(fit, name) for fit in good) for name in ("weakest", "sharpness", "detail")}
    accepted = []
    for fit in fits:
        reason = objection(fit, usual, scale)
        accepted.append(fit) if reason is None else rejected.append(scan_pairs.Rejected(fit.x, fit.y, reason))
    return accepted, sorted(rejected, key=lambda item: (item.y, item.x))


def objection(fit: scan_pairs.Fit, usual: dict[str, float], scale: int) -> str | None:
    """Return why a patch is rejected, None if it is not; `usual` holds the medians of the two scans."""
    weakest, sharpness, detail = usual["weakest"], usual["sharpness"], usual["detail"]
    if fit.correlation < LEAST_CORRELATION or fit.weakest < WEAKEST / 2 * weakest:
        return "does not match"
    if fit.sharpness * FOCUS < sharpness:
        return "lr out of focus"
    if fit.sharpness > FOCUS * sharpness or fit.detail < DETAIL * detail:
        return "hr out of focus"
    if fit.weakest < WEAKEST * weakest or fit.residual > MOST_RESIDUAL * scale:
        return "does not match"
    return None


def register_scans(lr_path: Path, hr_path: Path, output: Path, patch_size: int, max_patches: int,
                   progress: bool = True) -> scan_pairs.Registration:
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
        found = scan_pairs.Registration(
            scan_pairs.scan_file(lr_path, lr_slide), scan_pairs.scan_file(hr_path, hr_slide),
            tuple(map(tuple, matrix.tolist())), scale, patch_size, colours, tuple(fits), tuple(rejected))
        _draw_overlay(output.with_suffix(".png"), lr, hr, found)
        scan_pairs.write_registration(output, found)
    return found


def fit_colours(lr: Plane, hr: Plane, matrix: Matrix, fits: Iterable[scan_pairs.Fit], size: int,
                scale: int) -> scan_pairs.Lines:
    """Return the lines that give HR's optical density the mean and standard deviation of LR's, in some patches."""
    densities: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for fit in fits:
        finer = aligned(hr, moved(matrix, fit.shift), fit.x, fit.y, size, scale, order=1)
        if finer is not None:
            pair = lr.read(fit.x, fit.y, size, size), downscale_local_mean(finer, (scale, scale, 1))
            for kept, image in zip(densities, pair, strict=True):
                kept.append(ndimage.uniform_filter(scan_pairs.density(image), (SMOOTH, SMOOTH, 0)).reshape(-1, 3))
    target, source = (np.concatenate(kept) for kept in densities)
    gain = target.std(axis=0) / np.maximum(source.std(axis=0), LEAST_SPREAD)
    offset = target.mean(axis=0) - gain * source.mean(axis=0)
    return tuple((round(float(g), 5), round(float(o), 5)) for g, o in zip(gain, offset, strict=True))


def _draw_overlay(path: Path, lr: Scan, hr: Scan, found: scan_pairs.Registration) -> None:
    """Write the picture as PNG, atomically."""
    figure = Figure(figsize=(15, 8), layout="constrained")
    axes = figure.subplot_mosaic([["whole", "whole", 0, 1], ["whole", "whole", 2, 3]])
    _draw_whole(axes["whole"], lr, hr, found)
    worst_last = sorted(found.patches, key=lambda fit: -fit.weakest)
    chosen = np.linspace(0, len(worst_last) - 1, SHOWN).round().astype(int)
    for i, index in enumerate(chosen):
        _draw_patch(axes[i], lr, hr, found, worst_last[index])
    quality = found.quality
    figure.suptitle(
        f"{printable(found.lr.name)} on {printable(found.hr.name)}: "
        f"{quality['hr_pixels_per_lr_pixel']:.4g} HR pixels per LR pixel, "
        f"{quality['rotation_degrees']:.3g} degrees, {'mirrored, ' if quality['mirrored'] else ''}median residual "
        f"{quality['median_residual_hr_pixels']:.2g} HR pixels", x=0.01, ha="left", fontsize=10)
    with side_product(path), atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _checkerboard(one: np.ndarray, other: np.ndarray, field: int) -> np.ndarray:
    """Return an image whose square fields alternate between `one` and `other`."""
    rows, columns = np.indices(one.shape[:2]) // field
    return np.where(((rows + columns) % 2 == 0)[..., np.newaxis], one, other)


def _draw_whole(axis: Axes, lr: Scan, hr: Scan, found: scan_pairs.Registration) -> None:
    """Draw the thumbnails, HR's resampled to LR's."""
    between = compose(inverse(hr.to_level0), compose(found.matrix, lr.to_level0))
    image = warp(scan_pairs.recoloured(hr.thumbnail, found.colours), AffineTransform(np.vstack([between, [0, 0, 1]])),
                 output_shape=lr.thumbnail.shape[:2], order=1, cval=1.0)
    axis.imshow(_checkerboard(to_float(lr.thumbnail), image, max(1, max(image.shape) // FIELDS)))
    groups: dict[str, list[tuple[int, int]]] = {"accepted": [(fit.x, fit.y) for fit in found.patches]}
    for item in found.rejected:
        groups.setdefault(item.reason, []).append((item.x, item.y))
    for reason, corners in groups.items():
        side = found.patch_size / lr.step
        squares = [Rectangle((x / lr.step - 0.5, y / lr.step - 0.5), side, side) for x, y in corners]
        axis.add_collection(PatchCollection(squares, facecolor="none", edgecolor=COLOURS[reason], linewidth=0.8))
        axis.plot([], [], "s", color=COLOURS[reason], label=f"{len(corners)} {reason}")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False, fontsize=8)
    axis.set_axis_off()


def _draw_patch(axis: Axes, lr: Scan, hr: Scan, found: scan_pairs.Registration, fit: scan_pairs.Fit) -> None:
    size, scale = found.patch_size, found.scale
    finer = aligned(Plane(hr.slide, 1), moved(found.matrix, fit.shift), fit.x, fit.y, size, scale, order=1)
    if finer is not None:
        image = scan_pairs.recoloured(to_uint8(downscale_local_mean(finer, (scale, scale, 1))), found.colours)
        target = Plane(lr.slide, 1).read(fit.x, fit.y, size, size)
        axis.imshow(_checkerboard(target, to_float(image), FIELD), interpolation="nearest")
    axis.set_title(f"{fit.x}, {fit.y}: correlation {fit.correlation:.2f}, worst part {fit.weakest:.2f}", fontsize=8)
    axis.set_axis_off()
