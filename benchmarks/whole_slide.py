# SPDX-License-Identifier: Apache-2.0
"""Compare the rate of a whole-slide run with that of the bare engine on one window, and measure its memory.

    generator = open_engine("auto", "saved_models/demo")
    rounds = [measure_round(generator, Path("case.svs"), EnlargeOptions()) for _ in range(3)]
    print("\\n".join(report(rounds)))

A round is a run of `enlarge_file` that pauses after its windows are planned, while the engine alone computes the first
`BARE_ROWS` rows of the largest window; the pause does not count for the run. So both run under the same load. The run
includes the checksum of the source, the tissue map, reading, bicubic on glass, encoding, the lower levels and writing.
Neither includes loading the network.

Useful pixels are those that the network makes and the run keeps: each counts once, and glass not at all. What is
computed twice are the pixels around the cores of windows.

When the engine keeps all cores busy, the other work of the run takes time too. The ratio of CPU times shows what
perfect overlap would reach.
"""
from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from skimage.data import immunohistochemistry

from pipelines.pixels import WHITE
from pipelines.pyramid import PyramidOptions, PyramidWriter
from pipelines.workers import cores
from sr_keras.model.tiles import Span
from sr_keras.slides import EnlargeOptions, enlarge_file
from sr_keras.slides.loop import Generator, Work, by_network, near_tissue, super_resolve_plane
from sr_keras.slides.lr_plane import HasTissue, Plane
from sr_keras.slides.outputs import Output
from sr_keras.slides.reports import peak_rss
from sr_keras.slides.window_plan import Window, WindowPlan

BARE_ROWS = 512  # LR
MADE_MPP = 1.0
TISSUE_SHARE = 1 / 12  # of the side of a made slide


