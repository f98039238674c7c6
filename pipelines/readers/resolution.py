# SPDX-License-Identifier: Apache-2.0
"""Microns per pixel (mpp) as files state them, and whether they can be a microscope's."""
from __future__ import annotations

import math
from xml.etree import ElementTree

import tifffile

from pipelines.readers.limits import Dimensions

# Other resolutions are those of printers and screens (72 dpi is 353 microns per pixel).
PLAUSIBLE_MPP = (0.05, 50.0)
# The first two differ: the sign for micro is the one of OME, the Greek letter is what many writers take.
MICRONS = {"\N{MICRO SIGN}m": 1.0, "\N{GREEK SMALL LETTER MU}m": 1.0, "um": 1.0, "micron": 1.0, "pm": 1e-6, "Å": 1e-4,
           "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25400.0}
UNITS_OF_TAGS = range(2, 6)  # inch, centimetre; and tifffile's millimetre and micron


def mean_mpp(mpp_xy: tuple[float, float] | None) -> float | None:
    """Return the mean microns per pixel, or None if they cannot be a microscope's."""
    plausible = mpp_xy is not None and all(PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1] for mpp in mpp_xy)
    return sum(mpp_xy) / 2 if mpp_xy and plausible else None


def ome_mpp(xml: str | None, name: str, size: Dimensions) -> tuple[float, float] | None:
    """Return the PhysicalSize, x and y, in microns of an OME-XML's image of this size, by its name if several have it.

    None if none is stated, or images that cannot be told apart state different ones.
    """
    images = ElementTree.fromstring(xml).iterfind(".//{*}Image") if xml else ()
    found = [(image.get("Name"), pixels) for image in images for pixels in image.iterfind("{*}Pixels")
             if (pixels.get("SizeX"), pixels.get("SizeY")) == (str(size[0]), str(size[1]))]
    stated = {_stated(pixels) for own, pixels in found if own == name} or {_stated(pixels) for _, pixels in found}
    return stated.pop() if len(stated) == 1 else None


def _stated(pixels: ElementTree.Element) -> tuple[float, float] | None:
    try:
        mpp_x, mpp_y = (float(pixels.get(f"PhysicalSize{axis}", "nan"))
                        * MICRONS.get(pixels.get(f"PhysicalSize{axis}Unit", "um"), math.nan) for axis in "XY")
    except ValueError:  # a comma, or other words
        return None
    return (mpp_x, mpp_y) if mpp_x > 0 and mpp_y > 0 else None


def tags_mpp(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return the mpp, x and y, of the TIFF resolution tags, if they have a unit."""
    if page.resolutionunit not in UNITS_OF_TAGS:
        return None
    x, y = page.get_resolution(tifffile.RESUNIT.MICROMETER)
    return (1 / x, 1 / y) if x and y else None
