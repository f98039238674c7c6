# SPDX-License-Identifier: Apache-2.0
"""The finished OME-Zarr 0.4 (Zarr 2): channels first, a chunk for each tile.

It is lossless, since Zarr has no JPEG. The units are microns; level k covers 2^k x 2^k pixels of level 0 with each of
its own, so it is translated by half of what a pixel grew (half-pixel centres).
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.console import import_optional
from pipelines.pyramid.tiff import Level, PyramidOptions, decode

DESCRIPTION = "sr_keras"  # the attribute that holds the description
COLOURS = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}


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
