# SPDX-License-Identifier: Apache-2.0
"""Plan a run: its options, and windows that are as large as memory allows, with the least overlap.

The windows depend on the size of the plane, the network and the memory that is allowed, never on the memory that is
free at the moment, so that a resumed run computes the same windows. Cores are whole tiles of the output pyramid.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.config import PatchOptions, check_resolution
from pipelines.errors import require
from pipelines.names import ANONYMOUS
from pipelines.options import AT_LEAST_1, Options, Rule, option, same_as, within
from pipelines.pyramid import PyramidOptions
from pipelines.pyramid.tiff import FORMATS
from pipelines.sources import Region
from sr_keras.model.tiles import BAND_PIXELS, MIN_BAND, Limits, Span, best_spans, computed, spans

SUFFIX_FORMATS = {".ome.tif": "ome", ".ome.tiff": "ome", ".dicom": "dicom", ".zarr": "zarr"}  # others are TIFFs
SR_TILE = 512  # largest side of a pyramid tile, in SR pixels
# GiB that a run takes beside its windows: TensorFlow and the network 0.75, the reader's cache up to 0.25, the tissue
# mask, the encoder and the work file 0.1.
FIXED_GIB = 1.1
MEMORY_GIB = 2.0
# Memory of a whole network for each SR pixel, by the filters of its enlarging steps, measured with 6 to 64. Those of
# the trunk add nothing, since its arrays are gone by then. The engines differ by a tenth.
BYTES_PER_PIXEL, BYTES_PER_FILTER = 430, 7.5
# A network that runs in bands takes BAND_PIXELS as a whole one does. A part of the rest holds the kept rows of all
# layers for each column, four times; the other part holds windows: LR, read ahead, and cores on their way to the disk.
KEPT_SHARE, FLOAT_BYTES = 0.3, 4
HELD_BYTES = 9, 9  # of a window for each LR pixel, and for each SR pixel
DEFAULT_FILTERS = 64  # of the largest default network


@dataclass(frozen=True)
class EnlargeOptions(Options):
    """What is read, how it is computed, how it is written."""

    mpp: float | None = option(None, "Microns per pixel to read at, averaged from a level that is 2 to 4 times finer "
                               "if there is one", "1.0 is about 10x", group="basic")
    level: int = same_as(PatchOptions, "level")
    assume_mpp: float | None = same_as(PatchOptions, "assume_mpp")
    region: Region | None = option(
        None, "Part of the slide: x,y,width,height", "give four whole numbers",
        Rule("be x,y,width,height", lambda region: len(region) == 4 and min(region) >= 0), unit="level-0 pixels",
        group="data")
    quality: int | None = option(None, "JPEG quality", "by default 90 in a .tif, 95 in a .jpg", within(1, 100),
                                 group="basic")
    lossless: bool = option(False, "Write slides without JPEG", group="basic")
    format: str | None = option(
        None, "Format of slides: tiff for OpenSlide, ome (OME-TIFF) for Bio-Formats, dicom, or zarr (OME-Zarr)",
        "by default according to the output's name", choices=FORMATS, group="basic")
    keep_patient: bool = option(False, "Carry patient, study and specimen of a DICOM slide to the DICOM that is "
                                "written", "by default it has none", group="basic")
    everywhere: bool = option(False, "Run the network on glass too")
    tile: int | None = option(None, "Side of a window in input pixels", "by default what fits in --memory", AT_LEAST_1)
    memory: float = option(
        MEMORY_GIB, "Memory to use", "more makes windows larger, with less computed twice",
        Rule(f"be more than {FIXED_GIB} GiB, which TensorFlow and the reader take, and finite",
             lambda memory: FIXED_GIB < memory < math.inf), unit="GiB", group="basic")
    anonymous: str | None = option(None, ANONYMOUS, group="data")
    overwrite: bool = option(False, "Replace existing outputs", group="basic")
    resume: bool = option(False, "Continue a stopped run; finished outputs are kept", group="basic")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_resolution(self.mpp, self.level, self.assume_mpp)
        require(self.quality is None or not self.lossless, "quality", "be left out when lossless is given",
                "remove one of the two", self.quality)
        require(self.anonymous is None or not self.keep_patient, "anonymous", "be left out when keep_patient is given",
                "remove one of the two", self.anonymous)

    def pyramid(self, output: Path, scale: int) -> PyramidOptions:
        """Return the options of the pyramid at `output`.

        Raises:
            ValueError: Zarr has no quality.
        """
        kind = self.format or next((kind for suffix, kind in SUFFIX_FORMATS.items()
                                    if output.name.lower().endswith(suffix)), "tiff")
        require(kind != "zarr" or self.quality is None, "quality", "be left out for Zarr, which is lossless",
                "remove it", self.quality)
        quality = PyramidOptions.quality if self.quality is None else self.quality
        return PyramidOptions(pyramid_tile(scale), None if self.lossless or kind == "zarr" else quality, kind)

    def of_pixels(self) -> dict[str, Any]:
        """Return the options that can change pixels, as work files and outputs record them.

        An output is resumed if its record is the same, so the record of earlier versions stays: `halo` was an option
        once, and newer options are left out at their default.
        """
        left_out = ("memory", "overwrite", "resume", "anonymous", "" if self.keep_patient else "keep_patient")
        return {"halo": None} | {name: value for name, value in asdict(self).items() if name not in left_out}


class Window(NamedTuple):
    """Rows and columns of a window and of its core."""

    y: Span
    x: Span


@dataclass(frozen=True)
class WindowPlan:
    """The windows of a plane: every row combined with every column."""

    rows: list[Span]
    columns: list[Span]
    scale: int
    halo: int

    def __iter__(self) -> Iterator[Window]:
        return (Window(y, x) for y in self.rows for x in self.columns)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def overhead(self) -> float:
        """Pixels computed more than once because of the halos, as a share of the plane."""
        return computed(self.rows, self.columns) / (self.rows[-1].core_stop * self.columns[-1].core_stop) - 1

    @property
    def description(self) -> str:
        """Number and size of the windows."""
        return f"{len(self)} of {self.columns[0].side}x{self.rows[0].side}"


def pyramid_tile(scale: int) -> int:
    """Return the side of an output tile: a multiple of 16, for TIFF, and of `scale`, so that cores fit."""
    unit = math.lcm(16, scale)
    return max(1, SR_TILE // unit) * unit


def window_limits(generator: Any, scale: int, memory: float = MEMORY_GIB) -> Limits:
    """Return the limits of a window, for a run that takes `memory` GiB as a whole.

    An engine that runs in bands takes less memory than any other. Without a generator it is the largest default
    network, run as a whole.
    """
    facts = getattr(generator, "facts", None)
    filters = getattr(facts, "filters", None) or DEFAULT_FILTERS
    tail_filters = getattr(facts, "tail_filters", None) or filters
    whole, left = BYTES_PER_PIXEL + BYTES_PER_FILTER * tail_filters, (memory - FIXED_GIB) * 2**30
    if getattr(generator, "stream", None) is None:
        return Limits(left / (whole * scale**2))
    left = max(0.0, left - whole * BAND_PIXELS * scale**2)
    lr_bytes, sr_bytes = HELD_BYTES
    column = 4 * kept_bytes(filters, tail_filters, scale, generator.halo)
    return Limits((1 - KEPT_SHARE) * left / (lr_bytes + sr_bytes * scale**2),
                  min(KEPT_SHARE * left / column, BAND_PIXELS / MIN_BAND), one_shape=False)


def kept_bytes(filters: int, tail_filters: int, scale: int, halo: int) -> int:
    """Return about how many bytes a network that runs in bands keeps between two of them, for each LR column."""
    # A residual block reaches 2 pixels and keeps 4 rows; the long skip keeps 2 more beside it. Of the tail, the last
    # convolution keeps 8 rows as wide as SR, the steps before it up to 1.5. LR is kept for the sum with the output.
    trunk, tail, lr = 3 * filters * max(0, halo - 6), 9 * scale * tail_filters, 3 * (halo + 8)
    return FLOAT_BYTES * (trunk + tail + lr)


def plan_windows(shape: tuple[int, ...], scale: int, halo: int, limits: Limits | None = None,
                 tile: int | None = None, step: int | None = None) -> WindowPlan:
    """Choose the windows of a plane.

    Args:
        shape: Height and width in LR pixels.
        scale: SR side over LR side.
        halo: Receptive field of the network in LR pixels.
        limits: Of a window; by default `window_limits(None, scale)`.
        tile: Side of a window in LR pixels, in place of `limits`.
        step: Cores begin at multiples of it; by default the side of an output tile.

    Raises:
        ValueError: The tile is too small for the halo.
    """
    step = step or pyramid_tile(scale) // scale
    if tile is None:
        rows, columns = best_spans(shape, halo, step, limits or window_limits(None, scale))
    else:
        rows, columns = (spans(side, tile, halo, step) for side in shape[:2])
    return WindowPlan(rows, columns, scale, halo)
