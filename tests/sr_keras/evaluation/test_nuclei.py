# SPDX-License-Identifier: Apache-2.0
"""The detector finds bodies of known place and size, agrees with itself on real tissue, and says where it can't."""
from __future__ import annotations

import numpy as np
import pytest
from skimage.color import hed2rgb

from pipelines.pixels import to_float
from pipelines.sample import SAMPLE_MPP
from sr_keras.evaluation.nuclei import (
    FIT,
    Nuclei,
    compare,
    concordance,
    counted_mm2,
    f1,
    find_nuclei,
    self_agreement,
    stain_level,
)

MPP = 0.5
CENTRES = np.array([(y, x) for y in (20, 60, 100) for x in (24, 64, 104)])


def tissue(radius: float) -> np.ndarray:
    """Return eosin with nine discs of haematoxylin, float32 [128, 128, 3]; the radius is in microns."""
    hed = np.zeros((128, 128, 3))
    hed[..., 1] = 0.05
    y, x = np.mgrid[:128, :128]
    for centre in CENTRES:
        hed[np.hypot(y - centre[0], x - centre[1]) * MPP < radius, 0] = 0.1
    return hed2rgb(hed).astype(np.float32)


def at(*places: tuple[float, float]) -> Nuclei:
    return Nuclei(np.array(places, float).reshape(-1, 2), np.ones(len(places)), np.ones(len(places)))


def test_detector_agrees_with_itself_on_the_sample_moved_half_a_pixel_and_compressed(histology):
    assert self_agreement([to_float(histology)], SAMPLE_MPP) > FIT


@pytest.mark.parametrize("radius", [2.5, 3.5, 4.5])
def test_detector_finds_discs_at_their_place_with_their_area_and_stain(radius):
    picture = tissue(radius)
    found = find_nuclei(picture, MPP, stain_level([picture], MPP))
    order = np.lexsort(found.places.T[::-1])
    np.testing.assert_allclose(found.places[order], CENTRES, atol=1)
    np.testing.assert_allclose(found.areas, np.pi * radius**2, rtol=0.2)
    np.testing.assert_allclose(found.stains, 0.1, rtol=0.1)


@pytest.mark.parametrize("colour", [(1.0, 1.0, 1.0), (0.9, 0.5, 0.7)])
def test_detector_finds_nothing_in_glass_and_in_plain_eosin(colour):
    picture = np.full((64, 64, 3), colour, np.float32)
    assert find_nuclei(picture, MPP, stain_level([picture], MPP)).places.shape == (0, 2)
    assert np.isnan(self_agreement([picture], MPP))


def test_unknown_resolution_is_refused():
    with pytest.raises(ValueError, match=r"`mpp` must be known .*mpp\.txt.*--assume_mpp"):
        find_nuclei(tissue(3), 0.0, 0.1)


def test_nearest_nuclei_are_matched_within_two_microns_and_each_once():
    truth, found = at((20, 20), (20, 26), (40, 40)), at((20, 23.9), (20, 27), (40, 44.1))
    same, lost, invented = compare(truth, found, (64, 64), MPP)
    assert same.tolist() == [[0, 0], [1, 1]]
    assert lost.tolist() == [2]
    assert invented.tolist() == [2]


def test_nuclei_at_the_border_count_neither_as_lost_nor_as_invented():
    counts = compare(at((1, 30), (30, 30)), at((30, 62)), (64, 64), MPP).counts
    assert counts.tolist() == [0, 1, 0]
    assert counted_mm2((64, 64, 3), MPP) == pytest.approx((32 - 4) ** 2 / 1e6)


def test_f1_is_that_of_precision_and_recall_and_unknown_without_nuclei():
    precision, recall = 6 / 8, 6 / 9
    assert f1(np.array([6, 3, 2])) == pytest.approx(2 * precision * recall / (precision + recall))
    assert np.isnan(f1(np.zeros(3, int)))


def test_concordance_falls_by_an_offset_that_correlation_ignores():
    one = np.array([1.0, 2.0, 3.0])
    assert concordance(one, one) == pytest.approx(1)
    assert concordance(one, one + 1) == pytest.approx(4 / 7)  # 2 * 2/3 / (2/3 + 2/3 + 1)
    assert np.isnan(concordance(np.ones(3), np.ones(3)))
    assert np.isnan(concordance(np.ones(1), np.ones(1)))
