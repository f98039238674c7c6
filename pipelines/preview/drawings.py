# SPDX-License-Identifier: Apache-2.0
"""The pictures of corruptions and of degradations, made by the functions that training uses, and a table of likeness.

Panels show the centre of a patch, enlarged without smoothing. Corruptions: each at three strengths, then each side of a
pair. Degradations: HR, real LR if there is one, and the LR of each preset. A preset with ranges is shown by some of its
members, drawn and then fixed, so that the caption says what was done.

Likeness is how similar synthetic LR is to real LR of the same HR, float [h, w, 3] in [0, 1], one value per image.
Statistics are of the brightness, the mean of the three channels:

    spectrum       synthetic / real power in dB, by frequency band: above 0 sharper or noisier, below 0 blurred
    residual       LR - mean of the scale x scale HR pixels below it: how LR differs from an ideal camera's. Standard
                   deviation, excess kurtosis, correlation of neighbouring pixels, and blockiness
    difference     root mean square of synthetic - real
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from pipelines import corrupt
from pipelines.config import CORRUPTIONS, SCALES, SIDES, CorruptOptions, DegradeOptions
from pipelines.degrade import degrade_example
from pipelines.errors import require
from pipelines.patches import Patch
from pipelines.pixels import quantise, to_float

SHOWN = 160  # side of what a panel shows, in HR pixels
_STEP = max(SCALES)
STRENGTHS = (0.5, 1.0, 2.0)
WIDTH, TITLE = 13.0, 0.75  # inches: the picture's width, and the height that titles and gaps need
# The seed chooses between defocus and Gaussian blur, and so on; these seeds show each once (tested).
VARIANTS = {
    "noise": ("noise", 0), "blur\ndefocus": ("blur", 0), "blur\nGaussian": ("blur", 3),
    "contrast\nmore stain": ("contrast", 1), "contrast\nless stain": ("contrast", 0),
    "contrast\nharsh, dark": ("contrast", 4), "contrast\nflat, bright": ("contrast", 7),
}
Pair = tuple[tf.Tensor, tf.Tensor]
PANEL, CAPTION = 2.0, 0.6  # inches: side of a panel, and the height of the text above it
RANGES = tuple(field.name for field in fields(DegradeOptions) if "Range" in str(field.type))
MOSTLY_WEAK = ("shot_noise", "read_noise", "sharpen")  # `degrade_example` draws these from the low end more often
BANDS = (1 / 32, 1 / 8, 1 / 4, 3 / 8, 1 / 2)  # edges, in cycles per LR pixel
BLOCK = 8  # side of JPEG's brightness blocks, in LR pixels
GREY_LEVELS = 255


def show(axis: Axes, image: np.ndarray | tf.Tensor, scale: int = 1) -> None:
    """Draw the SHOWN x SHOWN HR pixels at the centre of an image [h, w, 3] in [0, 1], which is 1/scale of HR.

    HR and LR of a pair show the same place: the corner is a whole LR pixel of every scale.
    """
    side = SHOWN // scale
    top, left = (max(full * scale - SHOWN, 0) // (2 * _STEP) * _STEP // scale for full in image.shape[:2])
    axis.imshow(np.asarray(image[top:top + side, left:left + side]), vmin=0, vmax=1, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


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
    """Yield the clean pair, and for each kind and side the pair in training at strength 1."""
    target = tf.constant(hr)
    downsample = partial(degrade_example, options=options, seed=tf.constant([0, 0], tf.int64))
    lr = downsample(target)
    yield "clean", (lr, target)
    for kind in CORRUPTIONS if outliers is not None else CORRUPTIONS[:-1]:
        for side in SIDES:
            asked = CorruptOptions(fraction=1.0, kinds=(kind,), side=side, outlier_dir="given")
            pair = corrupt.corrupt_pair(lr, target, tf.constant(kind), 0, asked, downsample, outliers)
            yield f"{kind}\nside={side}", pair


def draw_degradations(patches: Sequence[Patch], columns: Sequence[tuple[str, DegradeOptions]]) -> Figure:
    """Return the picture, a row per patch: HR, real LR if there is one, and a member of each of `columns`."""
    rows = [_panels(number, patch, columns) for number, patch in enumerate(patches)]
    count = max(len(row) for row in rows)
    figure = Figure(figsize=(count * PANEL, len(rows) * (PANEL + CAPTION)), layout="constrained")
    for axes, row in zip(figure.subplots(len(rows), count, squeeze=False), rows, strict=True):
        for axis, (caption, image, scale) in zip(axes, row, strict=False):
            show(axis, image, scale)
            axis.set_title(caption, fontsize=6.5, loc="left")
        for axis in axes[len(row):]:
            axis.set_visible(False)
    return figure


def _panels(number: int, patch: Patch,
            columns: Sequence[tuple[str, DegradeOptions]]) -> list[tuple[str, np.ndarray, int]]:
    """Return (caption, image, HR pixels per pixel) of a patch's panels, left to right."""
    hr = to_float(patch.pixels)
    panels = [(f"HR\n{patch.slide_id}\n{patch.name}", hr, 1)]
    if patch.lr is not None:
        panels.append(("LR, real", to_float(patch.lr), hr.shape[0] // patch.lr.shape[0]))
    rng = np.random.default_rng(number)
    for name, options in columns:
        fixed = member(options, rng)
        lr = degrade_example(tf.constant(hr), fixed, tf.constant([0, number], tf.int64))
        panels.append((f"{name}: {caption(fixed)}", lr.numpy(), options.scale))
    return panels


def member(options: DegradeOptions, rng: np.random.Generator) -> DegradeOptions:
    """Return one degradation drawn from `options`, with nothing left to draw but noise and phase."""
    values: dict[str, Any] = {}
    for name in RANGES:
        low, high = options.range_of(name)
        u = rng.random() ** (2 if name in MOSTLY_WEAK else 1)
        value = low + u * (high - low)
        if low < high:  # a single number stays one, or the textbook would not be known as such
            values[name] = (round(value), round(value)) if name == "jpeg_quality" else (value, value)
    passes = rng.choice(3, p=options.jpeg_passes)
    values["jpeg_passes"] = tuple(float(k == passes) for k in range(3))
    for name in ("blurs", "resamplings", "jpeg_subsamplings"):
        values[name] = (str(rng.choice(getattr(options, name))),)
    return replace(options, **values)


def caption(fixed: DegradeOptions) -> str:
    """Return a degradation in three lines; of ranges, the low end."""
    value = {name: fixed.range_of(name)[0] for name in RANGES}
    shorter = value["blur_sigma"] * np.sqrt(2 / (1 + value["anisotropy"] ** 2))
    both = f"{shorter:.2g}" if value["anisotropy"] == 1 else f"{shorter * value['anisotropy']:.2g}x{shorter:.2g}"
    blur = {"none": "no blur", "gaussian": f"Gaussian {both}", "disc": f"disc {value['disc_radius']:.2g}",
            "airy": f"Airy NA {value['numerical_aperture']:.2g}"}[fixed.blurs[0]]
    camera = [f"noise {value['shot_noise']:.3f}+{value['read_noise']:.3f}"] if fixed.shot_noise[1] else []
    camera += [f"sharpen {value['sharpen']:.2g}"] if fixed.sharpen[1] else []
    passes = fixed.jpeg_passes.index(1.0)
    jpeg = f"JPEG {value['jpeg_quality']:g} 4:{fixed.jpeg_subsamplings[0][1]}:{fixed.jpeg_subsamplings[0][2]}"
    return "\n".join([f"{blur}, {fixed.resamplings[0]}", ", ".join(camera) or "no noise",
                      ("no JPEG", jpeg, f"{jpeg}, twice")[passes]])


class Residual(NamedTuple):
    """How an LR image differs from the mean of its HR pixels: see `residual_of`."""

    std: float
    kurtosis: float
    correlation: float
    blockiness: float


COLUMNS = (*(f"{low:.3g}-{high:.3g}" for low, high in pairwise(BANDS)), *Residual._fields, "difference")


def likenesses(patches: Sequence[Patch], presets: Mapping[str, DegradeOptions]) -> dict[str, list[np.ndarray]]:
    """Return how similar each preset is to the real LR of pairs, which have its scale; "real" is that LR itself."""
    pairs = [(to_float(patch.pixels), to_float(patch.lr)) for patch in patches if patch.lr is not None]
    found = {"real": [compare(lr, lr, hr) for hr, lr in pairs]}
    for name, options in presets.items():
        made = tf.function(lambda hr, seed, options=options: degrade_example(hr, options, seed))
        found[name] = []
        for number, (hr, lr) in enumerate(pairs):
            require(hr.shape[0] == options.scale * lr.shape[0], "scale", f"be {hr.shape[0] // lr.shape[0]}, that of "
                    "the pairs", "or name other data", options.scale)
            found[name].append(compare(made(tf.constant(hr), tf.constant([0, number], tf.int64)).numpy(), lr, hr))
    return found


def compare(made: np.ndarray, real: np.ndarray, hr: np.ndarray) -> np.ndarray:
    """Return the COLUMNS of synthetic LR [h, w, 3] beside the real LR of the same HR [scale*h, scale*w, 3]."""
    spectrum = 10 * np.log10(band_powers(made) / band_powers(real))
    difference = GREY_LEVELS * np.sqrt(np.mean((made - real) ** 2))
    return np.array([*spectrum, *residual_of(made, hr), difference])


def band_powers(image: np.ndarray) -> np.ndarray:
    """Return the power spectral density of a float image [h, w, 3] in each of BANDS, averaged over all directions.

    The mean is subtracted and a Hann window applied, so that the border is not an edge. White noise of variance s^2 has
    the power s^2 in every band.

    Raises:
        ValueError: A side is shorter than 32 pixels.
    """
    require(min(image.shape[:2]) >= 1 / BANDS[0], "image", f"have sides of at least {1 / BANDS[0]:g} pixels",
            "take larger patches", image.shape)
    plane = image.mean(axis=-1)
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in plane.shape))
    power = np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2 / np.sum(window**2)
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in plane.shape), indexing="ij"))
    band = np.digitize(frequency, BANDS)
    return np.array([power[band == number].mean() for number in range(1, len(BANDS))])


