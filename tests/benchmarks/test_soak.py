# SPDX-License-Identifier: Apache-2.0
"""Kills that leave other results are counted, growth is seen, and times are no results."""
from __future__ import annotations

import random
from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks.soak import Job, bytes_of, finish, grows, kill_all, table_of_study, weights_of_run
from pipelines.errors import UserError

STEPS = """
import pathlib, sys, time
lines = pathlib.Path(sys.argv[1]) / "lines.txt"
lines.parent.mkdir(exist_ok=True)
for number in range(len(lines.read_text().splitlines()) if "--resume" in sys.argv else 0, 10):
    with open(lines, "a") as file:
        file.write(f"{number}\\n")
    time.sleep(0.05)
"""
HOLD = """
import sys, time
held = []
for _ in range(60):
    held.append(b"x" * int(sys.argv[1]))
    time.sleep(0.05)
"""


@pytest.mark.parametrize(("resume", "others"), [(("--resume",), 0), ((), 2)])
def test_kills_that_leave_another_result_are_counted(resume, others, tmp_path, monkeypatch, capsys):
    (tmp_path / "steps.py").write_text(STEPS)
    monkeypatch.chdir(tmp_path)
    job = Job("steps", lambda folder: ["steps", str(folder)], lambda folder: bytes_of(folder, "*"), resume, "lines.txt")
    assert kill_all([job], 2, random.Random(0), tmp_path) == others
    assert capsys.readouterr().out.endswith("\n2 kills\n")


def test_program_that_fails_is_named():
    with pytest.raises(UserError, match=r"run it to see why: benchmarks\.nosuch\. Received: exit status 1"):
        finish(["benchmarks.nosuch"])


@pytest.mark.parametrize(("held", "more"), [(0, False), (10**6, True)])
def test_memory_that_grows_is_seen(held, more, tmp_path, monkeypatch):
    (tmp_path / "hold.py").write_text(HOLD)
    monkeypatch.chdir(tmp_path)
    assert grows("hold", ["hold", str(held)]) == more


def test_results_of_a_run_are_its_weights(tmp_path):
    for folder, weight in (("one", 1.0), ("same", 1.0), ("other", 1.0 + 1e-7)):
        (tmp_path / folder / "run").mkdir(parents=True)
        for name in ("autoencoder", "warmup", "generator"):
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
            model.set_weights([np.full((2, 1), weight, np.float32), np.zeros(1)])
            model.save(tmp_path / folder / "run" / f"{name}.keras")
    one, same, other = (weights_of_run(tmp_path / folder) for folder in ("one", "same", "other"))
    assert len(one) == 6
    assert one == same != other


def test_results_of_a_study_are_its_table_without_the_seconds(tmp_path):
    def study(name: str, *values: object) -> Path:
        (tmp_path / name / "out").mkdir(parents=True)
        (tmp_path / name / "out" / "results.csv").write_text("cell,slide,psnr,seconds\n" + ",".join(map(str, values)))
        return tmp_path / name

    one = table_of_study(study("one", "srgan", "a", 25.5, 3))
    assert one == table_of_study(study("again", "srgan", "a", 25.5, 4))
    assert one != table_of_study(study("other", "srgan", "a", 25.6, 3))
