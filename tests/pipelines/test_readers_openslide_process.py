# SPDX-License-Identifier: Apache-2.0
"""DICOM is read in a process apart: the same pixels, and a crash of OpenSlide is one line."""
from __future__ import annotations

import os
import shutil
import signal
import struct

import numpy as np
import openslide
import pytest
import tifffile
from skimage.data import immunohistochemistry

from pipelines import extract
from pipelines.errors import SlideError
from pipelines.pyramid import PyramidOptions, PyramidWriter
from pipelines.readers.openslide_process import ApartSlide, associated_images, open_by_library
from pipelines.slide import open_slide

from .conftest import fill

ITEM = b"\xfe\xff\x00\xe0"  # a frame, or the table of their offsets, which comes first
PIXELS = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff" + ITEM


@pytest.fixture
def dicom(tmp_path):
    """A DICOM slide of 512 x 512 pixels."""
    pytest.importorskip("pydicom", reason="pip install '.[dicom]'")
    path = tmp_path / "slide"
    with PyramidWriter(path, 512, 512, 0.5, PyramidOptions(128, 90, "dicom"), description="made") as pyramid:
        fill(pyramid, immunohistochemistry())
        pyramid.finish()
    return path


def crashing(slide):
    """Let the first frame start far behind the next ones in the table of offsets, which crashes OpenSlide 4.0.1."""
    file = slide / "level0.dcm"
    content = bytearray(file.read_bytes())
    struct.pack_into("<I", content, content.index(PIXELS) + len(PIXELS) + 4, 0xE20000)
    file.write_bytes(content)
    return slide


def test_pixels_levels_and_properties_are_those_of_openslide(dicom):
    file = dicom / "level0.dcm"
    with openslide.OpenSlide(file) as there, ApartSlide(file) as apart:
        assert apart.level_dimensions == there.level_dimensions
        assert apart.level_downsamples == there.level_downsamples
        assert apart.properties == dict(there.properties)
        assert associated_images(apart) == associated_images(there) == {}
        for level in range(there.level_count):
            window = ((100, 50), level, (200, 120))
            np.testing.assert_array_equal(apart.read_region(*window), np.asarray(there.read_region(*window)))


def test_a_crash_is_one_line_that_names_the_file(dicom):
    with open_slide(crashing(dicom)) as slide:
        for _ in range(10):  # the last of them without a new process
            with pytest.raises(SlideError, match=r"level0\.dcm") as caught:
                slide.read_region(0, 0, 0, 64, 64)
            assert "\n" not in str(caught.value)


def test_a_crash_costs_the_patches_of_its_frame_alone(dicom, sample_slide, tmp_path, run_program, capfd):
    data = tmp_path / "data"
    data.mkdir()
    crashing(dicom).rename(data / "bad")
    shutil.copy(sample_slide, data / "good.tif")
    assert run_program(extract, f"--data={data}", f"--output={tmp_path / 'shards'}", "--patch_size=64", "--stride=64",
                       "--min_tissue=0", "--workers=1") == 0
    told = capfd.readouterr().out
    assert "124 patches of 2 slides" in told, told  # of 64 each; the frame of 128 x 128 pixels has four
    assert "level0.dcm: OpenSlide crashed on it (SIGSEGV)" in told


def test_after_a_crash_the_rest_of_the_slide_is_read(dicom):
    with open_slide(dicom) as slide:
        sound = slide.read_region(0, 0, 0, 64, 64)
        os.kill(slide._reader._slide._process.pid, signal.SIGSEGV)
        with pytest.raises(SlideError, match=r"crashed on it \(SIGSEGV\)"):
            slide.read_region(0, 0, 0, 64, 64)
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 64, 64), sound)


def test_frames_that_cannot_be_decoded_start_no_other_process(dicom):
    file = dicom / "level0.dcm"
    content = bytearray(file.read_bytes())
    frame = content.index(b"\xff\xd8", content.index(PIXELS))
    content[frame:frame + 400] = bytes(400)
    with open_slide(dicom) as slide:
        sound = slide.read_region(256, 256, 0, 64, 64)
    file.write_bytes(content)
    with open_slide(dicom) as slide:
        process = slide._reader._slide._process
        for _ in range(3):
            with pytest.raises(SlideError, match="slide: cannot be read"):
                slide.read_region(0, 0, 0, 64, 64)
            np.testing.assert_array_equal(slide.read_region(256, 256, 0, 64, 64), sound)
        assert slide._reader._slide._process is process


def test_the_process_ends_with_the_slide(dicom):
    slide = open_slide(dicom)
    process = slide._reader._slide._process
    slide.close()
    assert process.returncode == 0


def test_what_is_no_slide_is_refused_and_leaves_no_process(tmp_path):
    (tmp_path / "x.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    with pytest.raises(openslide.OpenSlideError):
        ApartSlide(tmp_path / "x.dcm")
    with pytest.raises(SlideError, match="no DICOM whole slide image, or a damaged one"):
        open_slide(tmp_path / "x.dcm")


@pytest.mark.parametrize(("page", "left"), [(1, {"label"}), (3, {"thumbnail"})])
def test_an_associated_image_that_claims_a_terabyte_is_left_out(tmp_path, page, left):
    path, pixels = tmp_path / "a.svs", immunohistochemistry()
    words = "Aperio Image Library v1\r\n256x256 [0,0 256x256] (64x64) |AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as writer:
        for image, tile, text in ((pixels[:256, :256], (64, 64), ""), (pixels[:64, :64], None, ""),
                                  (pixels[:128, :128], (64, 64), ""), (pixels[:64, :64], None, "label")):
            writer.write(image, tile=tile, photometric="rgb", compression="jpeg" if tile else None, metadata=None,
                         description=words + text, subfiletype=int(text == "label"))
    with open_by_library(path) as slide:
        assert associated_images(slide).keys() == {"label", "thumbnail"}
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[page].tags["ImageWidth"].overwrite(2_000_000_000, dtype="I")
    with open_by_library(path) as slide:
        assert associated_images(slide).keys() == left


@pytest.mark.parametrize(("stated", "is_true"), [("YBR_FULL_422", True), ("RGB", False)])
def test_jpegs_of_other_colours_than_a_dicom_says_are_refused(dicom, stated, is_true):
    pydicom = pytest.importorskip("pydicom", reason="pip install '.[dicom]'")
    for file in dicom.iterdir():
        data = pydicom.dcmread(file)
        data.PhotometricInterpretation = stated
        data.save_as(file)
    with open_slide(dicom) as slide:
        if is_true:
            error = slide.read_region(0, 0, 0, 512, 512).astype(int) - immunohistochemistry()
            assert np.abs(error).mean() < 4
        else:
            with pytest.raises(SlideError, match="says that its pixels are RGB, and its JPEG data say YCBCR"):
                slide.read_region(0, 0, 0, 512, 512)
