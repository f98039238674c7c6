# SPDX-License-Identifier: Apache-2.0
"""The loop reads ahead, hands out what is done, and takes memory by the window."""
from __future__ import annotations

from pathlib import Path
from threading import Event

import numpy as np
import openslide
import pytest

from pipelines.pixels import to_float, to_uint8
from pipelines.pyramid import PyramidWriter
from sr_keras import metrics
from sr_keras.metrics import bicubic
from sr_keras.slides import loop, reports
from sr_keras.slides.loop import super_resolve_plane
from sr_keras.slides.outputs import PictureOutput, PyramidOutput
from sr_keras.slides.window_plan import plan_windows


def test_next_windows_are_read_while_the_network_runs():
    third_is_read, reads = Event(), []

    class Slow:
        shape = (64, 64 * 20, 3)

        def __getitem__(self, window):
            reads.append(window)
            if len(reads) == 3:
                third_is_read.set()
            return np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start, 3), np.uint8)

    def network(lr):
        assert third_is_read.wait(30)
        return lr.repeat(4, 1).repeat(4, 2)

    super_resolve_plane(network, Slow(), plan_windows(Slow.shape, 4, 4, tile=136), PictureOutput(4 * 64 * 20, 256))
    assert len(reads) == 10


def test_every_pixel_is_told(loaded, histology):
    lr, told = histology[:200, :330], []
    windows, output = plan_windows(lr.shape, 4, loaded.halo, tile=150), PictureOutput(4 * 330, 4 * 200)
    super_resolve_plane(loaded, lr, windows, output, progress=lambda *a: told.append(a))
    assert len(told) == len(windows) > 1
    assert sum(pixels for pixels, kept in told) == 16 * 200 * 330


def test_island_of_tissue_in_a_large_window_is_the_networks_and_the_glass_around_it_bicubics(loaded, histology):
    lr = np.full((700, 900, 3), 240, np.uint8)
    lr[300:310, 420:430] = histology[:10, :10]
    windows = plan_windows(lr.shape, 4, loaded.halo, tile=650)
    output, whole = PictureOutput(3600, 2800), PictureOutput(3600, 2800)

    def has_tissue(rows, columns):
        return bool((lr[rows, columns] != 240).any())

    work = super_resolve_plane(loaded, lr, windows, output, has_tissue=has_tissue)
    super_resolve_plane(loaded, lr, windows, whole)
    assert len(windows) == 4
    assert work.pixels == 2800 * 3600
    assert 0 < work.network_pixels <= 4 * 512**2  # whole tiles around it
    reach = loaded.halo
    seen = slice(4 * (300 - reach), 4 * (310 + reach)), slice(4 * (420 - reach), 4 * (430 + reach))
    assert np.abs(output.pixels[seen].astype(int) - whole.pixels[seen]).max() <= 1


def test_glass_of_a_large_window_is_enlarged_some_rows_at_a_time_to_the_same_pixels(loaded, histology, monkeypatch):
    """In floats all rows of a window of 1,200 x 2,900 LR pixels took 3 GiB."""
    lr, seen = histology[:200, :330], []
    whole = to_uint8(bicubic(to_float(lr)[np.newaxis], 4)).numpy()[0]
    monkeypatch.setattr(metrics, "bicubic", lambda part, scale: seen.append(part.shape) or bicubic(part, scale))
    monkeypatch.setattr(loop, "BICUBIC_PIXELS", 330 * 30)
    output = PictureOutput(4 * 330, 4 * 200)
    super_resolve_plane(loaded, lr, plan_windows(lr.shape, 4, loaded.halo, tile=400), output,
                        has_tissue=lambda rows, columns: False)
    np.testing.assert_array_equal(output.pixels, whole)
    assert len(seen) == 7
    assert max(shape[1] for shape in seen) <= 30 + 2 * loop.BICUBIC_REACH


def test_output_that_fails_stops_the_run(loaded, histology):
    class Full(PictureOutput):
        def write(self, box, pixels):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        super_resolve_plane(loaded, histology, plan_windows(histology.shape, 4, loaded.halo, tile=150),
                            Full(2048, 2048))


def test_network_computes_while_the_output_is_at_work():
    computed = []

    class Slow(PictureOutput):
        def write(self, box, pixels):
            if box.hr_x == 0:
                assert second_is_computed.wait(30)
            super().write(box, pixels)

    second_is_computed = Event()

    def network(lr):
        computed.append(lr)
        if len(computed) == 2:
            second_is_computed.set()
        return lr.repeat(4, 1).repeat(4, 2)

    lr = np.zeros((64, 64 * 20, 3), np.uint8)
    super_resolve_plane(network, lr, plan_windows(lr.shape, 4, 4, tile=136), Slow(4 * 64 * 20, 256))
    assert len(computed) == 10


class Endless:
    """A plane of tissue and glass without a file behind it."""

    def __init__(self, side: int, tissue: np.ndarray) -> None:
        self.shape = (side, side, 3)
        self._tissue = np.tile(tissue, (3, 3, 1))

    def __getitem__(self, window):
        rows, columns = window
        y, x = rows.start % 512, columns.start % 512
        return self._tissue[y:y + rows.stop - rows.start, x:x + columns.stop - columns.start]


def write_large(path: str, side: int) -> None:
    """Write a slide of (4 * side)^2 pixels of a plane without end; print by how many MiB memory grew."""
    from skimage.data import immunohistochemistry

    def high_water() -> float:
        return reports.peak_rss() / 2**20

    def write(name: Path, side: int) -> None:
        with PyramidWriter(name, 4 * side, 4 * side, 0.25) as writer:
            super_resolve_plane(lambda lr: lr.repeat(4, 1).repeat(4, 2), Endless(side, immunohistochemistry()),
                                plan_windows((side, side), 4, 8), PyramidOutput(writer))
            writer.finish()

    write(Path(path).with_name("first.tif"), 600)
    before = high_water()
    write(Path(path), side)
    print(high_water() - before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux' /proc")
def test_memory_is_bounded_by_windows_and_not_by_the_slide(run_apart, tmp_path):
    outcome = run_apart(__file__, f"write_large({str(tmp_path / 'a.tif')!r}, 2048)")
    assert outcome.returncode == 0, outcome.stderr
    assert float(outcome.stdout) < 100  # the pixels alone are 192 MiB
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.dimensions == (8192, 8192)
