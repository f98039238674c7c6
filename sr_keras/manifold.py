"""How far the code of an image moves with what is wrong with the image: what the manifold term can see.

    movement = (rms(code(bad) - code(hr)) / std(code(hr))) / (rms(bad - hr) / std(hr))

Both errors are taken relative to the spread of what they fall on, so that codes of any scale compare. The manifold
term is worth its cost where noise, which hardly matters to who looks, moves the code less than blur or false contrast
of the same size do: the paper has noise factored out.

Source: paper, section 2.2, "Robust Manifold-Based Loss".
"""
from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pipelines.corrupt import blur, contrast, noise
from pipelines.options import require

KINDS: dict[str, Callable[..., tf.Tensor]] = {"noise": noise, "blur": blur, "contrast": contrast}


def code_movement(encoder: keras.Model, hr: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Measure how far the code moves with noise, blur and contrast, each plainly bad (strength 1).

    Args:
        encoder: image -> code, [B, H, W, 3] -> [B, h, w, C].
        hr: Good images, float32 [B, H, W, 3] in [0, 1]; a few are enough.
        seed: Of what is drawn, by the image's place.

    Returns:
        Movement by the name of the corruption, 0 or more; 1 is as far as the pixels moved.

    Raises:
        ValueError: All of `hr` is one colour: it has no spread.
    """
    spread = float(np.std(hr))
    require(spread > 0, "hr", "be images of something", "give tissue", spread)
    code = np.asarray(encoder(hr, training=False))
    return {kind: _movement(encoder, hr, code, _corrupted(hr, corrupt, seed)) for kind, corrupt in KINDS.items()}


def told(movement: dict[str, float]) -> str:
    """Return a movement as a line."""
    return ("the code moves, per unit of pixel error, "
            + ", ".join(f"{value:.2f} with {kind}" for kind, value in movement.items()))


def _corrupted(hr: np.ndarray, corrupt: Callable[..., tf.Tensor], seed: int) -> np.ndarray:
    return np.stack([np.asarray(corrupt(tf.constant(image), 1.0, tf.constant([seed, i])))
                     for i, image in enumerate(hr)])


def _movement(encoder: keras.Model, hr: np.ndarray, code: np.ndarray, bad: np.ndarray) -> float:
    moved = np.asarray(encoder(bad, training=False)) - code
    return float(_rms(moved) / np.std(code) / (_rms(bad - hr) / np.std(hr)))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
