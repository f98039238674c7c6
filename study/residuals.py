# SPDX-License-Identifier: Apache-2.0
"""Distribution of the residuals sr - hr, and the power q that fits them: the assumption of the quasi-norm, measured.

The quasi-norm loss assumes generalised Gaussian residuals with mean 0 (paper, section 2.2):

    p(r) = q / (2 alpha Gamma(1/q)) exp(-(|r| / alpha)^q)        q = 2 Gaussian, q = 1 Laplacian, below: heavier tails

q and alpha are fitted by maximum likelihood (scipy.stats.gennorm), all pixels and channels taken as independent, as in
the loss. Residuals are those that the loss sees: of the float SR, neither rounded nor clipped, against the 8-bit HR.

HR is rounded, so a residual is known to half a grey level. A residual of exactly 0 would make the likelihood infinite
at q -> 0; zeros are therefore spread evenly over half a grey level.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from scipy.stats import gennorm, kurtosis, laplace, norm

from pipelines.config import CorruptOptions, DegradeOptions
from pipelines.corrupt import corrupt_pair, load_outliers
from pipelines.dataset import Shards, evaluation_dataset
from pipelines.degrade import degrade_example
from pipelines.errors import require
from pipelines.files import atomic_path, write_text
from pipelines.shards import ShardSet, open_shards
from sr_keras.model.loading import find_generator, load_keras

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HALF_GREY_LEVEL = 0.5 / 255
SHOWN_Q = (0.1, 8.0)  # a fit outside is shown as "≤ 0.1" or "≥ 8.0"
MAX_FITTED = 500_000  # values; enough to know q to 0.3% if they were independent
GAUSSIAN_BEYOND_3 = 2 * norm.sf(3)
BINS, SHOWN_QUANTILE = 160, 0.9995
COLUMNS = ("residuals", "values", "q", "alpha", "std", "kurtosis", "beyond 3σ", "of a Gaussian's", "gain, nats")
# Colours of Okabe and Ito, with a line style each.
INK, GAUSSIAN, LAPLACIAN, FITTED = "#1d1d1f", ("#0072B2", "--"), ("#009E73", ":"), ("#D55E00", "-")


@dataclass(frozen=True)
class Fit:
    """A generalised Gaussian fitted to residuals, and moments of the residuals.

    `kurtosis` is 3 for a Gaussian. `beyond_3` is the share further than 3 standard deviations from the mean, 0.0027 for
    a Gaussian. `gain` is the mean log-likelihood of a value above that of the best Gaussian with mean 0, in nats.
    """

    q: float
    alpha: float
    count: int
    mean: float
    std: float
    mean_magnitude: float
    kurtosis: float
    beyond_3: float
    gain: float


def fit_generalised_gaussian(residuals: Any, seed: int = 0) -> Fit:
    """Fit q and alpha by maximum likelihood, with mean 0.

    Args:
        residuals: Floats of any shape. At most MAX_FITTED of them are fitted; moments use all.
        seed: Seed of the draw of the fitted values.

    Raises:
        ValueError: There are fewer than two values, all values are equal, or some are not finite.
    """
    values = np.asarray(residuals, np.float32).ravel()
    require(values.size > 1, "residuals", "have at least two values", "use more patches", values.size)
    require(bool(np.isfinite(values).all()), "residuals", "be finite", "check whether training diverged", "nan or inf")
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    require(std > 0, "residuals", "differ from each other", "use more patches", float(values[0]))
    fitted = _without_zeros(values, seed)
    q, _, alpha = gennorm.fit(fitted, floc=0)
    gain = gennorm.logpdf(fitted, q, scale=alpha).mean() - norm.logpdf(fitted, scale=np.sqrt(np.mean(fitted**2))).mean()
    return Fit(float(q), float(alpha), values.size, mean, std,
               mean_magnitude=float(np.abs(values).mean(dtype=np.float64)),
               kurtosis=float(kurtosis(values, fisher=False)), beyond_3=float((np.abs(values - mean) > 3 * std).mean()),
               gain=float(gain))


def cell_residuals(generator: str | Path, shards: Shards, degrade: DegradeOptions | None = None,
                   limit: int | None = None, seed: int = 0, corrupt: CorruptOptions | None = None) -> np.ndarray:
    """Return sr - hr of patches as the loss sees them, including the corruption of a training set.

    Args:
        generator: A .keras file, or a run folder.
        shards: Patches of test or training slides.
        degrade: How LR is made.
        limit: Number of patches, taken evenly from the slides.
        seed: Seed of the corruption; use the seed of the run to get the pairs it was trained on.
        corrupt: The corruption; None leaves every pair unchanged.

    Returns:
        float32 [N, H, W, 3].

    Raises:
        FileNotFoundError: The generator or the folder does not exist.
        ValueError: The file is not a generator, or its scale is different.
    """
    degrade, corrupt = degrade or DegradeOptions(), corrupt or CorruptOptions()
    shards = shards if isinstance(shards, ShardSet) else open_shards(shards)
    model = load_keras(find_generator(generator))
    use_outliers = corrupt.fraction > 0 and "outlier" in corrupt.kinds and corrupt.outlier_dir is not None
    outliers = load_outliers(str(corrupt.outlier_dir), shards.patch_size) if use_outliers else None
    downsample = partial(degrade_example, options=degrade, seed=tf.constant([seed, 0], tf.int64))

    @tf.autograph.experimental.do_not_convert
    def pair_of(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return corrupt_pair(example["lr"], example["hr"], example["example_id"], seed, corrupt, downsample, outliers)

    @tf.function(reduce_retracing=True, autograph=False)
    def residual(lr: tf.Tensor, hr: tf.Tensor) -> tf.Tensor:
        return model(lr, training=False) - hr

    pairs = evaluation_dataset(shards, degrade=degrade, limit=limit).unbatch().map(pair_of).batch(1)
    return np.concatenate([residual(lr, hr).numpy() for lr, hr in pairs])


def write_residuals(groups: Mapping[str, Any], folder: str | Path, seed: int = 0) -> dict[str, Fit]:
    """Fit each group of residuals and write residuals.png, residuals.svg and residuals.md, atomically.

    Args:
        groups: Name of the group, such as "clean training pairs" -> residuals of any shape.
        folder: Created if it does not exist.
        seed: Seed of the draw of the fitted values.

    Returns:
        The fits, by group.

    Raises:
        ValueError: There is no group, or a group cannot be fitted.
    """
    from matplotlib import rc_context

    require(bool(groups), "groups", "contain some residuals", "see cell_residuals", dict(groups))
    fits = {name: fit_generalised_gaussian(values, seed) for name, values in groups.items()}
    figure = _draw({name: np.asarray(values, np.float32).ravel() for name, values in groups.items()}, fits)
    for suffix, metadata in (("png", None), ("svg", {"Date": None})):  # no date: the same figure gives the same bytes
        with atomic_path(Path(folder) / f"residuals.{suffix}") as temporary, rc_context({"svg.hashsalt": "sr_keras"}):
            figure.savefig(temporary, dpi=150, metadata=metadata)
    write_text(Path(folder) / "residuals.md", residual_table(fits))
    return fits


def residual_table(fits: Mapping[str, Fit]) -> str:
    """Return fits as a Markdown table."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * 8,
             f"| a Gaussian | | 2 | 1.41 std | | 3 | {GAUSSIAN_BEYOND_3:.2%} | 1 | 0 |"]
    for name, fit in fits.items():
        escaped = name.replace("|", r"\|")
        lines.append(f"| {escaped} | {fit.count:,} | {_q(fit)} | {fit.alpha:.3g} | {fit.std:.4f} | {fit.kurtosis:.1f} "
                     f"| {fit.beyond_3:.2%} | {fit.beyond_3 / GAUSSIAN_BEYOND_3:.1f} | {fit.gain:.3f} |")
    return "\n".join(lines) + "\n"


