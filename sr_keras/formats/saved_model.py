"""Write a generator as a TensorFlow SavedModel: pixels in, pixels out, no code of ours needed to run it.

    NAME/VERSION/saved_model.pb, variables/    what `sr_keras.formats.signatures` lists, and beside them
                                               `unlimited`: serving_default without limit, for sr_keras.model.loading
    NAME/VERSION/facts.json                    scale, halo, max_pixels, and what LR it was made for (model.facts)
    NAME/VERSION/assets.extra/tf_serving_warmup_requests
                                               what a server asks itself before it is ready
    NAME/VERSION/README.md                     the model card

Conversion to float, clipping, rounding, PNG and JPEG are in the graph. A version is whole or not there, and never
replaced: the next free number is taken, which TensorFlow Serving picks up by itself.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipelines.errors import require
from pipelines.files import atomic_path
from pipelines.pixels import to_float, to_uint8
from sr_keras.formats.parity import ParityError, check_parity
from sr_keras.formats.serving import WARMUP_FILE, WARMUP_TILE, write_warmup
from sr_keras.formats.signatures import DEFAULT_MAX_PIXELS, ENCODED, FLOAT, signatures_of
from sr_keras.model.facts import FACTS_FILE, ModelFacts
from sr_keras.model.keras_file import eight_bit, in_float32, input_signature, scale_of
from sr_keras.model.loading import SIGNATURE, UNLIMITED, load_generator, versions_of
from sr_keras.networks import receptive_field

CARD_FILE = "README.md"
MAX_FLOAT_DIFFERENCE = 1e-4
LEAST_PIXELS = WARMUP_TILE**2  # one of the client's tiles


def export_saved_model(generator: keras.Model, folder: str | Path, *, card: str | None = None,
                       facts: ModelFacts | None = None, max_pixels: int = DEFAULT_MAX_PIXELS,
                       extra: Callable[[Path], None] | None = None) -> Path:
    """Write the next version of a model and check it.

    Args:
        generator: lr -> sr, float, made by `networks.generator`.
        folder: NAME, in which versions are numbered from 1.
        card: the model card, Markdown; none if left out.
        facts: what LR it was made for.
        max_pixels: how many LR pixels a request may have; see `sr_keras.formats.signatures` for what they cost.
        extra: writes further files into the version's folder before it takes its name; called with that folder when the
            SavedModel in it is whole and checked. What it raises is passed on, and nothing is left behind.

    Returns:
        The version's folder.

    Raises:
        ValueError: It is not a generator, or `max_pixels` is out of range.
        OSError: It can't be written.
        ParityError: What was written, read again, does not compute what `generator` computes. Nothing is left behind.
    """
    require(LEAST_PIXELS <= max_pixels < 2**31, "max_pixels", f"be {LEAST_PIXELS} or more, and fit in 31 bits",
            f"{DEFAULT_MAX_PIXELS} is the default", max_pixels)
    generator = in_float32(generator)
    said = {"scale": scale_of(generator), "halo": receptive_field(generator), "max_pixels": max_pixels,
            **(facts or ModelFacts()).as_json()}
    target = next_version(Path(folder))
    with atomic_path(target) as temporary:
        _write(generator, temporary, said)
        (temporary / FACTS_FILE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        (temporary / WARMUP_FILE).parent.mkdir()
        write_warmup(temporary, target.parent.name, max_pixels)
        if card is not None:
            (temporary / CARD_FILE).write_text(card, encoding="utf-8")
        check_parity(eight_bit(generator), load_generator(temporary))
        check_signatures(generator, temporary)
        if extra is not None:
            extra(temporary)
    return target


def next_version(folder: Path) -> Path:
    """Return the folder of the version after the highest; numbers are not used twice."""
    versions = versions_of(folder)
    return folder / str(int(versions[-1].name) + 1 if versions else 1)


def check_signatures(generator: keras.Model, folder: Path) -> None:
    """Compare the signatures of a SavedModel with the float32 `generator` that it was written from.

    Raises:
        ParityError: `float` differs by more than 1e-4, or a pixel of another by more than 1/255.
    """
    signatures = (loaded := tf.saved_model.load(str(folder))).signatures  # which `loaded` keeps alive

    def by_float(lr: np.ndarray) -> np.ndarray:
        sr = signatures[FLOAT](lr=tf.constant(to_float(lr)))["sr"].numpy()
        expected = np.clip(np.asarray(generator(to_float(lr), training=False)), 0, 1)
        difference = np.abs(sr - expected).max()
        if not difference <= MAX_FLOAT_DIFFERENCE:
            raise ParityError(f"`{FLOAT}` must agree with Keras within {MAX_FLOAT_DIFFERENCE}; nothing was kept, "
                              f"please report this. Received: {difference}")
        return to_uint8(sr)

    def by_encoded(lr: np.ndarray) -> np.ndarray:
        image_bytes = tf.stack([tf.io.encode_png(image) for image in lr])
        sr_bytes = signatures[ENCODED](image_bytes=image_bytes)["sr_bytes"]
        return np.stack([tf.io.decode_png(sr, channels=3).numpy() for sr in sr_bytes])

    for written in (lambda lr: signatures[SIGNATURE](lr=tf.constant(lr))["sr"].numpy(), by_float, by_encoded):
        check_parity(eight_bit(generator), written)
    del loaded


def _write(generator: keras.Model, folder: Path, facts: dict[str, Any]) -> None:
    def graph(run: Callable[[tf.Tensor], Any], inputs: list[tf.TensorSpec]) -> Any:
        return tf.function(run, input_signature=inputs, autograph=False)

    module = tf.Module()
    module.weights = [weight.value for weight in generator.weights]  # what the graphs compute with is saved by them
    setattr(module, UNLIMITED, graph(eight_bit(generator), input_signature()))
    signatures = signatures_of(generator, scale=facts["scale"], halo=facts["halo"], max_pixels=facts["max_pixels"])
    try:
        tf.saved_model.save(module, str(folder), signatures={
            name: graph(*signature).get_concrete_function() for name, signature in signatures.items()})
    except tf.errors.OpError as error:  # a full disk comes as one of these
        raise OSError(f"{folder.parent}: the model can't be written: {error.message}") from error
