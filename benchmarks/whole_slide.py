# SPDX-License-Identifier: Apache-2.0
"""Compare the speed of a whole-slide run with the bare engine on the same windows, and measure its memory.

    generator = open_engine("tensorflow", "saved_models/demo")
    rounds = [measure_round(generator, Path("case.svs"), EnlargeOptions()) for _ in range(3)]
    print("\\n".join(report(rounds)))

A round is a run of `enlarge_file` that pauses after its windows are planned, while the engine alone computes those with
tissue; the pause does not count for the run. So both compute the same pixels under the same load. The run includes the
checksum of the source, the tissue map, reading, bicubic on glass, encoding, the lower levels and writing. Neither
includes loading the network.

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
from sr_keras.slides import EnlargeOptions, enlarge_file
from sr_keras.slides.loop import Generator, Work, by_network, near_tissue, super_resolve_plane
from sr_keras.slides.lr_plane import HasTissue, Plane
from sr_keras.slides.outputs import Output
from sr_keras.slides.plan import WindowPlan

MADE_MPP = 1.0
TISSUE_SHARE = 1 / 12  # of the side of a made slide


class Took(NamedTuple):
    """Seconds of wall-clock time and of CPU time."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Round:
    """Times of the bare engine and of the whole run, the SR pixels of the engine, and the report of the run."""

    bare: Took
    run: Took
    pixels: int
    report: dict[str, Any]


def measure_round(generator: Any, source: Path, options: EnlargeOptions) -> Round:
    """Super-resolve a slide into a temporary folder, and return the times.

    Raises:
        SlideError: The slide cannot be read.
    """
    bare = held = Took(0.0, 0.0)
    pixels = 0

    def compute(generator: Generator, lr: Plane, windows: WindowPlan, output: Output, *,
                has_tissue: HasTissue | None = None, **more: Any) -> Work:
        nonlocal bare, held, pixels
        began = _now()
        bare, pixels = _bare(generator, lr, windows, has_tissue)
        held = _since(began)
        return super_resolve_plane(generator, lr, windows, output, has_tissue=has_tissue, **more)

    with tempfile.TemporaryDirectory() as folder:
        began = _now()
        report = enlarge_file(generator, source, Path(folder) / "x.tif", options, compute=compute)
        whole = _since(began)
    return Round(bare, Took(*(every - part for every, part in zip(whole, held, strict=True))), pixels, report)


def report(rounds: Sequence[Round]) -> Iterator[str]:
    """Yield the lines of a report: medians of the rounds, and memory."""
    last = rounds[-1].report
    sr, work = last["sr"], last["work"]
    bare, run = (Took(*(median(values) for values in zip(*(getattr(one, part) for one in rounds), strict=True)))
                 for part in ("bare", "run"))
    pixels, every = rounds[-1].pixels / 1e6, sr["width"] * sr["height"] / 1e6
    yield (f"{sr['width']}x{sr['height']} pixels by {last['description']['model']['engine']}, {work['windows']} "
           f"windows, {work['overhead']:.0%} computed twice; {cores()} cores, median of "
           f"{len(rounds)}")
    yield ""
    yield "| | Mpixel | s | Mpixel/s | CPU s |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, took, done in (("bare engine, tissue alone", bare, pixels), ("whole run, file to file", run, every)):
        yield f"| {name} | {done:.1f} | {took.seconds:.1f} | {done / took.seconds:.2f} | {took.cpu_seconds:.1f} |"
    yield ""
    yield (f"The run reaches {median(one.bare.seconds / one.run.seconds for one in rounds):.0%} of the bare engine's "
           f"rate; by CPU time {bare.cpu_seconds / run.cpu_seconds:.0%}.")
    yield (f"Glass: {work['glass_share']:.0%} by bicubic, which saved {work['time_saved_share']:.0%} of the time. "
           f"Peak memory: {last['peak_rss_bytes'] / 2**30:.2f} GiB.")


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


def _bare(generator: Generator, lr: Plane, windows: WindowPlan, has_tissue: HasTissue | None) -> tuple[Took, int]:
    """Compute the windows with tissue; return the time without reading, and the number of SR pixels."""
    times, count = [], 0
    for part in (near_tissue(y, x, windows, has_tissue) for y, x in windows):
        if part:
            pixels = lr[part[0].window, part[1].window]
            began = _now()
            count += by_network(generator, pixels, *part, windows.scale)[..., 0].size
            times.append(_since(began))
    return Took(sum(one.seconds for one in times), sum(one.cpu_seconds for one in times)), count


def _now() -> Took:
    return Took(time.perf_counter(), time.process_time())


def _since(began: Took) -> Took:
    return Took(*(now - then for now, then in zip(_now(), began, strict=True)))
