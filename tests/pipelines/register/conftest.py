# SPDX-License-Identifier: Apache-2.0
"""A second scan of a slide, made by other means than those that are tested: scipy, PIL's JPEG, and a known matrix."""
from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy import ndimage

HR_MPP = 0.25
ENLARGED = 3  # so that the sample makes a slide of 1536 pixels a side


def similarity(scale, degrees, x, y, mirrored=False):
    """Return the matrix [2, 3] from LR pixels to HR pixels."""
    a = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return np.column_stack([turn @ np.diag([-1, 1]) if mirrored else turn, [x, y]])


def second_scan(hr, matrix, width, height, sigma=1.6, gain=(1.05, 0.93, 0.97), noise=3.0, seed=0):
    """Return uint8 [height, width, 3]: what another scanner makes of `hr`, pixel p of it lying at matrix @ (p, 1)."""
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    x, y = (matrix[i, 0] * u + matrix[i, 1] * v + matrix[i, 2] for i in (0, 1))
    rng = np.random.default_rng(seed)
    channels = []
    for channel in range(3):
        blurred = ndimage.gaussian_filter(hr[..., channel].astype(np.float32), sigma)
        seen = ndimage.map_coordinates(blurred, [y, x], order=1, mode="constant", cval=245.0)
        channels.append(255 * (seen / 255) ** 1.1 * gain[channel] + rng.normal(0, noise, seen.shape))
    return np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)


def write_scan(path, pixels, mpp=None, quality=80):
    """Write a slide as scanners do, tiles compressed as JPEG."""
    per_cm = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), compression="jpeg",
                     compressionargs={"level": quality}, **per_cm)
    return path


def distances(found, matrix):
    """Return how far, in HR pixels, the centre of each patch that fits was found from where it is."""
    centres = np.array([(fit.x, fit.y) for fit in found.patches]) + (found.patch_size - 1) / 2
    shifts = np.array([fit.shift for fit in found.patches])
    is_at = centres @ matrix[:, :2].T + matrix[:, 2]
    return np.hypot(*(centres @ found.matrix[:, :2].T + found.matrix[:, 2] + shifts - is_at).T)


@pytest.fixture(scope="session")
def tissue(histology):
    """The sample, enlarged: uint8 [1536, 1536, 3]."""
    large = ndimage.zoom(histology.astype(np.float32), (ENLARGED, ENLARGED, 1), order=1)
    # What enlarging takes away: structure of the size of HR's pixels.
    grain = np.random.default_rng(1).normal(0, 6, large.shape[:2])
    return np.clip(large + ndimage.gaussian_filter(grain, 0.7)[..., np.newaxis] * 2, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def hr_path(tmp_path_factory, tissue):
    """The finer scan."""
    return write_scan(tmp_path_factory.mktemp("hr") / "scan40x.tif", tissue, HR_MPP, quality=92)
