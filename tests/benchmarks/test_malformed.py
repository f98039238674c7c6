# SPDX-License-Identifier: Apache-2.0
"""Every bad end of a program is counted as what it is, and the programs end well on what is no picture."""
from __future__ import annotations

from collections import Counter

import pytest
from PIL import Image

from benchmarks import malformed
from benchmarks.malformed import CRASH, HANG, TRACEBACK, Outcome, Runner, remark, table

PROGRAM = """
import os, signal, sys, time
print("begun", flush=True)
print("warning: odd", file=sys.stderr)
if sys.argv[1] == "raise":
    raise TypeError("a bug")
if sys.argv[1] == "sleep":
    time.sleep(600)
if sys.argv[1] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] != "end":
    sys.exit(int(sys.argv[1]))
"""


def test_each_end_is_told_from_the_others_and_the_next_program_runs(tmp_path, monkeypatch):
    (tmp_path / "program_of_test.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    with Runner(60) as runner:
        outcomes = {way: runner.run(("program_of_test", [way]), tmp_path / "log" / way)
                    for way in ("end", "0", "2", "raise", "die", "1")}
    assert {way: outcome.end for way, outcome in outcomes.items()} == {
        "end": "exit 0", "0": "exit 0", "2": "exit 2", "raise": TRACEBACK, "die": CRASH, "1": "exit 1"}
    assert "TypeError: a bug" in outcomes["raise"].printed
    assert all(outcome.printed.startswith("begun") for outcome in outcomes.values())
    assert remark(outcomes["1"]) == "warning: odd"
    with Runner(2) as runner:
        assert runner.run(("program_of_test", ["sleep"]), tmp_path / "log" / "sleep").end == HANG


def test_traceback_that_a_program_only_prints_counts_too(tmp_path, monkeypatch):
    (tmp_path / "printing_of_test.py").write_text("print('Traceback (most recent call last):')")
    monkeypatch.syspath_prepend(tmp_path)
    with Runner(60) as runner:
        assert runner.run(("printing_of_test", []), tmp_path / "log").end == TRACEBACK


def test_table_has_a_column_for_each_end():
    lines = table({"extract": Counter({"exit 0": 3, HANG: 1}), "train": Counter({"exit 2": 4})}).splitlines()
    assert [line.split() for line in lines] == [
        ["program", "exit", "0", "exit", "2", "traceback", "hang", "crash"],
        ["extract", "3", "0", "0", "1", "0"], ["train", "0", "4", "0", "0", "0"]]


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_extraction_is_run_on_each_folder(content, run_program, tmp_path, histology, capsys):
    case = tmp_path / "inputs" / "case.tif"
    case.mkdir(parents=True)
    if content is None:
        Image.fromarray(histology[:256, :256]).save(case / "x.png")
    else:
        (case / "x.png").write_bytes(content)
    assert run_program(malformed, f"--inputs={tmp_path / 'inputs'}", "--programs=extract", f"--logs={tmp_path}") == 0
    ended = "exit 0" if content is None else "exit 2"
    assert f"extract       case.tif                {ended}" in capsys.readouterr().out
    assert ("patches of 1 slides" if content is None else "error: ") in (
        tmp_path / "logs" / "extract" / "case.tif.txt").read_text()


def test_remark_is_short():
    assert len(remark(Outcome("exit 0", "error: " + "x" * 1000, 1.0))) == malformed.REMARK
