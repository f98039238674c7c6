# SPDX-License-Identifier: Apache-2.0
"""The autoencoder's training data, and a measure of how far its code moves with corruptions.

    movement = (rms(code(bad) - code(hr)) / std(code(hr))) / (rms(bad - hr) / std(hr))

Both errors are relative to a spread, so codes of any scale can be compared. The manifold term is useful if noise, which
hardly disturbs a reader, moves the code less than blur or false contrast of the same size.

Source: paper, section 2.2, "Robust Manifold-Based Loss".
"""
from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pipelines.corrupt import blur, contrast, noise
from pipelines.errors import require
from pipelines.shards.records import fold

# Largest standard deviation, on [0, 1] images, of the noise that the autoencoder learns to remove. On H&E after 1,000
# steps the code moves 0.18 with noise, 0.36 with blur, 0.29 with contrast and 0.32 with the errors of SR; trained
# without noise 0.25, 0.34, 0.28 and 0.33. With 0.4 it moved a third less with the errors of SR.
MOST_NOISE = 0.2
_NOISE = 100  # purpose of a random number; pipelines.dataset uses smaller ones
KINDS: dict[str, Callable[..., tf.Tensor]] = {"noise": noise, "blur": blur, "contrast": contrast}


def denoising(images: tf.data.Dataset, seed: int, first: int = 0) -> tf.data.Dataset:
    """Return (noisy, good) of batches of good images, the autoencoder's training data.

    The noise is Gaussian, its standard deviation drawn for each image from 0 to MOST_NOISE. It follows from the seed
    and the position of the batch alone.

    Args:
        images: Batches, float32 [B, H, W, 3] in [0, 1].
        seed: Seed of the run.
        first: Position of the first batch; not 0 if the run is resumed.

    Returns:
        Batches (noisy, good), both float32 [B, H, W, 3] in [0, 1].

    Source: Vincent et al. 2008, "Extracting and composing robust features with denoising autoencoders".
    """
    def pair_of(good: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        strengths, values = tf.unstack(tf.random.split(fold([seed, _NOISE], place), 2))
        strength = tf.random.stateless_uniform([tf.shape(good)[0], 1, 1, 1], strengths, 0.0, MOST_NOISE)
        return tf.clip_by_value(good + strength * tf.random.stateless_normal(tf.shape(good), values), 0.0, 1.0), good

    return tf.data.Dataset.zip(images, tf.data.Dataset.counter(first)).map(pair_of)


def code_movement(encoder: keras.Model, hr: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Measure how far the code moves with noise, blur and contrast of strength 1.

    Args:
        encoder: image -> code, [B, H, W, 3] -> [B, h, w, C].
        hr: Good images, float32 [B, H, W, 3] in [0, 1]; a few are enough.
        seed: Seed of the corruptions.

    Returns:
        Movement for each corruption, 0 or more; 1 is as far as the pixels moved.

    Raises:
        ValueError: `hr` has one colour only.
    """
    spread = float(np.std(hr))
    require(spread > 0, "hr", "be images of more than one colour", "give tissue", spread)
    code = np.asarray(encoder(hr, training=False))

    def movement(corrupt: Callable[..., tf.Tensor]) -> float:
        bad = np.stack([np.asarray(corrupt(tf.constant(image), 1.0, tf.constant([seed, i])))
                        for i, image in enumerate(hr)])
        moved = np.asarray(encoder(bad, training=False)) - code
        return float(_rms(moved) / np.std(code) / (_rms(bad - hr) / spread))

    return {kind: movement(corrupt) for kind, corrupt in KINDS.items()}


def in_words(movement: dict[str, float]) -> str:
    """Return a movement as a line."""
    return ("the code moves, per unit of pixel error, "
            + ", ".join(f"{value:.2f} with {kind}" for kind, value in movement.items()))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
