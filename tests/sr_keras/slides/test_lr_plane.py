# SPDX-License-Identifier: Apache-2.0
"""What is read of a slide: the right pixels, only the broken ones white, and tissue where there is some."""
from __future__ import annotations

import numpy as np
import pytest

from pipelines.slide import open_slide
from sr_keras.slides.lr_plane import LRPlane, UnreadablePlaces, find_tissue, sample_windows


@pytest.mark.parametrize("asked", [{}, {"level": 1}, {"mpp": 1.25}, {"mpp": 2.0, "region": (100, 60, 200, 130)},
                                   {"level": 2, "region": (6, 9, 400, 333)}])
def test_windows_are_pieces_of_the_whole_plane(asked, sample_slide):
    with open_slide(sample_slide) as slide:
        lr = LRPlane(slide, **asked)
        height, width = lr.shape[:2]
        whole = lr[0:height, 0:width].astype(int)
        for y in range(0, height, 37):
            for x in range(0, width, 51):
                rows, columns = slice(y, min(y + 37, height)), slice(x, min(x + 51, width))
                assert np.abs(lr[rows, columns] - whole[rows, columns]).max() <= 1  # PIL resamples in 8 bit


def test_plane_of_level_0_is_the_picture(sample_slide, histology):
    with open_slide(sample_slide) as slide:
        lr = LRPlane(slide, region=(30, 40, 100, 50))
        assert (lr.shape, lr.mpp) == ((50, 100, 3), 0.5)
        np.testing.assert_array_equal(lr[5:50, 10:100], histology[45:90, 40:130])


def test_coarse_plane_of_a_fine_level_is_read_in_pieces_that_fit_in_memory(sample_slide, monkeypatch):
    with open_slide(sample_slide) as slide:
        whole = LRPlane(slide, mpp=10.0)
        expected = whole[0:whole.shape[0], 0:whole.shape[1]].astype(int)
        monkeypatch.setattr("sr_keras.slides.lr_plane.SOURCE_SIDE", 64)
        assert np.abs(whole[0:whole.shape[0], 0:whole.shape[1]] - expected).max() <= 1


@pytest.mark.parametrize("region", [None, (0, 0, 512, 40)])
def test_plane_of_less_than_a_pixel_is_refused(region, sample_slide):
    with open_slide(sample_slide) as slide, pytest.raises(ValueError, match="`mpp` must leave at least a pixel of the"):
        LRPlane(slide, mpp=1e300 if region is None else 30.0, region=region)


@pytest.mark.parametrize("region", [None, (100, 90, 200, 180), (128, 128, 128, 128), (200, 200, 10, 10)])
def test_only_what_is_broken_becomes_white_wherever_the_plane_begins(region, broken_slide, histology):
    with open_slide(broken_slide) as slide:
        lr = LRPlane(slide, region=region)
        x, y, width, height = region or (0, 0, 512, 512)
        expected = histology.copy()
        expected[128:256, 128:256] = 255
        np.testing.assert_array_equal(lr[0:height, 0:width], expected[y:y + height, x:x + width])
        left, top = max(x, 128), max(y, 128)
        box = left, top, min(x + width, 256) - left, min(y + height, 256) - top
        assert lr.unreadable_l0_rectangles() == [box]


def test_bad_places_outlive_a_kill_and_half_a_line(tmp_path):
    bad = UnreadablePlaces(tmp_path / "bad")
    for cell in ((3, 4), (4, 4), (3, 4), (9, 9)):
        bad.add(cell)
    with (tmp_path / "bad").open("a") as file:
        file.write("12 1")
    again = UnreadablePlaces(tmp_path / "bad", resume=True)
    assert again.rectangles() == [(48, 64, 32, 16), (144, 144, 16, 16)]
    assert UnreadablePlaces(tmp_path / "bad").cells == set()
    again.delete_file()
    assert not list(tmp_path.iterdir())


def test_list_of_bad_places_that_is_damaged_is_refused_by_name(tmp_path):
    for content in (b"1 2\nthree 4\n", b"1 2 3\n", b"\xff\n"):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match=r"/bad` must be a .*; start again with --overwrite"):
            UnreadablePlaces(tmp_path / "bad", resume=True)


