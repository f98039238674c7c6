"""A finished slide as a file: tiles that are encoded already, laid out as BigTIFF or OME-TIFF.

Always BigTIFF: whether 4 GiB would have done is known too late, and every reader of slides reads it. The resolution
tags of level k say mpp * 2^k, which is how its pixels were made. There is no date, no label and no name of a software.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from pipelines.pyramid.tiles import Level, PyramidOptions

SUBSAMPLING, POSITIONING, SHORT, CENTRED = 530, 531, 3, 1  # two tags, a type and a value
REDUCED = 1  # NewSubfileType: a smaller version of another image in the file
MICRONS_PER_CM = 1e4
OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def write_tiff(path: Path, levels: Sequence[Level], tiles: Callable[[int], Iterable[bytes]], options: PyramidOptions,
               mpp: float | None, description: str) -> None:
    """Write a pyramid.

    Args:
        path: What to write.
        levels: Its levels, the largest first.
        tiles: Gives a level's encoded tiles, row by row.
        options: How they are encoded, and the format.
        mpp: Microns per pixel of level 0, None where nobody knows: then the file says none.
        description: What ImageDescription holds, in an OME-TIFF the Description of the image.
    """
    ome = options.format == "ome"
    comment = ome_xml(levels[0], mpp, description) if ome else printable(description)
    with tifffile.TiffWriter(path, bigtiff=True, byteorder="<", ome=False) as tiff:
        for i, level in enumerate(levels):
            place: dict[str, Any] = {"subfiletype": REDUCED}
            if i == 0:
                place = {"subfiletype": 0, "description": comment.encode(), "subifds": len(levels) - 1 if ome else 0}
            tiff.write(iter(tiles(i)), shape=(level.height, level.width, 3), dtype=np.uint8, photometric="rgb",
                       tile=(level.tile, level.tile), metadata=None, software=False, **_encoding(options),
                       **_resolution(mpp, i), **place)
    if ome and options.quality is not None:
        _leave_subsampling_to_the_tiles(path)


def ome_xml(level: Level, mpp: float | None, description: str) -> str:
    """Return the OME-XML of one RGB image, for a file in UTF-8.

    No letter is written as a reference: Bio-Formats 7.3 takes the ampersand off `&#181;m` and then knows no such unit.
    """
    size = {} if mpp is None else {"PhysicalSizeX": repr(mpp), "PhysicalSizeXUnit": "µm",
                                   "PhysicalSizeY": repr(mpp), "PhysicalSizeYUnit": "µm"}
    root = ElementTree.Element("OME", {
        "xmlns": OME, "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
        "xsi:schemaLocation": f"{OME} {OME}/ome.xsd"})
    image = ElementTree.SubElement(root, "Image", {"ID": "Image:0"})
    ElementTree.SubElement(image, "Description").text = printable(description)
    pixels = ElementTree.SubElement(image, "Pixels", {
        "ID": "Pixels:0", "DimensionOrder": "XYCZT", "Type": "uint8", "SizeX": str(level.width),
        "SizeY": str(level.height), "SizeC": "3", "SizeZ": "1", "SizeT": "1", "BigEndian": "false",
        "Interleaved": "true", **size})
    ElementTree.SubElement(pixels, "Channel", {"ID": "Channel:0:0", "SamplesPerPixel": "3"})
    ElementTree.SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": "1"})
    return '<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, encoding="unicode")


def printable(text: str) -> str:
    """Return a text without what neither TIFF nor XML can hold: a file's name may contain anything."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def _encoding(options: PyramidOptions) -> dict[str, Any]:
    if options.quality is None:
        return {"compression": "adobe_deflate", "predictor": True}
    return {"compression": "jpeg", "subsampling": (1, 1)}


def _leave_subsampling_to_the_tiles(path: Path) -> None:
    """Put YCbCrPositioning, centred, in the place of YCbCrSubSampling, which says what every JPEG tile says too.

    Bio-Formats 7.3, and with it QuPath, Fiji and OMERO, takes 4:4:4 there to mean tiles that its decoder left in YCbCr,
    and turns into RGB what is RGB already: all is pink (its issues 3711 and 4166). tifffile and libtiff look into the
    tiles, but GDAL and OpenCV tell of it in a warning and ITK refuses the file, so that a TIFF for all keeps the tag.
    """
    with tifffile.TiffFile(path, mode="r+") as tiff:
        pages = [page for first in tiff.pages for page in (first, *(first.pages or ()))]
        for place in [page.tags[SUBSAMPLING].offset for page in pages]:
            tiff.filehandle.seek(place)
            tiff.filehandle.write(struct.pack("<HHQQ", POSITIONING, SHORT, 1, CENTRED))


def _resolution(mpp: float | None, number: int) -> dict[str, Any]:
    if mpp is None:
        return {}
    pixels_per_cm = MICRONS_PER_CM / (mpp * 2**number)
    return {"resolution": (pixels_per_cm, pixels_per_cm), "resolutionunit": "CENTIMETER"}
