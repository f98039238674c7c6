"""What can be asked of a run: what is read, how it is computed and how it is written."""
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
from sr_keras.slides.windows import FIXED_GIB, MEMORY_GIB, pyramid_tile


@dataclass(frozen=True)
class EnlargeOptions:
    """What is read, how it is computed and how it is written.

    Read is `region` (x, y, width, height in level 0; None for all) at `mpp`, or at `level` where that is None;
    `assume_mpp` is for slides that do not say theirs. `quality` is that of JPEG, None the format's own. `format` is
    "tiff" or "ome", None what the output's name says. `halo` and `tile` are in LR pixels, None for what is best in
    `memory` GiB.
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
                "choose one of the two", self.quality)
        require(self.halo is None or self.halo >= 0, "halo", "be 0 or more", "leave it out for one that leaves no seam",
                self.halo)
        require(self.tile is None or self.tile >= 1, "tile", "be 1 or more", "leave it out for what fits in memory",
                self.tile)
        require(FIXED_GIB < self.memory < math.inf, "memory", f"be more than {FIXED_GIB} GiB, which TensorFlow and "
                "readers take, and finite", f"{MEMORY_GIB} is the default, more makes windows larger and overlap less",
                self.memory)
        self.pyramid(Path("a.tif"), 2)  # checks quality and format

    def pyramid(self, target: Path, scale: int) -> PyramidOptions:
        """Return how a pyramid is written to `target`."""
        named = "ome" if re.search(r"\.ome\.tiff?$", target.name.lower()) else "tiff"
        quality = PyramidOptions.quality if self.quality is None else self.quality
        return PyramidOptions(pyramid_tile(scale), None if self.lossless else quality, self.format or named)

    def of_pixels(self) -> dict[str, Any]:
        """Return what pixels follow from."""
        return {name: value for name, value in asdict(self).items() if name not in ("memory", "overwrite", "resume")}
