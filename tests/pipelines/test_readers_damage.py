# SPDX-License-Identifier: Apache-2.0
"""Damaged JPEG data: what libjpeg notices is refused, whoever decodes the pixels; all else is read as it was."""
from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.errors import SlideError
from pipelines.patches import Skipped, read_patches
from pipelines.pyramid import PyramidOptions, PyramidWriter
from pipelines.readers import OpenSlideReader, PictureReader, TiffReader
from pipelines.readers.jpeg import check_jpeg
from pipelines.slide import open_slide
from pipelines.sources import find_sources

from .conftest import fill

TILE, PLACE, SIDE = 128, (128, 128), 64  # of the files; where one is damaged; what is read there
SECTOR = 512
START_OF_SCAN = b"\xff\xda"  # then the length of its header, in two bytes
READERS = {"a.jpg": PictureReader, "cmyk.jpg": PictureReader, "cmyk.tif": PictureReader, "strips.tif": TiffReader,
           "a.ome.tif": TiffReader, "tiles.tif": OpenSlideReader, "tables.tif": OpenSlideReader,
           "a.dicom": OpenSlideReader, "CMU-1-Small-Region.svs": OpenSlideReader}


@pytest.fixture(params=READERS)
def sound(request, tmp_path, histology):
    """An undamaged file of each kind."""
    path = tmp_path / request.param
    if path.suffix == ".svs":
        path.write_bytes((request.getfixturevalue("shared_data") / "slides" / path.name).read_bytes())
    elif path.suffix == ".dicom":
        pytest.importorskip("pydicom", reason="pip install '.[dicom]'")
        options = PyramidOptions(TILE, 90, "dicom")
        with PyramidWriter(path, 512, 512, 0.5, options, description="made") as pyramid:
            fill(pyramid, histology)
            pyramid.finish()
    elif path.name == "tables.tif":  # which the TIFF keeps, for all its tiles
        pyvips = pytest.importorskip("pyvips", reason="pip install pyvips pyvips-binary")
        pyvips.Image.new_from_array(histology).tiffsave(str(path), tile=True, tile_width=TILE, tile_height=TILE,
                                                        compression="jpeg", Q=90)
    elif path.name in ("tiles.tif", "a.ome.tif"):
        tifffile.imwrite(path, histology, photometric="ycbcr", tile=(TILE, TILE), compression="jpeg")
    else:
        image = Image.fromarray(histology).convert("CMYK" if path.stem == "cmyk" else "RGB")
        image.save(path, **({"compression": "jpeg"} if path.suffix == ".tif" else {}))
    return path


def file_of(path):
    return path / "level0.dcm" if path.is_dir() else path


def jpeg_of(path):
    """Return the offset, length and tables of the JPEG at PLACE."""
    if path.suffix == ".jpg":
        return 0, path.stat().st_size, None
    if path.suffix == ".dicom":
        pydicom = pytest.importorskip("pydicom")
        dataset = pydicom.dcmread(file_of(path))
        frame = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))[5]
        return file_of(path).read_bytes().index(frame), len(frame), None
    with tifffile.TiffFile(path) as tiff:
        page, (x, y) = tiff.pages[0], PLACE
        height, width = page.chunks[:2]
        number = y // height * -(-page.imagewidth // width) + x // width
        return page.dataoffsets[number], page.databytecounts[number], page.jpegtables


def damage(path, change):
    """Change the JPEG at PLACE, between its header and its end; return what the file was."""
    start, length, _ = jpeg_of(path)
    content = file_of(path).read_bytes()
    data = bytearray(content[start:start + length])
    scan = data.index(START_OF_SCAN) + 2
    pixels = scan + int.from_bytes(data[scan:scan + 2], "big")
    data[pixels:-2] = change(data[pixels:-2])
    assert len(data) == length
    file_of(path).write_bytes(content[:start] + data + content[start + length:])
    return content


