# SPDX-License-Identifier: Apache-2.0
"""The formats of a finished slide: what each needs, how it is written, and the description in it.

OME-Zarr is 0.4 (Zarr 2): channels first, a chunk for each tile. It is lossless, since Zarr has no JPEG. The units are
microns; level k covers 2^k x 2^k pixels of level 0 with each of its own, so it is translated by half of what a pixel
grew (half-pixel centres).
"""
from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pipelines.console import import_optional
from pipelines.errors import require
from pipelines.pyramid.dicom import Origin, write_dicom
from pipelines.pyramid.tiff import Level, PyramidOptions, decode, write_tiff
from pipelines.readers.folders import zarr_attributes

EXTRAS = {"dicom": "pydicom", "zarr": "zarr"}  # formats that are folders, whose extras have their name: the package
DESCRIPTION = "sr_keras"  # the attribute that holds the description
COLOURS = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
LEVEL_NAME = re.compile(r"level\d+\.dcm")


def check_format(path: Path, options: PyramidOptions, mpp: float | None, description: str) -> None:
    """Refuse, before the work, what a format cannot hold, and a path whose content must not be lost.

    Raises:
        ValueError: The mpp is missing or wrong, another option does not fit, or a folder that is not a slide is there.
        UserError: The format needs an extra that is not installed.
    """
    kind = options.format
    require(mpp is None or mpp > 0, "mpp", "be positive", "give microns per pixel, or None if unknown", mpp)
    require(kind != "dicom" or mpp is not None, "mpp", "be known to write DICOM", "set --assume_mpp", mpp)
    require(kind != "dicom" or bool(description), "description", "be given to write DICOM", "its UIDs follow from it",
            description)
    require(kind != "zarr" or options.quality is None, "quality", "be left out for Zarr, which is lossless",
            "remove it", options.quality)
    if path.exists():
        require(path.is_dir() == (kind in EXTRAS), "output", f"be {'a folder' if kind in EXTRAS else 'a file'}",
                "choose another name", str(path))
        require(not path.is_dir() or _is_own(path), "output", "be a slide that this program wrote, to be replaced",
                "choose another name, this folder holds something else", str(path))
    if kind in EXTRAS:
        import_optional(EXTRAS[kind], kind)


def write_slide(path: Path, levels: Sequence[Level], tiles: Callable[[int], Iterable[bytes]], options: PyramidOptions,
                mpp: float | None, description: str, icc_profile: bytes | None, origin: Origin | None) -> None:
    """Write a pyramid to an empty file or folder; arguments as of `pipelines.pyramid.tiff.write_tiff`.

    Zarr has no place for a colour profile.
    """
    if options.format == "zarr":
        write_zarr(path, levels, tiles, options, mpp, description)
    elif options.format == "dicom":
        write_dicom(path, levels, tiles, options, float(mpp or 0), description, icc_profile, origin or Origin())
    else:
        write_tiff(path, levels, tiles, options, mpp, description, icc_profile)


def write_zarr(path: Path, levels: Sequence[Level], tiles: Callable[[int], Iterable[bytes]], options: PyramidOptions,
               mpp: float | None, description: str) -> None:
    """Write a pyramid into an empty folder; the other arguments as of `pipelines.pyramid.tiff.write_tiff`."""
    zarr = import_optional("zarr", "zarr")
    codec = import_optional("numcodecs", "zarr").Blosc(cname="zstd", clevel=5, shuffle=0)
    group = zarr.open_group(path, mode="w-", zarr_format=2, attributes=attributes(len(levels), mpp, description))
    for number, level in enumerate(levels):
        array = group.create_array(str(number), shape=(3, level.height, level.width), dtype=np.uint8,
                                   chunks=(3, level.tile, level.tile), compressors=codec, fill_value=0,
                                   chunk_key_encoding={"name": "v2", "separator": "/"},
                                   config={"write_empty_chunks": True})  # a chunk that is missing is then a loss
        for index, data in enumerate(tiles(number)):
            x, y, width, height = level.box(*divmod(index, level.columns))
            array[:, y:y + height, x:x + width] = np.moveaxis(decode(data, options)[:height, :width], -1, 0)


def attributes(count: int, mpp: float | None, description: str) -> dict[str, Any]:
    """Return the metadata of OME-NGFF 0.4 for an RGB pyramid of `count` levels."""
    unit = {} if mpp is None else {"unit": "micrometer"}
    datasets = []
    for number in range(count):
        size, shift = (mpp or 1.0) * 2**number, (mpp or 1.0) * (2**number - 1) / 2
        datasets.append({"path": str(number), "coordinateTransformations": [
            {"type": "scale", "scale": [1.0, size, size]},
            {"type": "translation", "translation": [0.0, shift, shift]}]})
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {
        "multiscales": [{
            "version": "0.4", "name": "sr", "type": "2x2 means", "datasets": datasets,
            "axes": [{"name": "c", "type": "channel"}, *({"name": name, "type": "space", **unit} for name in "yx")]}],
        "omero": {"version": "0.4", "rdefs": {"model": "color"}, "channels": [
            {"label": name, "color": colour, "active": True, "window": window} for name, colour in COLOURS.items()]},
        DESCRIPTION: description}


def read_description(path: Path) -> str:
    """Return the description that a finished slide was written with, among other text of its format."""
    if path.is_dir() and (found := zarr_attributes(path)):
        return str(found.get(DESCRIPTION, ""))
    if path.is_dir():
        image = import_optional("pydicom", "dicom").dcmread(path / "level0.dcm", stop_before_pixels=True)
        return str(image.get("ImageComments", ""))
    with tifffile.TiffFile(path) as tiff:
        return html.unescape(tiff.pages[0].description)


def _is_own(folder: Path) -> bool:
    """Whether a folder holds nothing but a slide of this program."""
    if DESCRIPTION in zarr_attributes(folder):
        return True
    return all(LEVEL_NAME.fullmatch(path.name) for path in folder.iterdir())
