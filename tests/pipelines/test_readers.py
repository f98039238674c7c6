# SPDX-License-Identifier: Apache-2.0
"""The three readers: every kind of file, and every way a file can be bad."""
from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from pipelines.errors import SlideError
from pipelines.readers import OpenSlideReader, PictureReader, TiffReader, open_reader
from pipelines.slide import open_slide

WINDOW = (101, 203, 150, 90)  # across tile borders of 128 pixels


def window_of(array):
    x, y, width, height = WINDOW
    return array[y:y + height, x:x + width]


def read(path, level=0, window=WINDOW):
    reader = open_reader(path)
    try:
        return reader.read(level, *window)
    finally:
        reader.close()


def write_ome(path, image, **options):
    """An OME-TIFF of two levels at 0.25 by 0.27 mpp."""
    metadata = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 270, "PhysicalSizeYUnit": "nm"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(image, subifds=1, metadata={**metadata, **options.pop("metadata", {})}, **options)
        tiff.write(image[::2, ::2], subfiletype=1, **options)
    return path


def truncate(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])
    return path


def test_sample_slide_is_read_by_openslide_and_is_the_picture(sample_slide, histology):
    assert isinstance(open_reader(sample_slide), OpenSlideReader)
    np.testing.assert_array_equal(read(sample_slide)[..., :3], window_of(histology))


def test_ome_tiff_is_read_by_tifffile_with_levels_and_mpp(tmp_path, histology):
    path = write_ome(tmp_path / "a.ome.tif", histology, photometric="rgb", tile=(128, 128), compression="zlib")
    reader = open_reader(path)
    assert isinstance(reader, TiffReader)
    assert reader.mpp == pytest.approx(0.26)
    assert reader.level_dimensions == ((512, 512), (256, 256))
    np.testing.assert_array_equal(reader.read(0, *WINDOW), window_of(histology))
    np.testing.assert_array_equal(reader.read(1, 100, 120, 90, 70), histology[::2, ::2][120:190, 100:190])


@pytest.mark.parametrize("options", [
    {"rowsperstrip": 32, "compression": "zlib"}, {"compression": None}, {"compression": "webp", "tile": (128, 128)},
    {"compression": "lzw", "rowsperstrip": 512}])
def test_tiff_in_strips_or_newer_compressions_is_the_picture(tmp_path, histology, options):
    if options["compression"] == "webp":
        options = {**options, "compressionargs": {"lossless": True, "level": 100}}
    tifffile.imwrite(tmp_path / "a.tif", histology, photometric="rgb", **options)
    assert isinstance(open_reader(tmp_path / "a.tif"), TiffReader)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), window_of(histology))


def test_channels_stored_apart_are_put_together(tmp_path, histology):
    planar = np.moveaxis(histology, -1, 0)
    tifffile.imwrite(tmp_path / "planar.tif", planar, photometric="rgb", planarconfig="separate", rowsperstrip=50)
    tifffile.imwrite(tmp_path / "channels.ome.tif", planar, photometric="minisblack", metadata={"axes": "CYX"})
    for name in ("planar.tif", "channels.ome.tif"):
        np.testing.assert_array_equal(read(tmp_path / name), window_of(histology))


def test_tiff_decodes_only_the_tiles_it_needs(tmp_path, histology):
    path = write_ome(tmp_path / "a.ome.tif", histology, photometric="rgb", tile=(128, 128), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[15]
    data = bytearray(path.read_bytes())
    data[offset:offset + 100] = bytes(100)
    path.write_bytes(bytes(data))
    np.testing.assert_array_equal(read(path, window=(0, 0, 384, 384)), histology[:384, :384])
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match=r"a\.ome\.tif"):
            slide.read_region(384, 384, 0, 128, 128)
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 128, 128), histology[:128, :128])


@pytest.mark.parametrize("resolution", [
    {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER", "expected": 0.25},
    {"resolution": (50800, 50800), "resolutionunit": "INCH", "expected": 0.5},
    {"resolution": (72, 72), "resolutionunit": "INCH", "expected": None},
    {"resolution": (40000, 40000), "resolutionunit": "NONE", "expected": None}])
@pytest.mark.parametrize("layout", [{"tile": (128, 128)}, {"rowsperstrip": 64}])
def test_tiff_resolution_gives_mpp_unless_it_is_about_paper(tmp_path, histology, resolution, layout):
    resolution = dict(resolution)
    expected = resolution.pop("expected")
    tifffile.imwrite(tmp_path / "a.tif", histology, photometric="rgb", metadata=None, **layout, **resolution)
    mpp = open_reader(tmp_path / "a.tif").mpp
    assert mpp == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "palette.tif", "inverted.tif"])
def test_plain_images_are_the_picture(tmp_path, histology, name):
    image = Image.fromarray(histology)
    if name == "palette.tif":
        image = image.quantize(16)
    if name == "inverted.tif":
        tifffile.imwrite(tmp_path / name, 255 - histology[..., 0], photometric="miniswhite")
        image = Image.fromarray(histology[..., 0])
    else:
        image.save(tmp_path / name)
    with open_slide(tmp_path / name) as slide:
        assert isinstance(slide._reader, TiffReader if name == "inverted.tif" else PictureReader)
        assert slide.mpp is None
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 512, 512), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_images_keep_their_colours(tmp_path, histology, name):
    Image.fromarray(histology).convert("CMYK").save(tmp_path / name)
    with open_slide(tmp_path / name) as slide:
        difference = np.abs(slide.read_region(0, 0, 0, 512, 512).astype(int) - histology)
    assert difference.mean() < 5