def _without_zeros(values: np.ndarray, seed: int) -> np.ndarray:
    """Return |r| of at most MAX_FITTED values, zeros spread over half a grey level."""
    if values.size > MAX_FITTED:
        values = np.random.default_rng(seed).choice(values, MAX_FITTED, replace=False)
    sizes = np.sort(np.abs(values.astype(np.float64)))
    zeros = int(np.searchsorted(sizes, 0, "right"))
    sizes[:zeros] = (np.arange(zeros) + 0.5) / max(zeros, 1) * HALF_GREY_LEVEL
    return sizes


def _q(fit: Fit) -> str:
    low, high = SHOWN_Q
    return f"≤ {low}" if fit.q <= low else f"≥ {high}" if fit.q >= high else f"{fit.q:.2f}"


def _draw(groups: Mapping[str, np.ndarray], fits: Mapping[str, Fit]) -> Figure:
    from matplotlib.figure import Figure  # not pyplot, which needs a display and keeps global state

    reach = max(float(np.quantile(np.abs(values), SHOWN_QUANTILE)) for values in groups.values())
    edges = np.linspace(-reach, reach, BINS + 1)
    heights = {name: np.histogram(values, edges)[0] / (values.size * np.diff(edges)) for name, values in groups.items()}
    seen = np.concatenate([height[height > 0] for height in heights.values()])
    figure = Figure(figsize=(0.8 + 3.6 * len(groups), 3.9), facecolor="white", layout="constrained")
    axes = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, fit) in zip(axes, fits.items(), strict=True):
        _draw_group(axis, (edges[1:] + edges[:-1]) / 2, heights[name], fit)
        axis.set(title=name, xlabel="residual SR − HR", yscale="log", ylim=(0.5 * seen.min(), 4 * seen.max()))
    axes[0].set_ylabel("density")
    return figure


def _draw_group(axis: Any, centres: np.ndarray, heights: np.ndarray, fit: Fit) -> None:
    """Draw a histogram with the best Gaussian and Laplacian with mean 0, and the fitted density."""
    axis.plot(centres, np.where(heights > 0, heights, np.nan), ".", color=INK, markersize=3, label="measured")
    gaussian, laplacian = norm(scale=math.hypot(fit.std, fit.mean)), laplace(scale=fit.mean_magnitude)
    for label, density, (colour, style) in (("q = 2, Gaussian", gaussian, GAUSSIAN),
                                            ("q = 1, Laplacian", laplacian, LAPLACIAN),
                                            (f"q = {_q(fit)}, fitted", gennorm(fit.q, scale=fit.alpha), FITTED)):
        axis.plot(centres, density.pdf(centres), style, color=colour, linewidth=1.8, label=label)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper right")
