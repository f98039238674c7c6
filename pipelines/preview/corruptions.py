"""A picture of every corruption on real tissue: each at three strengths, then which side of a pair is bad.

The panels are made by the functions that training uses. They show the centre of the patch, enlarged without smoothing.
"""
from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure, SubFigure

from pipelines import corrupt
from pipelines.config import CORRUPTIONS, SIDES, CorruptOptions, DegradeOptions
from pipelines.degrade import degrade_example
from pipelines.errors import require
from pipelines.pixels import quantise, to_float
from pipelines.preview.panels import show

STRENGTHS = (0.5, 1.0, 2.0)
WIDTH, TITLE = 13.0, 0.75  # inches: the picture's width, and the height that titles and gaps need

# A seed decides between defocus and Gaussian blur, and so on; these show each once (a test says that they do).
VARIANTS = {
    "noise": ("noise", 0), "blur\ndefocus": ("blur", 0), "blur\nGaussian": ("blur", 3),
    "contrast\nmore stain": ("contrast", 1), "contrast\nless stain": ("contrast", 0),
    "contrast\nharsh, dark": ("contrast", 4), "contrast\nflat, bright": ("contrast", 7),
}

Pair = tuple[tf.Tensor, tf.Tensor]


def draw_corruptions(hr: np.ndarray, options: DegradeOptions, outliers: tf.Tensor | None = None) -> Figure:
    """Return the picture for one float image [H, W, 3] in [0, 1]."""
    require(hr.shape[0] % options.scale == 0, "patch_size", f"be divisible by scale={options.scale}",
            "choose a multiple of it", hr.shape[0])
    pairs = dict(_pairs(hr, options, outliers))
    columns = 1 + len(VARIANTS) + (outliers is not None)
    heights = [len(STRENGTHS) * WIDTH / columns + TITLE, 2 * WIDTH / len(pairs) + TITLE]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_strengths(above, hr, outliers)
    _draw_sides(below, pairs, options.scale)
    return figure


def corrupted(hr: np.ndarray, variant: str, strength: float) -> tf.Tensor:
    """Return an image with one of VARIANTS at a strength, in 8-bit steps."""
    kind, seed = VARIANTS[variant]
    return quantise(getattr(corrupt, kind)(tf.constant(hr), strength, tf.constant([0, seed])))


def _draw_strengths(figure: SubFigure, hr: np.ndarray, outliers: tf.Tensor | None) -> None:
    titles = ["clean", *VARIANTS] + ["outlier"] * (outliers is not None)
    axes = figure.subplots(len(STRENGTHS), len(titles), squeeze=False)
    for row, strength in enumerate(STRENGTHS):
        panels = [hr, *(corrupted(hr, variant, strength) for variant in VARIANTS)]
        if outliers is not None:
            tile = to_float(outliers[row * len(outliers) // len(STRENGTHS)])
            panels.append(corrupt.outlier(hr, min(strength, 1.0), tile))
        for axis, panel in zip(axes[row], panels, strict=True):
            show(axis, panel)
        axes[row, 0].set_ylabel(f"strength {strength:g}")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)


def _draw_sides(figure: SubFigure, pairs: dict[str, Pair], scale: int) -> None:
    axes = figure.subplots(2, len(pairs), squeeze=False)
    for column, (title, pair) in zip(axes.T, pairs.items(), strict=True):
        column[0].set_title(title)
        for axis, image in zip(column, pair, strict=True):
            show(axis, image, scale if image is pair[0] else 1)
    axes[0, 0].set_ylabel(f"LR, 1/{scale}")
    axes[1, 0].set_ylabel("HR")


def _pairs(hr: np.ndarray, options: DegradeOptions, outliers: tf.Tensor | None) -> Iterator[tuple[str, Pair]]:
    """Yield the clean pair and, for each kind and side, what training would see of it at strength 1."""
    target = tf.constant(hr)
    downsample = partial(degrade_example, options=options, seed=tf.constant([0, 0], tf.int64))
    lr = downsample(target)
    yield "clean", (lr, target)
    for kind in CORRUPTIONS if outliers is not None else CORRUPTIONS[:-1]:
        for side in SIDES:
            asked = CorruptOptions(fraction=1.0, kinds=(kind,), side=side, outlier_dir="given")
            pair = corrupt.corrupt_pair(lr, target, tf.constant(kind), 0, asked, downsample, outliers)
            yield f"{kind}\nside={side}", pair
