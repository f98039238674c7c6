# SPDX-License-Identifier: Apache-2.0
"""The uncertainty of each pixel: a small head on the frozen generator predicts how the residual HR - SR is spread.

    found = load_uncertainty("saved_models/srgan_sqe_x4")        # None if the model has no head
    sr, scale, shape = found(lr)                                  # lr uint8 [B, h, w, 3]
    half = half_width(scale, shape, 0.9)                          # HR lies within SR -+ half in 90% of the pixels

The residual of a channel, in grey levels of 255, is taken to be generalised Gaussian, the noise model of the paper's
quasi-norm, with a scale a and a shape b of its own at every pixel (b = 2: Gaussian, b = 1: Laplace, less: heavy tails):

    p(r) = b / (2 a Gamma(1/b)) exp(-(|r| / a)^b)

The head sees what the generator's trunk makes at LR size, `with_trunk`, and computes at that size, so it is cheap. One
factor, fitted on slides that neither the head nor the scores use, corrects its scales.

A head belongs to one generator: the digest of that generator's weights is stored with it and checked when it is loaded.
The folder `uncertainty/` beside the generator is a SavedModel; see `sr_keras.formats.signatures.write_uncertainty`.

Source: paper, section 2.2 (quasi-norm); Upadhyay et al., "BayesCap", ECCV 2022: its noise model and frozen
generator, without its identity term, because SR stays what the generator computes.
"""
from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import keras
import msgspec
import numpy as np
import tensorflow as tf
from keras import layers
from scipy.special import gammaincinv

from pipelines.errors import require
from pipelines.files import Finite, Positive, read_json
from sr_keras.layers import SubPixel
from sr_keras.model.loading import LoadedGenerator, find_generator, read_weights
from sr_keras.model.streaming import as_keras

FOLDER, FACTS_FILE = "uncertainty", "uncertainty.json"
SIGNATURE, EXPECTED = "uncertainty", "expected"
LEVELS = (0.5, 0.9, 0.95)
SCALES_LIMIT = (0.3, 150.0)  # of a, in grey levels of 255: rounding leaves residuals of 0.3 at least
SHAPES_LIMIT = (0.5, 4.0)  # of b: below, one pixel could dominate the loss; above, it is a box
LEAST = 1e-12  # of |r| / a, where the logarithm of 0 would have no gradient
TRAIN_AGAIN = "write it with sr-keras uncertainty"
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True)
class Prediction:
    """How well a map predicts the real error, the mean over slides: by rank, and for the worst tenth of squares."""

    spearman: Finite
    auc: Share


@dataclass(frozen=True)
class Coverage:
    """The share of pixels of a slide within the intervals of LEVELS, with and without the factor."""

    slide: str
    lr: str
    raw: tuple[Share, ...]
    calibrated: tuple[Share, ...]


@dataclass(frozen=True)
class HeadFacts:
    """What is stored with a head.

    Attributes:
        generator: `digest` of the generator that it belongs to.
        factor: What the scales of the head were multiplied by.
        cost: Multiply-adds of the head over those of the generator.
        uncertainty: How well it predicts the error.
        departure: How well the LR error of a trust map predicts it.
        coverage: By slide and kind of LR.
    """

    generator: str
    factor: Positive
    cost: Positive
    uncertainty: Prediction
    departure: Prediction
    coverage: list[Coverage]

    @property
    def is_better(self) -> bool:
        """Whether it predicts the error better than the LR error does."""
        return self.uncertainty.auc > self.departure.auc


