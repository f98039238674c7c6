# SPDX-License-Identifier: Apache-2.0
"""Microns per pixel are what a file states of the image that is read, or unknown; never another image's."""
from __future__ import annotations

import struct

import numpy as np
import pytest
import tifffile

from pipelines.slide import open_slide

TILED = {"photometric": "rgb", "tile": (128, 128)}


def mpp_of(path):
    with open_slide(path) as slide:
        return slide.mpp


def ome(path, image, size):
    xml = ('<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
           '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="512" SizeY="512" SizeC="3" SizeZ="1" '
           f'SizeT="1" {size}><Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/>'
           "</Pixels></Image></OME>")
    tifffile.imwrite(path, image, metadata=None, description=xml.encode(), **TILED)
    return path


@pytest.mark.parametrize(("size", "unit", "mpp"), [
    ("0.5", "\N{MICRO SIGN}m", 0.5), ("0.5", "\N{GREEK SMALL LETTER MU}m", 0.5), ("0.0005", "mm", 0.5),
    ("500", "nm", 0.5), ("5e-7", "m", 0.5), ("5000", "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}", 0.5),
    ("0.5", "pixel", None), ("0.5", "reference frame", None), ("0,5", "\N{MICRO SIGN}m", None),
    ("-0.5", "\N{MICRO SIGN}m", None), ("", "mm", None)])
def test_ome_units_are_converted_and_what_is_no_length_is_unknown(tmp_path, histology, size, unit, mpp):
    text = "".join(f'PhysicalSize{axis}="{size}" PhysicalSize{axis}Unit="{unit}" ' for axis in "XY")
    assert mpp_of(ome(tmp_path / "a.ome.tif", histology, text)) == (mpp and pytest.approx(mpp))


def test_mpp_is_not_that_of_another_image_of_the_same_size(tmp_path, histology):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        for image, name, mpp in ((np.full_like(histology, 200), "label", 20.0), (histology, "slide", 0.5)):
            tiff.write(image, metadata={"axes": "YXS", "Name": name, "PhysicalSizeX": mpp, "PhysicalSizeY": mpp},
                       **TILED)
    assert mpp_of(tmp_path / "a.ome.tif") == pytest.approx(0.5)


def test_images_that_cannot_be_told_apart_and_state_different_mpp_have_none(tmp_path, histology):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        for mpp in (20.0, 0.5):
            tiff.write(histology, metadata={"axes": "YXS", "Name": "one", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp},
                       **TILED)
    assert mpp_of(tmp_path / "a.ome.tif") is None


def test_resolution_of_an_unknown_unit_is_none(tmp_path, histology):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, histology, photometric="rgb", metadata=None, resolution=(2, 2), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["ResolutionUnit"].overwrite(9)
    assert mpp_of(path) is None


@pytest.mark.parametrize("layout", [TILED | {"compression": "zlib"}, {"photometric": "rgb"}])
@pytest.mark.parametrize("fraction", [(0, 0), (5, 0), (0, 5)])
def test_resolution_that_is_no_number_is_unknown(tmp_path, histology, layout, fraction):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, histology, metadata=None, resolution=(20000, 20000), resolutionunit="CENTIMETER", **layout)
    with tifffile.TiffFile(path) as tiff:
        places = [tiff.pages[0].tags[f"{axis}Resolution"].valueoffset for axis in "XY"]
    content = bytearray(path.read_bytes())
    for place in places:
        struct.pack_into("<II", content, place, *fraction)
    path.write_bytes(content)
    with open_slide(path) as slide:
        assert slide.mpp is None
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 512, 512), histology)
