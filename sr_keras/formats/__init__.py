# SPDX-License-Identifier: Apache-2.0
"""Trained generators in the formats that other software loads, each compared with Keras as it is written.

    NAME/VERSION/saved_model.pb, variables/              always, since TensorFlow Serving fails on a version without it
    NAME/VERSION/litert/{float32,float16,int8_dynamic,int8}.tflite
    NAME/VERSION/onnx/model.onnx
    NAME/VERSION/tensorrt/{float16,int8}.onnx            what engines are built from, beside onnx/model.onnx
    NAME/VERSION/tensorrt/{float32,float16,int8}.engine  where there is a GPU and TensorRT
    NAME/VERSION/parity.json                             how each file differs from Keras, and what it ran on

    format                   what a format is
    saved_model, signatures  TensorFlow SavedModel, and what a server can ask of it
    litert, onnx, tensorrt   the other formats
    parity                   the comparison with Keras
    run_data                 tissue and facts from the training run

To add a format, write a module here that defines `FORMAT`; flags, export and benchmark find it. If it is to run slides
too, it needs an entry in `sr_keras.model.runtimes` as well, since inference imports nothing from this package.
"""
from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from sr_keras.formats.format import Format

SHARED = ("format", "parity", "run_data", "signatures")  # all other modules here are formats
_FOUND: list[Format] = [importlib.import_module(f"{__name__}.{module.name}").FORMAT
                        for module in pkgutil.iter_modules(__path__) if module.name not in SHARED]
_FOUND.sort(key=lambda one: (one.name != "saved_model", bool(one.after), one.name))
FORMATS = {one.name: one for one in _FOUND}
PRECISIONS = tuple(dict.fromkeys(name for format in FORMATS.values() for name in format.tolerances))


def with_required(formats: Sequence[str]) -> list[str]:
    """Return the formats to write: the SavedModel, those asked for, and what these are made from."""
    wanted = {"saved_model", *formats, *(name for asked in formats for name in FORMATS[asked].after)}
    return [name for name in FORMATS if name in wanted]
