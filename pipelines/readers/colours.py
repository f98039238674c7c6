# SPDX-License-Identifier: Apache-2.0
"""What a TIFF says of its colours, against what it holds: readers that believe other parts show other colours."""
from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import tifffile
from PIL.JpegImagePlugin import JpegImageFile
from tifffile import PHOTOMETRIC

from pipelines.errors import SlideError
from pipelines.readers.jpeg import JPEG_CODES, JPEG_START, whole

# Numbers for each pixel, with and without transparency.
SAMPLES = {PHOTOMETRIC.MINISWHITE: (1, 2), PHOTOMETRIC.MINISBLACK: (1, 2), PHOTOMETRIC.RGB: (3, 4),
           PHOTOMETRIC.PALETTE: (1, 2), PHOTOMETRIC.SEPARATED: (4, 5), PHOTOMETRIC.YCBCR: (3, 3),
           PHOTOMETRIC.CIELAB: (3, 4)}
JPEG_2000 = (33003, 33004, 33005, 34712)  # compressions that may hold YCbCr, as JPEG may
PLAIN = (PHOTOMETRIC.RGB, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
TO_RGB = (6, 7, 33003)  # compressions whose decoders turn YCbCr into RGB
TRANSPARENCY = {1, 2}  # TIFF's ExtraSamples; 0 is a number of another meaning
CHANNELS, WHITE = ["FF0000", "00FF00", "0000FF"], "FFFFFF"
PALETTE_LIMIT = 256  # of colours of 16 bit
SEPARATE = 2  # TIFF's PlanarConfiguration
SUBSAMPLING, WHOLE = 530, (1, 1)


def check_colours(page: tifffile.TiffPage) -> None:
    """Refuse a page whose tags or JPEG data contradict each other, and YCbCr that may be stored in two ways.

    Raises:
        SlideError: It is such a page.
    """
    path, stated, samples = page.parent.filehandle.path, page.photometric, page.samplesperpixel
    if samples not in SAMPLES.get(stated, (samples,)):
        raise SlideError(f"{path}: says that its pixels are {stated.name} and has {samples} numbers for each; save it "
                         "again as RGB")
    if stated == PHOTOMETRIC.YCBCR and page.compression not in (*JPEG_CODES, *JPEG_2000):
        tag = page.tags.get(SUBSAMPLING)
        if tag is None or tuple(tag.value) != WHOLE:
            raise SlideError(f"{path}: holds YCBCR without JPEG, which readers decode in different ways; save it again "
                             "as RGB")
    if stated == PHOTOMETRIC.PALETTE and page.colormap is not None and 0 < page.colormap.max() < PALETTE_LIMIT:
        raise SlideError(f"{path}: has a colour table of 8 bit, which readers show in its colours or as black; save it "
                         "again as RGB")
    components, colours = jpeg_colours(page)
    if components not in (None, 1 if page.planarconfig == SEPARATE else samples):
        raise SlideError(f"{path}: says that it has {samples} numbers for each pixel, and its JPEG data have "
                         f"{components}; save it again as RGB")
    # JFIF is always YCbCr, and some writers call it RGB.
    if colours and {stated, colours} == {PHOTOMETRIC.YCBCR, PHOTOMETRIC.RGB} and not page.is_jfif:
        raise SlideError(f"{path}: says that its pixels are {stated.name}, and its JPEG data say {colours.name}; save "
                         "it again as RGB")


def check_channels(path: Path, colours: Sequence[str | None]) -> None:
    """Refuse three channels that are not red, green and blue in this order, as RRGGBB; fluorescence for instance.

    Raises:
        SlideError: They are others. White, or none, does not tell.
    """
    stated = [(colour or WHITE)[-6:].upper() for colour in colours]
    if len(stated) == len(CHANNELS) and stated != CHANNELS and set(stated) != {WHITE}:
        raise SlideError(f"{path}: its channels are not red, green and blue; convert it to RGB. "
                         f"Received: {', '.join(stated)}")


def is_plain(page: tifffile.TiffPage) -> bool:
    """Whether tifffile decodes a page to grey or RGB."""
    return page.photometric in PLAIN or (page.photometric == PHOTOMETRIC.YCBCR and page.compression in TO_RGB)


def is_transparent(page: tifffile.TiffPage) -> bool:
    """Whether the last number of a pixel is its transparency."""
    return bool(TRANSPARENCY.intersection(page.extrasamples))


def jpeg_colours(page: tifffile.TiffPage) -> tuple[int | None, PHOTOMETRIC | None]:
    """Return what `colours_of` does of the first JPEG of a page that has data."""
    file = page.parent.filehandle
    first = next(((place, size) for place, size in zip(page.dataoffsets, page.databytecounts, strict=False) if size),
                 None)
    if page.compression not in JPEG_CODES or first is None:
        return None, None
    file.seek(first[0])
    data = file.read(first[1])
    return colours_of(whole(data, page.jpegtables)) if data.startswith(JPEG_START) else (None, None)


def colours_of(data: bytes) -> tuple[int, PHOTOMETRIC | None]:
    """Return the components of a JPEG, and what these are if it says it.

    Source: libjpeg's rules, jdapimin.c.
    """
    with JpegImageFile(io.BytesIO(data)) as image:
        names, transform = bytes(layer[0] for layer in image.layer), image.info.get("adobe_transform")
        is_jfif = "jfif" in image.info
    if len(names) != 3 or not (is_jfif or transform is not None or names == b"RGB"):
        return len(names), None
    return 3, PHOTOMETRIC.YCBCR if is_jfif or transform else PHOTOMETRIC.RGB
