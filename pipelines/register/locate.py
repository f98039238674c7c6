# SPDX-License-Identifier: Apache-2.0
"""The transform between two scans of one glass: from thumbnails first, then from patches, coarse and fine.

Thumbnails: SIFT keypoints are matched, and RANSAC finds the rotation, scale and shift that most agree on: any angle,
and any scale up to about 3 between the thumbnails. If that fails, a mirrored glass (scanned face down) is tried. Scans
of one glass share 130 to 1,800 points, those of two at most 5. (ORB takes three times as long and finds a third.)

Patches: the transform is affine, since scanners' pixels are not always square. What remains (an uneven stage, stitched
strips) is each patch's own shift. Both scans of a patch are compared on LR's pixel grid: HR is resampled to a grid
`fine` times finer and averaged. Slow variation (stain, lamp) is removed, the border fades out (Hann), and
cross-correlation gives the shift to 1/64 of an LR pixel. (Plain cross-correlation, not phase correlation: on blurred,
noisy, compressed scans its median error is a third, 0.07 HR pixels against 0.19 at scale 4.)

Sources, through scikit-image: Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004;
Guizar-Sicairos, Thurman, Fienup, "Efficient subpixel image registration algorithms", Optics Letters 2008.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from scipy import ndimage
from skimage.feature import SIFT, match_descriptors
from skimage.filters import window
from skimage.measure import ransac
from skimage.registration import phase_cross_correlation
from skimage.transform import AffineTransform, SimilarityTransform, downscale_local_mean

from pipelines.config import SCALES
from pipelines.errors import require
from pipelines.pixels import to_float
from pipelines.planes import Matrix, Plane, aligned, apply, compose, inverse, magnification, moved
from pipelines.scan_pairs import Fit
from pipelines.slide import Slide
from pipelines.tissue import TYPICAL_MPP, tissue_mask

SIDE, MOST_SIDE = 1024, 2048  # of a thumbnail: of the smaller scan, and at most of the larger one
SMALL = 600  # thumbnails up to this side are enlarged to find more points
MAX_RATIO = 0.85  # distance of the nearest descriptor / the second nearest
MATCH_TOLERANCE = 3.0  # of a match, in thumbnail pixels
LEAST_MATCHES = 12
TRIALS = 2000
# Largest deviation of HR pixels per LR pixel from a scale: scanners of one nominal magnification differ by 16%.
SCALE_TOLERANCE = 0.1
MIN_TISSUE = 0.5
# The transform is fitted to so many patches, first of planes `COARSE_STEP` times coarser.
COARSE_STEP, FITTED = 4, 64
LEAST_FITS, LEAST_SHARE = 4, 0.25  # of them that must correlate
LEAST_CORRELATION = 0.4  # two sections of one block reach 0.2 at full resolution, two scans of one glass 0.8 and more
TOLERANCE = 4.0  # of the transform's fit, in LR pixels
THIN = 0.1  # breadth / length of the area of the patches: a thin strip does not determine shear and unequal scales
STEPS_PER_PIXEL = 64
SLOW, FAST = 4.0, 1.5  # sigmas in LR pixels: slower variation is removed; faster variation measures focus
FLAT = 0.004  # standard deviation, on [0, 1], of a blank patch with noise and compression
FAINT = 0.3  # of the patch's contrast: parts with less are left out
PASSES, SETTLED = 3, 0.1  # repeat at the corrected place until the shift is this small, in LR pixels
PARTS, BLOCKS = 2, 4  # along a side, for shifts and for correlations of parts
Place = tuple[int, int]


@dataclass(frozen=True)
class Scan:
    """An open slide with its thumbnail; thumbnail pixel i covers level 0 from step*i on."""

    slide: Slide
    thumbnail: np.ndarray

    @property
    def step(self) -> float:
        """Level-0 pixels per thumbnail pixel."""
        return self.slide.dimensions[0] / self.thumbnail.shape[1]

    @property
    def to_level0(self) -> Matrix:
        """The matrix from thumbnail pixels to those of level 0."""
        centre = (self.step - 1) / 2
        return np.array([[self.step, 0, centre], [0, self.step, centre]])

    @cached_property
    def tissue(self) -> np.ndarray:
        """Where the tissue is in the thumbnail, bool [h, w]."""
        return tissue_mask(self.thumbnail, (self.slide.mpp or TYPICAL_MPP) * self.step)


def scans_of(lr: Slide, hr: Slide) -> tuple[Scan, Scan]:
    """Return both with thumbnails of about the same microns per pixel, if both slides have resolution metadata."""
    sides = [SIDE, SIDE]
    if lr.mpp and hr.mpp:
        microns = [max(slide.dimensions) * slide.mpp for slide in (lr, hr) if slide.mpp]
        spacing = max(min(microns) / SIDE, max(microns) / MOST_SIDE, lr.mpp)
        sides = [max(1, round(side / spacing)) for side in microns]
    return Scan(lr, lr.thumbnail(sides[0])), Scan(hr, hr.thumbnail(sides[1]))


def _match_thumbnails(lr: Scan, hr: Scan) -> tuple[Matrix | None, int]:
    """Return the matrix from level-0 pixels of `lr` to those of `hr`, and how many points agree on it.

    The matrix is None if fewer than LEAST_MATCHES agree.
    """
    hr_points, hr_features = _keypoints(hr.thumbnail, hr.step)
    best = 0
    for mirrored in (False, True):
        points, features = _keypoints(lr.thumbnail[:, ::-1] if mirrored else lr.thumbnail, lr.step)
        if not len(features) or not len(hr_features):
            continue
        pairs = match_descriptors(features, hr_features, cross_check=True, max_ratio=MAX_RATIO)
        if len(pairs) < LEAST_MATCHES:
            best = max(best, len(pairs))
            continue
        model, inliers = ransac((points[pairs[:, 0]], hr_points[pairs[:, 1]]), SimilarityTransform, min_samples=2,
                                residual_threshold=MATCH_TOLERANCE * hr.step, max_trials=TRIALS, rng=0)
        agree = 0 if inliers is None else int(inliers.sum())
        if agree >= LEAST_MATCHES:
            matrix = np.asarray(model.params)[:2]
            flip = np.array([[-1.0, 0, lr.slide.dimensions[0] - 1], [0, 1, 0]])
            return compose(matrix, flip) if mirrored else matrix, agree
        best = max(best, agree)
    return None, best


def _keypoints(thumbnail: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return keypoints (x, y) [N, 2] in level 0 and their descriptors; none for a blank thumbnail."""
    sift = SIFT(upsampling=2 if max(thumbnail.shape) <= SMALL else 1)
    try:
        sift.detect_and_extract(to_float(thumbnail).mean(axis=2))
    except RuntimeError:  # scikit-image found no features
        return np.empty((0, 2)), np.empty((0, 128))
    return sift.positions[:, ::-1] * step + (step - 1) / 2, sift.descriptors


