"""LR images of the same HR side by side: the real one where there is one, and what each preset makes.

A preset with ranges is shown by some of its members, each of which is drawn and then held fast, so that its caption
says what was done. The panels show the centre of a patch, LR enlarged without smoothing.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from pipelines.config import DegradeOptions
from pipelines.degrade import degrade_example
from pipelines.errors import require
from pipelines.patches import Patch
from pipelines.pixels import to_float
from pipelines.preview.likeness import Likeness, compare
from pipelines.preview.panels import show

PANEL, CAPTION = 2.0, 0.6  # inches: side of a panel, and the height of the text above it
RANGES = tuple(field.name for field in fields(DegradeOptions) if "Range" in str(field.type))
MOSTLY_WEAK = ("shot_noise", "read_noise", "sharpen")  # `degrade_example` draws these from the low end more often


def draw_degradations(patches: Sequence[Patch], columns: Sequence[tuple[str, DegradeOptions]]) -> Figure:
    """Return the picture: a row for each patch; HR, real LR where there is one, and a member of each of `columns`."""
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


def likenesses(patches: Sequence[Patch], presets: Mapping[str, DegradeOptions]) -> dict[str, list[Likeness]]:
    """Return how near each preset comes to the real LR of pairs, "real" being the real one beside itself.

    Raises:
        ValueError: A pair has another scale than a preset.
    """
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


def member(options: DegradeOptions, rng: np.random.Generator) -> DegradeOptions:
    """Return one of the degradations that `options` has to draw from, with nothing left to draw but noise and phase."""
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
    """Return what a degradation does, in three lines; of ranges the low end."""
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


def _panels(number: int, patch: Patch,
            columns: Sequence[tuple[str, DegradeOptions]]) -> list[tuple[str, np.ndarray, int]]:
    """Return (caption, image, HR pixels a pixel) of a patch's panels, left to right."""
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
