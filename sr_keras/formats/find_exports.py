"""Find the file of each form of a generator: where an export left it, or converted here where it left none.

    NAME/VERSION/                              saved_model
    NAME/VERSION/litert/{precision}.tflite     litert
    NAME/VERSION/onnx/model.onnx               onnx
    NAME/VERSION/tensorrt/{precision}.engine   tensorrt, on a machine that can run it
    a .keras file, a run folder                keras

What is converted here is for measuring alone, and passes no gate: python -m sr_keras.export has them.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from pipelines.console import one_line
from pipelines.errors import UserError
from sr_keras.formats import tensorrt
from sr_keras.formats.calibration import calibration_tissue
from sr_keras.formats.litert import convert_litert
from sr_keras.formats.onnx import convert_onnx
from sr_keras.formats.registry import ONNX_FILE, check_installed
from sr_keras.formats.runtimes import Kind
from sr_keras.formats.saved_model import export_saved_model
from sr_keras.model.keras_file import load_keras
from sr_keras.model.loading import LoadedGenerator, find_generator, load_generator


def find_files(model: Path, kinds: Sequence[Kind], folder: Path) -> tuple[dict[Kind, Path], dict[Kind, str]]:
    """Return the file of each kind, or why there is none.

    Args:
        model: what `models.load_generator` takes.
        kinds: format and precision of each.
        folder: for what has to be converted.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: It is not a generator.
    """
    source = _Source(find_generator(model))
    files, lacking = {}, {}
    for kind in kinds:
        try:
            files[kind] = _file(source, *kind, folder)
        except UserError as error:
            lacking[kind] = one_line(error)
    return files, lacking


class _Source:
    """A generator that may have to be converted; what several forms need of it is made once, where it is needed."""

    def __init__(self, found: Path) -> None:
        self.found = found

    @cached_property
    def generator(self) -> LoadedGenerator:
        return load_generator(self.found)

    @property
    def file(self) -> Path:
        if self.found.is_dir():
            raise UserError("`model` must be a run or a .keras file for this; a SavedModel has no layers. Received: "
                            f"model={self.found}")
        return self.found

    @cached_property
    def network(self) -> keras.Model:
        return load_keras(self.file)

    @cached_property
    def samples(self) -> np.ndarray:
        return calibration_tissue(None, self.found.parent, self.generator.degrade).lr

    @cached_property
    def onnx(self) -> bytes:
        kept = self.found / ONNX_FILE
        return kept.read_bytes() if kept.is_file() else convert_onnx(self.generator)


def _file(source: _Source, form: str, precision: str, folder: Path) -> Path:
    if form == "tensorrt" and (reason := tensorrt.missing()):
        raise UserError(reason)
    if form == "keras":
        return source.file
    places = {"saved_model": Path(), "litert": Path("litert") / f"{precision}.tflite", "onnx": ONNX_FILE,
              "tensorrt": Path("tensorrt") / f"{precision}.engine"}
    kept = source.found / places[form]
    if source.found.is_dir() and kept.exists():
        return kept
    if form == "saved_model":
        return export_saved_model(source.network, folder / form)
    check_installed([form])
    target = folder / places[form]
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(CONVERTERS[form](source, precision))
    return target


def _litert(source: _Source, precision: str) -> bytes:
    if precision == "int8":
        return convert_litert(source.network, precision, samples=source.samples)
    return convert_litert(source.generator, precision)


def _tensorrt(source: _Source, precision: str) -> bytes:
    model = source.onnx
    if precision == "float16":
        model = tensorrt.in_float16(model)
    elif precision == "int8":
        model = tensorrt.in_int8(model, source.samples)
    return tensorrt.build_engine(model, precision)


CONVERTERS: dict[str, Callable[[_Source, str], bytes]] = {
    "litert": _litert, "onnx": lambda source, _: source.onnx, "tensorrt": _tensorrt}
