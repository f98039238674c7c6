# SPDX-License-Identifier: Apache-2.0
"""A picture to judge a registration by: a checkerboard of both scans, in which a seam in the tissue shows an error.

HR has LR's colours, so that stain makes no seams. Left: the whole glass, with each patch framed by its result. Right:
patches at LR's resolution, from the best to the worst accepted one.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from skimage.transform import AffineTransform, downscale_local_mean, warp

from pipelines.files import atomic_path
from pipelines.pixels import to_float, to_uint8
from pipelines.planes import Plane, aligned, compose, inverse, moved
from pipelines.register.locate import Scan
from pipelines.scan_pairs import Fit, Registration, recoloured

FIELDS = 12  # along the longer side of the whole
FIELD = 16  # LR pixels, in a patch
SHOWN = 4
COLOURS = {"accepted": "tab:green", "does not match": "tab:red", "lr out of focus": "tab:orange",
           "hr out of focus": "gold", "blank": "0.5", "outside": "tab:blue", "not readable": "black"}


def draw_overlay(path: Path, lr: Scan, hr: Scan, found: Registration) -> None:
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
        f"{found.lr.name} on {found.hr.name}: {quality['hr_pixels_per_lr_pixel']:.4g} HR pixels per LR pixel, "
        f"{quality['rotation_degrees']:.3g} degrees, {'mirrored, ' if quality['mirrored'] else ''}median residual "
        f"{quality['median_residual_hr_pixels']:.2g} HR pixels", x=0.01, ha="left", fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def checkerboard(one: np.ndarray, other: np.ndarray, field: int) -> np.ndarray:
    """Return an image whose square fields alternate between `one` and `other`."""
    rows, columns = np.indices(one.shape[:2]) // field
    return np.where(((rows + columns) % 2 == 0)[..., np.newaxis], one, other)


def _draw_whole(axis: Axes, lr: Scan, hr: Scan, found: Registration) -> None:
    """Draw the thumbnails, HR's resampled to LR's."""
    between = compose(inverse(_to_level0(hr)), compose(found.matrix, _to_level0(lr)))
    image = warp(recoloured(hr.thumbnail, found.colours), AffineTransform(np.vstack([between, [0, 0, 1]])),
                 output_shape=lr.thumbnail.shape[:2], order=1, cval=1.0)
    axis.imshow(checkerboard(to_float(lr.thumbnail), image, max(1, max(image.shape) // FIELDS)))
    groups: dict[str, list[tuple[int, int]]] = {"accepted": [(fit.x, fit.y) for fit in found.patches]}
    for item in found.rejected:
        groups.setdefault(item.reason, []).append((item.x, item.y))
    for reason, corners in groups.items():
        axis.add_collection(PatchCollection(_squares(corners, found.patch_size, lr.step), facecolor="none",
                                            edgecolor=COLOURS[reason], linewidth=0.8))
        axis.plot([], [], "s", color=COLOURS[reason], label=f"{len(corners)} {reason}")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False, fontsize=8)
    axis.set_axis_off()


def _draw_patch(axis: Axes, lr: Scan, hr: Scan, found: Registration, fit: Fit) -> None:
    size, scale = found.patch_size, found.scale
    finer = aligned(Plane(hr.slide, 1), moved(found.matrix, fit.shift), fit.x, fit.y, size, scale, order=1)
    if finer is not None:
        image = recoloured(to_uint8(downscale_local_mean(finer, (scale, scale, 1))), found.colours)
        target = Plane(lr.slide, 1).read(fit.x, fit.y, size, size)
        axis.imshow(checkerboard(target, to_float(image), FIELD), interpolation="nearest")
    axis.set_title(f"{fit.x}, {fit.y}: correlation {fit.correlation:.2f}, worst part {fit.weakest:.2f}", fontsize=8)
    axis.set_axis_off()


def _to_level0(scan: Scan) -> np.ndarray:
    centre = (scan.step - 1) / 2
    return np.array([[scan.step, 0, centre], [0, scan.step, centre]])


def _squares(corners: Iterable[tuple[int, int]], size: int, step: float) -> list[Rectangle]:
    return [Rectangle((x / step - 0.5, y / step - 0.5), size / step, size / step) for x, y in corners]
