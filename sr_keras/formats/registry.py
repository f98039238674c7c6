"""All forms of one version, each through its gate: one set of weights, in every format that was asked for.

    NAME/VERSION/saved_model.pb, variables/              always, since a server stumbles over a version without it
    NAME/VERSION/litert/{float32,float16,int8_dynamic,int8}.tflite
    NAME/VERSION/onnx/model.onnx
    NAME/VERSION/tensorrt/{float16,int8}.onnx            what engines are built from, beside onnx/model.onnx
    NAME/VERSION/tensorrt/{float32,float16,int8}.engine  where there is a GPU and TensorRT
    NAME/VERSION/parity.json                             how each differs from Keras, and what it ran on

The first form that fails its gate is an error: the caller removes the folder, and nothing is kept.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipelines.console import import_optional
from sr_keras.formats import tensorrt
from sr_keras.formats.calibration import Tissue
from sr_keras.formats.litert import PRECISIONS, convert_litert, open_litert
from sr_keras.formats.onnx import convert_onnx, open_onnx
from sr_keras.formats.parity import Parity, Pixels, Reference
from sr_keras.model.loading import load_generator

PARITY_FILE = "parity.json"
ONNX_FILE = Path("onnx") / "model.onnx"
# Packages without which a format can't be written, and the extra that brings them. TensorRT itself is none of these:
# without it an export still writes what it builds engines from.
PACKAGES = {"litert": (("ai_edge_litert",), "litert"), "onnx": (("onnxruntime", "tf2onnx", "onnx"), "onnx"),
            "tensorrt": (("onnxruntime", "tf2onnx", "onnx"), "onnx")}


@dataclass(frozen=True)
class Form:
    """A file of a version that passed its gate. `seconds` by profile, of an engine alone."""

    file: str
    runtime: str
    parity: Parity
    seconds: dict[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON."""
        timed = {} if self.seconds is None else {"seconds": self.seconds}
        return {"file": self.file, "runtime": self.runtime, **self.parity.as_json(), **timed}


@dataclass(frozen=True)
class Forms:
    """What was written. `lacking` says in a line why there are no engines; None where there are, or none were asked."""

    compared: str
    calibrated: str
    written: list[Form] = field(default_factory=list)
    lacking: str | None = None

    @property
    def rows(self) -> list[Parity]:
        """The rows of the table."""
        return [form.parity for form in self.written]


def check_installed(formats: Sequence[str]) -> None:
    """Check that the packages of these formats are there.

    Raises:
        UserError: One is not; the error names the extra.
    """
    for name in formats:
        packages, extra = PACKAGES.get(name, ((), ""))
        for package in packages:
            import_optional(package, extra)


