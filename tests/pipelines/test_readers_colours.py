# SPDX-License-Identifier: Apache-2.0
"""TIFFs whose tags and data disagree about colours: refused in one line, or shown as the data say; never as neither."""
from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.errors import SlideError
from pipelines.readers.colours import jpeg_colours
from pipelines.slide import open_slide

PHOTOMETRIC, SUBSAMPLING = 262, 530
GREY, RGB, YCBCR = 1, 2, 6
LAYOUTS = [{"tile": (128, 128)}, {"rowsperstrip": 64}]
JPEG = {"compression": "jpeg", "compressionargs": {"level": 95}}


def written(path, pixels, stated, **options):
    """A TIFF whose tag then says something else."""
    tifffile.imwrite(path, pixels, metadata=None, **options)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[PHOTOMETRIC].overwrite(stated)
    return path


def shown(path):
    with open_slide(path) as slide:
        return slide.read_region(0, 0, 0, *slide.dimensions)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("samples", "stated", "codec"), [
    (3, GREY, {"compression": "zlib"}), (1, RGB, {"compression": "zlib"}), (1, RGB, JPEG), (3, YCBCR, {
        "compression": "zlib"}), (3, GREY, JPEG)])
def test_numbers_for_a_pixel_that_do_not_fit_its_colours_are_refused(tmp_path, histology, layout, samples, stated,
                                                                     codec):
    pixels, kind = (histology, "rgb") if samples == 3 else (histology[..., 0], "minisblack")
    path = written(tmp_path / "a.tif", pixels, stated, photometric=kind, **codec, **layout)
    with pytest.raises(SlideError, match=r"a\.tif: (says that its pixels are|holds) .*; save it again as RGB"):
        shown(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_jpegs_of_rgb_in_a_tiff_of_ycbcr_are_refused(tmp_path, histology, layout):
    codec = JPEG | {"compressionargs": {"outcolorspace": "rgb"}}
    path = written(tmp_path / "a.tif", histology, YCBCR, photometric="rgb", **codec, **layout)
    with pytest.raises(SlideError, match=r"a\.tif: says that its pixels are YCBCR, and its JPEG data say RGB; save it"):
        shown(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_jfif_that_a_tiff_calls_rgb_is_shown_as_it_is(tmp_path, histology, layout):
    """JFIF is always YCbCr; the one real slide of this kind here is an OME-TIFF."""
    path = written(tmp_path / "a.tif", histology, RGB, photometric="rgb", **JPEG, **layout)
    assert np.abs(shown(path).astype(int) - histology).mean() < 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ycbcr_without_jpeg_is_read_where_it_can_be_stored_in_one_way(tmp_path, histology, layout):
    stored = np.asarray(Image.fromarray(histology).convert("YCbCr"))
    path = written(tmp_path / "a.tif", stored, YCBCR, photometric="rgb", compression="zlib",
                   extratags=[(SUBSAMPLING, 3, 2, (1, 1), True)], **layout)
    assert np.abs(shown(path).astype(int) - histology).mean() < 3


def test_rgb_without_a_marker_in_the_jpegs_is_rgb_as_the_tiff_says(tmp_path, histology):
    """As Aperio writes it."""
    def tile(y, x):
        data = bytes(imagecodecs.jpeg8_encode(histology[y:y + 256, x:x + 256], level=95, colorspace="rgb",
                                              outcolorspace="rgb"))
        start = data.index(b"\xff\xee")  # Adobe's marker, which says RGB
        return (data[:start] + data[start + 2 + int.from_bytes(data[start + 2:start + 4], "big"):]).replace(
            b"R\x11\0G\x11\0B\x11\0", b"\0\x11\0\1\x11\0\2\x11\0").replace(b"\3R\0G\0B\0", b"\3\0\0\1\0\2\0")
    tifffile.imwrite(tmp_path / "a.tif", (tile(y, x) for y in (0, 256) for x in (0, 256)), shape=histology.shape,
                     dtype=np.uint8, tile=(256, 256), compression="jpeg", photometric="rgb", metadata=None,
                     compressionargs={"outcolorspace": "rgb"})
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert jpeg_colours(tiff.pages[0]) == (3, None)
    assert np.abs(shown(tmp_path / "a.tif").astype(int) - histology).mean() < 3


@pytest.mark.parametrize("bits", [2, 4, 7, 10, 12, 14])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_of_other_bits_are_refused_and_not_shown_dark(tmp_path, histology, layout, bits):
    grey = histology[..., 0]
    pixels = grey >> (8 - bits) if bits <= 8 else grey.astype(np.uint16) << (bits - 8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", metadata=None, bitspersample=bits, **layout)
    with pytest.raises(SlideError, match=f"{bits} bits"):
        shown(tmp_path / "a.tif")


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("layout", [*LAYOUTS, {"tile": (128, 128), "compression": "zlib"}])
def test_number_that_is_no_transparency_is_left_out(tmp_path, histology, layout, samples):
    pixels = histology[..., :samples]
    tifffile.imwrite(tmp_path / "a.tif", np.concatenate([pixels, np.zeros((512, 512, 1), np.uint8)], -1), metadata=None,
                     photometric="rgb" if samples == 3 else "minisblack", extrasamples=[0], planarconfig="contig",
                     **layout)
    np.testing.assert_array_equal(shown(tmp_path / "a.tif"), np.broadcast_to(pixels, histology.shape))


def test_colour_table_of_8_bit_is_refused(tmp_path, histology):
    image = Image.fromarray(histology).quantize(256)
    table = np.array(image.getpalette(), np.uint16).reshape(256, 3).T
    for name, colours in (("right.tif", table * 257), ("short.tif", table)):
        tifffile.imwrite(tmp_path / name, np.asarray(image), photometric="palette", colormap=colours, metadata=None)
    np.testing.assert_array_equal(shown(tmp_path / "right.tif"), np.asarray(image.convert("RGB")))
    with pytest.raises(SlideError, match="colour table"):
        shown(tmp_path / "short.tif")


def test_largest_image_of_other_colours_than_the_first_is_refused(tmp_path, histology):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(histology[::2, ::2], photometric="rgb", metadata=None)
        tiff.write(np.asarray(Image.fromarray(histology).convert("CMYK")), photometric="separated", metadata=None)
    with pytest.raises(SlideError, match="SEPARATED"):
        shown(tmp_path / "a.tif")


@pytest.mark.parametrize(("colours", "are_rgb"), [
    ([-16776961, 16711935, 65535], True), (None, True), ([-1, -1, -1], True), ([65535, 16711935, -16776961], False)])
def test_channels_of_an_ome_tiff_that_are_not_red_green_and_blue_are_refused(tmp_path, histology, colours, are_rgb):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.moveaxis(histology, 2, 0).copy(), ome=True, photometric="minisblack",
                     metadata={"axes": "CYX"} | ({"Channel": {"Color": colours}} if colours else {}))
    if are_rgb:
        np.testing.assert_array_equal(shown(tmp_path / "a.ome.tif"), histology)
    else:
        with pytest.raises(SlideError, match="not red, green and blue"):
            shown(tmp_path / "a.ome.tif")
