# SPDX-License-Identifier: Apache-2.0
"""The list of formats, and the export of a model in several of them.

    NAME/VERSION/saved_model.pb, variables/              always, since TensorFlow Serving fails on a version without it
    NAME/VERSION/litert/{float32,float16,int8_dynamic,int8}.tflite
    NAME/VERSION/onnx/model.onnx
    NAME/VERSION/tensorrt/{float16,int8}.onnx            what engines are built from, beside onnx/model.onnx
    NAME/VERSION/tensorrt/{float32,float16,int8}.engine  where there is a GPU and TensorRT
    NAME/VERSION/parity.json                             how each file differs from Keras, and what it ran on

To add a format, write a module that defines `FORMAT` and import it here; flags, export and benchmark follow.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_keras.formats import litert, onnx, saved_model, tensorrt
from sr_keras.formats.format import Format, Source

if TYPE_CHECKING:
    from sr_keras.formats.parity import Parity
    from sr_keras.formats.run_data import Tissue

FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in (saved_model, litert, onnx, tensorrt)}
PRECISIONS = tuple(dict.fromkeys(name for format in FORMATS.values() for name in format.tolerances))
PARITY_FILE = "parity.json"


@dataclass(frozen=True)
class ExportedFile:
    """A file of a version that agrees with Keras; `seconds` by input shape where they were measured."""

    file: str
    runtime: str
    parity: Parity
    seconds: dict[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON."""
        timed = {} if self.seconds is None else {"seconds": self.seconds}
        return {"file": self.file, "runtime": self.runtime, **self.parity.as_json(), **timed}


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        compared: The tissue that files were compared on.
        calibrated: The tissue that calibrated int8.
        missing: Why TensorRT engines could not be built; None if they were built or not asked for.
        files: What was written.
    """

    compared: str
    calibrated: str
    missing: str | None
    files: list[ExportedFile] = field(default_factory=list)

    @property
    def rows(self) -> list[Parity]:
        """The rows of the table."""
        return [file.parity for file in self.files]


def with_required(formats: Sequence[str]) -> list[str]:
    """Return the formats to write: the SavedModel, those asked for, and what these are made from."""
    wanted = {"saved_model", *formats, *(name for asked in formats for name in FORMATS[asked].after)}
    return [name for name in FORMATS if name in wanted]


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
    from sr_keras.formats.parity import Reference

    reference = Reference(source.network, compared)
    reasons = [reason for name in formats if (reason := FORMATS[name].missing())]
    report = ExportReport(compared.name, calibrated, "; ".join(reasons) or None)
    for format in map(FORMATS.__getitem__, with_required(formats)):
        for precision in format.chosen(precisions):
            for written in format.convert(source, precision, folder):
                run = written.open()
                parity = reference.check(written.label, precision, format.tolerances[precision], run)
                report.files.append(ExportedFile(
                    written.file, f"{written.package} {version(written.package)}", parity,
                    written.time(run) if written.time else None))
    content = {"compared_on": report.compared, "calibrated_with": report.calibrated,
               "forms": [file.as_json() for file in report.files], "no_engines": report.missing}
    (folder / PARITY_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return report
