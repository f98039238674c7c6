# SPDX-License-Identifier: Apache-2.0
"""One interface over slides: coordinates, resolution, resampling, borders."""
from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from skimage.registration import phase_cross_correlation
from skimage.transform import downscale_local_mean, resize_local_mean

from pipelines.slide import LIKE_TISSUE, MPP_TOLERANCE, SlideError, open_slide


@pytest.fixture
def ramp(tmp_path):
    """An image whose value at column x is x and at row y, in green, y."""
    x, y = np.meshgrid(np.arange(240), np.arange(240))
    Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)).save(tmp_path / "ramp.png")
    return tmp_path / "ramp.png"


@pytest.fixture
def slide(sample_slide):
    with open_slide(sample_slide) as opened:
        yield opened


def test_slide_says_what_it_is(slide, sample_slide):
    assert slide.slide_id == sample_slide.stem
    assert slide.mpp == pytest.approx(0.5)
    assert slide.dimensions == (512, 512)
    assert slide.level_dimensions == ((512, 512), (256, 256), (128, 128))
    assert slide.level_downsamples == (1, 2, 4)
    assert slide.level_mpp(2) == pytest.approx(2)


def test_assume_mpp_overrules_what_slides_say(sample_slide, ramp):
    assert open_slide(sample_slide).mpp == pytest.approx(0.5)
    assert open_slide(sample_slide, assume_mpp=9).mpp == 9
    assert open_slide(ramp).mpp is None
    assert open_slide(ramp, assume_mpp=0.3).mpp == 0.3


def test_read_region_is_the_level_from_its_nearest_pixel(slide, histology):
    np.testing.assert_array_equal(slide.read_region(33, 70, 0, 60, 50), histology[70:120, 33:93])
    half = histology.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert np.abs(slide.read_region(66, 140, 1, 60, 50) - half[70:120, 33:93]).max() <= 0.5


def test_outside_of_the_slide_is_white(slide, histology):
    pixels = slide.read_region(-10, 500, 0, 40, 30)
    assert pixels.shape == (30, 40, 3)
    np.testing.assert_array_equal(pixels[:12, 10:], histology[500:, :30])
    assert (pixels[12:] == 255).all()
    assert (pixels[:, :10] == 255).all()
    assert (slide.read_region(5000, -5000, 0, 8, 8) == 255).all()


def test_best_level_is_the_coarsest_that_is_fine_enough(slide):
    chosen = {mpp: slide.resolution(mpp).level for mpp in (0.5, 0.7, 1.0, 1.9, 2.0, 5.0)}
    assert chosen == {0.5: 0, 0.7: 0, 1.0: 1, 1.9: 2, 2.0: 2, 5.0: 2}


def test_level_within_tolerance_is_read_as_it_is(slide):
    for mpp in (1 - MPP_TOLERANCE / 2, 1.0, 1 + MPP_TOLERANCE / 2):
        wanted = slide.resolution(mpp)
        assert (wanted.level, wanted.resampled) == (1, False)
        assert wanted.mpp == pytest.approx(1.0)
        np.testing.assert_array_equal(slide.read_at(64, 32, 50, 40, mpp=mpp), slide.read_region(64, 32, 1, 50, 40))


def test_resampling_keeps_half_pixel_centres(ramp):
    with open_slide(ramp, assume_mpp=1.0) as slide:
        pixels = slide.read_at(20, 30, 40, 30, mpp=2.5).astype(float)
    np.testing.assert_allclose(pixels[0, :, 0], 20 + 2.5 * np.arange(40) + 0.75, atol=0.6)
    np.testing.assert_allclose(pixels[:, 0, 1], 30 + 2.5 * np.arange(30) + 0.75, atol=0.6)


def test_resampling_does_not_alias(tmp_path):
    board = np.indices((240, 240)).sum(axis=0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "board.png")
    with open_slide(tmp_path / "board.png", assume_mpp=1.0) as slide:
        pixels = slide.read_at(30, 30, 60, 60, mpp=3.0)
    assert np.abs(pixels.astype(int) - 127).max() <= 2


def test_resampled_neighbours_equal_one_large_region(slide):
    whole = slide.read_at(0, 0, 120, 60, mpp=0.75)
    halves = [slide.read_at(0, 0, 60, 60, mpp=0.75), slide.read_at(90, 0, 60, 60, mpp=0.75)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)


def test_resampling_at_the_border_does_not_mix_white_in(tmp_path):
    Image.new("RGB", (200, 200), (10, 20, 30)).save(tmp_path / "dark.png")
    with open_slide(tmp_path / "dark.png", assume_mpp=1.0) as slide:
        pixels = slide.read_at(0, 0, 100, 100, mpp=2.0)
    assert (pixels == [10, 20, 30]).all()


