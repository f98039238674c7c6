# SPDX-License-Identifier: Apache-2.0
"""Load a trained generator from any place as one kind of object: 8-bit images in, 8-bit images out.

    generator = load_generator("saved_models/demo")
    sr = generator(lr)                             # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]

A generator is a .keras file, a run folder (its generator.keras), a SavedModel folder NAME/VERSION, or NAME, which means
the highest version. It computes in float32, whatever precision it was trained in.

Security: a .keras file that contains code (Lambda layers, references to functions) is refused, and pickles are never
read. A SavedModel is a program that TensorFlow does not confine, so load only those of people you trust.
"""
from __future__ import annotations

import json
import warnings
import zipfile
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
from sr_keras.networks import receptive_field

GENERATOR_FILE = "generator.keras"
SAVED_MODEL_FILE = "saved_model.pb"
SIGNATURE = "serving_default"
# A function of a SavedModel beside its signatures: no limit on the size of an image. Servers do not offer it.
UNLIMITED = "unlimited"
CODE = ("Lambda", "__lambda__", "function")  # class names in a configuration that stand for code
PROBE_SIDE = 8
LONGEST_REASON = 200


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


def load_keras(path: Path, argument: str = "model") -> keras.Model:
    """Load the generator in a .keras file, computing in float32.

    Raises:
        ValueError: The file is damaged, contains code, or is not a generator.
    """
    require(zipfile.is_zipfile(path), argument, "be a whole .keras file", "train or copy it again", str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # Keras 3.15 reads weights in spite of a wrong checksum
                raise ValueError(f"Its {damaged} is damaged; copy the file again")
            json.loads(archive.read("config.json"), object_hook=_refuse_code)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        receptive_field(model)
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: can't be loaded as a generator; give the generator.keras of a run. "
                         f"{_first_line(error)}") from error
    return in_float32(model)


def load_weights(model: keras.Model, path: Path) -> None:
    """Load the weights, optimizers and averages in a .keras file into a model that was built and compiled alike.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or of another architecture. Keras 3.15 only warns of a layer that is missing.
    """
    if not path.exists():
        raise FileNotFoundError(f"weights must be a .keras file; this one does not exist. Received: {path}")
    whole = zipfile.is_zipfile(path)
    if whole:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None
    if not whole:
        raise ValueError(f"weights must be a whole .keras file; this one is damaged: copy or train it again. "
                         f"Received: {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except (ValueError, UserWarning) as error:
        raise ValueError(f"weights must be of the network that is trained; give the flags they were trained with, or "
                         f"name another run. Received: {path}") from error


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Return the weights of a generator that `load_generator` loads, by their paths in `networks.generator`."""
    found = find_generator(path)
    if found.is_file():
        return {weight.path: weight.numpy() for weight in load_keras(found).variables}
    loaded = tf.saved_model.load(str(found))  # owns the weights, so it must outlive the reading of them
    return {weight.name.partition(":")[0]: weight.numpy() for weight in loaded.signatures[SIGNATURE].variables}


def in_float32(model: keras.Model) -> keras.Model:
    """Return a copy of a functional model that computes in float32, so that tiles of any shape agree."""
    copy = keras.models.clone_model(model, clone_function=lambda layer: type(layer).from_config(
        {**layer.get_config(), "dtype": "float32"}))
    copy.set_weights(model.get_weights())
    return copy


def eight_bit(generator: keras.Model | LoadedGenerator) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a generator as a function of uint8 tensors, lr -> sr, clipped and rounded."""
    if isinstance(generator, LoadedGenerator):
        return generator.run
    return lambda lr: to_uint8(generator(to_float(lr), training=False))


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


def _refuse_code(config: dict[str, object]) -> None:
    if config.get("class_name") in CODE:
        raise ValueError("It holds code (a Lambda layer or a function), which is never run")


def _first_line(error: Exception) -> str:
    """Return the first line of an error of Keras or TensorFlow; more lines usually dump the model."""
    lines = str(error).strip().splitlines()
    return lines[0][:LONGEST_REASON] if lines else type(error).__name__


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
        raise ValueError(f"{folder}: can't be loaded as a SavedModel; export it again. {_first_line(error)}") from error

    def run(lr: tf.Tensor) -> tf.Tensor:  # refers to `loaded`, which owns the weights
        unlimited = getattr(loaded, UNLIMITED, None)  # older versions have none
        return unlimited(lr) if unlimited else loaded.signatures[SIGNATURE](lr=lr)["sr"]

    return LoadedGenerator(folder, said["scale"], said["halo"], facts, run)
