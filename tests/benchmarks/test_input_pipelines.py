# SPDX-License-Identifier: Apache-2.0
"""Input pipelines give patches, and are timed without their start."""
from __future__ import annotations

import time

import pytest

from benchmarks import input_pipelines
from pipelines.config import DegradeOptions, degradation
from pipelines.patches import find_sources


def paced(seconds, patches, start_up=0.0):
    def start():
        time.sleep(start_up)
        while True:
            yield patches
            time.sleep(seconds)
    return start


def test_speed_is_patches_per_second_without_the_start():
    speeds = input_pipelines.time_in_turns({"slow": paced(0.02, 1), "fast": paced(0.02, 8, start_up=0.05)}, 0.6)
    assert speeds["slow"].per_second <= 50
    assert 4 < speeds["fast"].per_second / speeds["slow"].per_second < 16


def test_textbook_is_timed_beside_another_degradation(tmp_path, sample_slide):
    material = input_pipelines.prepare(find_sources(sample_slide), tmp_path, 64)
    timed = [list(input_pipelines.inputs(material, degradation(name))) for name in ("textbook", "scanner")]
    assert timed[1] == [*timed[0][:2], "shards, textbook", *timed[0][2:]]


@pytest.mark.parametrize("kind", ["slide", "tiles"])
def test_every_pipeline_gives_patches(tmp_path, sample_slide, tile_folder, kind):
    sources = find_sources(sample_slide if kind == "slide" else tile_folder)
    material = input_pipelines.prepare(sources, tmp_path, 64)
    assert len(material.places) == len(material.tiles.paths) == material.shards.count
    degrade = DegradeOptions()
    for speeds in (input_pipelines.inputs(material, degrade), input_pipelines.stages(material, degrade)):
        for name, speed in input_pipelines.time_in_turns(speeds, 0.1, turns=1).items():
            assert speed.per_second > 0, name
