"""Load a trained generator, wherever it lies, as one kind of thing: 8-bit pictures in, 8-bit pictures out.

    generator = load_generator("saved_models/demo")
    sr = generator(lr)                             # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]

A generator is a .keras file, a run folder (its generator.keras), a SavedModel folder NAME/VERSION, or NAME, which means
its highest version. It computes in float32, whatever precision it was trained in.

A model file that holds code (Lambda layers, references to functions) is refused, and nothing here reads a pickle. A
SavedModel is a program, though: TensorFlow does not confine it, so load only those of people you trust.
"""
from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipelines.config import DegradeOptions
from pipelines.errors import require
from pipelines.pixels import to_float, to_uint8
from sr_keras.model.facts import RUN_FLAGS_FILE, ModelFacts, from_json, read_facts, run_facts
from sr_keras.networks import receptive_field

GENERATOR_FILE = "generator.keras"
SAVED_MODEL_FILE = "saved_model.pb"
SIGNATURE = "serving_default"
# A function beside the signatures of a SavedModel: no server offers it, and who computes for himself needs no limit.
UNLIMITED = "unlimited"
CODE = ("Lambda", "__lambda__", "function")
PROBE_SIDE = 8
LONGEST_REASON = 200


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator ready for use.

    `scale` is SR side over LR side. `halo` is how many LR pixels around a tile its values depend on. `facts` is what
    is known beyond that: of a SavedModel what was stored at its export, of a .keras file in a run folder what the run's
    flags say.
    """

    path: Path
    scale: int
    halo: int
    facts: ModelFacts
    run: Callable[[tf.Tensor], tf.Tensor]

    @property
    def degrade(self) -> DegradeOptions:
        """How LR was made that it was trained on; where nothing says it, the textbook's way is taken."""
        return self.facts.degradation or DegradeOptions(self.scale)

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """Super-resolve lr [B, h, w, 3] -> sr [B, scale*h, scale*w, 3].

        uint8 gives uint8. Floats in [0, 1] give float32: the values of the 8-bit picture, from lr rounded to 8 bit.
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
        path: a .keras file, a run folder, or a SavedModel folder NAME/VERSION or NAME.
        scale: what the caller needs it to be; None for any.
        argument: what errors call the path.

    Raises:
        FileNotFoundError: There is no such path, or the run has no generator yet.
        ValueError: It is not a generator, can't be loaded, holds code, or has another scale.
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
    """Return the .keras file or the SavedModel's version folder that `path` stands for.

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
    if (path / RUN_FLAGS_FILE).is_file():
        raise FileNotFoundError(f"{path}: this run has no {GENERATOR_FILE} yet; let it finish, "
                                "with --resume if it was stopped")
    versions = [folder for folder in versions_of(path) if (folder / SAVED_MODEL_FILE).is_file()]
    require(bool(versions), argument, "be a .keras file, a run folder or a SavedModel folder", "name one of these",
            str(path))
    return versions[-1]


def versions_of(folder: Path) -> list[Path]:
    """Return what lies in `folder` under a number, lowest first; nothing where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def load_keras(path: Path, argument: str = "model") -> keras.Model:
    """Load the generator in a .keras file, computing in float32.

    Raises:
        ValueError: The file is damaged, holds code, or is not a generator.
    """
    require(zipfile.is_zipfile(path), argument, "be a whole .keras file", "train or copy it again", str(path))
    try:
        _check_archive(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        receptive_field(model)
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: can't be loaded as a generator; name the {GENERATOR_FILE} of a run. "
                         f"{_reason(error)}") from error
    return in_float32(model)


def in_float32(model: keras.Model) -> keras.Model:
    """Return a copy of a functional model that computes in float32: tiles of any shape then agree."""
    copy = keras.models.clone_model(model, clone_function=lambda layer: type(layer).from_config(
        {**layer.get_config(), "dtype": "float32"}))
    copy.set_weights(model.get_weights())
    return copy


def eight_bit(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return `model` as a function of uint8 tensors lr -> sr, with conversion, clipping and rounding inside."""

    def super_resolve(lr: tf.Tensor) -> tf.Tensor:
        return to_uint8(model(to_float(lr), training=False))

    return super_resolve


def eight_bit_of(generator: keras.Model | LoadedGenerator) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a generator as a function of uint8 tensors lr -> sr that computes in float32."""
    return generator.run if isinstance(generator, LoadedGenerator) else eight_bit(in_float32(generator))


def input_signature() -> list[tf.TensorSpec]:
    """Return the one signature of a generator: lr, uint8 [B, h, w, 3], everything open but the channels."""
    return [tf.TensorSpec([None, None, None, 3], tf.uint8, name="lr")]


def scale_of(model: keras.Model) -> int:
    """Return SR side over LR side, by trying.

    Raises:
        ValueError: The model does not enlarge RGB images.
    """
    sr = model(np.zeros((1, PROBE_SIDE, PROBE_SIDE, 3), np.float32), training=False)
    scale = sr.shape[1] // PROBE_SIDE
    side = scale * PROBE_SIDE
    require(tuple(sr.shape) == (1, side, side, 3) and scale > 1, "model", "enlarge [B, h, w, 3] images",
            "name a generator", f"{model.name}: {PROBE_SIDE}x{PROBE_SIDE} -> {tuple(sr.shape)}")
    return scale


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
    except Exception as error:  # TensorFlow has no common error here: protobuf's, its own and Python's all come
        raise ValueError(f"{folder}: can't be loaded as a SavedModel; export it again. {_reason(error)}") from error

    def run(lr: tf.Tensor) -> tf.Tensor:  # by way of `loaded`, which owns the weights
        unlimited = getattr(loaded, UNLIMITED, None)  # versions of old have none
        return unlimited(lr) if unlimited else loaded.signatures[SIGNATURE](lr=lr)["sr"]

    return LoadedGenerator(folder, said["scale"], said["halo"], facts, run)


def _reason(error: Exception) -> str:
    """Return the first line of an error that others worded; the rest is a dump of the model, as a rule."""
    lines = str(error).strip().splitlines()
    return lines[0][:LONGEST_REASON] if lines else type(error).__name__


def _check_archive(path: Path) -> None:
    """Refuse code, and damage: Keras 3.15 reads weights past a wrong checksum."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged:
            raise ValueError(f"Its {damaged} is damaged; copy the file again")
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
