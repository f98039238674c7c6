# SPDX-License-Identifier: Apache-2.0
"""Load a trained generator from any place as one kind of object: 8-bit images in, 8-bit images out.

    generator = load_generator("saved_models/demo")
    sr = generator(lr)                             # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]

A generator is a .keras file, a run folder (its generator.keras), a SavedModel folder NAME/VERSION, or NAME, which means
the highest version. It computes in float32, whatever precision it was trained in.

Security: a .keras file is checked before Keras opens it. It must hold the layers of `networks.generator` alone: code
(Lambda layers, references to functions) is refused, pickles are never read, and memory is bounded by the size of the
file. A SavedModel is a program that TensorFlow does not confine, so load only those of people you trust.
"""
from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from pipelines.config import DegradeOptions
from pipelines.errors import require
from pipelines.pixels import to_float, to_uint8
from sr_keras.layers import FewChannelConv2D
from sr_keras.model.facts import SIGNATURE, ModelFacts, find_generator, from_json, read_facts, run_facts
from sr_keras.networks import receptive_field

# A function of a SavedModel beside its signatures: no limit on the size of an image. Servers do not offer it.
UNLIMITED = "unlimited"
# What Keras puts into a .keras file, and the most bytes of each that are read. A generator of 16 blocks has a
# configuration of 112,047 bytes.
MEMBERS = {"config.json": 2**22, "metadata.json": 2**16, "model.weights.h5": 2**31}
MOST_EXPANSION, FREE_EXPANSION = 10, 2**26  # Keras compresses nothing; weights that someone compressed shrink little
# Class names in the configuration of a generator.
PARTS = {"Functional", "InputLayer", "__keras_tensor__", "DTypePolicy", "GlorotUniform", "Ones", "Zeros",
         "SmoothSubPixel", "Activation", "Add", "BatchNormalization", "Bilinear", "Conv2D", "FewChannelConv2D", "ReLU",
         "Rescaling", "SubPixel"}
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
    loaded = _from_keras(found) if found.is_file() else _from_saved_model(found)
    require(scale in (None, loaded.scale), "scale", f"be {loaded.scale}, that of {path}",
            "name another model or another scale", scale)
    return loaded


def load_keras(path: Path) -> keras.Model:
    """Load the generator in a .keras file, computing in float32.

    Raises:
        ValueError: The file is damaged, contains code, or is not a generator.
    """
    config, size = read_keras_file(path)
    try:
        _check_config(config, size)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        receptive_field(model)
        scale_of(model)
    except Exception as error:  # Keras raises exceptions of every kind
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
    read_keras_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except Exception as error:  # Keras and HDF5 raise exceptions of every kind
        raise ValueError(f"weights must be of the network that is trained; give the flags they were trained with, or "
                         f"name another run. Received: {path}. {_first_line(error)}") from error


def read_keras_file(path: Path) -> tuple[bytes, int]:
    """Read a .keras file through before Keras opens it: return its configuration and the size of its weights.

    Checked are the checksums, which Keras 3.15 ignores for weights, and all sizes, which it believes up to 4 GiB.

    Raises:
        ValueError: The file is damaged, holds something else, or would expand to far more than its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = sorted(member.filename for member in members)
            require(names == sorted(MEMBERS), "members", f"be {', '.join(MEMBERS)}", "save it with Keras", names[:4])
            found = {member.filename: _content(archive, member) for member in members}
        weights = found["model.weights.h5"]
        sizes: list[float] = []  # Keras stores arrays as they are, never in compressed chunks
        with h5py.File(io.BytesIO(weights)) as file:
            file.visititems(lambda _, item: sizes.append(
                math.inf if getattr(item, "chunks", None) else getattr(item, "nbytes", 0)))
        require(sum(sizes) <= len(weights), "weights", f"have {len(weights)} bytes", "save it with Keras", sum(sizes))
    except Exception as error:  # zipfile, zlib and HDF5 raise exceptions of every kind
        raise ValueError(f"{path}: this .keras file is damaged and can't be loaded; copy it again, or train again. "
                         f"{_first_line(error)}") from error
    return found["config.json"], len(weights)


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


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return what a member holds, if it says that it is small; no more is read than it says."""
    most = MEMBERS[member.filename]
    if member.compress_type != zipfile.ZIP_STORED:
        require(member.compress_type == zipfile.ZIP_DEFLATED, member.filename, "be stored or deflated",
                "save it with Keras", member.compress_type)
        most = min(most, max(FREE_EXPANSION, MOST_EXPANSION * member.compress_size))
    require(member.file_size <= most, member.filename, f"have {most} bytes at most", "save it with Keras",
            member.file_size)
    with archive.open(member) as file:
        return file.read(member.file_size + 1)  # one more than there is, to come to the check of the checksum


def _check_config(config: bytes, weights: int) -> None:
    """Raise a ValueError if a configuration has code or unknown parts, or describes far more weights than there are."""
    numbers, convolutions = [0], []

    def check(part: dict[str, Any]) -> dict[str, Any]:
        name = part.get("class_name", "Functional")
        if name not in PARTS or (part.get("registered_name") or name).rpartition(">")[2] != name:
            raise ValueError(f"It holds {name!r}, which networks.generator does not make; code is never run")
        for key, value in part.items():
            if key != "shared_object_id":
                numbers.extend(abs(n) for n in (value if isinstance(value, list) else [value]) if isinstance(n, int))
        if "filters" in part:
            kernel = part["kernel_size"]
            sides = kernel if isinstance(kernel, list) else [kernel, kernel]
            convolutions.append(math.prod(map(abs, [part["filters"], *sides])))
        return part

    whole = {**json.loads(config), "compile_config": None}  # which is not used
    json.loads(json.dumps(whole), object_hook=check)
    described = 4 * sum(convolutions) * max(numbers)  # bytes, if all convolutions had as many channels as the widest
    require(described <= max(FREE_EXPANSION, 20 * weights), "config.json", f"describe a network of {weights} bytes",
            "save it again", described)


def _first_line(error: Exception) -> str:
    """Return the first line of an error of Keras or TensorFlow; more lines usually dump the model."""
    lines = str(error).strip().splitlines()
    return lines[0][:LONGEST_REASON] if lines else type(error).__name__


def _from_keras(path: Path) -> LoadedGenerator:
    model = load_keras(path)
    run = tf.function(eight_bit(model), input_signature=input_signature(), autograph=False)
    filters = next((layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)), None)
    tail_filters = next((layer.kernel.shape[2] for layer in model.layers if isinstance(layer, FewChannelConv2D)), None)
    facts = replace(run_facts(path.parent), filters=filters, tail_filters=tail_filters)
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