def test_resampled_region_equals_pil_on_the_whole_image(slide, histology):
    whole = Image.fromarray(histology).resize((320, 320), Image.Resampling.LANCZOS)
    ours = slide.read_at(160, 80, 100, 120, mpp=0.8)
    assert np.abs(ours.astype(int) - np.asarray(whole)[50:170, 100:200]).max() <= 1


def test_mpp_of_a_slide_without_one_is_refused_naming_the_flag(ramp):
    with open_slide(ramp) as slide, pytest.raises(SlideError, match=r"ramp\.png.*--assume_mpp"):
        slide.read_at(0, 0, 8, 8, mpp=0.5)


def test_finer_than_the_slide_is_refused(slide):
    with pytest.raises(SlideError, match=r"0\.5 microns per pixel at its finest"):
        slide.read_at(0, 0, 8, 8, mpp=0.25)


def test_level_that_is_not_there_is_refused(slide):
    with pytest.raises(SlideError, match="levels 0 to 2"):
        slide.read_at(0, 0, 8, 8, level=3)


# Averages of a finer level

def write_pyramid(path, image, downsamples, mpp=0.25):
    """Write a slide whose coarse levels are painted one colour each: who reads one is seen."""
    with tifffile.TiffWriter(path) as tiff:
        for i, downsample in enumerate(downsamples):
            side = int(image.shape[0] / downsample)
            level = np.full((side, side, 3), 20 * i, np.uint8) if i else image
            tiff.write(level, photometric="rgb", tile=(128, 128), resolution=(1e4 / (mpp * downsample),) * 2,
                       resolutionunit="CENTIMETER", subfiletype=1 if i else 0, metadata=None)
    return path


@pytest.mark.parametrize(("mpp", "expected"), [
    (0.25, (0, None)), (0.26, (0, None)), (0.5, (0, 2)), (0.75, (0, 3)), (0.97, (0, 4)), (1.0, (0, 4)),
    (1.05, (0, 4)), (0.625, (0, 2.5)), (0.4, (0, None)), (1.2, (1, 2.4)), (2.0, (1, 4)), (16.0, (2, 4)),
    (9.0, (2, 2.25)), (40.0, (2, None))])
def test_average_is_of_the_finest_level_that_is_2_to_4_times_finer_by_mpp(histology, tmp_path, mpp, expected):
    with open_slide(write_pyramid(tmp_path / "a.tif", histology, (1, 2, 16))) as slide:
        found = slide.resolution(mpp, average=True)
        assert (found.level, found.averaged) == (expected[0], pytest.approx(expected[1]) if expected[1] else None)
        assert found.mpp == pytest.approx(mpp, rel=MPP_TOLERANCE)
        assert found.mpp == pytest.approx(0.25 * found.downsample)
        assert slide.resolution(mpp).averaged is None


@pytest.mark.parametrize(("mpp", "factor"), [(0.5, 2), (0.75, 3), (1.0, 4)])
def test_average_over_whole_pixels_is_their_mean(histology, tmp_path, mpp, factor):
    with open_slide(write_pyramid(tmp_path / "a.tif", histology, (1, 2, 4))) as slide:
        ours = slide.read_at(24, 48, 90, 70, mpp, average=True)
    rows, columns = 70 * factor, 90 * factor
    area = histology[48:48 + rows, 24:24 + columns]
    expected = downscale_local_mean(np.pad(area, ((0, rows - area.shape[0]), (0, columns - area.shape[1]), (0, 0)),
                                           constant_values=255), (factor, factor, 1))
    assert np.abs(ours - expected).max() <= 0.56  # PIL divides by 9 in whole numbers


def test_average_keeps_half_pixel_centres(tmp_path):
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, np.newaxis, np.newaxis], (256, 256, 3)).copy()
    with open_slide(write_pyramid(tmp_path / "a.tif", ramp, (1, 2))) as slide:
        for mpp in (0.5, 0.625, 0.75, 1.0):
            factor = mpp / 0.25
            column = slide.read_at(0, 0, 1, int(256 / factor), mpp, average=True)[:, 0, 0]
            inner = np.arange(2, len(column) - 2)
            assert np.abs(column[2:-2] - (factor * inner + (factor - 1) / 2)).max() <= 0.51


def test_average_over_parts_of_pixels_does_not_alias(tmp_path):
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[::2] = 255
    with open_slide(write_pyramid(tmp_path / "a.tif", stripes, (1, 2))) as slide:
        assert np.abs(slide.read_at(0, 0, 100, 100, 0.625, average=True)[2:-2].astype(int) - 127.5).max() < 16


@pytest.mark.parametrize("max_side", [64, 100, 300, 2000])
def test_thumbnail_is_the_whole_slide_averaged(slide, histology, max_side):
    side = min(max_side, 512)
    expected = resize_local_mean(histology, (side, side), channel_axis=-1, preserve_range=True)
    assert np.abs(slide.thumbnail(max_side) - expected).mean() < 3


