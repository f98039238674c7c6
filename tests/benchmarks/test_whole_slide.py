# SPDX-License-Identifier: Apache-2.0
"""Rates: the engine alone and the run see the same pixels, and what holds the run does not count for it."""
from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import whole_slide
from benchmarks.whole_slide import Round, Took, make_slide, measure_round, report
from pipelines.slide import open_slide
from sr_keras.slides.window_plan import EnlargeOptions


def test_what_the_bare_engine_takes_is_not_the_runs(loaded, sample_slide, monkeypatch):
    bare = whole_slide._bare

    def slow(*arguments):
        time.sleep(5)
        return bare(*arguments)

    monkeypatch.setattr(whole_slide, "_bare", slow)
    began = time.perf_counter()
    one = measure_round(loaded, sample_slide, EnlargeOptions(everywhere=True))
    assert one.run.seconds < time.perf_counter() - began - 5 + 0.1
    assert one.bare.seconds > 0
    assert one.bare_pixels == 16 * one.bare_shape[0] * one.bare_shape[1] <= 2048 * 2048


def test_memory_is_that_of_the_run_without_the_bare_engine(loaded, sample_slide, monkeypatch):
    peaks = iter([100, 900])
    bare = whole_slide._bare

    def large(*arguments):
        next(peaks)
        return bare(*arguments)

    monkeypatch.setattr(whole_slide, "peak_rss", lambda: next(peaks))
    monkeypatch.setattr(whole_slide, "_bare", large)
    assert measure_round(loaded, sample_slide, EnlargeOptions(region=(0, 0, 128, 128))).peak == 100


def test_useful_pixels_count_once_and_what_is_computed_twice_is_told(loaded, sample_slide):
    one = measure_round(loaded, sample_slide, EnlargeOptions(everywhere=True, tile=256))
    assert one.useful == 2048 * 2048
    assert one.report["work"]["windows"].startswith("16 of 256x256")
    assert one.computed == 16 * 256**2
    assert one.twice == pytest.approx(16 * 256**2 / 512**2 - 1)


def test_report_is_of_medians_and_of_pairs(loaded, sample_slide):
    one = measure_round(loaded, sample_slide, EnlargeOptions(region=(0, 0, 128, 128)))
    pixels = one.useful
    rounds = [replace(one, bare=Took(bare, 2 * bare), run=Took(run, 2 * run), bare_shape=(100, 200))
              for bare, run in ((9.0, 10.0), (1.0, 4.0), (8.0, 10.0))]
    assert isinstance(rounds[0], Round)
    lines = list(report(rounds))
    assert "| bare engine, one window of 200x100 | 0.3 | 8.0 | 0.04 | 16.0 |" in lines
    assert f"| whole run, file to file | 0.3 | 10.0 | {pixels / 1e7:.2f} | 20.0 |" in lines
    ratio = f"{pixels / 10 / (320000 / 8):.0%}"
    assert any(f"reaches {ratio} of the bare engine's rate (goal: 90%); by CPU time {ratio}" in line for line in lines)


@pytest.mark.parametrize("side", [3000, 7001])
def test_made_slide_is_glass_with_tissue_in_its_middle(side, tmp_path):
    with open_slide(make_slide(tmp_path / "a.tif", side)) as slide:
        assert slide.dimensions == (side, side)
        small = slide.thumbnail(250)
    dark = small.min(-1) < 230
    assert dark[105:145, 105:145].any()
    assert 0 < np.mean(dark) < 0.05
