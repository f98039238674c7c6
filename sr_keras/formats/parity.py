"""The gates that every exported form passes: run by its own runtime, on real tissue, it computes what Keras computes.

A form of a generator is a function of pixels: lr uint8 [B, h, w, 3] -> sr uint8 [B, scale*h, scale*w, 3].

`check_parity` is the quick gate of a conversion on its way into a cache: 8-bit pictures within one grey level of those
of what it was converted from, whatever that was.

`Reference` is the gate of an export. A form's pictures are of 8 bit, so a tolerance of 1e-4, a fortieth of a grey
level, cannot be read off a single pixel. But a pixel p says that the value before rounding lay in
[p - 0.5, p + 0.5]/255, and its difference is that from Keras' float value to this interval: 0 where p is Keras' value,
rightly rounded. One pixel may hide a difference below one level, ten thousand do not: of those that are off by d levels
a share of d is rounded the other way. What is tested is the very file that is kept; nothing is added to it for that.

    max_difference    the largest such difference, in [0, 1]
    mean_difference   mean of |sr - sr by Keras| of the 8-bit pictures, in [0, 1]
    psnr_db           PSNR of the form's 8-bit pictures against those of Keras; inf where all pixels are equal
    psnr_change, ms_ssim_change, qilv_change
                      score of the form against the true HR less that of Keras, means over pictures; PSNR in dB
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import skimage.data
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.pixels import to_float, to_uint8
from sr_keras import metrics
from sr_keras.formats.calibration import Tissue
from sr_keras.model.keras_file import eight_bit, in_float32
from sr_keras.model.loading import LoadedGenerator

# Two windows (y, x) of tissue in scikit-image's histology picture. Odd sides, since a form with a fixed size or a
# fixed batch would pass with one of the usual.
TISSUE = ((40, 60), (250, 130))
HEIGHT, WIDTH = 53, 67
MAX_DIFFERENCE = 1  # of 255: a graph that sums in another order may round the other way
# Largest difference from Keras by the precision that weights or arithmetic have; and what int8 is held to instead,
# where one pixel may well be off by levels.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2}
INT8_PSNR_DB = 40.0
SCORES = ("psnr", "ms_ssim", "qilv")

Pixels = Callable[[np.ndarray], np.ndarray]


class ParityError(UserError):
    """What was written does not compute what it was written from."""


@dataclass(frozen=True)
class Parity:
    """How a form differs from Keras; the module says what each number is. `precision` names its gate."""

    form: str
    precision: str
    max_difference: float
    mean_difference: float
    psnr_db: float
    psnr_change: float
    ms_ssim_change: float
    qilv_change: float

    @property
    def gate(self) -> str:
        """The rule that a form of this precision must keep."""
        tolerance = TOLERANCES.get(self.precision)
        return f"PSNR >= {INT8_PSNR_DB:g} dB" if tolerance is None else f"max difference <= {tolerance:g}"

    @property
    def passed(self) -> bool:
        """Whether it does. What is no number passes nothing."""
        tolerance = TOLERANCES.get(self.precision)
        return self.psnr_db >= INT8_PSNR_DB if tolerance is None else self.max_difference <= tolerance

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON, which has no infinity: a PSNR of None says that all pixels are equal."""
        return {**vars(self), "psnr_db": None if math.isinf(self.psnr_db) else self.psnr_db, "gate": self.gate}


class Reference:
    """What Keras computes of some tissue, and how well: computed once, every form is held against it."""

    def __init__(self, generator: keras.Model, tissue: Tissue) -> None:
        generator = in_float32(generator)
        self.tissue = tissue
        # And one picture alone, with odd sides: whoever runs a form chooses its shape.
        self._inputs = (tissue.lr, tissue.lr[:1, :-3, :-5])
        self._floats = [np.clip(np.asarray(generator(to_float(lr), training=False)), 0, 1) for lr in self._inputs]
        self._scores = self._score(to_uint8(self._floats[0]))

    def gate(self, form: str, precision: str, run: Pixels) -> Parity:
        """Measure a form, and let it pass or not.

        Args:
            form: its name in the table.
            precision: "float32", "float16" or "int8"; says which rule applies.
            run: the form, run by its own runtime.

        Raises:
            ParityError: It differs by more than its precision allows.
        """
        parity = self.measure(form, precision, run)
        if not parity.passed:
            raise ParityError(
                f"`{form}` must agree with Keras, {parity.gate}; nothing was kept. Leave this precision out "
                "(--precisions), or calibrate int8 with other tissue (--calibration_data). Received: max difference="
                f"{parity.max_difference:.2g}, PSNR={parity.psnr_db:.1f} dB")
        return parity

    def measure(self, form: str, precision: str, run: Pixels) -> Parity:
        """Measure a form; see `gate`.

        Raises:
            ParityError: It does not return uint8 pictures of Keras' shape.
        """
        pictures = [run(lr) for lr in self._inputs]
        for lr, picture, expected in zip(self._inputs, pictures, self._floats, strict=True):
            if picture.shape != expected.shape or picture.dtype != np.uint8:
                raise ParityError(f"`{form}` must return uint8 {expected.shape} of lr {lr.shape}; nothing was kept, "
                                  f"please report this. Received: {picture.dtype} {picture.shape}")
        written = np.concatenate([picture.ravel() for picture in pictures]).astype(np.float64)
        floats = np.concatenate([expected.ravel() for expected in self._floats])
        beyond = np.maximum(np.abs(written - 255 * floats.astype(np.float64)) - 0.5, 0) / 255
        difference = np.abs(written - to_uint8(floats)) / 255
        error = np.square(difference).mean()
        scores = self._score(pictures[0])
        changes = {f"{name}_change": scores[name] - self._scores[name] for name in SCORES}
        return Parity(form, precision, float(beyond.max()), float(difference.mean()),
                      -10 * math.log10(error) if error else math.inf, **changes)

    def _score(self, sr: np.ndarray) -> dict[str, float]:
        hr = to_float(self.tissue.hr)
        return {name: float(np.mean(getattr(metrics, name)(hr, to_float(sr)))) for name in SCORES}


def parity_table(rows: list[Parity]) -> str:
    """Return the rows as a table in Markdown."""
    head = ("| form | gate | max difference | mean difference | PSNR against Keras (dB) | change of PSNR (dB) "
            "| of MS-SSIM | of QILV |\n|" + " --- |" * 8)
    return "\n".join([head, *(f"| {' | '.join(_cells(row))} |" for row in rows)])


def _cells(row: Parity) -> list[str]:
    equal = math.isinf(row.psnr_db)
    return [row.form, row.gate, f"{row.max_difference:.1e}", f"{row.mean_difference:.1e}",
            "equal" if equal else f"{row.psnr_db:.1f}", f"{row.psnr_change:+.4f}",
            f"{row.ms_ssim_change:+.5f}", f"{row.qilv_change:+.5f}"]


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
