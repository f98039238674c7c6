"""rates: which forms are measured, in which order, and what the numbers of the table are."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.errors import UserError
from sr_keras.formats import litert, tensorrt
from sr_keras.formats import speed as rates
from sr_keras.formats.runtimes import RUNTIMES, Opened, Took
from sr_keras.formats.speed import KINDS, PRECISIONS, Rate, Rates, call_in_turn, calls_of, parse_kinds, report

ONNX, INT8 = ("onnx", "float32"), ("litert", "int8")


def rate(kind, took=None):
    return Rate(kind, 3 * 2**20, Opened(0.5, 0.25, "CPU"), took or {})


class Scripted:
    """A process that notes who is called, takes a second a picture, and fails at a batch."""

    def __init__(self, name, called, fails_at=None):
        self.name, self.called, self.fails_at = name, called, fails_at

    def call(self, batch):
        self.called.append(f"{self.name}{batch}")
        if batch == self.fails_at:
            raise UserError("no memory")
        return Took(float(batch), 2**20 * len(self.called))


def test_forms_are_named_one_by_one_by_format_or_all_together():
    assert parse_kinds(["all"]) == KINDS
    assert parse_kinds(["onnx", "litert:int8"]) == [INT8, ONNX]  # always in the order of the table
    assert parse_kinds(["litert"]) == [("litert", precision) for precision in litert.PRECISIONS]
    for wrong in ([], ["litert:int4"], ["torch"]):
        with pytest.raises(ValueError, match="`engines` must be some of all, keras, saved_model, litert, onnx"):
            parse_kinds(wrong)


def test_precisions_are_those_that_can_be_written():
    assert PRECISIONS["litert"] == litert.PRECISIONS
    assert PRECISIONS["tensorrt"] == tensorrt.PRECISIONS
    assert PRECISIONS.keys() == RUNTIMES.keys()


def test_calls_grow_with_the_rounds_and_suffice_for_a_percentile():
    assert calls_of(1) == {1: 30, 4: 2, 16: 1}
    assert calls_of(7) == {1: 42, 4: 14, 16: 7}


def test_all_are_called_in_turn_and_the_first_call_of_a_batch_is_not_counted():
    called, lacking = [], {}
    both = [rate(ONNX), rate(INT8)]
    left = call_in_turn(both, {ONNX: Scripted("a", called), INT8: Scripted("b", called)}, {4: 1, 1: 2}, lacking)
    assert called == ["a1", "b1", "a1", "b1", "a1", "b1", "a4", "b4", "a4", "b4"]
    assert left == both
    assert {batch: len(calls) for batch, calls in both[1].took.items()} == {1: 2, 4: 1}
    assert not lacking


def test_form_that_fails_is_left_out_with_its_reason():
    called, lacking = [], {}
    left = call_in_turn([rate(ONNX), rate(INT8)], {ONNX: Scripted("a", called, fails_at=4),
                                                   INT8: Scripted("b", called)}, {1: 1, 4: 1}, lacking)
    assert [one.kind for one in left] == [INT8]
    assert lacking == {ONNX: "batch 4: no memory"}
    assert called.count("a4") == 1


def test_numbers_are_those_of_the_calls():
    one = rate(ONNX, {4: [Took(seconds / 100, 2**20 * seconds) for seconds in range(1, 102)]})
    assert one.p50(4) == 0.51
    assert one.p99(4) == pytest.approx(1.0)  # of 1..101, a hundredth is above 100
    assert one.patches_per_second(4) == pytest.approx(4 / 0.51)
    assert one.peak_bytes(4) == 101 * 2**20


def test_table_has_each_form_and_each_reason_once():
    took = {1: [Took(0.1, 2**27)] * 30, 16: [Took(2.0, 2**28)]}
    lacking = {("tensorrt", precision): "no GPU" for precision in ("float16", "int8")}
    first, _, head, rule, *rows, _, last = report(Rates(64, [rate(INT8, took), rate(ONNX, took)], lacking))
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
    assert rates._size(tmp_path) == 12
    assert rates._size(tmp_path / "onnx/model.onnx") == 11


def test_nothing_to_measure_is_an_error_that_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))  # TensorFlow is here already
    monkeypatch.setattr(tensorrt, "missing", lambda: "no GPU")
    (tmp_path / "x.keras").touch()
    with pytest.raises(UserError, match=r"^tensorrt:float16, tensorrt:int8: no GPU$"):
        rates.measure(tmp_path / "x.keras", [("tensorrt", "float16"), ("tensorrt", "int8")])
