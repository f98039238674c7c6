"""What the residuals sr - hr look like, and which power q would be their own: the quasi-norm's assumption, measured.

The quasi-norm loss takes residuals for generalised Gaussian about zero (paper, section 2.2):

    p(r) = q / (2 alpha Gamma(1/q)) exp(-(|r| / alpha)^q)        q = 2 Gaussian, q = 1 Laplacian, below: heavier tails

Both are fitted by maximum likelihood, all pixels and channels taken for independent draws, as in the loss. Residuals
are those that the loss sees: of the float SR, neither rounded nor clipped, against the 8-bit HR.

Residuals are known to half a grey level, the rounding of HR. One of exactly zero (SR that was rounded too) would make
the likelihood infinite at q -> 0, so zeros count as spread evenly over that half grey level; others stay as they are.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from pipelines.config import CorruptOptions, DegradeOptions
from pipelines.corrupt import corrupt_pair, load_outliers
from pipelines.dataset import Shards, evaluation_dataset
from pipelines.degrade import degrade_example
from pipelines.errors import require
from pipelines.files import atomic_path, write_text
from pipelines.shards import ShardSet, open_shards
from sr_keras.model.keras_file import load_keras
from sr_keras.model.loading import find_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HALF_GREY_LEVEL = 0.5 / 255
Q_RANGE = (0.1, 8.0)
MOST_FITTED = 500_000  # values; q is then sure to 0.3%, were they independent
GAUSSIAN_BEYOND_3 = math.erfc(3 / math.sqrt(2))
BINS, SHOWN_QUANTILE = 160, 0.9995
BAR = r"\|"  # in a cell of a Markdown table
# Okabe and Ito's colours, told apart by line style as well.
INK, CURVES = "#1d1d1f", (("Gaussian", "#0072B2", "--"), ("Laplacian", "#009E73", ":"), ("fitted", "#D55E00", "-"))


@dataclass(frozen=True)
class Fit:
    """A generalised Gaussian fitted to residuals, and what it was fitted to.

    `kurtosis` is 3 for a Gaussian, `beyond_3` the share further than 3 standard deviations from the mean (0.0027 for a
    Gaussian). `gain` is how much likelier than the best Gaussian this one is: in the mean, in nats a value.
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
    """Fit q and alpha by maximum likelihood, the mean being zero.

    For a given q the best alpha is (q mean |r|^q)^(1/q), which leaves one unknown; it is looked for in Q_RANGE on at
    most MOST_FITTED values, drawn by `seed`. Moments are of all values.

    Args:
        residuals: Floats of any shape.
        seed: Of the draw.

    Raises:
        ValueError: There are fewer than two values, or they are all equal, or not all finite.
    """
    values = np.asarray(residuals, np.float32).ravel()
    require(values.size > 1, "residuals", "hold at least two values", "take more patches", values.size)
    require(bool(np.isfinite(values).all()), "residuals", "be finite", "look for a model that diverged", "nan or inf")
    mean = _mean(values)
    std = math.sqrt(_mean(np.square(values - mean)))
    require(std > 0, "residuals", "differ from each other", "take more patches", float(values[0]))
    logs = _log_magnitudes(values, seed)
    found = minimize_scalar(lambda log_q: -_log_likelihood(math.exp(log_q), logs), method="bounded",
                            bounds=np.log(Q_RANGE), options={"xatol": 1e-4})
    q, standard = math.exp(found.x), (values - mean) / std
    return Fit(q, _alpha(q, logs), values.size, mean, std, mean_magnitude=_mean(np.abs(values)),
               kurtosis=_mean(np.square(np.square(standard))), beyond_3=_mean(np.abs(standard) > 3),
               gain=-found.fun - _log_likelihood(2, logs))


def density(r: np.ndarray, q: float, alpha: float) -> np.ndarray:
    """Return the generalised Gaussian's density at r, of the shape of r."""
    return q / (2 * alpha * math.exp(gammaln(1 / q))) * np.exp(-(np.abs(r) / alpha) ** q)


