# SPDX-License-Identifier: Apache-2.0
"""Nuclei of an H&E picture by one fixed detector, and how those of two pictures of one place agree.

    haematoxylin    by colour deconvolution (skimage.color.rgb2hed, Ruifrok and Johnston 2001)
    places          maxima of its Laplacian of Gaussian, at one scale: nuclei of about 6.5 microns
    extent          the basin of each maximum (watershed), where haematoxylin is nearer to the nucleus than to its
                    surroundings

All sizes are in microns, so that the resolution of a picture must be known. The response that counts as a nucleus
depends on the strength of the stain (`stain_level`), which is measured on HR of the slide and used for SR and bicubic
too. Nothing is tuned for a method.

Its constants were chosen on 22 training slides: there HR against itself, shifted by half a pixel and compressed as JPEG
of quality 90 (`self_agreement`), has an F1 of 0.96 to 1. Below FIT the detector is not fit to judge a slide. It was not
compared with nuclei that a pathologist has marked: it tells whether two pictures show the same dark bodies.

Pictures are float [H, W, 3] in [0, 1]; places are (y, x) in pixels.
"""
from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage, spatial
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from pipelines.errors import require
from pipelines.pixels import to_float, to_uint8

SIGMA, APART = 2.3, 2.5  # microns: of the Laplacian of Gaussian, and least distance of two nuclei
STRENGTH, PERCENTILE = 0.45, 99  # a nucleus responds by this share of the percentile of all pixels
FAINTEST = 0.004  # least response, so that none is found where there is no haematoxylin
FINE, CORE, AROUND = 0.5, 1.0, 6.0  # microns: blurs of the picture, of a nucleus and of its surroundings
RADIUS = 2.0  # microns between the centres of the same nucleus in two pictures; nuclei nearer to the border are not
# counted, because the other picture may have them outside
FIT = 0.95  # least F1 of a detector with itself
QUALITY = 90  # of JPEG, for `self_agreement`


class Nuclei(NamedTuple):
    """Nuclei of a picture: centres (y, x) float [N, 2], areas in square microns [N], and mean haematoxylin [N]."""

    places: np.ndarray
    areas: np.ndarray
    stains: np.ndarray


