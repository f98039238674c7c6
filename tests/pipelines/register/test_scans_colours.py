# SPDX-License-Identifier: Apache-2.0
"""What two scanners make of one stain: a line per channel of optical density."""
from __future__ import annotations

import numpy as np
import pytest

from pipelines.pixels import to_float
from pipelines.planes import Plane
from pipelines.register.scans import fit_colours
from pipelines.scan_pairs import Fit, density, recoloured
from pipelines.slide import open_slide

from .conftest import second_scan, similarity, write_scan

MATRIX = similarity(4.0, 0.0, 101.5, 101.5)
FIT = Fit(0, 0, (0.0, 0.0), 1, 1, 0, 1, 1)
GAIN = (1.05, 0.93, 0.97)


def test_colours_of_another_scanner_are_found_back(tmp_path, tissue, hr_path):
    lr = second_scan(tissue, MATRIX, 300, 300, gain=GAIN)
    path = write_scan(tmp_path / "lr.tif", lr, quality=92)
    with open_slide(path) as low, open_slide(hr_path) as high:
        lines = fit_colours(Plane(low, 1), Plane(high, 1), MATRIX, [FIT], 300, 4)
    gains, offsets = np.array(lines).T
    np.testing.assert_allclose(gains, 1.1, atol=0.06)  # the second scan's gamma
    np.testing.assert_allclose(offsets, -np.log(GAIN), atol=0.03)
    hr = tissue[100:1300, 100:1300]
    before, after = (np.abs(image.mean(axis=(0, 1)) - lr.mean(axis=(0, 1))) for image in (hr, recoloured(hr, lines)))
    assert after.max() < 2 < before.max()


def test_line_of_gain_one_and_offset_zero_changes_nothing(histology):
    np.testing.assert_array_equal(recoloured(histology, ((1.0, 0.0),) * 3), histology)


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_density_follows_the_line_and_stays_in_range(histology, gain):
    changed = recoloured(histology, ((gain, 0.05),) * 3)
    expected = gain * density(to_float(histology)) + 0.05
    inside = expected < 2
    np.testing.assert_allclose(density(to_float(changed))[inside], expected[inside], atol=0.03)
