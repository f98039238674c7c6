# SPDX-License-Identifier: Apache-2.0
"""Load a trained generator from any place as one kind of object: 8-bit images in, 8-bit images out.

    generator = load_generator("saved_models/demo")
    sr = generator(lr)                             # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]

A generator is a .keras file, a run folder (its generator.keras), a SavedModel folder NAME/VERSION, or NAME, which means
the highest version. It computes in float32, whatever precision it was trained in.

Security: a .keras file that contains code is refused, and pickles are never read. A SavedModel is a program that
TensorFlow does not confine, so load only those of people you trust.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipelines.config import DegradeOptions
from pipelines.errors import require
from pipelines.pixels import to_float, to_uint8
from sr_keras.model.facts import FLAGS_FILE, ModelFacts, from_json, read_facts, run_facts
from sr_keras.model.keras_file import eight_bit, first_line, in_float32, input_signature, load_keras, scale_of
from sr_keras.networks import receptive_field

GENERATOR_FILE = "generator.keras"
SAVED_MODEL_FILE = "saved_model.pb"
SIGNATURE = "serving_default"
# A function of a SavedModel beside its signatures: no limit on the size of an image. Servers do not offer it.
UNLIMITED = "unlimited"


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator ready for use.

    Attributes:
        path: Where it was loaded from.
        scale: SR side / LR side.
        halo: How many LR pixels around a tile its values depend on.
        facts: What is known of its training: stored in a SavedModel, or read from the flags of the run folder.
        run: uint8 tensor lr -> uint8 tensor sr.
    """

    path: Path
    scale: int
    halo: int
    facts: ModelFacts
    run: Callable[[tf.Tensor], tf.Tensor]

    @property
    def degrade(self) -> DegradeOptions:
        """The degradation of its training LR; the textbook degradation if unknown."""
        return self.facts.degradation or DegradeOptions(self.scale)

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """Super-resolve lr [B, h, w, 3] -> sr [B, scale*h, scale*w, 3].

        uint8 gives uint8. Floats in [0, 1] are rounded to 8 bit first and give the 8-bit result as float32.
        """
        lr = np.asarray(lr)
        require(lr.ndim == 4 and lr.shape[3] == 3, "lr", "have the shape [B, h, w, 3]",
                "add a batch axis, or convert to RGB", lr.shape)
        if lr.dtype == np.uint8:
            return self.run(tf.constant(lr)).numpy()
        require(np.issubdtype(lr.dtype, np.floating), "lr", "be uint8 or float in [0, 1]", "convert it", lr.dtype)
        return to_float(self.run(tf.constant(to_uint8(lr))).numpy())


def load_generator(path: str | Path, scale: int | None = None, argument: str = "model") -> LoadedGenerator:
    """Load a generator.

    Args:
        path: A .keras file, a run folder, or a SavedModel folder NAME/VERSION or NAME.
        scale: The scale that is needed; None for any.
        argument: What error messages call the path.

    Raises:
        FileNotFoundError: There is no such path, or the run has no generator yet.
        ValueError: It is not a generator, can't be loaded, contains code, or has another scale.
    """
    found = find_generator(path, argument)
    loaded = _from_keras(found, argument) if found.is_file() else _from_saved_model(found)
    require(scale in (None, loaded.scale), "scale", f"be {loaded.scale}, that of {path}",
            "name another model or another scale", scale)
    return loaded


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Return the weights of a generator that `load_generator` loads, by their paths in `networks.generator`."""
    found = find_generator(path)
    if found.is_file():
        return {weight.path: weight.numpy() for weight in load_keras(found).variables}
    loaded = tf.saved_model.load(str(found))  # owns the weights, so it must outlive the reading of them
    return {weight.name.partition(":")[0]: weight.numpy() for weight in loaded.signatures[SIGNATURE].variables}


def find_generator(path: str | Path, argument: str = "model") -> Path:
    """Return the .keras file or the SavedModel version folder that `path` stands for.

    Raises:
        FileNotFoundError: There is no such path, or the run has no generator yet.
        ValueError: It is neither.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"`{argument}` must exist; check the spelling. Received: {argument}={str(path)!r}")
    if (path.suffix == ".keras" and path.is_file()) or (path / SAVED_MODEL_FILE).is_file():
        return path
    if (path / GENERATOR_FILE).is_file():
        return path / GENERATOR_FILE
    if (path / FLAGS_FILE).is_file():
        raise FileNotFoundError(f"{path}: this run has no {GENERATOR_FILE} yet; let it finish, "
                                "with --resume if it was stopped")
    versions = [folder for folder in versions_of(path) if (folder / SAVED_MODEL_FILE).is_file()]
    require(bool(versions), argument, "be a .keras file, a run folder or a SavedModel folder",
            "check the path", str(path))
    return versions[-1]


def versions_of(folder: Path) -> list[Path]:
    """Return the contents of `folder` that are named by a number, lowest first; none if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def eight_bit_of(generator: keras.Model | LoadedGenerator) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a generator as a function of uint8 tensors lr -> sr that computes in float32."""
    return generator.run if isinstance(generator, LoadedGenerator) else eight_bit(in_float32(generator))


def _from_keras(path: Path, argument: str) -> LoadedGenerator:
    model = load_keras(path, argument)
    run = tf.function(eight_bit(model), input_signature=input_signature(), autograph=False)
    filters = next((layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)), None)
    facts = replace(run_facts(path.parent), filters=filters)
    return LoadedGenerator(path, scale_of(model), receptive_field(model), facts, run)


def _from_saved_model(folder: Path) -> LoadedGenerator:
    said = read_facts(folder)
    facts = from_json(said, folder)
    try:
        loaded = tf.saved_model.load(str(folder))
        signature = loaded.signatures[SIGNATURE]
        require(set(signature.structured_outputs) == {"sr"}, SIGNATURE, "return sr", "export it again", str(folder))
    except Exception as error:  # TensorFlow has no common base class here: errors of protobuf and Python come too
        raise ValueError(f"{folder}: can't be loaded as a SavedModel; export it again. {first_line(error)}") from error

    def run(lr: tf.Tensor) -> tf.Tensor:  # refers to `loaded`, which owns the weights
        unlimited = getattr(loaded, UNLIMITED, None)  # older versions have none
        return unlimited(lr) if unlimited else loaded.signatures[SIGNATURE](lr=lr)["sr"]

    return LoadedGenerator(folder, said["scale"], said["halo"], facts, run)
