# SPDX-License-Identifier: Apache-2.0
"""Pairs from two scans of the same glass, which `pipelines.register` has registered, and the file it writes.

LR is what the scanner gave, pixel for pixel. HR is resampled (cubic) to a grid `scale` times finer than LR's pixels:
LR pixel i lies at HR coordinate scale*i + (scale-1)/2. Each compared patch has its own shift, and pairs are cut only
inside patches that fit. The JSON file holds:

    format            1
    lr, hr            of each file: path as given, name, bytes, width and height of level 0, mpp (or null)
    transform         2x3: pixel (x, y) of LR's level 0 to HR's level 0, whole numbers at pixel centres
    scale             2, 4 or 8: HR side / LR side of the pairs
    patch_size        side of a compared patch in LR pixels
    colours           per channel (gain, offset) that map HR's optical density to LR's
    patches           x, y (corner in LR), shift (correction of the transform there, in HR pixels), quality of the fit
    rejected          x, y, reason
    quality           a summary, with HR pixels per LR pixel, rotation in degrees, mirrored
"""
from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipelines.config import SCALES, PatchOptions
from pipelines.errors import require
from pipelines.files import Count, FileName, Finite, Positive, Side, checked, read_json, write_text
from pipelines.names import printable
from pipelines.pixels import WHITE, to_float, to_uint8
from pipelines.planes import Plane, aligned, apply, magnification, moved
from pipelines.readers.folders import is_slide_folder, size_of
from pipelines.slide import Slide, SlideError, slide_id_of
from pipelines.sources import Source
from pipelines.tissue import slide_mask

FORMAT = 1
Lines = tuple[tuple[Finite, Finite], ...]  # per channel (gain, offset)
CUBIC = 3
MASK_SIDE = 2048


@dataclass(frozen=True)
class ScanFile:
    """One of the two files, as it was when it was registered."""

    path: str
    name: FileName
    bytes: Count
    width: Side
    height: Side
    mpp: Positive | None


@dataclass(frozen=True)
class Fit:
    """How one patch of LR fits HR: its corner (x, y) in LR pixels, and how good the fit is."""

    x: Count
    y: Count
    shift: tuple[Finite, Finite]  # correction of the transform here, (x, y) in HR pixels
    correlation: float  # of the two after the shift, at most 1
    weakest: float  # correlation of the worst part
    residual: float  # root mean square of the shifts of its parts, in HR pixels
    sharpness: float  # LR's fine structure / that of HR at LR's resolution
    detail: float  # HR's structure beyond LR's resolution / that within


@dataclass(frozen=True)
class Rejected:
    """A patch that gives no pair: its corner in LR pixels, and the reason."""

    x: int
    y: int
    reason: str


@dataclass(frozen=True)
class Registration:
    """How two scans of one glass correspond; see the module."""

    lr: ScanFile
    hr: ScanFile
    transform: tuple[tuple[Finite, ...], ...]
    scale: Side
    patch_size: Side
    colours: tuple[tuple[Finite, Finite], ...]
    patches: tuple[Fit, ...]
    rejected: tuple[Rejected, ...]

    @property
    def matrix(self) -> np.ndarray:
        """The transform, float64 [2, 3]."""
        return np.array(self.transform)

    @property
    def quality(self) -> dict[str, Any]:
        """A summary in a few numbers."""
        (a, b, _), (c, d, _) = self.transform
        mirrored = a * d - b * c < 0
        return {
            "hr_pixels_per_lr_pixel": round(magnification(self.matrix), 5),
            "rotation_degrees": round(math.degrees(math.atan2(-b, d) if mirrored else math.atan2(c, a)), 4),
            "mirrored": bool(mirrored),
            "median_residual_hr_pixels": round(median(fit.residual for fit in self.patches), 3),
            "median_shift_hr_pixels": round(median(math.hypot(*fit.shift) for fit in self.patches), 3),
            "median_correlation": round(median(fit.correlation for fit in self.patches), 3),
            "accepted": len(self.patches),
            "rejected": dict(Counter(item.reason for item in self.rejected).most_common())}


def scan_file(path: str | os.PathLike[str], slide: Slide) -> ScanFile:
    """Return the facts of an open slide's file."""
    return ScanFile(str(path), Path(path).name, size_of(Path(path)), *slide.dimensions, slide.mpp)


def write_registration(path: str | os.PathLike[str], registration: Registration) -> None:
    """Write it to `path` as JSON, atomically."""
    page = {"format": FORMAT, "quality": registration.quality, **asdict(registration)}
    write_text(path, json.dumps(page, indent=1) + "\n")


def read_registration(path: str | os.PathLike[str]) -> Registration:
    """Read the file of `write_registration`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is another kind of file, of another version, or damaged.
    """
    remedy = "register the two scans again"
    page = read_json(path, dict[str, Any], remedy)
    require(page.get("format") == FORMAT, "pairs", "be a file that sr-keras register wrote, of this version", remedy,
            str(path))
    registration = checked(page, Registration, path, remedy)
    sound = (registration.scale in SCALES and len(registration.colours) == 3
             and [len(row) for row in registration.transform] == [3, 3]
             and 0 < magnification(registration.matrix) < math.inf)
    require(sound, "pairs", f"have a scale of {SCALES}, three colours and a transform that keeps an area", remedy,
            str(path))
    return registration


@dataclass(frozen=True)
class Place:
    """Where a pair may be cut: its corner in LR pixels, its compared patch, and its share of tissue."""

    x: int
    y: int
    fit: Fit
    tissue: float = 1.0

    def on_hr(self, found: Registration, offset: float) -> np.ndarray:
        """Return the position in HR's level 0 (x, y) of the point `offset` LR pixels right of and below the corner."""
        return apply(moved(found.matrix, self.fit.shift), np.array([self.x, self.y]) + offset)


