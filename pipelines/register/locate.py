"""How two scans of one glass lie to each other: from thumbnails, then from patches, coarse and fine.

The transform is affine, since scanners' pixels are not always square. What is left of it (a stage is not straight,
strips are not stitched to the pixel) is each patch's own shift.
"""
from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from skimage.measure import ransac
from skimage.transform import AffineTransform, SimilarityTransform

from pipelines.config import SCALES
from pipelines.errors import require
from pipelines.register.coarse import Scan, match_thumbnails
from pipelines.register.fine import fit_patch
from pipelines.register.planes import Matrix, Plane, apply, compose, inverse, magnification
from pipelines.register.registration import Fit

# How far HR pixels per LR pixel may be from a scale: scanners of one nominal magnification differ by 16%.
SCALE_TOLERANCE = 0.1
MIN_TISSUE = 0.5
# The transform is fitted on so many patches, first of planes `COARSE_STEP` times coarser.
COARSE_STEP, FITTED = 4, 64
LEAST_FITS, LEAST_SHARE = 4, 0.25  # of them that must correlate, or it is another glass
LEAST_CORRELATION = 0.4  # two sections of one block reach 0.2 at full resolution, two scans of one glass 0.8 and more
TOLERANCE = 4.0  # of the transform's fit, in LR pixels
THIN = 0.1  # breadth over length of where the patches lie: in a thin strip nothing holds shear and unequal scales
Place = tuple[int, int]


def locate(lr: Scan, hr: Scan, size: int) -> tuple[Matrix, int]:
    """Return the matrix from LR's level-0 pixels to HR's, and the scale that pairs of the two are of.

    Args:
        lr, hr: The two scans.
        size: Side of the patches that are compared, in LR pixels.

    Raises:
        ValueError: The two do not show the same glass, or their scale is none of SCALES.
    """
    matrix, agree = match_thumbnails(lr, hr)
    if matrix is None:
        raise other_glass(lr, hr, f"{agree} points of their thumbnails agree")
    scale = _scale_of(matrix, hr)
    for step in (COARSE_STEP, 1):
        matrix = _improved(lr, hr, matrix, step, size, scale)
    return matrix, scale


def other_glass(lr: Scan, hr: Scan, reason: str) -> ValueError:
    """Return the error that refuses two scans."""
    return ValueError(f"`lr` and `hr` must be two scans of the same glass; name the two files of one slide ({reason}). "
                      f"Received: lr={str(lr.slide.path)!r}, hr={str(hr.slide.path)!r}")


def correlated(lr: Scan, hr: Scan, fits: list[Fit]) -> list[Fit]:
    """Return the fits that correlate.

    Raises:
        ValueError: They are too few: it is another glass.
    """
    good = [fit for fit in fits if fit.correlation >= LEAST_CORRELATION]
    if len(good) < max(LEAST_FITS, LEAST_SHARE * len(fits)):
        raise other_glass(lr, hr, f"{len(good)} of {len(fits)} patches correlate")
    return good


def _scale_of(matrix: Matrix, hr: Scan) -> int:
    measured = magnification(matrix)
    scale = min(SCALES, key=lambda one: abs(math.log(measured / one)))
    require(abs(measured / scale - 1) <= SCALE_TOLERANCE, "hr",
            f"have about {', '.join(map(str, SCALES[:-1]))} or {SCALES[-1]} times as many pixels along a side as lr",
            f"here it is {measured:.3g} times: choose another scan, and name the finer one hr", str(hr.slide.path))
    return scale


def _improved(lr: Scan, hr: Scan, matrix: Matrix, step: int, size: int, scale: int) -> Matrix:
    """Return the matrix fitted to some patches of planes `step` times coarser; as it was where there are too few."""
    lr_plane = Plane(lr.slide, step)
    hr_plane = Plane(hr.slide, lr_plane.step if step > 1 else 1)
    between = compose(inverse(hr_plane.to_level0), compose(matrix, lr_plane.to_level0))
    chosen = spread(places(lr, hr, lr_plane, matrix, size), FITTED)
    if step > 1 and len(chosen) < 2 * LEAST_FITS:
        return matrix
    found = [fit_patch(lr_plane, hr_plane, between, x, y, size, scale) for x, y in chosen]
    fits = correlated(lr, hr, [fit for fit in found if isinstance(fit, Fit)])
    centres = np.array([(fit.x, fit.y) for fit in fits]) + (size - 1) / 2
    source = apply(hr_plane.to_level0, apply(between, centres))
    target = source + np.array([fit.shift for fit in fits]) * hr_plane.step
    return compose(_correction(source, target, TOLERANCE * scale * hr_plane.step), matrix)


def _correction(source: np.ndarray, target: np.ndarray, tolerance: float) -> Matrix:
    """Return the matrix that takes most of `source` to `target`, points [N, 2]: affine, or in a thin strip similar."""
    breadth, length = sorted(np.linalg.svd(source - source.mean(axis=0), compute_uv=False))
    model = SimilarityTransform if breadth < THIN * length else AffineTransform
    found, inliers = ransac((source, target), model, min_samples=3, residual_threshold=tolerance, max_trials=200, rng=0)
    return np.asarray(found.params)[:2] if inliers is not None else np.eye(3)[:2]


def places(lr: Scan, hr: Scan, plane: Plane, matrix: Matrix, size: int) -> list[Place]:
    """Return the corners of LR's patches, row by row, that have tissue in one of the two scans."""
    rows, columns = (max(0, side // size) for side in (plane.height, plane.width))
    corners = np.array([(x * size, y * size) for y in range(rows) for x in range(columns)]).reshape(-1, 2)
    centres = apply(plane.to_level0, corners + (size - 1) / 2)
    side = size * plane.step
    tissue = np.maximum(_share(lr, centres, side), _share(hr, apply(matrix, centres), side * magnification(matrix)))
    return [(int(x), int(y)) for x, y in corners[tissue >= MIN_TISSUE]]


def _share(scan: Scan, centres: np.ndarray, side: float) -> np.ndarray:
    """Return the share of tissue in squares about `centres` [N, 2]; centres and side are in level 0."""
    share = ndimage.uniform_filter(scan.tissue.astype(np.float32), max(1, round(side / scan.step)))
    x, y = ((centres + 0.5) / scan.step - 0.5).T
    return ndimage.map_coordinates(share, [y, x], order=1, mode="constant")


def spread(found: list[Place], most: int) -> list[Place]:
    """Return `most` of them from all over."""
    chosen = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    return [found[i] for i in chosen]
