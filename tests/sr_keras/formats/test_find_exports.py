"""lookup: what an export left is taken, what it did not is converted; the rest is named with the reason."""
from __future__ import annotations

import pytest

from pipelines.errors import UserError
from sr_keras.formats import find_exports as lookup
from sr_keras.formats.find_exports import find_files
from sr_keras.formats.litert import open_litert


@pytest.fixture
def version(tmp_path):
    """A version with files of every form, as far as their names go."""
    folder = tmp_path / "x" / "1"
    for file in ("saved_model.pb", "litert/float16.tflite", "onnx/model.onnx", "tensorrt/int8.engine"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def test_files_of_a_version_are_taken_as_they_are(version, tmp_path, monkeypatch):
    monkeypatch.setattr(lookup.tensorrt, "missing", lambda: None)
    kinds = [("saved_model", "float32"), ("litert", "float16"), ("onnx", "float32"), ("tensorrt", "int8")]
    files, lacking = find_files(version.parent, kinds, tmp_path / "none")
    assert list(files.values()) == [version, version / "litert/float16.tflite", version / "onnx/model.onnx",
                                    version / "tensorrt/int8.engine"]
    assert not lacking


def test_what_can_not_be_had_is_named_with_the_reason(version, tmp_path, monkeypatch):
    monkeypatch.setattr(lookup.tensorrt, "missing", lambda: "a GPU must be there")
    kinds = [("keras", "float32"), ("litert", "int8"), ("tensorrt", "int8"), ("onnx", "float32")]
    files, lacking = find_files(version.parent, kinds, tmp_path)
    assert list(files) == kinds[3:]
    assert lacking["tensorrt", "int8"] == "a GPU must be there"
    for kind in kinds[:2]:
        assert lacking[kind].startswith("`model` must be a run or a .keras file")


def test_forms_of_a_run_are_converted(modest, tissue, tmp_path):
    modest.save(tmp_path / "generator.keras")
    files, lacking = find_files(tmp_path, [("keras", "float32"), ("litert", "int8_dynamic")], tmp_path)
    assert not lacking
    assert files["keras", "float32"] == tmp_path / "generator.keras"
    run = open_litert(files["litert", "int8_dynamic"].read_bytes(), threads=1)
    assert run(tissue.lr).shape == tissue.hr.shape


def test_package_that_is_not_installed_leaves_out_its_format_alone(modest, tmp_path, monkeypatch):
    def refuse(formats):
        raise UserError("`tf2onnx` must be installed; run pip install '.[onnx]'")

    monkeypatch.setattr(lookup, "check_installed", refuse)
    modest.save(tmp_path / "generator.keras")
    files, lacking = find_files(tmp_path, [("keras", "float32"), ("onnx", "float32")], tmp_path)
    assert list(files) == [("keras", "float32")]
    assert "'.[onnx]'" in lacking["onnx", "float32"]