def pair_scans(pages: Sequence[str | Path], options: PatchOptions) -> tuple[list[Source], PatchOptions]:
    """Return the slides of files of pipelines.register, named by HR, and the options with the scale of the pairs.

    Raises:
        FileNotFoundError: A page or one of its slides does not exist.
        ValueError: A page is damaged, belongs to other files, or has another scale than the first; or the options
            do not fit it.
    """
    sources: list[Source] = []
    for page in pages:
        found = read_registration(page)
        options = replace(options, scale=found.scale) if not sources else options
        require(found.scale == options.scale, "pairs", f"be of one scale, {options.scale} as the first",
                "extract them separately", str(page))
        check_cut(found, options)
        lr, hr = scan_paths(found, Path(page))
        sources.append(Source(printable(slide_id_of(hr)), (hr,), scans=(Path(page), lr)))
    return sources, options


def scan_paths(found: Registration, page: Path) -> tuple[Path, Path]:
    """Return the files (LR, HR) of a registration: at their original path, or beside its page.

    Raises:
        FileNotFoundError: A file is in neither place.
        ValueError: A file has changed since it was registered.
    """
    paths = []
    for scan in (found.lr, found.hr):
        path = next((path for path in (Path(scan.path), page.parent / scan.name)
                     if os.path.isfile(path) or is_slide_folder(path)), None)
        if path is None:
            raise FileNotFoundError(f"`pairs` must name slides that exist; put {scan.name} beside it, or where it "
                                    f"was ({scan.path}). Received: pairs={str(page)!r}")
        require(size_of(path) == scan.bytes, "pairs", f"belong to these files; {path} had {scan.bytes} bytes",
                "register the two scans again", str(page))
        paths.append(path)
    return paths[0], paths[1]


def check_cut(found: Registration, options: PatchOptions) -> None:
    """Check that pairs can be cut with these options.

    Raises:
        ValueError: The patches are not whole LR pixels or larger than the compared patches, or a resolution is given.
    """
    scale, most = found.scale, found.scale * found.patch_size
    for name in ("patch_size", "stride"):
        value = getattr(options, name)
        require(value is None or value % scale == 0, name, f"be divisible by scale={scale} for these pairs",
                "choose a multiple of it", value)
    require(options.patch_size <= most, "patch_size", f"be {most} or less for these pairs",
            "register again with a larger --patch_size", options.patch_size)
    require(options.mpp is None and options.level == 0, "mpp", "be left out for pairs of two scans",
            f"HR is read {scale} times finer than LR's own pixels", options.mpp or options.level)
    require(options.sampling == "grid", "sampling", "be 'grid' for pairs of two scans",
            "they are cut from the registered patches", options.sampling)


def places(found: Registration, options: PatchOptions) -> list[Place]:
    """Return where pairs may be cut, patch by patch."""
    side, step = options.patch_size // found.scale, (options.stride or options.patch_size) // found.scale
    steps = range(0, found.patch_size - side + 1, step)
    return [Place(fit.x + dx, fit.y + dy, fit) for fit in found.patches for dy in steps for dx in steps]


def places_with_tissue(found: Registration, hr: Slide, options: PatchOptions) -> list[Place]:
    """Return the places with `min_tissue`, with their share by the mask of HR, whose colours are better."""
    mask = slide_mask(hr, MASK_SIDE)
    scale, half = mask.shape[1] / hr.dimensions[0], (options.patch_size / found.scale - 1) / 2
    size = max(1, round(options.patch_size / found.scale * magnification(found.matrix) * scale))
    shares = []
    for place in places(found, options):
        left, top = np.maximum(np.rint((place.on_hr(found, half) + 0.5) * scale - size / 2), 0).astype(int)
        shares.append(replace(place, tissue=float(mask[top:top + size, left:left + size].mean())))
    return [place for place in shares if place.tissue >= options.min_tissue]


def hr_mpp(found: Registration) -> float | None:
    """Return the microns per pixel of the cut HR, None if unknown."""
    return found.hr.mpp and found.hr.mpp * magnification(found.matrix) / found.scale


def hr_corner(found: Registration, place: Place) -> tuple[int, int]:
    """Return the level-0 pixel of HR nearest to the first pixel of the HR patch."""
    x, y = place.on_hr(found, (1 / found.scale - 1) / 2).round()
    return int(x), int(y)


def cut(found: Registration, lr: Slide, hr: Slide, place: Place, side: int,
        match_colours: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return (hr uint8 [side*scale, side*scale, 3], lr uint8 [side, side, 3]) of one of `places`.

    Raises:
        SlideError: The pixels cannot be decoded, or HR does not cover the place.
    """
    image = aligned(Plane(hr, 1), moved(found.matrix, place.fit.shift), place.x, place.y, side, found.scale, CUBIC)
    if image is None:
        raise SlideError(f"{hr.path}: does not cover the place of LR {place.x},{place.y}")
    pixels = to_uint8(image)
    return (recoloured(pixels, found.colours) if match_colours else pixels,
            lr.read_region(place.x, place.y, 0, side, side))


def recoloured(pixels: np.ndarray, lines: Lines) -> np.ndarray:
    """Return uint8 [H, W, 3] with the optical density of each channel mapped by its line.

    HR gets the colours of LR, not the reverse: LR must stay as scanned, since a model will get such pixels.
    """
    gain, offset = np.array(lines, np.float32).T
    densities = gain * density(to_float(pixels)) + offset
    return to_uint8((np.exp(-densities) * (WHITE + 1) - 1) / WHITE)


def density(image: np.ndarray) -> np.ndarray:
    """Return the optical density of an image in [0, 1]; one grey level keeps black finite."""
    return -np.log((image * WHITE + 1) / (WHITE + 1))
