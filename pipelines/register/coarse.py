"""The first guess: which way two scans of one glass lie to each other, from their thumbnails.

SIFT keypoints of the two are matched and RANSAC finds the rotation, scale and shift that most of them agree on: any
angle, and any scale up to about 3 between the thumbnails. A glass that was scanned face down is tried where the other
way gives nothing. (On the slides that this was measured on, scans of one glass share 130 to 1,800 points, those of two
share 5 at most; ORB needs three times as long and finds a third of them.)

Source: Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004, through scikit-image.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from skimage.feature import SIFT, match_descriptors
from skimage.measure import ransac
from skimage.transform import SimilarityTransform

from pipelines.pixels import to_float
from pipelines.register.planes import Matrix, compose
from pipelines.slide import Slide
from pipelines.tissue import TYPICAL_MPP, tissue_mask

SIDE, MOST_SIDE = 1024, 2048  # of a thumbnail: what the smaller of two scans should have, what the larger may have
SMALL = 600  # thumbnails up to this side are enlarged to find more in them
MAX_RATIO = 0.85  # nearest over second nearest descriptor
TOLERANCE = 3.0  # of a match, in thumbnail pixels
LEAST_MATCHES = 12
TRIALS = 2000


@dataclass(frozen=True)
class Scan:
    """An open slide with its thumbnail; thumbnail pixel i covers level 0 from step*i on."""

    slide: Slide
    thumbnail: np.ndarray

    @property
    def step(self) -> float:
        """Level-0 pixels per thumbnail pixel."""
        return self.slide.dimensions[0] / self.thumbnail.shape[1]

    @cached_property
    def tissue(self) -> np.ndarray:
        """Where the tissue is in the thumbnail, bool [h, w]."""
        return tissue_mask(self.thumbnail, (self.slide.mpp or TYPICAL_MPP) * self.step)


def scans_of(lr: Slide, hr: Slide) -> tuple[Scan, Scan]:
    """Return both with thumbnails, of about the same microns per pixel where both slides say theirs."""
    sides = [SIDE, SIDE]
    if lr.mpp and hr.mpp:
        microns = [max(slide.dimensions) * slide.mpp for slide in (lr, hr) if slide.mpp]
        spacing = max(min(microns) / SIDE, max(microns) / MOST_SIDE, lr.mpp)
        sides = [max(1, round(side / spacing)) for side in microns]
    return Scan(lr, lr.thumbnail(sides[0])), Scan(hr, hr.thumbnail(sides[1]))


def match_thumbnails(lr: Scan, hr: Scan) -> tuple[Matrix | None, int]:
    """Return the matrix from level-0 pixels of `lr` to those of `hr`, and how many points agree on it.

    The matrix is None where fewer than LEAST_MATCHES agree.
    """
    hr_points, hr_features = _keypoints(hr.thumbnail, hr.step)
    best = 0
    for mirrored in (False, True):
        points, features = _keypoints(lr.thumbnail[:, ::-1] if mirrored else lr.thumbnail, lr.step)
        if not len(features) or not len(hr_features):
            continue
        pairs = match_descriptors(features, hr_features, cross_check=True, max_ratio=MAX_RATIO)
        matrix, agree = _agreed(points[pairs[:, 0]], hr_points[pairs[:, 1]], TOLERANCE * hr.step)
        best = max(best, agree)
        if matrix is not None:
            flip = np.array([[-1.0, 0, lr.slide.dimensions[0] - 1], [0, 1, 0]])
            return compose(matrix, flip) if mirrored else matrix, agree
    return None, best


def _keypoints(thumbnail: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return keypoints (x, y) [N, 2] in level 0 and their descriptors; none where there is nothing to see."""
    sift = SIFT(upsampling=2 if max(thumbnail.shape) <= SMALL else 1)
    try:
        sift.detect_and_extract(to_float(thumbnail).mean(axis=2))
    except RuntimeError:  # scikit-image's word for "no features"
        return np.empty((0, 2)), np.empty((0, 128))
    return sift.positions[:, ::-1] * step + (step - 1) / 2, sift.descriptors


def _agreed(source: np.ndarray, target: np.ndarray, tolerance: float) -> tuple[Matrix | None, int]:
    """Return the similarity that most matches agree on and their number; None where they are too few."""
    if len(source) < LEAST_MATCHES:
        return None, len(source)
    model, inliers = ransac((source, target), SimilarityTransform, min_samples=2, residual_threshold=tolerance,
                            max_trials=TRIALS, rng=0)
    agree = 0 if inliers is None else int(inliers.sum())
    return (np.asarray(model.params)[:2], agree) if agree >= LEAST_MATCHES else (None, agree)
