# SPDX-License-Identifier: Apache-2.0
"""What a file says of its own structure is checked: which image is the slide, its levels, colours and turns."""
from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from pipelines.errors import SlideError
from pipelines.readers import limits
from pipelines.slide import open_slide

SQUARE = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None}
TILED = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib"}


def shown(path, **options):
    """All of level 0, as the project reads it."""
    with open_slide(path, **options) as slide:
        return slide.read_region(0, 0, 0, *slide.dimensions)


def test_masks_are_no_levels(tmp_path, histology):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for step in (1, 2, 4):
            level = histology[::step, ::step]
            tiff.write(level, subfiletype=int(step > 1), metadata=None, **TILED)
            tiff.write(np.zeros(level.shape[:2], np.uint8), tile=(128, 128), metadata=None, subfiletype=int(step > 1))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:  # tifffile writes no masks
        for page in tiff.pages[1::2]:
            page.tags[262].overwrite(4)
            page.tags[254].overwrite(page.subfiletype | 4)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == ((512, 512), (256, 256), (128, 128))
        for level, step in enumerate((1, 2, 4)):
            np.testing.assert_array_equal(slide.read_region(0, 0, level, 512 // step, 512 // step),
                                          histology[::step, ::step])


def test_image_larger_than_that_of_which_it_is_a_reduced_one_is_refused(tmp_path, histology):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(histology[::2, ::2], **SQUARE, **TILED)
        tiff.write(np.flip(histology, 0), subfiletype=1, metadata=None, **TILED)
    with pytest.raises(SlideError, match=r"a\.tif: its largest image is marked as a reduced one"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("names", [("label", "slide"), ("", ""), ("overview image", "b")])
def test_slide_of_an_ome_tiff_is_no_label(tmp_path, histology, names):
    label = np.full((1000, 900, 3) if names[0] else (300, 300, 3), 30, np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        tiff.write(label, photometric="rgb", metadata={"Name": names[0], "axes": "YXS", "PhysicalSizeX": 9.0})
        tiff.write(histology, subifds=1, **TILED, metadata={
            "Name": names[1], "axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
        tiff.write(histology[::2, ::2], subfiletype=1, **TILED)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert slide.level_dimensions == ((512, 512), (256, 256))
    np.testing.assert_array_equal(shown(tmp_path / "a.ome.tif"), histology)


def write_channels(folder, histology, names):
    """An OME-TIFF whose three channels are in three files."""
    data = "".join(f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{c}</UUID>'
                   "</TiffData>" for c, name in enumerate(names))
    channels = "".join(f'<Channel ID="Channel:0:{c}" SamplesPerPixel="1"/>' for c in range(3))
    for c in range(3):
        xml = ('<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
               f'UUID="urn:uuid:{c}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
               'SizeX="512" SizeY="512" SizeC="3" SizeZ="1" SizeT="1">' + channels + data + "</Pixels></Image></OME>")
        tifffile.imwrite(folder / f"{c}.ome.tif", histology[..., c], photometric="minisblack", metadata=None,
                         description=xml, ome=False)
    return folder / "0.ome.tif"


def test_each_channel_is_read_from_its_own_file(tmp_path, histology):
    path = write_channels(tmp_path, histology, [f"{c}.ome.tif" for c in range(3)])
    np.testing.assert_array_equal(np.moveaxis(tifffile.imread(path), 0, -1), histology)
    np.testing.assert_array_equal(shown(path), histology)


@pytest.mark.parametrize("name", ["../1.ome.tif", "/1.ome.tif", "..\\1.ome.tif"])
def test_files_outside_the_folder_are_refused(tmp_path, histology, name):
    path = write_channels(tmp_path, histology, ["0.ome.tif", name, "2.ome.tif"])
    with pytest.raises(SlideError, match=r"0\.ome\.tif: names a file outside its folder"):
        open_slide(path)


@pytest.mark.parametrize("code", [33003, 33005])
@pytest.mark.parametrize("transformed", [False, True])
def test_codestream_of_jpeg_2000_decides_on_its_colours(tmp_path, histology, code, transformed):
    stored = histology
    if code == 33003 and not transformed:
        stored = np.asarray(Image.fromarray(histology).convert("YCbCr"))
    tiles = (imagecodecs.jpeg2k_encode(stored[y:y + 256, x:x + 256], level=90, codecformat="j2k", mct=transformed,
                                       reversible=False) for y in (0, 256) for x in (0, 256))
    tifffile.imwrite(tmp_path / "a.svs", tiles, shape=histology.shape, dtype=np.uint8, photometric="rgb",
                     tile=(256, 256), compression=code, **SQUARE)
    assert np.abs(shown(tmp_path / "a.svs").astype(int) - histology).mean() < 3


@pytest.mark.parametrize("layout", [{"tile": (128, 128)}, {"rowsperstrip": 64}])
def test_pixels_that_are_not_square_are_refused_unless_that_is_overruled(tmp_path, histology, layout):
    tifffile.imwrite(tmp_path / "a.tif", histology, photometric="rgb", **layout,
                     **SQUARE | {"resolution": (40000, 20000)})
    with pytest.raises(SlideError, match=r"a\.tif: .* not square, 0\.25 x 0\.5 microns; .*--assume_mpp"):
        shown(tmp_path / "a.tif")
    assert open_slide(tmp_path / "a.tif", assume_mpp=0.5).mpp == 0.5


@pytest.mark.parametrize("mpp", [0.04, 51])
@pytest.mark.parametrize("layout", [{"tile": (128, 128)}, {"rowsperstrip": 64}])
def test_implausible_mpp_is_not_believed(tmp_path, histology, layout, mpp):
    tifffile.imwrite(tmp_path / "a.tif", histology, photometric="rgb", **layout,
                     **SQUARE | {"resolution": (1e4 / mpp, 1e4 / mpp)})
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp is None
        with pytest.raises(SlideError, match=rf"a\.tif: says {mpp} microns .* implausible; set --assume"):
            slide.resolution(1.0)
    assert open_slide(tmp_path / "a.tif", assume_mpp=0.5).mpp == 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["tiles", "strips", "jpg", "png"])
def test_stored_orientation_is_undone_as_viewers_do(tmp_path, histology, kind, orientation):
    stored, path = histology[:, :400], tmp_path / f"a.{kind if kind in ('jpg', 'png') else 'tif'}"
    exif = Image.Exif()
    exif[274] = orientation
    if kind in ("tiles", "strips"):
        layout = {"tile": (128, 128)} if kind == "tiles" else {"rowsperstrip": 32}
        tifffile.imwrite(path, stored, photometric="rgb", metadata=None, extratags=[(274, 3, 1, orientation, True)],
                         **layout)
    else:
        Image.fromarray(stored).save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    np.testing.assert_array_equal(shown(path), expected)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(70, 30, 0, 200, 90), expected[30:120, 70:270])


def test_only_listed_picture_formats_are_opened_whatever_their_name(tmp_path, histology):
    for kind in ("EPS", "GIF", "PPM"):
        Image.fromarray(histology).save(tmp_path / "a.png", kind)
        with pytest.raises(SlideError, match=r"a\.png: is not a slide or image"):
            open_slide(tmp_path / "a.png")


def test_png_with_a_large_colour_profile_is_read(tmp_path, histology):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + np.random.default_rng(0).bytes(2**21)
    Image.fromarray(histology).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), histology)


def test_scanned_area_of_a_large_canvas_is_the_slide(tmp_path, histology):
    def scan(at, side, objective, dimensions):
        pixels = "".join(f'<dimension sizeX="{w}" sizeY="{w}" r="{r}" ifd="{ifd}"/>' for w, r, ifd in dimensions)
        return (f'<image name="{at}" uuid="{at}"><pixels sizeX="{dimensions[0][0]}" sizeY="{dimensions[0][0]}">{pixels}'
                f'</pixels><view sizeX="{side}" sizeY="{side}" offsetX="{at}" offsetY="{at}" spacingZ="0"/>'
                "<scanSettings>"
                f"<objectiveSettings><objective>{objective}</objective></objectiveSettings><illuminationSettings>"
                "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>")
    xml = ('<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection name="c" sizeX="5120000" '
           'sizeY="5120000">' + scan(0, 5120000, 0.6, [(256, 0, 0)])
           + scan(2048000, 256000, 20, [(512, 0, 1), (128, 1, 2)]) + "</collection></scn>")
    with tifffile.TiffWriter(tmp_path / "a.scn", bigtiff=True) as tiff:
        options = TILED | {"metadata": None}
        tiff.write(np.full((256, 256, 3), 240, np.uint8), description=xml, **options)
        tiff.write(histology, **options)
        tiff.write(histology[::4, ::4], **options)
    with open_slide(tmp_path / "a.scn") as slide:
        assert slide.level_dimensions == ((512, 512), (128, 128))
    np.testing.assert_array_equal(shown(tmp_path / "a.scn"), histology)


@pytest.mark.parametrize("layout", [{"tile": (512, 512)}, {"rowsperstrip": 512}])
def test_too_large_tiles_and_strips_are_refused_when_they_are_opened(tmp_path, histology, monkeypatch, layout):
    monkeypatch.setattr(limits, "LARGEST_SEGMENT_BYTES", 512 * 512 * 3 - 1)
    tifffile.imwrite(tmp_path / "a.tif", histology, photometric="rgb", compression="zlib", **layout)
    with pytest.raises(SlideError, match=r"a\.tif: has tiles or strips of .* convert it to a TIFF with small tiles"):
        open_slide(tmp_path / "a.tif")


def test_overview_does_not_stand_in_for_a_slide_whose_own_page_is_damaged(tmp_path, histology):
    """One wrong byte in the width of the first page, and the second would be super-resolved as the slide."""
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(histology[:256, :256], photometric="rgb", metadata=None)
        file.write(histology[:96, :128], photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags["ImageWidth"].valueoffset
    content = bytearray(path.read_bytes())
    content[place:place + 2] = b"\0\0"
    path.write_bytes(content)
    with pytest.raises(SlideError, match=r"x\.tif: .*0 pixels"):
        open_slide(path)


@pytest.mark.parametrize("place", ["pages", "subifds"])
@pytest.mark.parametrize("kind", ["cmyk", "lab", "ycbcr", "transparent", "turned"])
def test_levels_in_other_colours_or_turned_are_none(tmp_path, histology, place, kind):
    half = Image.fromarray(histology).reduce(2)
    pixels, options = {
        "cmyk": (half.convert("CMYK"), {"photometric": "separated"}), "lab": (half, {"photometric": "cielab"}),
        "ycbcr": (half.convert("YCbCr"), {"photometric": "ycbcr"}),
        "transparent": (half.convert("RGBA"), {"extrasamples": ["unassalpha"]}),
        "turned": (half.rotate(180), {"extratags": [(274, 3, 1, 3, True)]})}[kind]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(histology, **TILED, **SQUARE, **({"subifds": 1} if place == "subifds" else {}))
        tiff.write(np.asarray(pixels), subfiletype=1, metadata=None, **(TILED | options))
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert slide.level_dimensions == ((512, 512),)
    np.testing.assert_array_equal(shown(tmp_path / "a.tif"), histology)


@pytest.mark.parametrize("layout", [TILED, {"photometric": "rgb"}])
@pytest.mark.parametrize("flagged", [True, False])
def test_slide_is_the_largest_page_and_has_its_own_mpp(tmp_path, histology, layout, flagged):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for step in (4, 2, 1):
            tiff.write(histology[::step, ::step], subfiletype=int(flagged and step > 1), metadata=None,
                       resolution=(20000 / step,) * 2, resolutionunit="CENTIMETER", **layout)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == pytest.approx(0.5)
    np.testing.assert_array_equal(shown(tmp_path / "a.tif"), histology)


@pytest.mark.parametrize("layout", [TILED, {"photometric": "rgb"}])
def test_several_planes_of_one_size_are_refused(tmp_path, histology, layout):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([histology, histology[::-1]]), metadata=None, **layout)
    with pytest.raises(SlideError, match="one plane"):
        shown(tmp_path / "a.tif")


def png(path, depth, kind, rows, extra=b"", side=512, interlaced=0):
    """A PNG from its rows as bytes; PIL does not write all kinds."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, depth, kind, 0, 0, interlaced)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
                     + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b""))
    return path


def test_png_whose_data_end_early_is_refused(tmp_path, histology):
    rows = [row.tobytes() for row in histology]
    np.testing.assert_array_equal(shown(png(tmp_path / "whole.png", 8, 2, rows)), histology)
    with pytest.raises(SlideError, match="end early"):
        shown(png(tmp_path / "part.png", 8, 2, rows[:300]))


@pytest.mark.parametrize("side", [1, 2, 5, 9, 512])
def test_interlaced_png_of_any_size_is_the_picture(tmp_path, histology, side):
    picture = histology[:side, :side]
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = [row.tobytes() for x, y, dx, dy in passes for row in picture[y::dy, x::dx] if row.size]
    np.testing.assert_array_equal(shown(png(tmp_path / "a.png", 8, 2, rows, side=side, interlaced=1)), picture)
    with pytest.raises(SlideError, match=r"end early|truncated"):  # PIL notices that there is no row at all
        shown(png(tmp_path / "a.png", 8, 2, rows[:-1], side=side, interlaced=1))


def test_value_for_transparency_in_grey_of_16_bit_is_white_and_others_keep_theirs(tmp_path, histology):
    grey = histology[..., 0].astype(np.uint16) * 257
    clear = struct.pack(">H", grey[0, 0])
    path = png(tmp_path / "a.png", 16, 0, [row.astype(">u2").tobytes() for row in grey],
               struct.pack(">I", 2) + b"tRNS" + clear + struct.pack(">I", zlib.crc32(b"tRNS" + clear)))
    expected = np.where(grey == grey[0, 0], 255, histology[..., 0])
    np.testing.assert_array_equal(shown(path), np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize(("mode", "name"), [("RGBA", "a.png"), ("LA", "a.png")])
def test_picture_behind_transparency_everywhere_is_refused_and_a_blank_one_is_white(tmp_path, histology, mode, name):
    for pixels, is_blank in ((histology, False), (np.zeros_like(histology), True)):
        image = Image.fromarray(pixels).convert(mode)
        image.putalpha(0)
        image.save(tmp_path / name)
        if is_blank:
            assert (shown(tmp_path / name) == 255).all()
        else:
            with open_slide(tmp_path / name) as slide:
                for _ in range(2):
                    with pytest.raises(SlideError, match="transparent everywhere"):
                        slide.read_region(0, 0, 0, 512, 512)
