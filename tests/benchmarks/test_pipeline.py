from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import alternatives as contenders
from benchmarks.alternatives import Speed
from benchmarks.pipeline import input_table, stage_table
from pipelines.config import DegradeOptions
from pipelines.patches import find_sources

ROOT = Path(__file__).parents[2]


def paced(seconds, patches, start_up=0.0):
    def start():
        time.sleep(start_up)
        while True:
            yield patches
            time.sleep(seconds)
    return start


def test_race_measures_patches_per_second_and_not_the_start():
    speeds = contenders.race({"slow": paced(0.02, 1), "fast": paced(0.02, 8, start_up=0.05)}, 0.6)
    assert speeds["slow"].per_second <= 50
    assert 4 < speeds["fast"].per_second / speeds["slow"].per_second < 16


def test_tables_show_ratios_to_the_first_and_differences_between_stages():
    table = input_table({"plain loop": Speed(100, 10.0), "shards": Speed(700, 2.5)}).splitlines()
    assert table[2].split() == ["shards", "700", "7.0x", "2.50"]
    table = stage_table({"read": Speed(1, 0.5), "decode": Speed(1, 0.75)}).splitlines()
    assert [line.split()[-1] for line in table[1:]] == ["0.50", "0.25"]


@pytest.mark.parametrize("kind", ["slide", "tiles"])
def test_every_contender_gives_patches(tmp_path, sample_slide, tile_folder, kind):
    sources = find_sources(sample_slide if kind == "slide" else tile_folder)
    material = contenders.prepare(sources, tmp_path, 64)
    assert len(material.places) == len(material.tiles.paths) == material.shards.count
    degrade = DegradeOptions()
    for speeds in (contenders.inputs(material, degrade), contenders.stages(material, degrade)):
        for name, speed in contenders.race(speeds, 0.1, turns=1).items():
            assert speed.per_second > 0, name


@pytest.mark.parametrize(("flag", "message"), [
    ("--patch_size=250", "`patch_size` must be divisible by scale=4"),
    ("--seconds=inf", "`seconds` must be positive and finite")])
def test_benchmark_refuses_what_cannot_be_measured(flag, message):
    done = subprocess.run([sys.executable, "-m", "benchmarks.pipeline", flag], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 2
    assert message in done.stderr
