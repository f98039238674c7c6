# SPDX-License-Identifier: Apache-2.0
"""The command measures a training step, a slide and every format, and refuses what it cannot measure."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sr_keras import networks
from sr_keras.model.engines import installed


def run_command(*arguments):
    return subprocess.run([sys.executable, "-m", "benchmarks.model", *arguments], cwd=Path(__file__).parents[2],
                          capture_output=True, text=True, timeout=600)


def test_command_prints_every_stage_and_term():
    ran = run_command("--blocks=1", "--filters=4", "--hr_size=32", "--rounds=1", "--executor=graph")
    assert ran.returncode == 0, ran.stderr
    for part in ("matrix product", "autoencoder", "warm-up", "adversarial", "generator alone", "term structural"):
        assert f"| {part} |" in ran.stdout
    assert "| graph |" in ran.stdout
    assert "| XLA |" not in ran.stdout


def test_command_measures_a_slide_beside_the_bare_engine(randomised, sample_slide, tmp_path):
    randomised(networks.generator(4, blocks=1, filters=4)).save(tmp_path / "small.keras")
    ran = run_command("--engine=tensorflow", f"--slide={sample_slide}", f"--model={tmp_path / 'small.keras'}",
                      "--rounds=1")
    assert ran.returncode == 0, ran.stderr
    for words in ("2048x2048 pixels by tensorflow", "| bare engine, one window of ", "| whole run, file to file | ",
                  "of the bare engine's rate (goal: 90%); by CPU time", "Computed twice: ", "Peak memory: "):
        assert words in ran.stdout


@pytest.mark.slow
def test_command_measures_every_engine_beside_the_matrix_product_after_a_slide(randomised, sample_slide, tmp_path):
    randomised(networks.generator(4, blocks=1, filters=4)).save(tmp_path / "small.keras")
    ran = run_command("--rates", f"--slide={sample_slide}", "--engine=tensorflow",
                      f"--model={tmp_path / 'small.keras'}", "--rounds=1")
    assert ran.returncode == 0, ran.stderr
    slide, _, rates = ran.stdout.partition("A window of ")
    assert "of the bare engine's rate" in slide
    # first 81*3*4, block 2*9*4*4, trunk 9*4*4 at 1/16; up 9*4*16 at 1/16 and 1/4; last 81*4*3: multiply-adds
    operations = 2 * ((972 + 288 + 144 + 576) / 16 + 576 / 4 + 972)
    assert f"{operations / 1e3:.1f} kFLOP for an SR pixel" in rates
    assert {line.split()[1] for line in rates.splitlines()[4:]} == set(installed())


def test_command_measures_every_form_that_runs_here(randomised, tmp_path):
    randomised(networks.generator(2, blocks=1, filters=4)).save(tmp_path / "small.keras")
    ran = run_command("--engines=all", f"--model={tmp_path / 'small.keras'}", "--rounds=1")
    assert ran.returncode == 0, ran.stderr
    assert "Tiles of 64x64 LR pixels" in ran.stdout
    _, _, *lines = [line for line in ran.stdout.splitlines() if line.startswith("| ")]
    rows = {cells[0]: cells[1:] for cells in (line.strip("| ").split(" | ") for line in lines)}
    assert [name for name in rows if "tensorrt" not in name] == [
        "keras:float32", "saved_model:float32", "litert:float32", "litert:float16", "litert:int8_dynamic",
        "litert:int8", "onnx:float32"]
    for _, size, imported, load, *measured, memory in rows.values():
        assert min(map(float, (size, imported, load))) >= 0
        first, *_, last = map(int, memory.split(" / "))
        assert 0 < first <= last
        for batch, taken, rate in zip((1, 4, 16), measured[::2], measured[1::2], strict=True):
            p50, p99 = map(float, taken.split(" / "))
            assert 0 < p50 <= p99
            assert float(rate) == pytest.approx(1000 * batch / p50, rel=0.1)  # p50 is rounded


@pytest.mark.parametrize(("flag", "words"), [
    ("--hr_size=34", "`hr_size` must be divisible by scale=4 and by 4; "),
    ("--hr_size=36 --scale=8", "`hr_size` must be divisible by scale=8 and by 4; "),
    ("--slide=nosuch", "`slide` must exist; check the spelling. Received: slide='nosuch'"),
    ("--slide=setup.py --model=nosuch", "`model` must exist; check the spelling, or"),
])
def test_what_can_not_be_measured_is_one_line_before_anything_else(flag, words):
    ran = run_command(*flag.split())
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.splitlines()[-1].startswith(f"error: {words}")


@pytest.mark.parametrize(("flag", "words"), [("--engines=torch", "`engines` must be some of all, keras"),
                                             ("--engines=onnx --slide_side=512", "`engines` must be left out with a"),
                                             ("--rates --engines=onnx", "`rates` must be left out with --engines")])
def test_engines_that_can_not_be_measured_are_refused(flag, words):
    ran = run_command(*flag.split())
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: {words}")
