"""Whether tissue is stained with haematoxylin and eosin, by its optical density.

Both dyes absorb green the most. Where a pixel's density is higher in blue (DAB, silver) or in red (Giemsa, methylene
blue) by a margin, another dye is at work. What counts is the share of all density in such pixels:

    H&E, 1,330 tiles of 29 slides of many laboratories        at most 0.11, on the mean 0.001
    DAB; Giemsa; Warthin-Starry, 40 tiles each                0.18 to 1; 0.9 to 1; 0.95 to 1

At LIMIT no tile of H&E was taken for another stain, and all 120 others were. What it can't tell: eosin alone, or
immunohistochemistry where hardly anything is brown.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HE, OTHER, DARK = "H&E", "not H&E", "dark field"
LIMIT = 0.15
STAINED = 0.25  # density of red, green and blue together
MARGINS = (1.05, 1.1)  # of red and of blue over green
LEAST_SHARE = 0.01  # of pixels that are stained: of less nothing is known
DARK_VALUE = 0.25 * 255


class Stain(NamedTuple):
    """What pixels look like: HE, OTHER or DARK, and the share of density that no dye of H&E explains."""

    kind: str
    other_share: float


def stain_of(windows: Sequence[np.ndarray]) -> Stain | None:
    """Return the stain of windows uint8 [h, w, 3] of one slide; None where there is hardly any."""
    pixels = np.concatenate([window.reshape(-1, 3) for window in windows])
    density = -np.log10((pixels + 1.0) / 256)
    total = density.sum(1)
    stained = total > STAINED
    if stained.mean() < LEAST_SHARE:
        return None
    red, green, blue = density[stained].T
    other = (red > MARGINS[0] * green) | (blue > MARGINS[1] * green)
    share = float(total[stained][other].sum() / total[stained].sum())
    dark = np.median(pixels.max(1)) < DARK_VALUE
    return Stain(DARK if dark else OTHER if share > LIMIT else HE, share)
