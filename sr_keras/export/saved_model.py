"""Write a generator as a TensorFlow SavedModel: pixels in, pixels out, no code of ours needed to run it.

    NAME/VERSION/saved_model.pb, variables/    signature serving_default:
                                               lr uint8 [B, h, w, 3] -> sr uint8 [B, scale*h, scale*w, 3]
    NAME/VERSION/assets.extra/sr_keras.json    scale, halo and whatever facts were given
    NAME/VERSION/README.md                     the model card

Conversion to float, clipping and rounding are in the graph. A version is whole or not there, and never replaced: the
next free number is taken, which TensorFlow Serving picks up by itself.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import skimage.data
import tensorflow as tf

from pipelines.console import UserError
from pipelines.files import atomic_path
from pipelines.pixels import to_float, to_uint8
from sr_keras.models import (
    FACTS_FILE,
    SIGNATURE,
    eight_bit,
    in_float32,
    input_signature,
    load_generator,
    scale_of,
    versions_of,
)
from sr_keras.networks import receptive_field

CARD_FILE = "README.md"
# Two windows (y, x) of tissue in scikit-image's histology picture. Odd sides, since a SavedModel with a fixed size or
# a fixed batch would pass with one of the usual.
TISSUE = ((40, 60), (250, 130))
HEIGHT, WIDTH = 53, 67
MAX_DIFFERENCE = 1  # of 255: a graph that sums in another order may round the other way


class ParityError(UserError):
    """What was written does not compute what it was written from."""


def export_saved_model(generator: keras.Model, folder: str | Path, *, card: str | None = None,
                       facts: dict[str, Any] | None = None) -> Path:
    """Write the next version of a model and check it.

    Args:
        generator: lr -> sr, float, made by `networks.generator`.
        folder: NAME, in which versions are numbered from 1.
        card: the model card, Markdown; none if left out.
        facts: what else to keep beside scale and halo, for JSON.

    Returns:
        The version's folder.

    Raises:
        ValueError: It is not a generator.
        OSError: It can't be written.
        ParityError: What was written, read again, does not compute what `generator` computes. Nothing is left behind.
    """
    generator = in_float32(generator)
    facts = {**(facts or {}), "scale": scale_of(generator), "halo": receptive_field(generator)}
    target = next_version(Path(folder))
    with atomic_path(target) as temporary:
        _write(generator, temporary)
        (temporary / FACTS_FILE).parent.mkdir()
        (temporary / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        if card is not None:
            (temporary / CARD_FILE).write_text(card, encoding="utf-8")
        check_parity(generator, temporary)
    return target


def next_version(folder: Path) -> Path:
    """Return the folder of the version after the highest; numbers are not used twice."""
    versions = versions_of(folder)
    return folder / str(int(versions[-1].name) + 1 if versions else 1)


def check_parity(generator: keras.Model, folder: Path) -> None:
    """Compare a SavedModel with the Keras model it was written from, on real tissue.

    Raises:
        ParityError: A pixel differs by more than 1/255.
    """
    image = skimage.data.immunohistochemistry()
    lr = np.stack([image[y:y + HEIGHT, x:x + WIDTH] for y, x in TISSUE])
    expected = to_uint8(np.asarray(generator(to_float(lr), training=False)))
    difference = np.abs(load_generator(folder)(lr).astype(int) - expected).max()
    if difference > MAX_DIFFERENCE:
        raise ParityError(f"an exported model must agree with Keras within {MAX_DIFFERENCE}/255; nothing was kept, "
                          f"please report this. Received: {difference}/255")


def _write(generator: keras.Model, folder: Path) -> None:
    archive = keras.export.ExportArchive()
    archive.track(generator)
    run = eight_bit(generator)
    archive.add_endpoint(SIGNATURE, lambda lr: {"sr": run(lr)}, input_signature=input_signature())
    try:
        archive.write_out(folder, verbose=False)
    except tf.errors.OpError as error:  # a full disk comes as one of these
        raise OSError(f"{folder.parent}: the model can't be written: {error.message}") from error
