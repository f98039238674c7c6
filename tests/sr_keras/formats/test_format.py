# SPDX-License-Identifier: Apache-2.0
"""A format knows its files, which precisions of it are asked for, and how far a file may differ from Keras."""
from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import UserError
from sr_keras.formats import FORMATS
from sr_keras.formats.format import FLOAT16, FLOAT32, INT8, Source, Tolerance

ROOT = Path(__file__).parents[3]


def test_tolerance_is_a_difference_or_a_psnr_and_nan_is_never_allowed():
    assert FLOAT32.allows(1e-4, 0.0)
    assert not FLOAT32.allows(1.1e-4, math.inf)
    assert FLOAT16.allows(1e-2, 0.0)
    assert INT8.allows(1.0, 40.0)
    assert not INT8.allows(0.0, 39.9)
    assert not any(tolerance.allows(math.nan, math.nan) for tolerance in (FLOAT32, FLOAT16, INT8))
    assert [str(one) for one in (FLOAT32, INT8)] == ["max difference <= 0.0001", "PSNR >= 40 dB"]
    assert Tolerance(0.0).allows(0.0, math.inf)


def test_single_precision_is_always_written_and_of_several_those_that_are_asked_for():
    assert FORMATS["onnx"].chosen(["int8"]) == ["float32"]
    assert FORMATS["litert"].chosen(["int8", "float16"]) == ["float16", "int8"]
    assert FORMATS["tensorrt"].chosen(["int8_dynamic"]) == []


def test_files_lie_where_exports_have_always_had_them():
    paths = [FORMATS[name].path(Path("x/1"), "float16").as_posix() for name in FORMATS]
    assert paths == ["x/1", "x/1/litert/float16.tflite", "x/1/onnx/model.onnx", "x/1/tensorrt/float16.engine"]


def test_module_that_defines_a_format_is_all_that_a_format_needs(tmp_path):
    shutil.copytree(ROOT / "sr_keras", tmp_path / "sr_keras", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "sr_keras" / "formats" / "caffe.py").write_text(
        "from sr_keras.formats.format import FLOAT32, Format\n"
        "FORMAT = Format('caffe', {'float64': FLOAT32}, 'caffe/model', (), '', (), print, print)\n")
    said = subprocess.run([sys.executable, "-m", "sr_keras.export", "--help"], capture_output=True, text=True,
                          check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}).stdout
    assert "Formats: some of saved_model, caffe, litert, onnx, tensorrt;" in said
    assert ", float64" in said


def test_generator_and_samples_are_loaded_once_and_only_when_needed():
    loaded = []

    def load(name: str):
        return lambda: loaded.append(name) or name

    source = Source(load("network"), load("samples"), load_any=load("any"))
    assert loaded == []
    assert [source.generator, source.generator, source.samples] == ["any", "any", "samples"]
    assert loaded == ["any", "samples"]
    assert Source(load("network"), load("samples")).generator == "network"


def test_what_cannot_be_loaded_as_keras_model_says_why():
    def refuse():
        raise UserError("a SavedModel has no layers")

    with pytest.raises(UserError, match="no layers"):
        _ = Source(refuse, list).network
