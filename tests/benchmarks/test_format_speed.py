# SPDX-License-Identifier: Apache-2.0
"""Which files are measured, in which order, and what the numbers of the table are."""
from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks import format_speed as speed
from benchmarks.format_speed import KINDS, Speed, Speeds, call_in_turn, calls_of, find_files, parse_kinds, report
from benchmarks.timed_process import Call, Opened
from pipelines.errors import UserError
from sr_keras.formats import FORMATS, tensorrt
from sr_keras.model.runtimes import LiteRTRunner

ONNX, INT8 = ("onnx", "float32"), ("litert", "int8")


def measured(kind, calls=None):
    return Speed(kind, 3 * 2**20, Opened(0.5, 0.25, "CPU"), calls or {})


class Scripted:
    """A process that notes who is called, takes a second a picture, and fails at a batch."""

    def __init__(self, name, called, fails_at=None):
        self.name, self.called, self.fails_at = name, called, fails_at

    def call(self, batch):
        self.called.append(f"{self.name}{batch}")
        if batch == self.fails_at:
            raise UserError("no memory")
        return Call(float(batch), 2**20 * len(self.called))


def test_forms_are_named_one_by_one_by_format_or_all_together():
    assert parse_kinds(["all"]) == KINDS
    assert parse_kinds(["onnx", "litert:int8"]) == [INT8, ONNX]  # always in the order of the table
    assert parse_kinds(["litert"]) == [("litert", precision) for precision in FORMATS["litert"].tolerances]
    for wrong in ([], ["litert:int4"], ["torch"]):
        with pytest.raises(ValueError, match="`engines` must be some of all, keras, saved_model, litert, onnx"):
            parse_kinds(wrong)


def test_every_format_is_measured():
    assert {name for name, _ in KINDS} == {"keras", *FORMATS}


def test_calls_grow_with_the_rounds_and_suffice_for_a_percentile():
    assert calls_of(1) == {1: 30, 4: 2, 16: 1}
    assert calls_of(7) == {1: 42, 4: 14, 16: 7}


def test_all_are_called_in_turn_and_the_first_call_of_a_batch_is_not_counted():
    called, missing = [], {}
    both = [measured(ONNX), measured(INT8)]
    calls = {ONNX: Scripted("a", called).call, INT8: Scripted("b", called).call}
    left = call_in_turn(both, calls, {4: 1, 1: 2}, missing)
    assert called == ["a1", "b1", "a1", "b1", "a1", "b1", "a4", "b4", "a4", "b4"]
    assert left == both
    assert {batch: len(calls) for batch, calls in both[1].calls.items()} == {1: 2, 4: 1}
    assert not missing


def test_form_that_fails_is_left_out_with_its_reason():
    called, missing = [], {}
    left = call_in_turn([measured(ONNX), measured(INT8)], {ONNX: Scripted("a", called, fails_at=4).call,
                                                   INT8: Scripted("b", called).call}, {1: 1, 4: 1}, missing)
    assert [one.kind for one in left] == [INT8]
    assert missing == {ONNX: "batch 4: no memory"}
    assert called.count("a4") == 1


def test_numbers_are_those_of_the_calls():
    one = measured(ONNX, {4: [Call(seconds / 100, 2**20 * seconds) for seconds in range(1, 102)]})
    assert one.p50(4) == 0.51
    assert one.p99(4) == pytest.approx(1.0)  # of 1..101, a hundredth is above 100
    assert one.patches_per_second(4) == pytest.approx(4 / 0.51)
    assert one.peak_bytes(4) == 101 * 2**20


def test_table_has_each_form_and_each_reason_once():
    calls = {1: [Call(0.1, 2**27)] * 30, 16: [Call(2.0, 2**28)]}
    missing = {("tensorrt", precision): "no GPU" for precision in ("float16", "int8")}
    first, _, head, rule, *rows, _, last = report(Speeds(64, [measured(INT8, calls), measured(ONNX, calls)], missing))
    assert first.startswith("Tiles of 64x64 LR pixels, ")
    assert "30 of batch 1, 1 of batch 16" in first
    assert len({line.count(" | ") for line in (head, rule, *rows)}) == 1
    assert rows == [f"| {name} | CPU | 3.00 | 0.50 | 0.25 | 100.0 / 100.0 | 10.0 | 2000.0 / 2000.0 | 8.0 | 128 / 256 |"
                    for name in ("litert:int8", "onnx:float32")]
    assert last == "Not measured: tensorrt:float16, tensorrt:int8: no GPU"


def test_size_of_a_saved_model_leaves_out_what_lies_beside_it(tmp_path):
    for file, size in (("saved_model.pb", 5), ("variables/variables.index", 7), ("onnx/model.onnx", 11)):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(bytes(size))
    assert speed._size(tmp_path) == 12
    assert speed._size(tmp_path / "onnx/model.onnx") == 11


def test_nothing_to_measure_is_an_error_that_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))  # TensorFlow is here already
    monkeypatch.setattr(tensorrt, "missing", lambda: "no GPU")
    (tmp_path / "x.keras").touch()
    with pytest.raises(UserError, match=r"^tensorrt:float16, tensorrt:int8: no GPU$"):
        speed.measure(tmp_path / "x.keras", [("tensorrt", "float16"), ("tensorrt", "int8")])


@pytest.fixture
def version(tmp_path):
    """A version with files of every form, as far as their names go."""
    folder = tmp_path / "x" / "1"
    for file in ("saved_model.pb", "litert/float16.tflite", "onnx/model.onnx", "tensorrt/int8.engine"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def test_files_of_a_version_are_taken_as_they_are(version, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt, "missing", lambda: None)
    kinds = [("saved_model", "float32"), ("litert", "float16"), ("onnx", "float32"), ("tensorrt", "int8")]
    files, missing = find_files(version.parent, kinds, tmp_path / "none")
    assert list(files.values()) == [version, version / "litert/float16.tflite", version / "onnx/model.onnx",
                                    version / "tensorrt/int8.engine"]
    assert not missing


def test_what_cannot_be_had_is_named_with_the_reason(version, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt, "missing", lambda: "a GPU must be there")
    kinds = [("keras", "float32"), ("litert", "int8"), ("tensorrt", "int8"), ("onnx", "float32")]
    files, missing = find_files(version.parent, kinds, tmp_path)
    assert list(files) == kinds[3:]
    assert missing["tensorrt", "int8"] == "a GPU must be there"
    for kind in kinds[:2]:
        assert missing[kind].startswith("`model` must be a run or a .keras file")


def test_forms_of_a_run_are_converted(modest, tissue, tmp_path):
    modest.save(tmp_path / "generator.keras")
    files, missing = find_files(tmp_path, [("keras", "float32"), ("litert", "int8_dynamic")], tmp_path)
    assert not missing
    assert files["keras", "float32"] == tmp_path / "generator.keras"
    run = LiteRTRunner(files["litert", "int8_dynamic"].read_bytes(), threads=1)
    assert run(tissue.lr).shape == tissue.hr.shape


def test_package_that_is_not_installed_leaves_out_its_format_alone(modest, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    modest.save(tmp_path / "generator.keras")
    files, missing = find_files(tmp_path, [("keras", "float32"), ("onnx", "float32")], tmp_path)
    assert list(files) == [("keras", "float32")]
    assert "'.[onnx]'" in missing["onnx", "float32"]
