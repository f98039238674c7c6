# SPDX-License-Identifier: Apache-2.0
"""What an input may be at most, in one place: beyond it, a file is refused in one line when it is opened."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipelines.errors import SlideError

KEPT_BYTES = 256 * 2**20  # of decoded tiles or strips that are kept in memory
LARGEST_SEGMENT_BYTES = 2**30  # of one decoded tile or strip
LARGEST_PIXELS = 2**37  # of a slide; 370,000 x 370,000
LARGEST_OVERVIEW_PIXELS = 2**34  # of the level that shows where the tissue is; 131,000 x 131,000, read in minutes
LARGEST_ASSOCIATED_PIXELS = 2**26  # of a label, macro or thumbnail; 8,192 x 8,192
LARGEST_PROFILE = 64 * 2**20  # bytes of a colour profile in a PNG; PIL's own limit, 1 MiB, is less than scanners write
LARGEST_CARRIED_PROFILE = 16 * 10**6  # bytes of one that is written; a JPEG holds 16.7 million

Dimensions = tuple[int, int]


def check_segments(path: Path, sizes: Iterable[int]) -> None:
    """Refuse a file with tiles or strips that are too large to decode one. `sizes` are bytes, decoded.

    Raises:
        SlideError: One is.
    """
    size = max(sizes, default=0)
    if size > LARGEST_SEGMENT_BYTES:
        raise SlideError(f"{path}: has tiles or strips of {size / 2**30:.1f} GiB, more than "
                         f"{LARGEST_SEGMENT_BYTES / 2**30:.0f}; convert it to a TIFF with small tiles")


def check_pixels(path: Path, size: Dimensions, largest: int, remedy: str) -> None:
    """Refuse an image of too many pixels.

    Raises:
        SlideError: It has more than `largest`.
    """
    width, height = size
    if width * height > largest:
        raise SlideError(f"{path}: has {width} x {height} pixels, more than {largest:,}; {remedy}")
