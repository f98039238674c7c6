# SPDX-License-Identifier: Apache-2.0
"""Where the tissue is: a thumbnail becomes a mask.

Bright field: stain has colour, glass has not. Tissue is what is more saturated (HSV, after making glass neutral) than
Otsu's threshold; in a grey image, what is darker. Otsu finds two classes in any image, also if all is tissue or glass,
so its threshold has limits. Gaps between cells up to `GAP` belong to the tissue.

Pen ink has colour too. It is removed if it is as broad as a pen (`PEN_WIDTH`) and of a hue or blackness that stain
rarely has. If most of what is stained would be ink, it is the stain (Giemsa is blue) and stays. In views smaller than
`PEN_VIEW` ink cannot be recognised, and stays.

Black surroundings (a scanner's canvas, gaps of a stitched image) are no tissue: flat, black areas beside what is glass
or stained in bright field, that is bright and neutral, or of a colour with light in all channels. A fluorescent signal
has one or two channels, or is grey, and fades towards the dark.

Dark field (fluorescence; more than half of the thumbnail is black): tissue is what is brighter than Otsu's threshold,
and gaps between nuclei are closed likewise.

Source: Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 1979.
"""
from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu
from skimage.morphology import isotropic_dilation, isotropic_erosion, remove_small_holes, remove_small_objects

from pipelines.slide import Slide

# Glass that was made neutral stays below the lower limit; pale stroma lies above the upper one.
SATURATION_LIMITS = (0.04, 0.07)
DARKNESS_LIMITS = (0.1, 0.2)
BRIGHTNESS_LIMITS = (0.1, 0.5)
DARK_FIELD_VALUE = 0.2
GREY_SPREAD = 4  # grey levels between the channels of a grey image with noise
GLASS_VALUE, GLASS_SATURATION = 0.8, 0.08  # glass is bright and nearly neutral
BLACK, FLAT = 25, 6  # grey levels: the brightest channel of black, and its range among neighbours
LEAST_SURROUND = 0.01  # of the image, for one black area
STAINED_VALUE, STAINED_SATURATION = 0.35, (0.08, 0.85)  # that of H&E is below 0.6
LEAST_BRIGHT_FIELD = 0.6  # of what is not black

TYPICAL_MPP = 0.5  # for slides without resolution metadata

# In microns.
GAP = 24.0
PEN_WIDTH = 80.0
PEN_VIEW = 1000.0
SMALLEST = 30.0  # side of the smallest speck and the smallest hole that are kept


def tissue_mask(thumbnail: np.ndarray, mpp: float = 8.0) -> np.ndarray:
    """Return where the tissue is, bool [h, w], in a thumbnail uint8 [h, w, 3] of a slide or tile.

    For a uniform thumbnail it is all True (stained) or all False (glass). An estimate of the mpp is enough.
    """
    surround = black_surround(thumbnail)
    if surround.any():
        thumbnail = _as_glass(thumbnail, surround)
    darkest, brightest = _extremes(thumbnail)
    value = brightest.astype(np.float32) / 255
    if np.median(value) < DARK_FIELD_VALUE:
        mask = _above_otsu(value, BRIGHTNESS_LIMITS)
    elif (brightest - darkest).max() <= GREY_SPREAD:
        mask = _above_otsu(value.max() - value, DARKNESS_LIMITS)
    else:
        mask = _above_otsu(_saturation(thumbnail / _glass(thumbnail, darkest)), SATURATION_LIMITS)
        if min(mask.shape) * mpp >= PEN_VIEW:
            mask &= ~pen_mask(thumbnail, mask, mpp)
    mask = _closed(mask, GAP / 2 / mpp) & ~surround
    largest = math.ceil((SMALLEST / mpp) ** 2) - 1  # pixels of what is removed
    return remove_small_objects(remove_small_holes(mask, max_size=largest), max_size=largest)


def slide_mask(slide: Slide, max_side: int) -> np.ndarray:
    """Return where the tissue is in an open slide: bool [h, w], its longer side at most `max_side`."""
    thumbnail = slide.thumbnail(max_side)
    return tissue_mask(thumbnail, (slide.mpp or TYPICAL_MPP) * slide.dimensions[0] / thumbnail.shape[1])