def test_tissue_is_found_where_it_is_in_any_plane(tmp_path, histology):
    from PIL import Image

    picture = np.full((400, 1200, 3), 245, np.uint8)
    picture[100:300, 100:300] = histology[:200, :200]
    Image.fromarray(picture).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", assume_mpp=0.5) as slide:
        for asked, factor, origin in (({}, 1, 0), ({"mpp": 1.0}, 2, 0), ({"region": (40, 0, 1160, 400)}, 1, 40)):
            lr = LRPlane(slide, **asked)
            has_tissue = find_tissue(lr)

            def at(x, y, side=100, has_tissue=has_tissue, factor=factor, origin=origin):
                x, y, side = (x - origin) // factor, y // factor, side // factor
                return has_tissue(slice(y, y + side), slice(x, x + side))

            assert at(150, 150)
            assert at(280, 280)
            assert not at(600, 150)
            assert not at(1000, 300)


@pytest.mark.parametrize("asked", [{"mpp": 1.0}, {"mpp": 2.0, "region": (101, 61, 201, 130)}, {"mpp": 1.5}])
def test_windows_of_an_averaged_plane_are_the_very_pixels_of_the_whole(asked, sample_slide):
    with open_slide(sample_slide) as slide:
        lr = LRPlane(slide, **asked)
        assert lr.averaged == asked["mpp"] / 0.5
        whole = lr[0:lr.shape[0], 0:lr.shape[1]]
        for rows, columns in ((slice(0, 30), slice(7, 50)), (slice(11, lr.shape[0]), slice(20, lr.shape[1]))):
            np.testing.assert_array_equal(lr[rows, columns], whole[rows, columns])


def test_averaged_plane_says_where_it_lies_and_mixes_no_white_in(sample_slide, histology):
    with open_slide(sample_slide) as slide:
        lr = LRPlane(slide, mpp=2.0, region=(30, 40, 482, 472))
        assert (lr.shape, lr.mpp) == ((118, 120, 3), 2.0)
        assert lr.l0_rectangle(0, 0, 120, 118) == (30, 40, 480, 472)
        expected = histology[40:, 30:510].reshape(118, 4, 120, 4, 3).mean((1, 3))
        assert np.abs(lr[0:118, 0:120] - expected).max() <= 0.5


def test_plane_of_a_real_slide_is_averaged_to_its_border(shared_data):
    with open_slide(shared_data / "slides" / "metaplasia-HE.tif") as slide:
        lr = LRPlane(slide, mpp=1.0)
        assert (lr.level, lr.averaged, lr.shape[:2]) == (0, 4, (2921, 3299))
        corner = lr[2900:2921, 3280:3299]
        expected = slide.read_at(3280 * 4, 2900 * 4, 19 * 4, 21 * 4).reshape(21, 4, 19, 4, 3).mean((1, 3))
        assert np.abs(corner - expected).max() <= 0.5


# Sampling

@pytest.mark.parametrize("shape", [(1, 1), (40, 300), (96, 96), (100, 97), (5000, 3000), (100000, 80000)])
def test_windows_lie_in_the_plane_and_differ(shape):
    windows = sample_windows(shape, 8, 96)
    assert 1 <= len(windows) <= 8
    assert len({(rows.start, columns.start) for rows, columns in windows}) == len(windows)
    for rows, columns in windows:
        assert rows.stop - rows.start == min(96, shape[0])
        assert columns.stop - columns.start == min(96, shape[1])
        assert 0 <= rows.start < rows.stop <= shape[0]
        assert 0 <= columns.start < columns.stop <= shape[1]
    assert sample_windows(shape, 8, 96) == windows


def test_windows_are_of_tissue_where_there_is_some():
    def in_a_corner(rows, columns):
        return rows.stop > 700 and columns.stop > 500

    windows = sample_windows((1000, 1000), 8, 96, in_a_corner)
    assert len(windows) == 8
    assert all(in_a_corner(*window) for window in windows)
    assert sample_windows((1000, 1000), 8, 96, lambda *_: False) == sample_windows((1000, 1000), 8, 96)


def test_windows_are_spread_over_the_plane():
    windows = sample_windows((10000, 10000), 8, 96)
    assert max(rows.start for rows, _ in windows) - min(rows.start for rows, _ in windows) > 6000
    assert max(columns.start for _, columns in windows) - min(columns.start for _, columns in windows) > 6000
