"""Aligned pairs from two registered scans.

LR is what the scanner gave, pixel for pixel. HR is resampled (cubic) onto the grid that is `scale` times finer than
LR's own pixels: LR pixel i lies on HR coordinate scale*i + (scale-1)/2. Each patch that was compared has its own shift,
and pairs are cut inside of those that fit.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.config import PatchOptions
from pipelines.errors import require
from pipelines.pixels import to_uint8
from pipelines.register.colours import recoloured
from pipelines.register.planes import Plane, aligned, apply, moved
from pipelines.register.registration import Fit, Registration, ScanFile
from pipelines.slide import Slide, SlideError
from pipelines.tissue import slide_mask

CUBIC = 3
MASK_SIDE = 2048


@dataclass(frozen=True)
class Place:
    """Where a pair may be cut: its corner in LR pixels, the patch it lies in, and its share of tissue."""

    x: int
    y: int
    fit: Fit
    tissue: float = 1.0


def scan_paths(found: Registration, page: Path, name: str = "pairs") -> tuple[Path, Path]:
    """Return the files (LR, HR) of a registration: where they were, or beside its page.

    Raises:
        FileNotFoundError: One of them is in neither place.
        ValueError: One of them is not the file that was registered.
    """
    return _path_of(found.lr, page, name), _path_of(found.hr, page, name)


def check_cut(found: Registration, options: PatchOptions) -> None:
    """Refuse options that no pair can be cut with.

    Raises:
        ValueError: The patches are not whole LR pixels or larger than what was compared, or a resolution is asked for.
    """
    scale, most = found.scale, found.scale * found.patch_size
    for name in ("patch_size", "stride"):
        value = getattr(options, name)
        require(value is None or value % scale == 0, name, f"be divisible by scale={scale} for these pairs",
                "choose a multiple of it", value)
    require(options.patch_size <= most, "patch_size", f"be {most} or less for these pairs",
            "register with a larger --patch_size", options.patch_size)
    require(options.mpp is None and options.level == 0, "mpp", "be left out for pairs of two scans",
            f"HR is read {scale} times finer than LR's own pixels", options.mpp or options.level)
    require(options.sampling == "grid", "sampling", "be 'grid' for pairs of two scans",
            "they are cut from the patches that fit", options.sampling)


def places(found: Registration, options: PatchOptions) -> list[Place]:
    """Return where pairs may be cut, patch by patch."""
    side, step = options.patch_size // found.scale, (options.stride or options.patch_size) // found.scale
    steps = range(0, found.patch_size - side + 1, step)
    return [Place(fit.x + dx, fit.y + dy, fit) for fit in found.patches for dy in steps for dx in steps]


def places_with_tissue(found: Registration, hr: Slide, options: PatchOptions) -> list[Place]:
    """Return those that have `min_tissue`, each with its share. HR is looked at: its colours are the truer ones."""
    mask = slide_mask(hr, MASK_SIDE)
    scale, half = mask.shape[1] / hr.dimensions[0], (options.patch_size / found.scale - 1) / 2
    size = max(1, round(options.patch_size / found.scale * found.magnification * scale))
    shares = []
    for place in places(found, options):
        middle = apply(moved(found.matrix, place.fit.shift), np.array([place.x, place.y]) + half)
        left, top = np.maximum(np.rint((middle + 0.5) * scale - size / 2), 0).astype(int)
        shares.append(replace(place, tissue=float(mask[top:top + size, left:left + size].mean())))
    return [place for place in shares if place.tissue >= options.min_tissue]


def hr_mpp(found: Registration) -> float | None:
    """Return the microns per pixel of the HR that is cut, None where the finer scan does not say its own."""
    return found.hr.mpp and found.hr.mpp * found.magnification / found.scale


def hr_corner(found: Registration, place: Place) -> tuple[int, int]:
    """Return the level-0 pixel of HR that is nearest to the first pixel of the HR patch."""
    first = np.array([place.x, place.y]) + (1 / found.scale - 1) / 2
    x, y = apply(moved(found.matrix, place.fit.shift), first).round()
    return int(x), int(y)


def cut(found: Registration, lr: Slide, hr: Slide, place: Place, side: int,
        match_colours: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return (hr uint8 [side*scale, side*scale, 3], lr uint8 [side, side, 3]) of one place.

    Args:
        found: How the scans lie.
        lr, hr: Both, open.
        place: One of `places`.
        side: Of the LR patch.
        match_colours: Take HR's colours to LR's.

    Raises:
        SlideError: The pixels cannot be decoded, or HR does not reach there.
    """
    image = aligned(Plane(hr, 1), moved(found.matrix, place.fit.shift), place.x, place.y, side, found.scale, CUBIC)
    if image is None:
        raise SlideError(f"{hr.path}: does not reach to where LR has {place.x},{place.y}")
    pixels = to_uint8(image)
    return (recoloured(pixels, found.colours) if match_colours else pixels,
            lr.read_region(place.x, place.y, 0, side, side))


def _path_of(scan: ScanFile, page: Path, name: str) -> Path:
    found = next((path for path in (Path(scan.path), page.parent / scan.name) if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"`{name}` must be of slides that are there; put {scan.name} beside it, or where it "
                                f"was ({scan.path}). Received: {name}={str(page)!r}")
    require(found.stat().st_size == scan.bytes, name, f"be of the files that are there; {found} had {scan.bytes} bytes",
            "register the two scans again", str(page))
    return found
