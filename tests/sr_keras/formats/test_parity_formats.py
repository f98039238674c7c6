# SPDX-License-Identifier: Apache-2.0
"""Every form of a version is written, read again and held against Keras; one that fails is an error."""
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import pytest

from pipelines.errors import UserError
from sr_keras.formats import FORMATS, PRECISIONS, litert, onnx, with_required
from sr_keras.formats.format import Source
from sr_keras.formats.litert import convert_litert, read_facts
from sr_keras.formats.onnx import convert_onnx
from sr_keras.formats.parity import ExportReport, write_formats
from sr_keras.formats.saved_model import export_saved_model
from sr_keras.formats.tensorrt import engine_commands
from sr_keras.model.runtimes import ParityError
from sr_keras.networks import SKIP_GAIN

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("ai_edge_litert", "onnxruntime", "tf2onnx"))),
                                reason="engines are not installed: pip install '.[dev]'")
EVERY = list(FORMATS)
FILES = {*(f"litert/{precision}.tflite" for precision in PRECISIONS), "onnx/model.onnx", "tensorrt/float16.onnx",
         "tensorrt/int8.onnx"}


@pytest.fixture(scope="module")
def folder(modest, tmp_path_factory) -> Path:
    return export_saved_model(modest, tmp_path_factory.mktemp("models") / "demo")


@pytest.fixture
def bare(folder, tmp_path) -> Path:
    """A version that has its SavedModel alone."""
    others = shutil.ignore_patterns("litert", "onnx", "tensorrt", "parity.json")
    return shutil.copytree(folder, tmp_path / "bare", ignore=others)


@pytest.fixture(scope="module")
def inputs(tissue, samples) -> dict:
    return {"compared": tissue, "calibrated": samples.name}


@pytest.fixture
def source(modest, samples) -> Source:
    return Source(lambda: modest, lambda: samples.lr, {"name": "demo", "version": "1"})


@pytest.fixture(scope="module")
def written(modest, samples, folder, inputs) -> ExportReport:
    source = Source(lambda: modest, lambda: samples.lr, {"name": "demo", "version": "1"})
    return write_formats(source, folder, EVERY, **inputs)


def damaged(network: keras.Model, difference: float) -> keras.Model:
    """Return a copy that computes so much more everywhere."""
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    copy.get_layer("last").bias.assign(copy.get_layer("last").bias + difference / SKIP_GAIN)
    return copy


def test_every_file_is_there_and_measured(written, folder):
    assert {form.file for form in written.files} == {"saved_model.pb", *FILES}
    assert all((folder / form.file).is_file() for form in written.files)
    assert all(form.parity.passed for form in written.files)
    assert read_facts((folder / "litert" / "int8.tflite").read_bytes()) == {"name": "demo", "version": "1"}


def test_parity_file_holds_every_number_and_what_it_was_measured_on(written, folder, tissue, samples):
    found = json.loads((folder / "parity.json").read_text())
    assert (found["compared_on"], found["calibrated_with"]) == (tissue.name, samples.name)
    assert [form["file"] for form in found["forms"]] == [form.file for form in written.files]
    for form in found["forms"]:
        assert {"max_difference", "mean_difference", "psnr_db", "psnr_change", "ms_ssim_change", "qilv_change", "gate",
                "runtime"} <= set(form)
    by_file = {form["file"]: form for form in found["forms"]}
    assert by_file["litert/int8.tflite"]["runtime"].startswith("ai-edge-litert 2")
    assert by_file["onnx/model.onnx"]["runtime"].startswith("onnxruntime 1")
    assert by_file["onnx/model.onnx"]["max_difference"] <= 1e-4


def test_what_was_not_asked_for_is_not_written(source, inputs, bare):
    found = write_formats(source, bare, ["litert"], precisions=["float16"], **inputs)
    assert [form.file for form in found.files] == ["saved_model.pb", "litert/float16.tflite"]
    assert not (bare / "onnx").exists()
    assert found.missing is None


@pytest.mark.skipif(bool(find_spec("tensorrt")), reason="TensorRT is installed")
def test_machine_without_tensorrt_says_so_and_how_else_to_build(written, folder):
    assert "pip install '.[tensorrt]'" in written.missing
    commands = engine_commands(folder, PRECISIONS)
    assert [f"--saveEngine={folder}/tensorrt/{name}.engine" in command
            for name, command in zip(("float32", "float16", "int8"), commands, strict=True)] == [True] * 3
    for command in commands:
        (source,) = (word.removeprefix("--onnx=") for word in command.split() if word.startswith("--onnx="))
        assert Path(source).is_file()
    assert len(engine_commands(folder, ["int8", "int8_dynamic"])) == 1


@pytest.mark.parametrize(("precision", "difference"), [("float32", 3e-4), ("float16", 2e-2), ("int8", 4e-2)])
def test_damaged_weights_are_an_error_whatever_the_precision(precision, difference, source, inputs, bare,
                                                                    monkeypatch):
    monkeypatch.setattr(litert, "convert_litert",
                        lambda network, *args, **kwargs: convert_litert(damaged(network, difference), *args, **kwargs))
    with pytest.raises(ParityError, match=f"`LiteRT {precision}` must agree with Keras"):
        write_formats(source, bare, ["litert"], precisions=[precision], **inputs)
    assert not (bare / "parity.json").exists()


def test_damaged_onnx_leaves_no_version_behind(modest, source, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "convert_onnx", lambda network, facts: convert_onnx(damaged(network, 3e-4), facts=facts))
    with pytest.raises(ParityError, match="`ONNX` must agree with Keras, max difference"):
        export_saved_model(modest, tmp_path / "demo",
                           extra=lambda folder: write_formats(source, folder, ["onnx"], **inputs))
    assert list((tmp_path / "demo").iterdir()) == []


@pytest.mark.parametrize(("name", "package", "extra"), [("litert", "ai_edge_litert", "litert"),
                                                        ("onnx", "tf2onnx", "onnx"), ("tensorrt", "onnx", "onnx")])
def test_missing_package_names_the_extra(name, package, extra, monkeypatch):
    FORMATS[name].check_installed()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"`{package}` must be installed; run pip install '\.\[{extra}\]'"):
        FORMATS[name].check_installed()


def test_engines_bring_the_file_that_they_are_built_from():
    assert with_required(["tensorrt"]) == ["saved_model", "onnx", "tensorrt"]
    assert with_required([]) == ["saved_model"]


def test_format_can_be_opened_without_code_that_converts():
    program = ("import sys, sr_keras.model.runtimes, sr_keras.formats; "
               "sys.exit(bool({'tensorflow', 'keras', 'tf2onnx'} & set(sys.modules)))")
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=True)
    program = "import sys, sr_keras.model.engines; sys.exit(any(n.startswith('sr_keras.formats') for n in sys.modules))"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=True)
