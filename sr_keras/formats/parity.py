# SPDX-License-Identifier: Apache-2.0
"""Compare a model file with Keras: run by its own runtime on real tissue, it must compute the same pixels.

A file's pixels are 8-bit, so a tolerance of 1e-4, a fortieth of a grey level, cannot be read off a single pixel. But a
pixel p says that the value before rounding lay in [p - 0.5, p + 0.5]/255. Its difference is the distance of Keras'
float value to this interval: 0 where p is Keras' value, correctly rounded. A single pixel may hide a difference below
one level; ten thousand do not, since a difference of d levels rounds a share of d of them the other way. The file that
is compared is the one that is kept; nothing is added to it for the comparison.

    max_difference    largest such difference, in [0, 1]
    mean_difference   mean of |sr - sr by Keras| of the 8-bit pictures, in [0, 1]
    psnr_db           PSNR of the 8-bit pictures against those of Keras; inf where all pixels are equal
    psnr_change, ms_ssim_change, qilv_change
                      score of the file against the true HR minus that of Keras, mean over pictures; PSNR in dB
"""
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from pipelines.pixels import to_float, to_uint8
from sr_keras import metrics
from sr_keras.formats import FORMATS, PRECISIONS, with_required
from sr_keras.formats.format import Source, Tolerance
from sr_keras.formats.run_data import Tissue
from sr_keras.model.loading import in_float32
from sr_keras.model.runtimes import ParityError
from sr_keras.model.tiles import Pixels

PARITY_FILE = "parity.json"
SCORES = ("psnr", "ms_ssim", "qilv")


class Parity(NamedTuple):
    """How a file differs from Keras; see the module for each number."""

    form: str
    precision: str
    gate: Tolerance
    max_difference: float
    mean_difference: float
    psnr_db: float
    psnr_change: float
    ms_ssim_change: float
    qilv_change: float

    @property
    def passed(self) -> bool:
        """Whether it is within its tolerance."""
        return self.gate.allows(self.max_difference, self.psnr_db)

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON, which has no infinity: a PSNR of None says that all pixels are equal."""
        return {**self._asdict(), "psnr_db": None if math.isinf(self.psnr_db) else self.psnr_db, "gate": str(self.gate)}


class ExportedFile(NamedTuple):
    """A file of a version that agrees with Keras."""

    file: str
    runtime: str
    parity: Parity


class ExportReport(NamedTuple):
    """What was written, and why TensorRT engines could not be built; None if they were built or not asked for."""

    files: list[ExportedFile]
    missing: str | None


class Reference:
    """What Keras computes on some tissue, and its scores: computed once, each file is compared with it."""

    def __init__(self, generator: keras.Model, tissue: Tissue) -> None:
        generator = in_float32(generator)
        self.tissue = tissue
        # And one picture alone with odd sides: a file must accept any shape.
        self._inputs = (tissue.lr, tissue.lr[:1, :-3, :-5])
        self._floats = [np.clip(np.asarray(generator(to_float(lr), training=False)), 0, 1) for lr in self._inputs]
        self._scores = self._score(to_uint8(self._floats[0]))

    def check(self, form: str, precision: str, tolerance: Tolerance, run: Pixels) -> Parity:
        """Compare a file with Keras; `form` is its name in the table, and `run` runs it by its own runtime.

        Raises:
            ParityError: It differs by more than its tolerance.
        """
        parity = self.measure(form, precision, tolerance, run)
        if not parity.passed:
            raise ParityError(
                f"`{form}` must agree with Keras, {tolerance}; nothing was kept. Leave this precision out "
                "(--precisions), or calibrate int8 with other tissue (--calibration_data). Received: max difference="
                f"{parity.max_difference:.2g}, PSNR={parity.psnr_db:.1f} dB")
        return parity

    def measure(self, form: str, precision: str, tolerance: Tolerance, run: Pixels) -> Parity:
        """Measure how a file differs; see `check`.

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
        return Parity(form, precision, tolerance, float(beyond.max()), float(difference.mean()),
                      -10 * math.log10(error) if error else math.inf, **changes)

    def _score(self, sr: np.ndarray) -> dict[str, float]:
        hr = to_float(self.tissue.hr)
        return {name: float(np.mean(getattr(metrics, name)(hr, to_float(sr)))) for name in SCORES}


def write_formats(source: Source, folder: Path, formats: Sequence[str], precisions: Sequence[str] = PRECISIONS, *,
                  compared: Tissue, calibrated: str) -> ExportReport:
    """Write the files of some formats beside a SavedModel, compare each with Keras, and write PARITY_FILE.

    Args:
        source: The generator, a Keras model.
        folder: The version's folder, which holds the SavedModel.
        formats: Some of FORMATS.
        precisions: Some of PRECISIONS; a format of a single precision ignores them.
        compared: Tissue to compare on.
        calibrated: Name of the tissue that calibrates int8.

    Raises:
        UserError: A package is not installed.
        ParityError: A file differs from Keras by more than its tolerance. The caller removes the folder.
    """
    reference = Reference(source.network, compared)
    reasons = [reason for name in formats if (reason := FORMATS[name].missing())]
    report = ExportReport([], "; ".join(reasons) or None)
    for format in map(FORMATS.__getitem__, with_required(formats)):
        for precision in format.chosen(precisions):
            for written in format.convert(source, precision, folder):
                parity = reference.check(written.label, precision, format.tolerances[precision], written.open())
                report.files.append(ExportedFile(
                    written.file, f"{written.package} {version(written.package)}", parity))
    content = {"compared_on": compared.name, "calibrated_with": calibrated,
               "forms": [{"file": file, "runtime": runtime, **parity.as_json()}
                         for file, runtime, parity in report.files], "no_engines": report.missing}
    (folder / PARITY_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return report


def parity_table(rows: list[Parity]) -> str:
    """Return the rows as a table in Markdown."""
    head = ("| form | gate | max difference | mean difference | PSNR against Keras (dB) | change of PSNR (dB) "
            "| of MS-SSIM | of QILV |\n|" + " --- |" * 8)
    lines = [f"| {row.form} | {row.gate} | {row.max_difference:.1e} | {row.mean_difference:.1e} "
             f"| {'equal' if math.isinf(row.psnr_db) else f'{row.psnr_db:.1f}'} | {row.psnr_change:+.4f} "
             f"| {row.ms_ssim_change:+.5f} | {row.qilv_change:+.5f} |" for row in rows]
    return "\n".join([head, *lines])
