"""The worst regions: ranked, outlined and as QuPath imports them."""
from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from pipelines.config import DegradeOptions
from sr_keras.slides.departure import measure
from sr_keras.slides.regions import geojson, outline, worst_regions

OPTIONS = DegradeOptions()


def area(ring: list) -> float:
    """By the shoelace formula: positive where the way is counterclockwise by x and y."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)) / 2


def test_invented_blob_is_a_region_and_nothing_else_is(invented):
    (region,) = worst_regions(invented)
    left, top, right, bottom = region.box
    for side, true in ((left, 270), (top, 170), (right, 330), (bottom, 230)):
        assert abs(side - true) <= 2 * 16  # a square that it ends in, and the margin
    assert left < 270 < 330 < right
    assert top < 170 < 230 < bottom
    assert region.largest == invented.departure.max() > 20
    away = np.ones((32, 32), bool)
    away[top // 16:bottom // 16, left // 16:right // 16] = False
    assert invented.departure[away].max() < 1


def test_blob_in_the_corner_keeps_its_region_inside(histology, lr_of, with_blob):
    (region,) = worst_regions(measure(lr_of(histology), with_blob(histology, 511, 0, 40), OPTIONS))
    assert region.box[1:3] == (0, 512)
    assert min(min(point) for point in region.ring) >= 0


def test_regions_are_ranked_merged_counted_and_not_too_small(a_map):
    departure = np.full((40, 40), 0.5)
    departure[2:5, 2:5] = 6
    departure[2:5, 7:9] = 7  # two squares lie between
    departure[20:23, 2:5] = 9
    departure[30, 30] = 99  # too small
    departure[20:22, 20:22] = 8
    regions = worst_regions(a_map(departure))
    assert [region.largest for region in regions] == [9, 8, 7]
    assert regions[2].box == (16, 16, 160, 96)
    assert regions[2].area == 15 * 256
    assert regions[2].rms == pytest.approx(np.sqrt((9 * 36 + 6 * 49) / 15))
    assert worst_regions(a_map(departure), 1) == regions[:1]


def test_region_of_a_cut_off_square_ends_with_the_output(a_map):
    departure = np.full((8, 8), 0.5)
    departure[6:, 6:] = 9
    (region,) = worst_regions(a_map(departure, width=121, height=115))
    assert region.box == (80, 80, 121, 115)


@pytest.mark.parametrize("seed", range(20))
def test_outline_is_closed_counterclockwise_and_encloses_just_the_mask(seed):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(24, 31)), 1) > 0
    labels, count = ndimage.label(noise)
    for number in range(1, count + 1):
        mask = labels == number
        ring = outline(mask)
        assert ring[0] == ring[-1]
        assert len(set(ring)) == len(ring) - 1 >= 4
        filled = ndimage.binary_fill_holes(mask)
        assert area(ring) == filled.sum()
        centres = np.argwhere(np.ones_like(mask))[:, ::-1] + 0.5
        assert np.array_equal(Polygon(ring).contains_points(centres).reshape(mask.shape), filled)


def test_geojson_is_what_qupath_imports(invented):
    found = json.loads(json.dumps(geojson(worst_regions(invented)), allow_nan=False))
    assert found["type"] == "FeatureCollection"
    (feature,) = found["features"]
    assert feature["geometry"]["type"] == "Polygon"
    (ring,) = feature["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert area(ring) > 0
    properties = feature["properties"]
    assert properties["objectType"] == "annotation"
    assert properties["name"].startswith("1: departs")
    assert properties["classification"] == {"name": "SR departs from LR", "color": [213, 94, 0]}
    assert all(isinstance(value, float | int) for value in properties["measurements"].values())
