# SPDX-License-Identifier: Apache-2.0
"""Outputs are what Bio-Formats reads, which Fiji, OMERO and QuPath read by."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.slide import open_slide
from sr_keras.slides.enlarge import EnlargeOptions, enlarge_file

JAR = os.environ.get("SR_KERAS_BIOFORMATS_JAR", "")
pytestmark = [
    pytest.mark.java,
    pytest.mark.skipif(not shutil.which("java"), reason="java is not installed"),
    pytest.mark.skipif(not Path(JAR).is_file(), reason="SR_KERAS_BIOFORMATS_JAR does not name Bio-Formats' jar")]
NAME = "größe <&>.ome.tif"
LEVELS = [(1204, 804), (602, 402), (301, 201)]


@pytest.fixture(scope="module")
def bioformats(tmp_path_factory) -> Callable[..., str]:
    """Run a tool of Bio-Formats, without network, and return what it says."""
    home = tmp_path_factory.mktemp("home")

    def run(tool: str, *arguments: object) -> str:
        command = ["java", "-Dfile.encoding=UTF-8", "-Dsun.jnu.encoding=UTF-8", f"-Duser.home={home}", "-cp", JAR,
                   f"loci.formats.tools.{tool}", "-no-upgrade", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False, timeout=300,
                              env=os.environ | {"LC_ALL": "C.UTF-8"})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module", params=[None, 90], ids=["lossless", "jpeg"])
def output(request, loaded, sample_slide, tmp_path_factory) -> Path:
    """An OME-TIFF as a run writes it."""
    path = tmp_path_factory.mktemp("output") / NAME
    options = EnlargeOptions(region=(64, 32, 301, 201), lossless=request.param is None, quality=request.param)
    enlarge_file(loaded, sample_slide, path, options)
    return path


def test_size_and_levels_are_those_of_the_output(bioformats, output):
    told = bioformats("ImageInfo", "-nopix", "-noflat", output)
    assert "Checking file format [OME-TIFF]" in told
    assert "Series count = 1\n" in told
    assert [int(side) for side in re.findall(r"\tsizeX\[\d\] = (\d+)", told)] == [width for width, _ in LEVELS]
    for line in ("Resolutions = 3", "Width = 1204", "Height = 804", "SizeC = 3 (effectively 1)", "RGB = true (3)",
                 "Tile size = 512 x 512", "Pixel type = uint8"):
        assert f"\t{line}" in told


def test_pixel_size_is_that_of_the_output_in_microns(bioformats, output):
    xml = bioformats("ImageInfo", "-nopix", "-noflat", "-omexml-only", output)
    pixels = ElementTree.fromstring(xml.encode()).find(".//{*}Pixels")
    assert pixels is not None
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit")) == ("0.125", "µm")
    assert (pixels.get("PhysicalSizeY"), pixels.get("PhysicalSizeYUnit")) == ("0.125", "µm")
    assert (pixels.get("SizeX"), pixels.get("SizeY"), pixels.get("SizeC")) == ("1204", "804", "3")
    assert '"file": "immunohistochemistry.tif"' in ElementTree.fromstring(xml.encode()).findtext(".//{*}Description")


def test_pixels_of_all_levels_are_those_of_the_output(bioformats, output, tmp_path):
    bioformats("ImageConverter", output, tmp_path / "level_%s.png")
    with tifffile.TiffFile(output) as tiff:
        levels = [level.asarray().astype(int) for level in tiff.series[0].levels]
    for number, (level, (width, height)) in enumerate(zip(levels, LEVELS, strict=True)):
        with Image.open(tmp_path / f"level_{number}.png") as picture:
            assert picture.size == (width, height)
            assert np.abs(np.asarray(picture.convert("RGB")) - level).max() <= 2  # JPEG decoders may round differently


def test_a_dicom_output_has_the_size_and_the_pixel_size_of_the_output(bioformats, loaded, sample_slide, tmp_path):
    pytest.importorskip("pydicom", reason="pip install '.[dicom]'")
    path = tmp_path / "case.dicom"
    enlarge_file(loaded, sample_slide, path, EnlargeOptions(region=(64, 32, 301, 201)))
    first = sorted(path.iterdir())[0]
    told = bioformats("ImageInfo", "-nopix", "-noflat", first)
    assert "Checking file format [DICOM]" in told
    assert [int(side) for side in re.findall(r"\tsizeX\[\d\] = (\d+)", told)] == [width for width, _ in LEVELS]
    xml = bioformats("ImageInfo", "-nopix", "-noflat", "-omexml-only", first)
    pixels = ElementTree.fromstring(xml.encode()).find(".//{*}Pixels")
    assert pixels is not None
    size = {"µm": 1.0, "mm": 1000.0}[pixels.get("PhysicalSizeXUnit")]
    assert float(pixels.get("PhysicalSizeX")) * size == pytest.approx(0.125)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.125)
