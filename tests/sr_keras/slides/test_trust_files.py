# SPDX-License-Identifier: Apache-2.0
"""The files of a trust map: regions are ranked, outlined and as QuPath imports them, and the overview is drawn."""
from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from matplotlib.path import Path as Polygon
from PIL import Image
from scipy import ndimage

from pipelines.config import DegradeOptions
from pipelines.pyramid import PyramidOptions, PyramidWriter
from pipelines.slide import open_slide
from sr_keras.slides import reports
from sr_keras.slides.lr_plane import LRPlane
from sr_keras.slides.trust_files import (
    caption,
    geojson,
    is_trust_map,
    outline,
    trust_paths,
    worst_regions,
    write_map,
    write_trust,
)
from sr_keras.slides.trust_map import measure, measure_file

OPTIONS = DegradeOptions()


def a_quarter(x: float, y: float) -> tuple[float, float]:
    return x / 4, y / 4


def write_slide(path: Path, pixels: np.ndarray, mpp: float | None) -> Path:
    with PyramidWriter(path, pixels.shape[1], pixels.shape[0], mpp, PyramidOptions(128, None)) as pyramid:
        for row, column in pyramid.missing():
            x, y, width, height = pyramid.levels[0].box(row, column)
            pyramid.put(row, column, pixels[y:y + height, x:x + width])
        pyramid.finish()
    return path


def test_finished_slides_are_compared_where_they_belong(histology, tmp_path, lr_of, with_blob):
    source = write_slide(tmp_path / "lr.tif", np.pad(lr_of(histology), ((8, 0), (16, 0), (0, 0))), 1.0)
    target = write_slide(tmp_path / "sr.tif", with_blob(histology, 300, 200, 30), 0.25)
    measured: list[int] = []
    with open_slide(source) as slide:
        found = measure_file(LRPlane(slide, region=(16, 8, 128, 128)), target, 4, measured.append)
    assert (found.mpp, sum(measured), found.degradation) == (0.25, 512 * 512, OPTIONS)
    report = write_trust(tmp_path / "trust" / "a.tif", found, "lr.tif", a_quarter)
    assert json.loads(json.dumps(report, allow_nan=False))["worst"][0]["hr_box"] == [240, 144, 352, 256]
    assert sorted(path.name for path in (tmp_path / "trust").iterdir()) == [
        "a.on_input.geojson", "a.on_output.geojson", "a.overview.png", "a.tif"]
    assert len(json.loads(trust_paths(tmp_path / "trust" / "a.tif")[1].read_text())["features"]) == 1


def test_files_of_the_same_map_are_the_same_bytes(invented, tmp_path):
    for name in ("a", "b"):
        write_trust(tmp_path / name / "t.tif", invented, "case", a_quarter)
    for one, two in zip(*(trust_paths(tmp_path / name / "t.tif") for name in ("a", "b")), strict=True):
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 64), (3, 200)])
def test_empty_slide_gives_a_quiet_map(tmp_path, height, width):
    lr, sr = (np.full((scale * height, scale * width, 3), 255, np.uint8) for scale in (1, 4))
    found = measure(lr, sr, OPTIONS)
    assert np.isfinite(found.lr_error).all()
    assert found.lr_error.max() < 1e-3
    report = write_trust(tmp_path / "a.tif", found, "empty", a_quarter)
    assert (report["worst"], report["threshold"]) == ([], 2)
    assert json.loads(trust_paths(tmp_path / "a.tif")[1].read_text())["features"] == []
    with Image.open(trust_paths(tmp_path / "a.tif")[3]) as image:
        assert max(image.size) < 4000


def test_slide_that_departs_everywhere_is_flagged_beside_what_is_usual(a_map, tmp_path):
    for median, unusual in ((2.9, False), (4.4, False), (7.3, True)):
        found = replace(a_map(np.full((8, 8), median)), usual=(2.0, 3.0), degradation=OPTIONS)
        report = write_trust(tmp_path / "a.tif", found, "case", a_quarter) | {"seconds": 1.0}
        assert report["unusual"] == unusual
        assert report["worst"] == []  # no region stands out
        line = reports.trust_line(report)
        assert f"differs from the input by {median:.2f} of 255 at the median (usual: 2.0 to 3.0)" in line
        assert ("unfamiliar input" in line) == unusual
    unknown = write_trust(tmp_path / "a.tif", a_map(np.full((8, 8), 7.3)), "case", a_quarter) | {"seconds": 1.0}
    assert (unknown["usual"], unknown["unusual"]) == (None, False)
    assert "usual" not in reports.trust_line(unknown)


def test_overview_says_what_it_cannot_show(invented):
    assert "Finer detail that the network invents is removed before the comparison: this map cannot show it" \
        in caption(invented)


def test_map_file_holds_departure_and_its_mpp(invented, tmp_path):
    write_map(tmp_path / "a.tif", invented)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        page = tiff.pages[0]
        assert np.array_equal(page.asarray(), invented.lr_error)
        assert page.is_tiled
        numerator, denominator = page.tags["XResolution"].value
        assert 1e4 * denominator / numerator == pytest.approx(16 * 0.25)
        assert page.tags["ResolutionUnit"].value == 3
        assert json.loads(page.description)["square"] == 16


def test_map_file_of_unknown_mpp_says_none(tmp_path, a_map):
    write_map(tmp_path / "a.tif", a_map(np.ones((3, 4))))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages[0].tags["ResolutionUnit"].value == 1


def test_map_is_told_from_other_files(invented, sample_slide, tmp_path):
    write_map(tmp_path / "a.tif", invented)
    (tmp_path / "cut.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:100])
    assert is_trust_map(tmp_path / "a.tif")
    assert not any(map(is_trust_map, (sample_slide, tmp_path / "cut.tif", tmp_path / "none.tif", tmp_path)))


# Regions

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
    assert region.largest == invented.lr_error.max() > 20
    away = np.ones((32, 32), bool)
    away[top // 16:bottom // 16, left // 16:right // 16] = False
    assert invented.lr_error[away].max() < 1


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
