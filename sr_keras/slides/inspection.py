# SPDX-License-Identifier: Apache-2.0
"""Compare an input with what the model was made for, on a few windows of tissue, before it is super-resolved.

    found = inspect_input(lr, TissueMap(lr).any_in)
    for warning in find_mismatches(found, generator.facts):
        print(warning)                # "it is read at 0.5 microns per pixel, and the model is for 0.9 to 2.1: ..."

Resolution, stain, blur and compression are compared with the model's facts. Nothing is refused; there is a warning for
each property that is surely out of range.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from pipelines.config import DegradeOptions
from pipelines.slide import MPP_TOLERANCE
from sr_keras.model.facts import ModelFacts
from sr_keras.slides.image_properties import (
    DARK,
    HE,
    Jpeg,
    Stain,
    blur_range,
    detect_stain,
    estimate_blur,
    is_blurrier,
    read_compression,
)
from sr_keras.slides.lr_plane import LRPlane

WINDOWS, SIDE = 8, 128  # number of windows, and their side in LR pixels
GRID = 16  # candidate windows along a side of the plane
UNCOMPRESSED_QUALITY = 90  # the lowest JPEG quality for a model that was trained without JPEG
QUALITY_MARGIN = 5  # uncertainty of the quality of other encoders than libjpeg
LITTLE_RESAMPLED = 1.5  # averaging more pixels than this, a side, removes most JPEG artefacts


@dataclass(frozen=True)
class InputProperties:
    """Properties of an input; None where unknown.

    `blur` is sigma in LR pixels. `jpeg` is the compression of the level that is read, and `resampled` the number of its
    pixels to an LR pixel, a side.
    """

    mpp: float | None = None
    stain: Stain | None = None
    blur: float | None = None
    jpeg: Jpeg | None = None
    resampled: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """Return the properties for a report."""
        return asdict(self) | {"stain": self.stain and self.stain._asdict(), "jpeg": self.jpeg and self.jpeg._asdict()}


def inspect_input(lr: LRPlane, has_tissue: Callable[[slice, slice], bool] | None = None) -> InputProperties:
    """Measure the properties of a plane.

    Raises:
        SlideError: It is a picture that cannot be decoded.
    """
    windows = [lr[rows, columns] for rows, columns in sample_windows(lr.shape, WINDOWS, SIDE, has_tissue)]
    slide = lr.slide
    return InputProperties(lr.mpp, detect_stain(windows), estimate_blur(windows),
                           read_compression(slide.path, slide.level_dimensions[lr.level]),
                           lr.downsample / slide.level_downsamples[lr.level])


def sample_windows(shape: tuple[int, ...], count: int, side: int,
                   has_tissue: Callable[[slice, slice], bool] | None = None) -> list[tuple[slice, slice]]:
    """Return rows and columns of windows spread over a plane, from top to bottom; the same in every call.

    Args:
        shape: Height and width of the plane.
        count: Largest number of windows.
        side: Side of a window in pixels; less if the plane is smaller.
        has_tissue: Whether a window contains tissue. If none does, windows are taken from anywhere.
    """
    height, width = (min(side, length) for length in shape[:2])
    windows = [(slice(y, y + height), slice(x, x + width))
               for y, x in product(_starts(shape[0], height), _starts(shape[1], width))]
    chosen = [window for window in windows if has_tissue(*window)] if has_tissue else []
    chosen = chosen or windows
    # One is drawn from each of `count` stretches: every n-th of a grid might be a column of it.
    ends = np.linspace(0, len(chosen), min(count, len(chosen)) + 1).astype(int)
    return [chosen[i] for i in np.random.default_rng(0).integers(ends[:-1], ends[1:])]


def find_mismatches(found: InputProperties, facts: ModelFacts) -> list[str]:
    """Return a warning for each property that is outside of what the model was made for."""
    if facts.lr_mpp is None and facts.stain is None and facts.degradation is None:
        return ["the model has no record of the input it is for, so the input cannot be checked"]
    warnings = [_check_resolution(found, facts), _check_stain(found, facts)]
    if facts.degradation is not None:
        warnings += [_check_blur(found, facts.degradation), _check_compression(found, facts.degradation)]
    return [warning for warning in warnings if warning]


def _starts(length: int, side: int) -> list[int]:
    """Return where windows begin: side by side, or GRID of them from end to end of a long plane."""
    room = length - side
    places = min(GRID, room // side + 1)
    return [round(room * i / max(1, places - 1)) for i in range(places)]


def _check_resolution(found: InputProperties, facts: ModelFacts) -> str | None:
    if found.mpp is None or facts.lr_mpp is None:
        return None
    low, high = facts.lr_mpp
    if low / (1 + MPP_TOLERANCE) <= found.mpp <= high * (1 + MPP_TOLERANCE):
        return None
    wanted = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    times = max(2, math.ceil(low / found.mpp))  # averages of whole pixels are best
    better = times * found.mpp if times * found.mpp <= high else low
    remedy = f"read it with --mpp={better:.3g}" if found.mpp < low else "a finer scan is needed"
    return f"it is read at {found.mpp:.3g} microns per pixel, and the model is for {wanted}: {remedy}"


def _check_stain(found: InputProperties, facts: ModelFacts) -> str | None:
    if found.stain is None or facts.stain != HE or found.stain.kind == HE:
        return None
    if found.stain.kind == DARK:
        return "it is dark, as fluorescence is, and the model is for H&E in bright field"
    return f"it does not look like H&E, which the model is for: {found.stain.other_share:.0%} of its stain is brown, " \
           "black or blue"


def _check_blur(found: InputProperties, options: DegradeOptions) -> str | None:
    if found.blur is None:
        return None
    low, high = blur_range(options)
    if is_blurrier(found.blur, high):
        return f"it is blurred, as by a Gaussian with a sigma of {found.blur:.1f} of its pixels, and the model was " \
               f"trained on {high:.1f} at most: it may be out of focus or enlarged"
    if is_blurrier(low, found.blur):
        return f"it is sharper than what the model was trained on, a blur with a sigma of {low:.1f} of its pixels or " \
               "more"
    return None


def _check_compression(found: InputProperties, options: DegradeOptions) -> str | None:
    if found.jpeg is None or found.resampled > LITTLE_RESAMPLED:
        return None
    least = options.jpeg_quality[0] if options.jpeg_passes[0] < 1 else UNCOMPRESSED_QUALITY
    if found.jpeg.quality >= least - QUALITY_MARGIN:
        return None
    return f"it is a JPEG of quality {found.jpeg.quality}, and the model was trained on {least:.0f} or better: JPEG " \
           "blocks may show"
