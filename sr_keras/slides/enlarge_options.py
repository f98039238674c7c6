# SPDX-License-Identifier: Apache-2.0
"""The options of a super-resolution run: what is read, how it is computed, how it is written."""
from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.config import check_resolution
from pipelines.errors import require
from pipelines.pyramid import PyramidOptions
from pipelines.sources import Region
from sr_keras.slides.window_plan import FIXED_GIB, MEMORY_GIB, pyramid_tile


@dataclass(frozen=True)
class EnlargeOptions:
    """Options of a run.

    Attributes:
        mpp: Microns per pixel to read at; None to read `level`.
        level: Slide level to read.
        assume_mpp: mpp of the slide; it overrules its metadata.
        region: (x, y, width, height) in level 0; None for the whole slide.
        quality: JPEG quality; None for the default of the format.
        lossless: Compress the pyramid without loss.
        format: "tiff" or "ome"; None to follow the name of the output.
        everywhere: Run the network on glass too.
        halo: Overlap of windows in LR pixels; None for the receptive field.
        tile: Side of a window in LR pixels; None for the best in `memory`.
        memory: GiB that the run may take.
        overwrite: Replace existing outputs.
        resume: Continue a stopped run, and keep finished outputs.
    """

    mpp: float | None = None
    level: int = 0
    assume_mpp: float | None = None
    region: Region | None = None
    quality: int | None = None
    lossless: bool = False
    format: str | None = None
    everywhere: bool = False
    halo: int | None = None
    tile: int | None = None
    memory: float = MEMORY_GIB
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        check_resolution(self.mpp, self.level, self.assume_mpp)
        require(self.region is None or len(self.region) == 4, "region", "be x,y,width,height",
                "give four whole numbers, in level-0 pixels", self.region)
        require(self.quality is None or not self.lossless, "quality", "be left out when lossless is given",
                "remove one of the two", self.quality)
        require(self.halo is None or self.halo >= 0, "halo", "be 0 or more", "leave it out for one without seams",
                self.halo)
        require(self.tile is None or self.tile >= 1, "tile", "be 1 or more", "leave it out for what fits in memory",
                self.tile)
        require(FIXED_GIB < self.memory < math.inf, "memory", f"be more than {FIXED_GIB} GiB, which TensorFlow and "
                "the reader take, and finite", f"the default is {MEMORY_GIB}; more makes windows larger, with less "
                "overlap", self.memory)
        self.pyramid(Path("a.tif"), 2)  # checks quality and format

    def pyramid(self, output: Path, scale: int) -> PyramidOptions:
        """Return the options of the pyramid at `output`."""
        named = "ome" if re.search(r"\.ome\.tiff?$", output.name.lower()) else "tiff"
        quality = PyramidOptions.quality if self.quality is None else self.quality
        return PyramidOptions(pyramid_tile(scale), None if self.lossless else quality, self.format or named)

    def of_pixels(self) -> dict[str, Any]:
        """Return the options that can change pixels."""
        return {name: value for name, value in asdict(self).items() if name not in ("memory", "overwrite", "resume")}