@dataclass(frozen=True)
class Uncertainty:
    """A head with its generator.

    Attributes:
        facts: What was measured.
        run: lr uint8 [B, h, w, 3] -> dict of sr, uint8, and scale, shape, float32, each [B, scale*h, scale*w, 3].
        expected: The same lr -> the mean of |HR - SR|, grey levels of 255, float32 [B, scale*h, scale*w].
    """

    facts: HeadFacts
    run: Callable[[tf.Tensor], dict[str, tf.Tensor]]
    expected: Callable[[tf.Tensor], tf.Tensor]

    def __call__(self, lr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return sr, scale and shape."""
        found = self.run(tf.constant(lr))
        return found["sr"].numpy(), found["scale"].numpy(), found["shape"].numpy()


def with_trunk(generator: LoadedGenerator) -> keras.Model:
    """Return a generator as a model of lr, float -> what a head sees, [B, h, w, C], and sr, float.

    A head sees the features at the end of the trunk, and the LR.

    Raises:
        ValueError: It was not made by `networks.generator`.
    """
    model = as_keras(generator)
    [lr] = model.inputs
    seen = layers.Concatenate(name="seen")([model.get_layer("long_skip").output, lr])
    return keras.Model(lr, [seen, model.outputs[0]])


def head(trunk: np.ndarray, scale: int, filters: int) -> keras.Model:
    """Build a head: the trunk's output [B, h, w, C] -> log a and log b, float32 [B, scale*h, scale*w, 3 + 3].

    Args:
        trunk: Examples of its input, to bring each channel to mean 0 and deviation 1.
        scale: SR side over LR side.
        filters: Of its two 3x3 convolutions.
    """
    mean, deviation = (statistic(trunk, axis=(0, 1, 2), dtype=np.float64) for statistic in (np.mean, np.std))
    gain = 1 / np.maximum(deviation, 1e-3)
    features = keras.Input((None, None, trunk.shape[-1]), name="trunk")
    x = layers.Rescaling(gain.tolist(), (-mean * gain).tolist(), name="normal")(features)
    for name in ("conv1", "conv2"):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
    x = SubPixel(scale, name="up")(layers.Conv2D(6 * scale**2, 1, kernel_initializer="zeros", name="to_pixels")(x))
    low, high = (np.repeat(np.log([of_scale, of_shape]), 3) for of_scale, of_shape in zip(SCALES_LIMIT, SHAPES_LIMIT,
                                                                                         strict=True))
    x = layers.Activation("sigmoid", dtype="float32", name="within_limits")(x)
    return keras.Model(features, layers.Rescaling((high - low).tolist(), low.tolist(), name="logs")(x), name="head")


def negative_log_likelihood(residual: tf.Tensor, logs: tf.Tensor) -> tf.Tensor:
    """Return -log p(r) of each value: residual [..., 3], logs [..., 3 + 3] of a and b -> [..., 3]; finite at r = 0."""
    log_scale, log_shape = tf.split(logs, 2, axis=-1)
    shape = tf.exp(log_shape)
    relative = tf.maximum(tf.abs(residual) * tf.exp(-log_scale), LEAST)
    return tf.exp(shape * tf.math.log(relative)) + log_scale + math.log(2) + tf.math.lgamma(1 / shape) - log_shape


def mean_error(logs: tf.Tensor) -> tf.Tensor:
    """Return the mean of |r|: logs [..., 3 + 3] -> a Gamma(2/b) / Gamma(1/b), [..., 3]."""
    log_scale, log_shape = tf.split(logs, 2, axis=-1)
    inverse = tf.exp(-log_shape)
    return tf.exp(log_scale + tf.math.lgamma(2 * inverse) - tf.math.lgamma(inverse))


def half_width(scale: np.ndarray, shape: np.ndarray, level: float) -> np.ndarray:
    """Return half of the interval around SR that holds HR with the probability `level`, in the unit of `scale`."""
    return scale * gammaincinv(1 / shape, level) ** (1 / shape)


def multiply_adds(weights: Mapping[str, np.ndarray], scale: int) -> int:
    """Return the multiply-adds of `networks.generator`, or of a head, for an LR pixel, from its weights by path.

    upN_conv runs at 2^(N-1) times the LR's sides, the last convolution at the size of SR, all others at that of LR.
    """
    total = 0
    for path, weight in weights.items():
        layer = path.split("/")[-2]
        side = scale if layer == "last" else 2 ** (int(layer[2:-5]) - 1) if layer.startswith("up") else 1
        total += side**2 * weight.size if weight.ndim == 4 else 0
    return total


def digest(weights: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of a generator's weights, as `read_weights` gives them, the same for each of its files."""
    found = hashlib.sha256()
    for path in sorted(weights):
        found.update(f"{path} {weights[path].shape}\n".encode() + weights[path].astype("<f4").tobytes())
    return found.hexdigest()


def folder_of(model: str | Path) -> Path:
    """Return the folder for the head of a model that `find_generator` finds."""
    found = find_generator(model)
    return (found if found.is_dir() else found.parent) / FOLDER


def check_owner(folder: Path, model: str | Path) -> HeadFacts:
    """Return the facts of the head in `folder`.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They are damaged, or the head belongs to another generator than `model`.
    """
    facts = read_json(folder / FACTS_FILE, HeadFacts, TRAIN_AGAIN)
    own = digest(read_weights(model))
    require(facts.generator == own, "uncertainty", f"be of the generator beside it, {own[:12]}",
            f"remove {folder}, or train one with sr-keras uncertainty", f"one of {facts.generator[:12]}")
    return facts


def load_uncertainty(model: str | Path) -> Uncertainty | None:
    """Load the head beside a model, named as for `sr_keras.model.loading.load_generator`; None if there is none.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: The head is damaged, or belongs to another generator.
    """
    folder = folder_of(model)
    if not folder.exists():
        return None
    return _load(folder, Path(model), (folder / FACTS_FILE).stat().st_mtime_ns)


@lru_cache(maxsize=1)  # it takes seconds, and many pictures may follow one another
def _load(folder: Path, model: Path, _: int) -> Uncertainty:
    facts = check_owner(folder, model)
    try:
        loaded = tf.saved_model.load(str(folder))
        require(SIGNATURE in loaded.signatures and hasattr(loaded, EXPECTED), SIGNATURE, "be present", TRAIN_AGAIN, "")
    except Exception as error:  # TensorFlow has no common base class here
        raise ValueError(f"{folder}: can't be loaded as an uncertainty head; {TRAIN_AGAIN}") from error
    # By way of `loaded`, which owns the weights.
    return Uncertainty(facts, lambda lr: loaded.signatures[SIGNATURE](lr=lr), lambda lr: getattr(loaded, EXPECTED)(lr))


def table(facts: HeadFacts) -> str:
    """Return what was measured as Markdown: the coverage by slide, and how well two maps predict the error."""
    rows = [f"| {one.slide} | {one.lr} | " + " | ".join(
        f"{calibrated:.1%} ({raw:.1%})" for raw, calibrated in zip(one.raw, one.calibrated, strict=True)) + " |"
        for one in facts.coverage]
    mean = " | ".join(f"{calibrated:.1%} ({raw:.1%})" for raw, calibrated in zip(
        *(np.mean([getattr(one, name) for one in facts.coverage], 0) for name in ("raw", "calibrated")), strict=True))
    maps = [f"| {name} | {one.spearman:.2f} | {one.auc:.2f} |" for name, one in (
        ("uncertainty", facts.uncertainty), ("LR error of the trust map", facts.departure))]
    return "\n".join([
        f"Share of pixels of validation slides within each interval, with the factor of {facts.factor:.3f} (and "
        "without it):", "", "| slide | LR | " + " | ".join(f"{level:.0%}" for level in LEVELS) + " |",
        "| --- | --- |" + " ---: |" * len(LEVELS), *rows, f"| mean | | {mean} |", "",
        "How well a map predicts the mean of |HR - SR| in squares of 16 pixels, the mean over the rows above:", "",
        "| map | Spearman | AUC, worst 10% |", "| --- | ---: | ---: |", *maps])
