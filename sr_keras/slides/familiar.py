"""Whether an input is what a model was made for: looked at before it is super-resolved, in a few windows of tissue.

    seen = look(view, TissueMap(view).any_in)
    for cause in unfamiliar(seen, generator.facts):
        print(cause)                                  # "it has 0.5 microns per pixel; the model is for 0.9 to 2.1: ..."

Resolution, stain, blur and compression are compared with the model's facts. Nothing is refused: a line is said of each
that lies outside, and only where that is sure.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.config import DegradeOptions
from pipelines.slide import MPP_TOLERANCE
from sr_keras.model.facts import ModelFacts
from sr_keras.slides.compression import Jpeg, compression_of
from sr_keras.slides.lr_plane import LRView
from sr_keras.slides.samples import sample_windows
from sr_keras.slides.sharpness import blur_of, blur_range, is_blurrier
from sr_keras.slides.stain import DARK, HE, Stain, stain_of

WINDOWS, SIDE = 8, 128  # how many are looked at, and their side in LR pixels
UNCOMPRESSED_QUALITY = 90  # a model that saw no JPEG takes this, and no less
QUALITY_MARGIN = 5  # tables of other encoders than libjpeg are known by so much
LITTLE_RESAMPLED = 1.5  # means over more pixels than this a side have lost most of what compression did


@dataclass(frozen=True)
class Seen:
    """What an input looks like; None where it can't be told.

    `blur` is sigma in pixels of the plane that is read, `jpeg` of the level that it is read from, `resampled` how many
    pixels of that level, a side, make one.
    """

    mpp: float | None = None
    stain: Stain | None = None
    blur: float | None = None
    jpeg: Jpeg | None = None
    resampled: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """Return it for a report."""
        return asdict(self) | {"stain": self.stain and self.stain._asdict(), "jpeg": self.jpeg and self.jpeg._asdict()}


def look(lr: LRView, has_tissue: Callable[[slice, slice], bool] | None = None) -> Seen:
    """Return what a plane looks like.

    Raises:
        SlideError: It is a picture that can't be decoded.
    """
    windows = [lr[rows, columns] for rows, columns in sample_windows(lr.shape, WINDOWS, SIDE, has_tissue)]
    slide = lr.slide
    return Seen(lr.mpp, stain_of(windows), blur_of(windows),
                compression_of(slide.path, slide.level_dimensions[lr.level]),
                lr.downsample / slide.level_downsamples[lr.level])


def unfamiliar(seen: Seen, facts: ModelFacts) -> list[str]:
    """Return a line for each way in which an input lies outside of what a model was made for."""
    if facts.lr_mpp is None and facts.stain is None and facts.degradation is None:
        return ["the model does not say what input it is for, so nothing is known of this one"]
    found = [_resolution(seen, facts), _stain(seen, facts)]
    if facts.degradation is not None:
        found += [_blur(seen, facts.degradation), _compression(seen, facts.degradation)]
    return [line for line in found if line]


def _resolution(seen: Seen, facts: ModelFacts) -> str | None:
    if seen.mpp is None or facts.lr_mpp is None:
        return None
    low, high = facts.lr_mpp
    if low / (1 + MPP_TOLERANCE) <= seen.mpp <= high * (1 + MPP_TOLERANCE):
        return None
    wanted = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    # Means over whole pixels are best.
    times = max(2, math.ceil(low / seen.mpp))
    better = times * seen.mpp if times * seen.mpp <= high else low
    remedy = f"read it with --mpp={better:.3g}" if seen.mpp < low else "a finer scan is needed"
    return f"it is read at {seen.mpp:.3g} microns per pixel, and the model is for {wanted}: {remedy}"


def _stain(seen: Seen, facts: ModelFacts) -> str | None:
    if seen.stain is None or facts.stain != HE or seen.stain.kind == HE:
        return None
    if seen.stain.kind == DARK:
        return "it is dark, as fluorescence is, and the model is for H&E in bright field"
    return f"it does not look like H&E, which the model is for: {seen.stain.other_share:.0%} of its stain is brown, " \
           "black or blue"


def _blur(seen: Seen, options: DegradeOptions) -> str | None:
    if seen.blur is None:
        return None
    low, high = blur_range(options)
    if is_blurrier(seen.blur, high):
        return f"it is blurred, as by a Gaussian of {seen.blur:.1f} of its pixels, and the model knows {high:.1f} at " \
               "most: is it out of focus, or enlarged?"
    if is_blurrier(low, seen.blur):
        return f"it is sharper than what the model was trained on, blurs of {low:.1f} of its pixels or more"
    return None


def _compression(seen: Seen, options: DegradeOptions) -> str | None:
    if seen.jpeg is None or seen.resampled > LITTLE_RESAMPLED:
        return None
    least = options.jpeg_quality[0] if options.jpeg_passes[0] < 1 else UNCOMPRESSED_QUALITY
    if seen.jpeg.quality >= least - QUALITY_MARGIN:
        return None
    return f"it is a JPEG of quality {seen.jpeg.quality}, and the model knows {least:.0f} and better: blocks may show"