def test_thumbnail_keeps_proportions_and_coordinates(tmp_path):
    image = np.full((300, 700, 3), 255, np.uint8)
    image[150:, 350:] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        thumbnail = slide.thumbnail(70)
    assert thumbnail.shape == (30, 70, 3)
    assert (thumbnail[15:, 35:] == 0).all()
    assert (thumbnail[:15] == 255).all()


def test_thumbnail_leaves_a_broken_block_out_and_paints_it_like_tissue(broken_slide, histology):
    with open_slide(broken_slide) as slide:
        thumbnail = slide.thumbnail(512)
    assert (thumbnail[:256, :256] == LIKE_TISSUE).all()
    np.testing.assert_array_equal(thumbnail[256:], histology[256:])
    np.testing.assert_array_equal(thumbnail[:, 256:], histology[:, 256:])


@pytest.mark.parametrize("mpp", [0.5, 0.8, 1.0])
def test_real_slide_lies_at_the_same_place_at_every_resolution(shared_data, mpp):
    with open_slide(shared_data / "slides" / "metaplasia-HE.tif") as slide:
        fine = slide.read_at(6000, 3000, 512, 512, level=0)
        wanted = slide.resolution(mpp)
        side = int(512 / wanted.downsample)
        coarse = slide.read_at(6000, 3000, side, side, mpp=mpp)
    box = (0, 0, side * wanted.downsample, side * wanted.downsample)
    expected = Image.fromarray(fine).resize((side, side), Image.Resampling.LANCZOS, box=box)
    shift, _, _ = phase_cross_correlation(np.asarray(expected)[..., 1], coarse[..., 1], upsample_factor=50)
    assert np.abs(shift).max() <= 0.2


@pytest.mark.parametrize("mpp", [0.5, 0.7, 1.0])
def test_average_of_a_real_slide_is_that_of_its_finest_level(shared_data, mpp):
    with open_slide(shared_data / "slides" / "metaplasia-HE.tif") as slide:
        fine = slide.read_at(6000, 3000, 512, 512, level=0)
        wanted = slide.resolution(mpp, average=True)
        side = int(512 / wanted.downsample)
        coarse = slide.read_at(6000, 3000, side, side, mpp, average=True)
    side_read = round(side * wanted.downsample)
    expected = resize_local_mean(fine[:side_read, :side_read], (side, side), channel_axis=-1, preserve_range=True)
    assert wanted.level == 0
    assert np.abs(coarse - expected).mean() < (0.3 if wanted.whole else 3)
    shift, _, _ = phase_cross_correlation(expected[..., 1], coarse[..., 1], upsample_factor=50)
    assert np.abs(shift).max() <= 0.2  # the piece of level 0 was rounded to whole pixels


def write_levels(path, images):
    with tifffile.TiffWriter(path) as tiff:
        for number, image in enumerate(images):
            tiff.write(image, photometric="rgb" if image.ndim == 3 else "minisblack", tile=(64, 64), metadata=None,
                       compression="adobe_deflate", subfiletype=int(number > 0))
    return path


def test_label_and_mask_among_the_levels_are_none(tmp_path, histology):
    half = histology.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    mask, label = np.full((256, 256), 255, np.uint8), np.full((64, 128, 3), 80, np.uint8)
    path = write_levels(tmp_path / "a.tif", [histology, half, mask, label])
    assert openslide.OpenSlide(path).level_count == 4
    with open_slide(path) as slide:
        assert (slide.level_dimensions, slide.level_downsamples) == (((512, 512), (256, 256)), (1, 2))
        np.testing.assert_array_equal(slide.read_region(0, 0, 1, 256, 256), half)
        assert slide.thumbnail(128).std() > 10


def test_level_of_a_size_rounded_up_has_the_downsample_that_was_meant(tmp_path, histology):
    image = histology[:509, :511]
    path = write_levels(tmp_path / "a.tif", [image, image[::2, ::2], image[::4, ::4], image[:175, :176]])
    assert openslide.OpenSlide(path).level_downsamples[3] == pytest.approx(3.984, abs=1e-3)
    with open_slide(path) as slide:
        assert slide.level_downsamples == (1, 2, pytest.approx(2.906, abs=1e-3), 4)


def test_read_level_gives_stored_pixels_where_read_region_interpolates(tmp_path, histology):
    image = histology[:509, :511]
    with open_slide(write_levels(tmp_path / "a.tif", [image, image[::4, ::4]])) as slide:
        np.testing.assert_array_equal(slide.read_level(1, 60, 61, 60, 50), image[::4, ::4][61:111, 60:120])
        with pytest.raises(SlideError, match="level 1 has 128 x 128 pixels"):
            slide.read_level(1, 100, 0, 60, 50)