def write_forms(generator: keras.Model, folder: Path, formats: Sequence[str], *,
                precisions: Sequence[str] = PRECISIONS, compared: Tissue, calibration: Tissue,
                facts: dict[str, Any]) -> Forms:
    """Write the forms beside a SavedModel, each through its gate, and PARITY_FILE.

    Args:
        generator: made by `networks.generator`, or loaded.
        folder: the version's, in which the SavedModel lies.
        formats: what was asked for, of saved_model, litert, onnx and tensorrt.
        precisions: of the LiteRT files and of the engines; some of `litert.PRECISIONS`.
        compared: what the gates look at.
        calibration: what int8 is calibrated with.
        facts: what each file shall say of itself.

    Raises:
        UserError: A package is not installed.
        ParityError: A form differs from Keras by more than its precision allows.
    """
    reference = Reference(generator, compared)
    forms = Forms(compared.name, calibration.name, [_saved_model(reference, folder)],
                  tensorrt.missing() if "tensorrt" in formats else None)
    if "litert" in formats:
        forms.written.extend(_litert(generator, reference, folder, precisions, calibration.lr, facts))
    if "onnx" in formats or "tensorrt" in formats:
        forms.written.append(_onnx(generator, reference, folder, facts))
    if "tensorrt" in formats:
        forms.written.extend(_tensorrt(reference, folder, precisions, calibration.lr, build=forms.lacking is None))
    content = {"compared_on": forms.compared, "calibrated_with": forms.calibrated,
               "forms": [form.as_json() for form in forms.written], "no_engines": forms.lacking}
    (folder / PARITY_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return forms


def engine_commands(folder: Path, precisions: Sequence[str] = PRECISIONS) -> list[str]:
    """Return the commands that build the engines of a version on a machine that can."""
    return [tensorrt.trtexec_command(folder / _source(precision), folder / _engine(precision), precision)
            for precision in _engine_precisions(precisions)]


def _saved_model(reference: Reference, folder: Path) -> Form:
    parity = reference.gate("SavedModel", "float32", load_generator(folder))
    return Form("saved_model.pb", _package("tensorflow"), parity)


def _litert(generator: keras.Model, reference: Reference, folder: Path, precisions: Sequence[str],
            samples: np.ndarray, facts: dict[str, Any]) -> Iterator[Form]:
    for precision in precisions:
        model = convert_litert(generator, precision, samples=samples if precision == "int8" else None, facts=facts)
        yield _kept(reference, folder, f"litert/{precision}.tflite", model, f"LiteRT {precision}", precision,
                    "ai-edge-litert", partial(open_litert, threads=1))


def _onnx(generator: keras.Model, reference: Reference, folder: Path, facts: dict[str, Any]) -> Form:
    model = convert_onnx(generator, facts=facts)
    tensorrt.check_supported(model)
    return _kept(reference, folder, str(ONNX_FILE), model, "ONNX", "float32", "onnxruntime",
                 partial(open_onnx, threads=1))


def _tensorrt(reference: Reference, folder: Path, precisions: Sequence[str], samples: np.ndarray,
              build: bool) -> Iterator[Form]:
    model = (folder / ONNX_FILE).read_bytes()
    sources: dict[str, Callable[[bytes], bytes]] = {
        "float16": tensorrt.in_float16, "int8": partial(tensorrt.in_int8, samples=samples)}
    for precision in _engine_precisions(precisions):
        if precision in sources:
            source = sources[precision](model)
            tensorrt.check_supported(source)
            yield _kept(reference, folder, str(_source(precision)), source, f"ONNX {precision}, for TensorRT",
                        precision, "onnxruntime", partial(open_onnx, threads=1))
        if build:
            yield _built(reference, folder, precision)


def _built(reference: Reference, folder: Path, precision: str) -> Form:
    engine = tensorrt.build_engine((folder / _source(precision)).read_bytes(), precision)
    form = _kept(reference, folder, str(_engine(precision)), engine, f"TensorRT {precision}", precision, "tensorrt",
                 tensorrt.TensorRTRunner)
    runner = tensorrt.TensorRTRunner(engine)
    seconds = {"x".join(map(str, profile.shapes()[1])): runner.seconds(profile) for profile in tensorrt.PROFILES}
    return Form(form.file, form.runtime, form.parity, seconds)


def _kept(reference: Reference, folder: Path, file: str, model: bytes, name: str, precision: str, package: str,
          opened: Callable[[bytes], Pixels]) -> Form:
    """Write a file, read it again, and put what was read through its gate."""
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model)
    return Form(file, _package(package), reference.gate(name, precision, opened(path.read_bytes())))


def _engine_precisions(precisions: Sequence[str]) -> list[str]:
    return [precision for precision in tensorrt.PRECISIONS if precision in precisions]


def _source(precision: str) -> Path:
    return ONNX_FILE if precision == "float32" else Path("tensorrt") / f"{precision}.onnx"


def _engine(precision: str) -> Path:
    return Path("tensorrt") / f"{precision}.engine"


def _package(name: str) -> str:
    return f"{name} {version(name)}"