def locate(lr: Scan, hr: Scan, size: int) -> tuple[Matrix, int]:
    """Return the matrix from LR's level-0 pixels to HR's, and the scale; `size` is the side of compared patches.

    Raises:
        ValueError: The two do not show the same glass, or their scale is not one of SCALES.
    """
    matrix, agree = _match_thumbnails(lr, hr)
    if matrix is None:
        raise _other_glass(lr, hr, f"{agree} points of their thumbnails agree")
    scale = _scale_of(matrix, hr)
    for step in (COARSE_STEP, 1):
        matrix = _improved(lr, hr, matrix, step, size, scale)
    return matrix, scale


def _other_glass(lr: Scan, hr: Scan, reason: str) -> ValueError:
    """Return the error for two scans of different glass."""
    return ValueError(f"`lr` and `hr` must be two scans of the same glass; give two files of one slide ({reason}). "
                      f"Received: lr={str(lr.slide.path)!r}, hr={str(hr.slide.path)!r}")


def correlated(lr: Scan, hr: Scan, fits: list[Fit]) -> list[Fit]:
    """Return the fits that correlate.

    Raises:
        ValueError: They are too few: the scans show different glass, or hardly any patch was compared.
    """
    good = [fit for fit in fits if fit.correlation >= LEAST_CORRELATION]
    if len(good) < max(LEAST_FITS, LEAST_SHARE * len(fits)):
        more = f"; {LEAST_FITS} are needed: lower --patch_size or raise --max_patches" if len(fits) < LEAST_FITS else ""
        raise _other_glass(lr, hr, f"{len(good)} of {len(fits)} patches correlate{more}")
    return good


def _scale_of(matrix: Matrix, hr: Scan) -> int:
    measured = magnification(matrix)
    scale = min(SCALES, key=lambda one: abs(math.log(measured / one)))
    require(abs(measured / scale - 1) <= SCALE_TOLERANCE, "hr",
            f"have about {', '.join(map(str, SCALES[:-1]))} or {SCALES[-1]} times as many pixels along a side as lr",
            f"here it is {measured:.3g} times: choose another scan, and give the finer one as hr", str(hr.slide.path))
    return scale


def _improved(lr: Scan, hr: Scan, matrix: Matrix, step: int, size: int, scale: int) -> Matrix:
    """Return the matrix fitted to patches of planes `step` times coarser; unchanged if they are too few."""
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
    """Return the matrix from most of `source` to `target`, points [N, 2]: affine, or similar in a thin strip."""
    breadth, length = sorted(np.linalg.svd(source - source.mean(axis=0), compute_uv=False))
    model = SimilarityTransform if breadth < THIN * length else AffineTransform
    found, inliers = ransac((source, target), model, min_samples=3, residual_threshold=tolerance, max_trials=200, rng=0)
    return np.asarray(found.params)[:2] if inliers is not None else np.eye(3)[:2]


def places(lr: Scan, hr: Scan, plane: Plane, matrix: Matrix, size: int) -> list[Place]:
    """Return the corners of LR's patches, row by row, with tissue in one of the two scans."""
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
    """Return `most` of them, evenly spaced."""
    chosen = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    return [found[i] for i in chosen]


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