class Comparison(NamedTuple):
    """Nuclei of a picture against the truth: indices [M, 2] of the same (truth, found), lost [L], invented [K]."""

    same: np.ndarray
    lost: np.ndarray
    invented: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Numbers of the same, lost and invented nuclei, int [3]."""
        return np.array([len(part) for part in self])


def stain_level(pictures: Sequence[np.ndarray], mpp: float) -> float:
    """Return how strongly the nuclei of a slide respond, from HR pictures of it."""
    check_mpp(mpp)
    return float(np.percentile(np.concatenate([_response(_haematoxylin(one), mpp).ravel() for one in pictures]),
                               PERCENTILE))


def find_nuclei(picture: np.ndarray, mpp: float, level: float) -> Nuclei:
    """Return the nuclei of a picture, float [H, W, 3] in [0, 1] of `mpp` microns per pixel; `level`: `stain_level`.

    Raises:
        ValueError: The resolution is not known.
    """
    check_mpp(mpp)
    stain = _haematoxylin(picture)
    response = _response(stain, mpp)
    places = peak_local_max(response, min_distance=max(1, round(APART / mpp)),
                            threshold_abs=max(FAINTEST, STRENGTH * level), exclude_border=False)
    markers = np.zeros(stain.shape, np.int32)
    markers[tuple(places.T)] = numbers = np.arange(1, len(places) + 1)
    basins = watershed(-response, markers, mask=(response > 0) | (markers > 0))
    fine, core, around = (ndimage.gaussian_filter(stain, microns / mpp) for microns in (FINE, CORE, AROUND))
    middle = (np.asarray(ndimage.maximum(core, basins, numbers)) + around[tuple(places.T)]) / 2
    inside = np.where(fine > np.concatenate([[np.inf], middle])[basins], basins, 0)
    pixels = np.bincount(inside.ravel(), minlength=len(places) + 1)[1:]
    sums = np.bincount(inside.ravel(), stain.ravel(), minlength=len(places) + 1)[1:]
    return Nuclei(places.astype(np.float64), pixels * mpp**2, sums / np.maximum(pixels, 1))


def compare(truth: Nuclei, found: Nuclei, shape: Sequence[int], mpp: float) -> Comparison:
    """Match nuclei, the nearest first, within RADIUS.

    Args:
        truth: Of HR.
        found: Of another picture of the same place.
        shape: Of the pictures: height, width.
        mpp: Microns per pixel.
    """
    near = spatial.KDTree(truth.places.reshape(-1, 2)).sparse_distance_matrix(
        spatial.KDTree(found.places.reshape(-1, 2)), RADIUS / mpp, output_type="ndarray")
    partners: dict[int, int] = {}
    taken: set[int] = set()
    for i, j, _ in np.sort(near, order=("v", "i", "j")).tolist():
        if i not in partners and j not in taken:
            partners[i] = j
            taken.add(j)
    inner, inner_found = (_is_inner(one.places, shape, mpp) for one in (truth, found))
    same = [(i, j) for i, j in sorted(partners.items()) if inner[i]]
    lost = [i for i in np.flatnonzero(inner) if i not in partners]
    invented = [j for j in np.flatnonzero(inner_found) if j not in taken]
    return Comparison(np.array(same, int).reshape(-1, 2), np.array(lost, int), np.array(invented, int))


def f1(counts: np.ndarray) -> float:
    """Return 2 same / (2 same + lost + invented) of counts [3]; NaN if there are no nuclei at all."""
    same, lost, invented = counts.tolist()
    return 2 * same / (2 * same + lost + invented) if same + lost + invented else float("nan")


def concordance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the concordance of two series [N], 1 if they are equal; NaN if both are constant or shorter than 2.

    Source: Lin 1989, "A concordance correlation coefficient to evaluate reproducibility".
    """
    if len(one) < 2:
        return float("nan")
    spread = one.var() + other.var() + (one.mean() - other.mean()) ** 2
    return float(2 * np.mean((one - one.mean()) * (other - other.mean())) / spread) if spread else float("nan")


def self_agreement(pictures: Sequence[np.ndarray], mpp: float) -> float:
    """Return the F1 of the detector on HR against HR that is shifted by half a pixel and compressed.

    Below FIT the detector is not fit to judge these pictures. NaN if it finds nothing.
    """
    level, counts = stain_level(pictures, mpp), np.zeros(3, int)
    for picture in pictures:
        truth, again = (find_nuclei(one, mpp, level) for one in (picture, _shifted(picture)))
        counts += compare(truth, again._replace(places=again.places - 0.5), picture.shape, mpp).counts
    return f1(counts)


def counted_mm2(shape: Sequence[int], mpp: float) -> float:
    """Return the area of a picture in which nuclei are counted, in square millimetres."""
    return float(np.prod([max(0.0, side * mpp - 2 * RADIUS) / 1000 for side in shape[:2]]))


def check_mpp(mpp: float) -> None:
    """Raise a ValueError if the resolution of a picture is not known."""
    require(mpp > 0, "mpp", "be known to look for nuclei, whose sizes are in microns", "write the microns per pixel of "
            "tiles to mpp.txt in their folder, or set --assume_mpp", mpp)


def _haematoxylin(picture: np.ndarray) -> np.ndarray:
    return rgb2hed(picture)[..., 0]


def _response(stain: np.ndarray, mpp: float) -> np.ndarray:
    sigma = SIGMA / mpp
    return -ndimage.gaussian_laplace(stain, sigma) * sigma**2


def _is_inner(places: np.ndarray, shape: Sequence[int], mpp: float) -> np.ndarray:
    margin = RADIUS / mpp
    return np.all((places >= margin) & (places < np.array(shape[:2]) - margin), axis=1)


def _shifted(picture: np.ndarray) -> np.ndarray:
    """Return a picture with pixel i at i + 0.5, after JPEG."""
    moved = ndimage.shift(picture, (0.5, 0.5, 0), order=3, mode="mirror")
    file = BytesIO()
    Image.fromarray(to_uint8(moved)).save(file, "JPEG", quality=QUALITY)
    with Image.open(file) as image:
        return to_float(np.asarray(image))