def pen_mask(thumbnail: np.ndarray, stained: np.ndarray, mpp: float) -> np.ndarray:
    """Return where a pen wrote: bool [h, w], green, blue, red or black ink with its blurred rim.

    `thumbnail` is uint8 [h, w, 3]; `stained`, bool [h, w], is where there is colour.
    """
    hsv = rgb2hsv(thumbnail)
    degrees, saturation, value = hsv[..., 0] * 360, hsv[..., 1], hsv[..., 2]
    inks = (
        (degrees > 75) & (degrees < 190) & (saturation > 0.3),
        (degrees > 190) & (degrees < 245) & (saturation > 0.6),
        ((degrees < 12) | (degrees > 350)) & (saturation > 0.7) & (value > 0.7),
        value < 0.22,
    )
    pen = np.zeros(stained.shape, bool)
    for ink in inks:
        broad = _opened(ink, PEN_WIDTH / 2 / mpp)
        if broad.sum() < stained.sum() / 2:
            pen |= broad
    return isotropic_dilation(pen, max(2.0, PEN_WIDTH / 4 / mpp)) if pen.any() else pen


def black_surround(image: np.ndarray) -> np.ndarray:
    """Return which black areas surround a bright-field image uint8 [h, w, 3]: bool [h, w], all False in dark field."""
    darkest, brightest = _extremes(image)
    surround = np.zeros(brightest.shape, bool)
    flat = ndimage.maximum_filter(brightest, 3) - ndimage.minimum_filter(brightest, 3) <= FLAT
    areas, _ = ndimage.label((brightest <= BLACK) & flat)
    large = np.flatnonzero(np.bincount(areas.ravel())[1:] >= LEAST_SURROUND * areas.size) + 1
    if not large.size:
        return surround
    surround = isotropic_dilation(np.isin(areas, large), 2)  # with the pixels of its border, which are mixed
    saturation = (brightest - darkest) / np.maximum(brightest, 1)
    glass = (brightest >= GLASS_VALUE * 255) & (saturation <= GLASS_SATURATION)
    low, high = STAINED_SATURATION
    bright_field = glass | ((brightest >= STAINED_VALUE * 255) & (saturation >= low) & (saturation <= high))
    rim = isotropic_dilation(surround, 2) & ~surround  # glow fades towards the dark
    is_bright = all(bright_field[where].mean() >= LEAST_BRIGHT_FIELD for where in (rim, ~surround) if where.any())
    return surround if is_bright and rim.any() else np.zeros_like(surround)


def _as_glass(thumbnail: np.ndarray, surround: np.ndarray) -> np.ndarray:
    """Return a thumbnail with its surroundings in the colour of its glass; white if no glass is visible."""
    darkest, _ = _extremes(thumbnail)
    bright = thumbnail[~surround & (darkest >= (1 - GLASS_SATURATION) * GLASS_VALUE * 255)]
    filled = thumbnail.copy()
    filled[surround] = np.median(bright, axis=0) if len(bright) else 255
    return filled


def _extremes(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum and maximum of the three channels; several times faster than min(axis=-1)."""
    red, green, blue = np.moveaxis(image, -1, 0)
    return np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)


def _saturation(image: np.ndarray) -> np.ndarray:
    """Return the HSV saturation; that of black is 0."""
    darkest, brightest = _extremes(image)
    return (brightest - darkest) / np.maximum(brightest, 1)


def _glass(thumbnail: np.ndarray, darkest: np.ndarray) -> np.ndarray:
    """Return the tint of the glass, float32 [3], its greatest channel 1; neutral if no glass is visible."""
    whitest = thumbnail[darkest >= np.percentile(darkest, 99)].mean(axis=0)
    tint = whitest / max(whitest.max(), 1)
    is_glass = whitest.max() >= GLASS_VALUE * 255 and 1 - tint.min() <= GLASS_SATURATION
    return tint.astype(np.float32) if is_glass else np.ones(3, np.float32)


def _above_otsu(channel: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    smooth = ndimage.gaussian_filter(channel, 1)
    # Otsu is not defined for a single value.
    return smooth > (np.clip(threshold_otsu(smooth), *limits) if np.ptp(smooth) > 0 else limits[1])


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    if radius < 1 or not mask.any():
        return mask
    dilated = isotropic_dilation(mask, radius)
    return dilated if dilated.all() else isotropic_erosion(dilated, radius)


def _opened(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return what is at least 2 * radius broad; the mask is continued beyond its border."""
    radius = max(radius, 1)
    if mask.sum() < np.pi * radius**2:
        return np.zeros_like(mask)
    margin = math.ceil(radius)
    inside = np.pad(mask, margin, mode="edge")
    eroded = inside if inside.all() else isotropic_erosion(inside, radius)
    opened = isotropic_dilation(eroded, radius) if eroded.any() else eroded
    return opened[margin:-margin, margin:-margin]
