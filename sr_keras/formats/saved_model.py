# SPDX-License-Identifier: Apache-2.0
"""TensorFlow SavedModel: pixels in, pixels out, and no code of this project needed to run it.

    NAME/VERSION/saved_model.pb, variables/    the signatures of `sr_keras.formats.signatures`, and a function
                                               `unlimited` without a limit of pixels, for `sr_keras.model.loading`
    NAME/VERSION/facts.json                    scale, halo, max_pixels, and the rest of `sr_keras.model.facts`
    NAME/VERSION/assets.extra/tf_serving_warmup_requests
    NAME/VERSION/README.md                     the model card

Conversion to float, clipping, rounding, PNG and JPEG are in the graph. A version is written whole or not at all and is
never replaced: an export takes the next free number, and TensorFlow Serving loads it by itself.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.errors import require
from pipelines.files import atomic_path
from sr_keras.formats.format import FLOAT32, Format, Source, Written, tensorflow_device
from sr_keras.model.facts import FACTS_FILE, ModelFacts
from sr_keras.model.runtimes import Pixels

if TYPE_CHECKING:
    import keras

CARD_FILE = "README.md"
DEFAULT_MAX_PIXELS = 2**20
WARMUP_TILE = 256  # the client's default tile, which every model must accept


def export_saved_model(generator: keras.Model, folder: str | Path, *, card: str | None = None,
                       facts: ModelFacts | None = None, max_pixels: int = DEFAULT_MAX_PIXELS,
                       extra: Callable[[Path], None] | None = None) -> Path:
    """Write the next version of a model and compare it with Keras.

    Args:
        generator: lr -> sr, float, made by `networks.generator`.
        folder: NAME, in which versions are numbered from 1.
        card: The model card, Markdown; none if left out.
        facts: What is known about the model.
        max_pixels: LR pixels that a request may have; see `sr_keras.formats.signatures` for the memory they take.
        extra: Writes further files; called with the version's temporary folder once the SavedModel in it is whole and
            compared. If it raises, nothing is kept.

    Returns:
        The version's folder.

    Raises:
        ValueError: It is not a generator, or `max_pixels` is out of range.
        OSError: It can't be written.
        ParityError: The SavedModel does not compute what `generator` computes. Nothing is kept.
    """
    from sr_keras.formats.serving import WARMUP_FILE, write_warmup
    from sr_keras.formats.signatures import check_signatures, write_graph
    from sr_keras.model.keras_file import eight_bit, in_float32, scale_of
    from sr_keras.model.loading import load_generator
    from sr_keras.model.runtimes import check_parity
    from sr_keras.networks import receptive_field

    require(WARMUP_TILE**2 <= max_pixels < 2**31, "max_pixels", f"be {WARMUP_TILE**2} or more, and fit in 31 bits",
            f"{DEFAULT_MAX_PIXELS} is the default", max_pixels)
    generator = in_float32(generator)
    scale, halo = scale_of(generator), receptive_field(generator)
    content = {"scale": scale, "halo": halo, "max_pixels": max_pixels, **(facts or ModelFacts()).as_json()}
    target = next_version(Path(folder))
    with atomic_path(target, folder=True) as temporary:
        write_graph(generator, temporary, scale=scale, halo=halo, max_pixels=max_pixels)
        (temporary / FACTS_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
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
    from sr_keras.model.loading import versions_of

    versions = versions_of(folder)
    return folder / str(int(versions[-1].name) + 1 if versions else 1)


def _convert(source: Source, precision: str, folder: Path) -> Iterator[Written]:
    from sr_keras.formats.signatures import write_graph
    from sr_keras.model.keras_file import scale_of
    from sr_keras.model.loading import SAVED_MODEL_FILE, load_generator
    from sr_keras.networks import receptive_field

    if not (folder / SAVED_MODEL_FILE).is_file():  # an export has written it already
        network = source.network
        write_graph(network, folder, scale=scale_of(network), halo=receptive_field(network),
                    max_pixels=DEFAULT_MAX_PIXELS)
    yield Written(SAVED_MODEL_FILE, "SavedModel", "tensorflow", partial(load_generator, folder))


def _open(path: Path, threads: int) -> Pixels:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def run(lr: np.ndarray) -> np.ndarray:  # by way of `loaded`, which owns the weights
        return loaded.signatures[tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY](lr=tf.constant(lr))["sr"].numpy()

    return run


FORMAT = Format("saved_model", {"float32": FLOAT32}, file="", packages=(), extra="", runtime=("tensorflow",),
                convert=_convert, open=_open, device=tensorflow_device)