def cell_residuals(generator: str | Path, shards: Shards, degrade: DegradeOptions | None = None,
                   limit: int | None = None, seed: int = 0, corrupt: CorruptOptions | None = None) -> np.ndarray:
    """Return sr - hr of patches as the loss sees them, those of a corrupted training set among them.

    Args:
        generator: A .keras file, or a run folder.
        shards: The patches; those of the test slides, or of the training slides.
        degrade: How LR is made.
        limit: Use so many patches, from each slide the same number as far as it has them.
        seed: Of the corruption: the run's, for the pairs that the run was trained on.
        corrupt: What is spoilt on purpose; None leaves every pair as it is.

    Returns:
        float32 [N, H, W, 3].

    Raises:
        FileNotFoundError: There is no such generator, or no such folder.
        ValueError: The generator is none, or has another scale.
    """
    degrade, corrupt = degrade or DegradeOptions(), corrupt or CorruptOptions()
    shards = shards if isinstance(shards, ShardSet) else open_shards(shards)
    model = load_keras(find_generator(generator))
    asked = corrupt.fraction > 0 and "outlier" in corrupt.kinds and corrupt.outlier_dir is not None
    outliers = load_outliers(str(corrupt.outlier_dir), shards.patch_size) if asked else None

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
        groups: What they are, "clean training pairs" for one -> residuals, of any shape.
        folder: Made if it is not there.
        seed: Of the draw of the values that are fitted.

    Returns:
        The fits, by group.

    Raises:
        ValueError: There is no group, or one cannot be fitted.
    """
    require(bool(groups), "groups", "hold some residuals", "see cell_residuals", dict(groups))
    fits = {name: fit_generalised_gaussian(values, seed) for name, values in groups.items()}
    figure = _draw({name: np.asarray(values, np.float32).ravel() for name, values in groups.items()}, fits)
    for suffix in ("png", "svg"):
        _save(figure, Path(folder) / f"residuals.{suffix}")
    write_text(Path(folder) / "residuals.md", residual_table(fits))
    return fits


def residual_table(fits: Mapping[str, Fit]) -> str:
    """Return fits as a Markdown table."""
    lines = ["| residuals | values | q | alpha | std | kurtosis | beyond 3σ | of a Gaussian's | gain, nats |",
             "| --- |" + " ---: |" * 8, f"| a Gaussian | | 2 | 1.41 std | | 3 | {GAUSSIAN_BEYOND_3:.2%} | 1 | 0 |"]
    lines += [f"| {name.replace('|', BAR)} | {fit.count:,} | {_q(fit)} | {fit.alpha:.3g} | {fit.std:.4f} "
              f"| {fit.kurtosis:.1f} | {fit.beyond_3:.2%} | {fit.beyond_3 / GAUSSIAN_BEYOND_3:.1f} | {fit.gain:.3f} |"
              for name, fit in fits.items()]
    return "\n".join(lines) + "\n"


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64))


def _log_magnitudes(values: np.ndarray, seed: int) -> np.ndarray:
    """Return log |r| of at most MOST_FITTED values, zeros spread over half a grey level."""
    if values.size > MOST_FITTED:
        values = np.random.default_rng(seed).choice(values, MOST_FITTED, replace=False)
    sizes = np.sort(np.abs(values.astype(np.float64)))
    zeros = int(np.searchsorted(sizes, 0, "right"))
    sizes[:zeros] = (np.arange(zeros) + 0.5) / max(zeros, 1) * HALF_GREY_LEVEL
    return np.log(sizes)


def _alpha(q: float, logs: np.ndarray) -> float:
    return float((q * np.exp(q * logs).mean()) ** (1 / q))


def _log_likelihood(q: float, logs: np.ndarray) -> float:
    """Return the mean log-likelihood of a value at the best alpha for q."""
    return float(math.log(q / 2) - gammaln(1 / q) - math.log(_alpha(q, logs)) - 1 / q)


def _q(fit: Fit) -> str:
    low, high = Q_RANGE
    return f"≤ {low}" if fit.q < 1.01 * low else f"≥ {high}" if fit.q > 0.99 * high else f"{fit.q:.2f}"


def _draw(groups: Mapping[str, np.ndarray], fits: Mapping[str, Fit]) -> Figure:
    from matplotlib.figure import Figure  # and not pyplot: no display, no global state

    reach = max(float(np.quantile(np.abs(values), SHOWN_QUANTILE)) for values in groups.values())
    edges = np.linspace(-reach, reach, BINS + 1)
    heights = {name: np.histogram(values, edges)[0] / (values.size * np.diff(edges)) for name, values in groups.items()}
    seen = np.concatenate([height[height > 0] for height in heights.values()])
    figure = Figure(figsize=(0.8 + 3.6 * len(groups), 3.9), facecolor="white", layout="constrained")
    axes = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, fit) in zip(axes, fits.items(), strict=True):
        _draw_one(axis, edges, heights[name], fit)
        axis.set(title=name, xlabel="residual SR − HR", yscale="log", ylim=(0.5 * seen.min(), 4 * seen.max()))
    axes[0].set_ylabel("density")
    return figure


def _draw_one(axis: Any, edges: np.ndarray, heights: np.ndarray, fit: Fit) -> None:
    """Draw a histogram and three densities; Gaussian and Laplacian are the likeliest of their kind about zero."""
    centres = (edges[1:] + edges[:-1]) / 2
    axis.plot(centres, np.where(heights > 0, heights, np.nan), ".", color=INK, markersize=3, label="measured")
    gaussian = replace(fit, q=2.0, alpha=math.sqrt(2 * (fit.std**2 + fit.mean**2)))
    laplacian = replace(fit, q=1.0, alpha=fit.mean_magnitude)
    for (label, colour, style), curve in zip(CURVES, (gaussian, laplacian, fit), strict=True):
        label = f"q = {_q(fit)}, {label}" if curve is fit else f"q = {curve.q:.0f}, {label}"
        axis.plot(centres, density(centres, curve.q, curve.alpha), style, color=colour, linewidth=1.8, label=label)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper right")


def _save(figure: Figure, path: Path) -> None:
    """Write a figure; the same figure gives the same bytes."""
    from matplotlib import rc_context

    dated = {"Date": None} if path.suffix == ".svg" else {}
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "sr_keras"}):
        figure.savefig(temporary, dpi=150, metadata=dated)
