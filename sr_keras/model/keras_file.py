# SPDX-License-Identifier: Apache-2.0
"""Read .keras files safely, and use a Keras generator on 8-bit images.

A file that contains code (Lambda layers, references to functions) is refused. Damage is looked for first: Keras 3.15
reads weights in spite of a wrong checksum.
"""
from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipelines.errors import require
from pipelines.pixels import to_float, to_uint8
from sr_keras.networks import receptive_field

CODE = ("Lambda", "__lambda__", "function")  # class names in a configuration that stand for code
PROBE_SIDE = 8
LONGEST_REASON = 200


def load_keras(path: Path, argument: str = "model") -> keras.Model:
    """Load the generator in a .keras file, computing in float32.

    Raises:
        ValueError: The file is damaged, contains code, or is not a generator.
    """
    require(zipfile.is_zipfile(path), argument, "be a whole .keras file", "train or copy it again", str(path))
    try:
        _check_no_code(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        receptive_field(model)
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: can't be loaded as a generator; give the generator.keras of a run. "
                         f"{first_line(error)}") from error
    return in_float32(model)


def load_weights(model: keras.Model, path: Path) -> None:
    """Load the weights, optimizers and averages in a .keras file into a model that was built and compiled alike.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or of another architecture. Keras 3.15 only warns of a layer that is missing.
    """
    if not path.exists():
        raise FileNotFoundError(f"weights must be a .keras file; this one does not exist. Received: {path}")
    if not zipfile.is_zipfile(path) or _damaged_member(path):
        raise ValueError(f"weights must be a whole .keras file; this one is damaged: copy or train it again. "
                         f"Received: {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except (ValueError, UserWarning) as error:
        raise ValueError(f"weights must be of the network that is trained; give the flags they were trained with, or "
                         f"name another run. Received: {path}") from error


def in_float32(model: keras.Model) -> keras.Model:
    """Return a copy of a functional model that computes in float32, so that tiles of any shape agree."""
    copy = keras.models.clone_model(model, clone_function=lambda layer: type(layer).from_config(
        {**layer.get_config(), "dtype": "float32"}))
    copy.set_weights(model.get_weights())
    return copy


def eight_bit(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return `model` as a function of uint8 tensors, lr -> sr, clipped and rounded."""

    def super_resolve(lr: tf.Tensor) -> tf.Tensor:
        return to_uint8(model(to_float(lr), training=False))

    return super_resolve


def input_signature() -> list[tf.TensorSpec]:
    """Return the signature of a generator: lr, uint8 [B, h, w, 3]."""
    return [tf.TensorSpec([None, None, None, 3], tf.uint8, name="lr")]


def scale_of(model: keras.Model) -> int:
    """Return SR side / LR side, found by running the model.

    Raises:
        ValueError: The model does not enlarge RGB images.
    """
    sr = model(np.zeros((1, PROBE_SIDE, PROBE_SIDE, 3), np.float32), training=False)
    scale = sr.shape[1] // PROBE_SIDE
    side = scale * PROBE_SIDE
    require(tuple(sr.shape) == (1, side, side, 3) and scale > 1, "model", "enlarge [B, h, w, 3] images",
            "name a generator", f"{model.name}: {PROBE_SIDE}x{PROBE_SIDE} -> {tuple(sr.shape)}")
    return scale


def first_line(error: Exception) -> str:
    """Return the first line of an error of Keras or TensorFlow; more lines usually dump the model."""
    lines = str(error).strip().splitlines()
    return lines[0][:LONGEST_REASON] if lines else type(error).__name__


def _damaged_member(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _check_no_code(path: Path) -> None:
    if damaged := _damaged_member(path):
        raise ValueError(f"Its {damaged} is damaged; copy the file again")
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    if any(name in CODE for name in _class_names(config)):
        raise ValueError("It holds code (a Lambda layer or a function), which is never run")


def _class_names(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if "class_name" in config:
            yield str(config["class_name"])
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _class_names(value)
