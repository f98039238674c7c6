# SPDX-License-Identifier: Apache-2.0
"""OME-Zarr, of version 0.1 to 0.5: one plane of grey or RGB, read chunk by chunk. Needs the extra `zarr`."""
from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.console import import_optional
from pipelines.errors import SlideError
from pipelines.readers.colours import check_channels
from pipelines.readers.folders import LARGEST_JSON, zarr_attributes
from pipelines.readers.limits import LARGEST_SEGMENT_BYTES, Dimensions
from pipelines.readers.resolution import MICRONS, mean_mpp
from pipelines.readers.zarr_codecs import WIDEST, check_codecs, limit_of, register

UNITS = MICRONS | {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4,
                   "meter": 1e6, "angstrom": 1e-4, "picometer": 1e-6, "inch": 25400.0}
OLDEST_AXES = ("t", "c", "z", "y", "x")  # of versions without axes
DESCRIPTIONS = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")  # of a group or an array
LONGEST_STORED = 2  # times what a chunk or shard expands to; what does not compress takes a little more than itself


class ZarrReader:
    """The largest multiscale image of an OME-Zarr, which has no place for a colour profile."""

    icc_profile: bytes | None = None

    def __init__(self, path: Path) -> None:
        zarr = import_optional("zarr", "zarr")
        register()
        folders = [path] if "multiscales" in zarr_attributes(path) else sorted(path.glob("[0-9]*"))  # of a collection
        images = [_levels(_open_group(zarr, folder), folder, image) for folder in folders
                  for image in zarr_attributes(folder).get("multiscales", ())[:1] if image.get("datasets")]
        if not images:
            raise SlideError(f"{path}: has no multiscale image; write it again")
        self._levels, datasets, folder, image = max(images, key=lambda one: _pixels(one[0][0]))
        check_channels(path, [channel.get("color") for channel in zarr_attributes(folder).get("omero", {}).get(
            "channels", ())])
        axes = image.get("axes", OLDEST_AXES)
        self._axes = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
        for level in self._levels:
            _check(path, level, dict(zip(self._axes, level.shape, strict=True)))
        column, row = self._axes.index("x"), self._axes.index("y")
        self.level_dimensions: tuple[Dimensions, ...] = tuple(
            (level.shape[column], level.shape[row]) for level in self._levels)
        self.tile_sizes: tuple[Dimensions, ...] = tuple(
            (level.chunks[column], level.chunks[row]) for level in self._levels)
        width, height = self.level_dimensions[0]
        self.level_downsamples = tuple((width / w + height / h) / 2 for w, h in self.level_dimensions)
        self.mpp_xy = self._mpp((image, datasets[0]), axes)
        self.mpp = mean_mpp(self.mpp_xy)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `pipelines.readers.Reader`."""
        window = {"y": slice(y, y + height), "x": slice(x, x + width), "c": slice(None)}
        where = tuple(window.get(name, 0) for name in self._axes)
        self._check_stored(self._levels[level], where)
        pixels = self._levels[level][where]
        kept = [name for name in self._axes if name in window]
        pixels = np.moveaxis(pixels, [kept.index("y"), kept.index("x")], [0, 1])
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        return pixels if "c" in kept else pixels[..., np.newaxis]

    read_own = read

    def close(self) -> None:
        """See `pipelines.readers.Reader`. Nothing stays open between reads."""

    def _check_stored(self, level: Any, where: tuple[slice | int, ...]) -> None:
        """Refuse to read files of chunks that are far too long, and those that are not there, which would be black.

        Where those show as white they are glass.

        Raises:
            SlideError: A chunk is missing or too long.
        """
        is_glass = level.fill_value == np.iinfo(level.dtype).max if level.dtype != np.bool_ else level.fill_value
        spans = [part.indices(side) if isinstance(part, slice) else (part, part + 1, 1)
                 for part, side in zip(where, level.shape, strict=True)]
        ranges = [range(start // size, -(-stop // size))
                  for (start, stop, _), size in zip(spans, level.shards or level.chunks, strict=True)]
        longest = LONGEST_STORED * limit_of(level.shards or level.chunks, level.dtype, WIDEST)
        for chunk in product(*ranges):
            file = Path(str(level.store.root)) / level.path / level.metadata.encode_chunk_key(chunk)
            if file.is_file():
                if file.stat().st_size > longest:
                    raise SlideError(f"{file}: is longer than its pixels can be; write the slide again")
            elif not is_glass:
                raise SlideError(f"{file}: is missing, and would be read as black; copy the slide again, or write "
                                 "black chunks too")

    def _mpp(self, places: tuple[dict[str, Any], ...], axes: Any) -> tuple[float, float] | None:
        """Return the scale of x and y in microns, by an image and its level; None without a scale or a unit."""
        scales = [step["scale"] for place in places for step in place.get("coordinateTransformations", ())
                  if step["type"] == "scale"]
        if not scales:
            return None
        scale = np.prod(scales, axis=0)
        sizes = []
        for name in ("x", "y"):
            number = self._axes.index(name)
            unit = axes[number].get("unit") if isinstance(axes[number], dict) else None
            sizes.append(float(scale[number]) * UNITS.get(unit or "", np.nan))
        return (sizes[0], sizes[1]) if min(sizes) > 0 else None


def _open_group(zarr: Any, folder: Path) -> Any:
    _check_descriptions(folder)
    return zarr.open_group(folder, mode="r")


def _check_descriptions(folder: Path) -> None:
    """Refuse what describes a group or an array and is far too long, since Zarr reads it as a whole.

    Raises:
        SlideError: It is.
    """
    for name in DESCRIPTIONS:
        file = folder / name
        if file.is_file() and file.stat().st_size > LARGEST_JSON:
            raise SlideError(f"{file}: is longer than {LARGEST_JSON} bytes; write it again")


def _levels(group: Any, folder: Path, image: dict[str, Any]) -> tuple[list[Any], list[dict[str, Any]], Path,
                                                                      dict[str, Any]]:
    """Return the levels of an image, the largest first, and what is said of each; the folder and the image.

    Raises:
        SlideError: One is missing.
    """
    for level in image["datasets"]:
        _check_descriptions(folder / level["path"])
        if level["path"] not in group:
            raise SlideError(f"{folder}: its level {level['path']!r} is missing; copy it again")
    datasets = sorted(image["datasets"], key=lambda level: -_pixels(group[level["path"]]))
    return [group[level["path"]] for level in datasets], datasets, folder, image


def _pixels(level: Any) -> int:
    return int(np.prod(level.shape, dtype=object))


def _check(path: Path, level: Any, shape: dict[str, int]) -> None:
    """Refuse what is not a picture of 8 or 16 bit, and chunks that are too large to decode one.

    Raises:
        SlideError: It is one of these.
    """
    if not {"y", "x"} <= set(shape) or shape.get("c", 1) not in (1, 3) or any(
            size > 1 for name, size in shape.items() if name not in ("c", "y", "x")):
        raise SlideError(f"{path}: must hold one plane of grey or RGB; convert it first. Received: {shape}")
    if level.dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.bool_):
        raise SlideError(f"{path}: must hold 8 or 16 bit pixels; convert it to 8 bit. Received: {level.dtype}")
    size = int(np.prod(level.chunks, dtype=object)) * level.dtype.itemsize
    if size > LARGEST_SEGMENT_BYTES:
        raise SlideError(f"{path}: has chunks of {size / 2**30:.1f} GiB, more than {LARGEST_SEGMENT_BYTES / 2**30:.0f};"
                         " write it again with small chunks")
    check_codecs(path, level)
