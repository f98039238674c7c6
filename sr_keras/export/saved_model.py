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
import tensorflow as tf

from pipelines.files import atomic_path
from sr_keras.export.parity import check_parity
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
        check_parity(eight_bit(generator), load_generator(temporary))
    return target


def next_version(folder: Path) -> Path:
    """Return the folder of the version after the highest; numbers are not used twice."""
    versions = versions_of(folder)
    return folder / str(int(versions[-1].name) + 1 if versions else 1)


def _write(generator: keras.Model, folder: Path) -> None:
    archive = keras.export.ExportArchive()
    archive.track(generator)
    run = eight_bit(generator)
    archive.add_endpoint(SIGNATURE, lambda lr: {"sr": run(lr)}, input_signature=input_signature())
    try:
        archive.write_out(folder, verbose=False)
    except tf.errors.OpError as error:  # a full disk comes as one of these
        raise OSError(f"{folder.parent}: the model can't be written: {error.message}") from error
