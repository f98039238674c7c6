"""What was found out about two scans of one glass, and the JSON file that holds it. Read without scikit-image.

    format            1
    lr, hr            of each file its path as it was given, name, bytes, width and height of level 0, mpp (or null)
    transform         2x3: pixel (x, y) of LR's level 0 to HR's level 0, whole numbers at the centres of pixels
    scale             2, 4 or 8: what pairs of these scans are for
    patch_size        side of a patch in LR pixels
    colours           per channel (gain, offset) that take HR's optical density to LR's
    patches           x, y (corner in LR), shift (what the transform lacks there, in HR pixels), and how well it fits
    rejected          x, y, reason
    quality           a summary of these, and what the transform says: HR pixels per LR pixel, degrees, mirrored
"""
from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipelines.errors import require
from pipelines.files import write_text
from pipelines.slide import Slide

FORMAT = 1


@dataclass(frozen=True)
class ScanFile:
    """One of the two files, as it was when it was registered."""

    path: str
    name: str
    bytes: int
    width: int
    height: int
    mpp: float | None


@dataclass(frozen=True)
class Fit:
    """How one patch of LR fits HR.

    Attributes:
        x, y: Its corner in LR pixels.
        shift: What the transform lacks here, (x, y) in HR pixels.
        correlation: Of the two after the shift, 1 at best.
        weakest: The same of the worst part of it.
        residual: How far parts of it still shift, root mean square in HR pixels.
        sharpness: LR's fine structure over that of HR at LR's resolution.
        detail: HR's structure beyond LR's resolution over that within.
    """

    x: int
    y: int
    shift: tuple[float, float]
    correlation: float
    weakest: float
    residual: float
    sharpness: float
    detail: float


@dataclass(frozen=True)
class Rejected:
    """A patch that gives no pair: its corner in LR pixels, and why."""

    x: int
    y: int
    reason: str


@dataclass(frozen=True)
class Registration:
    """Two scans of one glass and how they lie to each other; see above."""

    lr: ScanFile
    hr: ScanFile
    transform: tuple[tuple[float, ...], ...]
    scale: int
    patch_size: int
    colours: tuple[tuple[float, float], ...]
    patches: tuple[Fit, ...]
    rejected: tuple[Rejected, ...]

    @property
    def matrix(self) -> np.ndarray:
        """The transform, float64 [2, 3]."""
        return np.array(self.transform)

    @property
    def magnification(self) -> float:
        """How many HR pixels an LR pixel is long."""
        return math.sqrt(abs(np.linalg.det(self.matrix[:, :2])))

    @property
    def quality(self) -> dict[str, Any]:
        """How good it is, in a few numbers."""
        (a, b, _), (c, d, _) = self.transform
        mirrored = a * d - b * c < 0
        return {
            "hr_pixels_per_lr_pixel": round(self.magnification, 5),
            "rotation_degrees": round(math.degrees(math.atan2(-b, d) if mirrored else math.atan2(c, a)), 4),
            "mirrored": bool(mirrored),
            "median_residual_hr_pixels": round(median(fit.residual for fit in self.patches), 3),
            "median_shift_hr_pixels": round(median(math.hypot(*fit.shift) for fit in self.patches), 3),
            "median_correlation": round(median(fit.correlation for fit in self.patches), 3),
            "accepted": len(self.patches),
            "rejected": dict(Counter(item.reason for item in self.rejected).most_common())}


def scan_file(path: str | os.PathLike[str], slide: Slide) -> ScanFile:
    """Return what is kept of an open slide's file."""
    return ScanFile(str(path), Path(path).name, Path(path).stat().st_size, *slide.dimensions, slide.mpp)


def write_registration(path: str | os.PathLike[str], registration: Registration) -> None:
    """Write it to `path` as JSON, atomically."""
    page = {"format": FORMAT, "quality": registration.quality, **asdict(registration)}
    write_text(path, json.dumps(page, indent=1) + "\n")


def read_registration(path: str | os.PathLike[str], name: str = "pairs") -> Registration:
    """Return what `write_registration` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is another kind of file, or of another version.
    """
    try:
        page = json.loads(Path(path).read_text(encoding="utf-8"))
        known = page.pop("format") == FORMAT
        registration = Registration(
            lr=ScanFile(**page["lr"]), hr=ScanFile(**page["hr"]), scale=page["scale"], patch_size=page["patch_size"],
            transform=tuple(map(tuple, page["transform"])), colours=tuple(map(tuple, page["colours"])),
            patches=tuple(Fit(**fit | {"shift": tuple(fit["shift"])}) for fit in page["patches"]),
            rejected=tuple(Rejected(**item) for item in page["rejected"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"`{name}` must be a file that pipelines.register wrote; register the two scans again. "
                         f"Received: {name}={str(path)!r}") from error
    require(known, name, "be of this version", "register the two scans again", str(path))
    return registration
