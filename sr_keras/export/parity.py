"""The gate that every exported form passes: on real tissue it computes what it was written from.

A form of a generator is a function of pixels: lr uint8 [B, h, w, 3] -> sr uint8 [B, scale*h, scale*w, 3].
"""
from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import skimage.data
import tensorflow as tf

from pipelines.console import UserError
from sr_keras.models import LoadedGenerator, eight_bit, in_float32

# Two windows (y, x) of tissue in scikit-image's histology picture. Odd sides, since a form with a fixed size or a
# fixed batch would pass with one of the usual.
TISSUE = ((40, 60), (250, 130))
HEIGHT, WIDTH = 53, 67
MAX_DIFFERENCE = 1  # of 255: a graph that sums in another order may round the other way

Pixels = Callable[[np.ndarray], np.ndarray]


class ParityError(UserError):
    """What was written does not compute what it was written from."""


def check_parity(expected: Callable[[tf.Tensor], tf.Tensor], written: Pixels) -> None:
    """Compare what was written with what it was written from, on real tissue.

    Raises:
        ParityError: A pixel differs by more than 1/255.
    """
    image = skimage.data.immunohistochemistry()
    lr = np.stack([image[y:y + HEIGHT, x:x + WIDTH] for y, x in TISSUE])
    difference = np.abs(written(lr).astype(int) - expected(tf.constant(lr)).numpy()).max()
    if difference > MAX_DIFFERENCE:
        raise ParityError(f"an exported model must agree with Keras within {MAX_DIFFERENCE}/255; nothing was kept, "
                          f"please report this. Received: {difference}/255")


def eight_bit_of(generator: keras.Model | LoadedGenerator) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a generator as a function of uint8 tensors lr -> sr that computes in float32."""
    return generator.run if isinstance(generator, LoadedGenerator) else eight_bit(in_float32(generator))


def import_optional(package: str, extra: str) -> Any:
    """Import a package that an extra installs.

    Raises:
        UserError: It is not installed; the error names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"`{package}` must be installed; run pip install '.[{extra}]'. Received: {error}") from error
