# SPDX-License-Identifier: Apache-2.0
"""The command of the input benchmark: its tables, and what it refuses."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.input_pipelines import Speed
from benchmarks.pipeline import input_table, stage_table

ROOT = Path(__file__).parents[2]


def test_tables_show_ratios_to_the_first_and_differences_between_stages():
    table = input_table({"plain loop": Speed(100, 10.0), "shards": Speed(700, 2.5)}).splitlines()
    assert table[2].split() == ["shards", "700", "7.0x", "2.50"]
    table = stage_table({"read": Speed(1, 0.5), "decode": Speed(1, 0.75)}).splitlines()
    assert [line.split()[-1] for line in table[1:]] == ["0.50", "0.25"]


@pytest.mark.parametrize(("flag", "message"), [
    ("--patch_size=250", "`patch_size` must be divisible by scale=4"),
    ("--seconds=inf", "`seconds` must be positive and finite")])
def test_benchmark_refuses_what_cannot_be_measured(flag, message):
    done = subprocess.run([sys.executable, "-m", "benchmarks.pipeline", flag], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 2
    assert message in done.stderr