def zeroed(data, share):
    """A sector that the disk lost."""
    first = int(share * max(0, len(data) - SECTOR))
    end = min(first + SECTOR, len(data))
    return data[:first] + bytes(end - first) + data[end:]


def flipped(data, seed, bits):
    rng = np.random.default_rng(seed)
    for _ in range(bits):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return data


def read(path):
    with open_slide(path) as slide:
        assert isinstance(slide._reader, READERS[path.name])
        return slide.read_region(*PLACE, 0, SIDE, SIDE)


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_zeroed_sector_is_refused_by_name_and_other_places_are_read(sound, share):
    before = read(sound)
    content = damage(sound, lambda data: zeroed(data, share))
    with pytest.raises(SlideError, match=rf"{sound.name}: cannot be read as a slide or image \(.*JPEG"):
        read(sound)
    if READERS[sound.name] is not PictureReader:
        with open_slide(sound) as slide:
            slide.read_region(256, 256, 0, 8, 8)
    file_of(sound).write_bytes(content)
    np.testing.assert_array_equal(read(sound), before)


@pytest.mark.parametrize(("bits", "least"), [(8, 3), (64, 9)])
def test_flipped_bits_are_noticed(sound, bits, least):
    """Of twelve times. Without the check OpenSlide notices few, and Pillow none."""
    noticed = 0
    for seed in range(12):
        content = damage(sound, lambda data, seed=seed: flipped(data, seed, bits))
        try:
            read(sound)
        except SlideError:
            noticed += 1
        file_of(sound).write_bytes(content)
    assert noticed >= least


def test_sound_pixels_are_those_of_pillow(sound):
    if sound.name in ("cmyk.tif", "strips.tif"):
        pytest.skip("a strip is no picture of its own")
    start, length, tables = jpeg_of(sound)
    data = file_of(sound).read_bytes()[start:start + length]
    with Image.open(io.BytesIO(tables[:-2] + data[2:] if tables else data)) as image:
        if sound.suffix == ".svs":  # its JPEGs hold RGB and do not say so
            image.draft("YCbCr", None)
            expected = np.asarray(image)
        else:
            expected = np.asarray(image.convert("RGB"))
    x, y = (side % tile for side, tile in zip(PLACE, expected.shape[1::-1], strict=True))
    np.testing.assert_array_equal(read(sound), expected[y:y + SIDE, x:x + SIDE])


@pytest.mark.parametrize("change", [
    lambda data: data.replace(b"\xff\xdb", b"\0\xff\xdb", 1),  # before a table: cheap cameras do that
    lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\7"), lambda data: data + b"comment"],
    ids=["byte in the header", "newer version", "something behind it"])
def test_what_does_no_harm_to_pixels_is_read(tmp_path, histology, change):
    path = tmp_path / "a.jpg"
    Image.fromarray(histology).save(path)
    before, data = read(path), path.read_bytes()
    assert change(data) != data
    path.write_bytes(change(data))
    np.testing.assert_array_equal(read(path), before)


def test_all_real_jpegs_are_sound(shared_data):
    for path in sorted(shared_data.glob("tiles/val/*/*.jp*g"))[::10]:
        check_jpeg(path.read_bytes())
    with open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs") as slide:
        slide.read_region(0, 0, 0, *slide.dimensions)


def test_damaged_tile_is_skipped_by_name_and_the_rest_goes_on(tmp_path, histology):
    for name in "abc":
        Image.fromarray(histology).save(tmp_path / f"{name}.jpg")
    damage(tmp_path / "b.jpg", lambda data: zeroed(data, 0.5))
    found = list(read_patches(find_sources([tmp_path])[0], PatchOptions(patch_size=512, min_tissue=0)))
    assert [item.where if isinstance(item, Skipped) else item.name for item in found] == ["a", "b.jpg", "c"]
    assert "damaged JPEG data" in found[1].reason
    assert found[1].broken