def test_sixteen_bit_images_become_eight_bit(tmp_path, histology):
    grey = histology[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey.png")
    tifffile.imwrite(tmp_path / "rgb.tif", histology.astype(np.uint16) * 257, photometric="rgb")
    tifffile.imwrite(tmp_path / "tiled.tif", histology.astype(np.uint16) * 257, photometric="rgb", tile=(64, 64))
    for name, expected in (("grey.png", grey[..., None]), ("rgb.tif", histology), ("tiled.tif", histology)):
        with open_slide(tmp_path / name) as slide:
            assert np.abs(slide.read_region(0, 0, 0, 512, 512).astype(int) - expected).max() <= 1


def test_transparent_pixels_become_white(tmp_path, histology):
    alpha = np.full((512, 512, 1), 255, np.uint8)
    alpha[:256] = 0
    rgba = np.concatenate([histology, alpha], axis=-1)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    palette = Image.new("P", (8, 8))
    palette.save(tmp_path / "p.png", transparency=0)
    for name in ("a.png", "a.tif"):
        with open_slide(tmp_path / name) as slide:
            pixels = slide.read_region(0, 0, 0, 512, 512)
        assert (pixels[:256] == 255).all()
        np.testing.assert_array_equal(pixels[256:], histology[256:])
    with open_slide(tmp_path / "p.png") as slide:
        assert (slide.read_region(0, 0, 0, 8, 8) == 255).all()


def test_no_such_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.svs"):
        open_reader(tmp_path / "gone.svs")


@pytest.mark.parametrize("content", [b"", b"a letter, not a slide", b"II*\0", b"\x89PNG\r\n"])
def test_what_is_no_slide_is_refused_by_name(tmp_path, content):
    (tmp_path / "note.svs").write_bytes(content)
    with pytest.raises(SlideError, match=r"note\.svs"):
        open_reader(tmp_path / "note.svs")


@pytest.mark.parametrize("layout", [{}, {"tile": (64, 64)}])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint32])
def test_tiff_of_other_numbers_than_pixels_is_refused_when_it_is_opened(tmp_path, histology, dtype, layout):
    tifffile.imwrite(tmp_path / "a.tif", histology.astype(dtype), photometric="rgb", **layout)
    with pytest.raises(SlideError, match=r"a\.tif: must hold 8 or 16 bit pixels; convert it to 8 bit. Received: "):
        open_reader(tmp_path / "a.tif")


@pytest.mark.filterwarnings("error")
def test_large_picture_is_taken_without_a_warning_and_a_larger_one_refused_with_a_remedy(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    assert read(tmp_path / "a.png", window=(0, 0, 64, 64)).shape == (64, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)
    with pytest.raises(SlideError, match=r"a\.png: has more than 4094 pixels.*; convert it to a tiled TIFF"):
        open_reader(tmp_path / "a.png")


@pytest.mark.parametrize("image", [np.zeros((5, 64, 64), np.uint8), np.zeros((64, 64), np.float32)])
def test_tiff_that_is_no_picture_is_refused_by_name(tmp_path, image):
    tifffile.imwrite(tmp_path / "stack.tif", image, photometric="minisblack")
    with pytest.raises(SlideError, match=r"stack\.tif"), open_slide(tmp_path / "stack.tif") as slide:
        slide.read_region(0, 0, 0, 8, 8)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "strips.tif", "tiles.tif", "a.ome.tif", "slide.tif"])
def test_truncated_file_is_refused_by_name(tmp_path, histology, sample_slide, name):
    path = tmp_path / name
    if name == "slide.tif":
        path.write_bytes(sample_slide.read_bytes())
    elif name == "a.ome.tif":
        write_ome(path, histology, photometric="rgb", tile=(128, 128), compression="zlib")
    elif name.endswith("tif"):
        tifffile.imwrite(path, histology, photometric="rgb", **({"tile": (64, 64)} if "tiles" in name else {}))
    else:
        Image.fromarray(histology).save(path)
    with pytest.raises(SlideError, match=path.name), open_slide(truncate(path)) as slide:
        slide.read_region(0, 0, 0, 512, 512)


@pytest.mark.parametrize("slide", ["CMU-1-Small-Region.svs", "fluorescence-DAPI.ndpi", "tcga-cr-7395-01a-01-ts1.svs"])
def test_truncated_scanner_files_are_refused_by_name(tmp_path, shared_data, slide):
    path = tmp_path / slide
    path.write_bytes((shared_data / "slides" / slide).read_bytes())
    with pytest.raises(SlideError, match=slide):
        open_reader(truncate(path, 0.97))


def test_openslide_reads_on_after_a_broken_tile(broken_slide, histology):
    reader = open_reader(broken_slide)
    with pytest.raises(openslide.OpenSlideError):
        reader.read(0, 128, 128, 128, 128)
    np.testing.assert_array_equal(reader.read(0, 256, 128, 128, 128)[..., :3], histology[128:256, 256:384])


@pytest.mark.parametrize(("slide", "mpp", "levels"), [
    ("CMU-1-Small-Region.svs", 0.499, 1), ("OS-1-detail.ome.tif", 0.2271, 1), ("fluorescence-DAPI.ndpi", 0.2282, 7),
    ("metaplasia-HE.tif", 0.2528, 5), ("tcga-cr-7395-01a-01-ts1.svs", None, 2)])
def test_real_slides_say_their_mpp_and_levels(shared_data, slide, mpp, levels):
    reader = open_reader(shared_data / "slides" / slide)
    assert reader.mpp == (mpp if mpp is None else pytest.approx(mpp, abs=1e-4))
    assert len(reader.level_dimensions) == levels


def test_real_ome_tiff_equals_what_tifffile_reads_whole(shared_data):
    path = shared_data / "slides" / "OS-1-detail.ome.tif"
    np.testing.assert_array_equal(read(path, window=(0, 0, 1101, 1101)), tifffile.imread(path))
