# SPDX-License-Identifier: Apache-2.0
"""Slides and batches of windows on a cluster of two machines, of which one is lost: the pixels of a run on one machine.

A worker of these machines computes with one thread and this process with all cores, so that sums of floats differ, as
they do between machines of different kinds. The promise is a step of 8 bits at most, before JPEG.
"""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipelines.cluster import Cluster
from sr_keras import super_resolve as command
from sr_keras.slides import distributed
from sr_keras.slides.distributed import window_batches
from sr_keras.slides.outputs import PyramidOutput
from sr_keras.slides.reports import report_path
from sr_keras.slides.window_plan import plan_windows

LOSSLESS = ("--tile=200", "--lossless")
FEW = 0.001  # share of values that another order of sums may round the other way; 3e-6 was measured


@pytest.fixture
def losing(two_machines, monkeypatch):
    """Lose a machine when `losing.now()` is called first while it is at work."""
    class Losing(Cluster):
        lost = False

        def __enter__(self):
            Losing.open = self
            return self

        @staticmethod
        def now() -> None:
            if not Losing.lost and two_machines.is_busy(Losing.open):
                two_machines.lose()
                Losing.lost = True

    monkeypatch.setattr(command, "Cluster", Losing)
    return Losing


def assert_same_pixels(one: Path, two: Path) -> None:
    """Assert that no value of any level differs by more than a step, and few by that."""
    with tifffile.TiffFile(one) as first, tifffile.TiffFile(two) as second:
        levels, others = first.series[0].levels, second.series[0].levels
        assert [level.shape for level in levels] == [level.shape for level in others]
        for level, other in zip(levels, others, strict=True):
            difference = np.abs(level.asarray().astype(int) - other.asarray())
            assert difference.max() <= 1, (two.name, level.shape)
            assert (difference > 0).mean() < FEW, (two.name, level.shape)


def said(path: Path) -> dict:
    """Return what a report says, but for what two runs never share, and the bytes, which follow from every pixel."""
    report = json.loads(path.read_text())
    for name in ("output", "peak_rss_bytes", "bytes"):
        del report[name]
    report["work"] = {name: report["work"][name] for name in ("windows", "halo", "overhead", "glass_share")}
    return report


@pytest.mark.slow
def test_slides_with_a_machine_lost_become_what_one_machine_makes(two_machines, losing, broken_slide, sample_slide, run,
                                                                  tmp_path, monkeypatch, capsys):
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in "abcde":
        shutil.copy(sample_slide, slides / f"{name}.tif")
    shutil.copy(broken_slide, slides / "broken.tif")
    (slides / "cut.tif").write_bytes(sample_slide.read_bytes()[:4000])
    here, there = tmp_path / "here", tmp_path / "there"
    assert run(f"--input={slides}", f"--output={here}", "--mpp=1.0", *LOSSLESS) == 1
    capsys.readouterr()
    summary = command.summary
    monkeypatch.setattr(command, "summary", lambda report: losing.now() or summary(report))
    assert run(f"--input={slides}", f"--output={there}", "--mpp=1.0", *LOSSLESS, f"--ray={two_machines.address}") == 1
    assert losing.lost
    printed = capsys.readouterr()
    assert "6 of 7 written" in printed.out
    assert "cut.tif" in printed.err
    assert sorted(path.name for path in here.iterdir()) == sorted(path.name for path in there.iterdir())
    for path in here.glob("*.tif"):
        assert_same_pixels(path, there / path.name)
    for path in here.glob("[a-e]_x4.tif.report.json"):
        assert said(path) == said(there / path.name)


@pytest.mark.slow
def test_slide_in_batches_with_a_machine_lost_has_the_same_pixels_and_report(two_machines, losing, broken_slide, run,
                                                                             tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "LARGE", 0)
    monkeypatch.setattr(distributed, "BATCH_PIXELS", 1)
    here, there = tmp_path / "here.tif", tmp_path / "there.tif"
    write, boxes = PyramidOutput.write, []

    def write_and_lose(output, box, pixels):
        write(output, box, pixels)
        boxes.append(box)
        losing.now()

    assert run(f"--input={broken_slide}", f"--output={here}", *LOSSLESS) == 1
    monkeypatch.setattr(PyramidOutput, "write", write_and_lose)
    assert run(f"--input={broken_slide}", f"--output={there}", *LOSSLESS, f"--ray={two_machines.address}") == 1
    assert losing.lost
    assert len(boxes) == len(set(boxes)) > 4  # nothing twice
    assert_same_pixels(here, there)
    assert said(report_path(here)) == said(report_path(there))


@pytest.mark.slow
def test_interrupted_run_on_a_cluster_goes_on_without_one(two_machines, sample_slide, run, tmp_path, monkeypatch,
                                                          capsys):
    monkeypatch.setattr(distributed, "LARGE", 0)
    monkeypatch.setattr(distributed, "BATCH_PIXELS", 1)
    write, boxes = PyramidOutput.write, []

    def interrupt_second(output, box, pixels):
        boxes.append(box)
        if len(boxes) == 3:
            raise KeyboardInterrupt
        write(output, box, pixels)

    flags = (f"--input={sample_slide}", f"--output={tmp_path / 'a.tif'}", *LOSSLESS)
    with monkeypatch.context() as patch:
        patch.setattr(PyramidOutput, "write", interrupt_second)
        with pytest.raises(KeyboardInterrupt):
            run(*flags, f"--ray={two_machines.address}")
    assert "run the same command with --resume to continue" in capsys.readouterr().err
    assert run(*flags, "--resume") == 0
    assert json.loads((tmp_path / "a.tif.report.json").read_text())["work"]["kept_share"] > 0
    assert run(f"--input={sample_slide}", f"--output={tmp_path / 'b.tif'}", *LOSSLESS) == 0
    assert_same_pixels(tmp_path / "a.tif", tmp_path / "b.tif")


def test_batches_have_every_window_once_and_no_more_pixels_than_asked():
    windows = plan_windows((3000, 5000, 3), 4, 8, tile=272)
    found = list(window_batches(windows, 16e6))
    assert [window for batch in found for window in batch] == list(windows)
    sizes = [16 * sum(x.core_stop - x.core_start for x in batch.columns)
             * sum(y.core_stop - y.core_start for y in batch.rows) for batch in found]
    assert max(sizes) <= 16e6 < 2 * max(sizes)
    assert [len(batch) for batch in window_batches(windows, 1)] == [1] * len(windows)
