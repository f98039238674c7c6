"""A picture of every corruption on real tissue: each at three strengths, then which side of a pair is bad.

    python -m pipelines.preview --output=preview.png
    python -m pipelines.preview --output=preview.png --data=slides --outlier_dir=tiles/giemsa

The panels are made by the functions that training uses. They show the centre of the patch, enlarged without smoothing.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from pipelines import corrupt
from pipelines.console import run
from pipelines.degrade import degrade_example
from pipelines.files import atomic_path
from pipelines.flags import define_degrade_flags, define_patch_flags, degrade_options, patch_options
from pipelines.options import CORRUPTIONS, SIDES, CorruptOptions, DegradeOptions, PatchOptions, require
from pipelines.patches import Patch, Skipped, find_sources, read_patches
from pipelines.pixels import quantise, to_float
from pipelines.sources import is_among

STRENGTHS = (0.5, 1.0, 2.0)
CANDIDATES = 64  # patches to choose from
SHOWN = 160  # side of what a panel shows, in HR pixels
WIDTH, TITLE = 13.0, 0.75  # inches: the picture's width, and the height that titles and gaps need

# A seed decides between defocus and Gaussian blur, and so on; these show each once (a test says that they do).
VARIANTS = {
    "noise": ("noise", 0), "blur\ndefocus": ("blur", 0), "blur\nGaussian": ("blur", 3),
    "contrast\nmore stain": ("contrast", 1), "contrast\nless stain": ("contrast", 0),
    "contrast\nharsh, dark": ("contrast", 4), "contrast\nflat, bright": ("contrast", 7),
}

Pair = tuple[tf.Tensor, tf.Tensor]

FLAGS = flags.FlagValues()
flags.DEFINE_string("output", None, "PNG to write, in place of one that is there; outside of the data.",
                    flag_values=FLAGS)
flags.DEFINE_string("data", "sample", "Slides or folders of tiles, the first slide is shown.", flag_values=FLAGS)
flags.DEFINE_string("outlier_dir", None, "Tiles of another stain, to show the kind 'outlier' too.", flag_values=FLAGS)
define_patch_flags(FLAGS)
define_degrade_flags(FLAGS, "textbook")


def main() -> int:
    """Draw the picture of one patch and say where it is."""
    options = patch_options(FLAGS)
    output = _checked(FLAGS.output)
    patch = choose_patch(FLAGS.data, options)
    outliers = FLAGS.outlier_dir and corrupt.load_outliers(FLAGS.outlier_dir, options.patch_size)
    figure = preview(to_float(patch.pixels), degrade_options(FLAGS), outliers)
    figure.suptitle(f"{patch.example_id}, {_resolution(patch)}", x=0.01, ha="left", fontsize=9, color="0.35")
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=180, format="png")
    print(output)
    return 0


def _checked(output: str | None) -> Path:
    """Return the PNG to write; refuse one that is, or would be, among the pictures that it shows."""
    require(bool(output), "output", "be given", "name the PNG to write", output)
    path = Path(output or "")
    require(path.suffix.lower() == ".png" and not path.is_dir(), "output", "be a .png file", "it is written as PNG",
            output)
    inputs = f"{FLAGS.data},{FLAGS.outlier_dir or ''}"
    require(not is_among(path, inputs), "output", "lie outside of data and outlier_dir",
            "it would be one of their slides or tiles: name another file", output)
    return path


def choose_patch(data: str, options: PatchOptions) -> Patch:
    """Return the patch of the first slide with the most to see: the largest spread of values, of CANDIDATES.

    Raises:
        ValueError: The slide gives no patch; says why.
    """
    found = list(islice(read_patches(find_sources(data)[0], options), CANDIDATES))
    patches = [patch for patch in found if isinstance(patch, Patch)]
    if not patches:
        reason = next((item.reason for item in found if isinstance(item, Skipped)), "nothing was found")
        raise ValueError("`data` must have a patch to show; choose another slide or patch_size. "
                         f"Received: {data!r} ({reason})")
    return max(patches, key=lambda patch: patch.pixels.std(axis=(0, 1)).sum())


def preview(hr: np.ndarray, options: DegradeOptions, outliers: tf.Tensor | None = None) -> Figure:
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
            _show(axis, panel)
        axes[row, 0].set_ylabel(f"strength {strength:g}")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)


def _draw_sides(figure: SubFigure, pairs: dict[str, Pair], scale: int) -> None:
    axes = figure.subplots(2, len(pairs), squeeze=False)
    for column, (title, pair) in zip(axes.T, pairs.items(), strict=True):
        column[0].set_title(title)
        for axis, image in zip(column, pair, strict=True):
            _show(axis, image, SHOWN // scale if image is pair[0] else SHOWN)
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


def _show(axis: Axes, image: np.ndarray | tf.Tensor, side: int = SHOWN) -> None:
    top, left = (max(full - side, 0) // 2 for full in image.shape[:2])
    axis.imshow(np.asarray(image[top:top + side, left:left + side]), vmin=0, vmax=1, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _resolution(patch: Patch) -> str:
    return "resolution unknown" if patch.mpp is None else f"{patch.mpp:g} microns per pixel"


if __name__ == "__main__":
    sys.exit(run(main, FLAGS, __doc__))