def residual_of(lr: np.ndarray, hr: np.ndarray) -> Residual:
    """Return how an LR image differs from the mean of the HR pixels of each of its pixels.

    The standard deviation is in grey levels of 255. Kurtosis is the excess over a Gaussian's. Correlation is that of
    horizontal and vertical neighbours: 0 for noise, positive for blur, negative for sharpening. Kurtosis and
    correlation of a constant residual are 0.
    """
    scale = hr.shape[0] // lr.shape[0]
    means = hr.reshape(lr.shape[0], scale, lr.shape[1], scale, 3).mean(axis=(1, 3, 4))
    residual = lr.mean(axis=-1) - means
    centred = residual - residual.mean()
    variance = np.mean(centred**2)
    if variance < 1e-12:  # a millionth of full scale: only rounding
        return Residual(0.0, 0.0, 0.0, 0.0)
    correlation = np.mean([np.mean(centred[1:] * centred[:-1]), np.mean(centred[:, 1:] * centred[:, :-1])]) / variance
    return Residual(GREY_LEVELS * float(np.sqrt(variance)), float(np.mean(centred**4) / variance**2 - 3),
                    float(correlation), blockiness(residual))


def blockiness(plane: np.ndarray) -> float:
    """Return by how much steps between pixels are larger on a grid of 8x8 blocks than elsewhere, as a share.

    The grid may start anywhere: of the eight possible columns the one with the largest steps is taken, and so for rows.
    Plain noise has about 0.1 for 63 x 63 pixels, since the largest of eight is taken.
    """
    excess = []
    for axis in (0, 1):
        steps = np.abs(np.diff(plane, axis=axis)).mean(axis=1 - axis)
        *others, largest = sorted(steps[phase::BLOCK].mean() for phase in range(BLOCK))
        excess.append(largest / np.mean(others) - 1 if others[-1] > 0 else 0.0)
    return float(np.mean(excess))


def likeness_table(rows: Mapping[str, Sequence[np.ndarray]]) -> str:
    """Return the table: a row per name, with mean and (standard deviation) over its images."""
    width = 15  # of a column
    lines = [f"{'':10}{'power over real, dB, by cycles/pixel':^{4 * width}}{'residual':^{4 * width}}",
             f"{'':10}" + "".join(f"{name:>{width}}" for name in COLUMNS)]
    for name, some in rows.items():
        moments = np.round([np.mean(some, axis=0), np.std(some, axis=0)], 2) + 0.0  # no "-0.00"
        cells = (f"{mean:.2f} ({std:.2f})" for mean, std in moments.T)
        lines.append(f"{name:10}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)