class Took(NamedTuple):
    """Seconds of wall-clock time and of CPU time."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Round:
    """What was measured.

    Attributes:
        bare: Times of the bare engine.
        bare_shape: Height and width of its window in LR pixels.
        run: Times of the whole run.
        computed: LR pixels that the network got in the run, each as often as it got it.
        peak: Memory of the process after the run and before the bare engine, in bytes.
        report: The report of the run.
    """

    bare: Took
    bare_shape: tuple[int, int]
    run: Took
    computed: int
    peak: int
    report: dict[str, Any]

    @property
    def useful(self) -> float:
        """SR pixels that the network made and the run kept."""
        sr = self.report["sr"]
        return sr["width"] * sr["height"] * (1 - self.report["work"]["glass_share"])

    @property
    def rates(self) -> tuple[float, float]:
        """SR pixels a second, of the bare engine and of the run."""
        return self.bare_pixels / self.bare.seconds, self.useful / self.run.seconds

    @property
    def cpu_rates(self) -> tuple[float, float]:
        """The same for a second of CPU time."""
        return self.bare_pixels / self.bare.cpu_seconds, self.useful / self.run.cpu_seconds

    @property
    def bare_pixels(self) -> int:
        """SR pixels of the bare engine."""
        return self.bare_shape[0] * self.bare_shape[1] * self.scale**2

    @property
    def scale(self) -> int:
        """SR side / LR side."""
        return self.report["sr"]["width"] // self.report["lr"]["width"]

    @property
    def twice(self) -> float:
        """What is computed more than once, as a share of the useful pixels."""
        return self.computed * self.scale**2 / self.useful - 1


def measure_round(generator: Any, source: Path, options: EnlargeOptions) -> Round:
    """Super-resolve a slide into a temporary folder, and return what was measured.

    Raises:
        SlideError: The slide cannot be read.
    """
    bare = held = Took(0.0, 0.0)
    shape, pixels, peak = (0, 0), 0, 0

    def compute(generator: Generator, lr: Plane, windows: WindowPlan, output: Output, *,
                has_tissue: HasTissue | None = None, **more: Any) -> Work:
        nonlocal bare, held, peak, pixels, shape
        work = super_resolve_plane(generator, lr, windows, output, has_tissue=has_tissue, **more)
        peak = peak_rss()  # the bare engine takes more than a run: it computes its window whole
        began = _now()
        parts = [part for window in windows for part in near_tissue(*window, windows, has_tissue)]
        pixels = sum(y.side * x.side for y, x in parts)
        bare, shape = _bare(generator, lr, max(parts, key=lambda part: part.y.side * part.x.side),
                            windows.scale)
        held = _since(began)
        return work

    with tempfile.TemporaryDirectory() as folder:
        began = _now()
        report = enlarge_file(generator, source, Path(folder) / "x.tif", options, compute=compute)
        whole = _since(began)
    run = Took(*(every - part for every, part in zip(whole, held, strict=True)))
    return Round(bare, shape, run, pixels, peak, report)


def report(rounds: Sequence[Round]) -> Iterator[str]:
    """Yield the lines of a report: medians of the rounds, and memory."""
    one, last = rounds[-1], rounds[-1].report
    sr, work = last["sr"], last["work"]
    yield (f"{sr['width']}x{sr['height']} pixels by {last['description']['model']['engine']}, {work['windows']} "
           f"windows, {work['glass_share']:.0%} glass; {cores()} cores, median of {len(rounds)}")
    yield ""
    yield "| | useful Mpixel | s | Mpixel/s | CPU s |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    names = f"bare engine, one window of {one.bare_shape[1]}x{one.bare_shape[0]}", "whole run, file to file"
    for index, (name, done) in enumerate(zip(names, (one.bare_pixels, one.useful), strict=True)):
        took = [(each.bare, each.run)[index] for each in rounds]
        rate = median(each.rates[index] for each in rounds) / 1e6
        yield (f"| {name} | {done / 1e6:.1f} | {median(t.seconds for t in took):.1f} | {rate:.2f} | "
               f"{median(t.cpu_seconds for t in took):.1f} |")
    yield ""
    ratio, cpu = (median(run / bare for bare, run in pairs)
                  for pairs in ([each.rates for each in rounds], [each.cpu_rates for each in rounds]))
    yield (f"The run reaches {ratio:.0%} of the bare engine's rate (goal: 90%); by CPU time {cpu:.0%}. Computed twice: "
           f"{work['overhead']:.1%} by overlap of windows (goal: 10%); {one.twice:.1%} more than is kept, with the "
           f"margins of islands of tissue. Peak memory: {rounds[0].peak / 2**30:.2f} GiB (goal: --memory).")


def make_slide(path: Path, side: int) -> Path:
    """Write a slide of `side` x `side` pixels: glass, with tissue in the middle over a twelfth of the side."""
    tissue = immunohistochemistry()
    first, last = round(side * (1 - TISSUE_SHARE) / 2), round(side * (1 + TISSUE_SHARE) / 2)
    with PyramidWriter(path, side, side, MADE_MPP, PyramidOptions(tile=tissue.shape[0])) as writer:
        for row, column in writer.missing():
            x, y, width, height = writer.levels[0].box(row, column)
            pixels = np.full((height, width, 3), WHITE, np.uint8)
            if first <= x < last and first <= y < last:
                pixels[:] = tissue[:height, :width]
            writer.put(row, column, pixels)
        writer.finish()
    return path


def _bare(generator: Generator, lr: Plane, window: Window, scale: int) -> tuple[Took, tuple[int, int]]:
    """Compute the first rows of a window, all of its columns; return the time without reading, and the shape."""
    rows = min(window.y.window_start + BARE_ROWS, window.y.window_stop)
    pixels = lr[window.y.window_start:rows, window.x.window]
    height, width = pixels.shape[:2]
    began = _now()
    by_network(generator, pixels, Span(0, height, 0, height), Span(0, width, 0, width), scale)
    return _since(began), (height, width)


def _now() -> Took:
    return Took(time.perf_counter(), time.process_time())


def _since(began: Took) -> Took:
    return Took(*(now - then for now, then in zip(_now(), began, strict=True)))
