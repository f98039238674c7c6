# SPDX-License-Identifier: Apache-2.0
"""Super-resolve slides on a cluster: one slide per worker, and what is left over in batches of windows on all workers.

    with Cluster("auto", gpu=True, cpus=CPUS) as cluster:
        for job, outcome in enlarge_all(cluster, generator, jobs, options):
            ...

As many slides as can be divided evenly among the workers are done by one worker each. The large ones of the others are
cut into batches of windows: workers read and compute a batch, and this process, which alone writes the file, takes the
cores in any order.

The pixels equal those of a run without a cluster within 1/255, before JPEG. They are not the same bytes: sums of floats
depend on the number of threads and on the processor, so a few values in a million are rounded differently.

If a worker is lost, another resumes its slide from the work file beside the output. Memory: here the results of one
batch, in a worker `options.memory` and a batch.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.cluster import Cluster
from pipelines.pyramid.work_file import Held, work_path
from pipelines.readers.folders import size_of
from pipelines.slide import SlideError, open_slide
from pipelines.workers import Died, Report
from sr_keras.model.tiles import Box, Span, box_of
from sr_keras.slides.enlarge import Job, open_plane, try_job
from sr_keras.slides.loop import Generator, Work, super_resolve_plane
from sr_keras.slides.lr_plane import Cell, HasTissue, LRPlane, UnreadablePlaces, find_tissue
from sr_keras.slides.outputs import Output, is_picture
from sr_keras.slides.reports import describe_model
from sr_keras.slides.window_plan import EnlargeOptions, WindowPlan

if TYPE_CHECKING:
    from sr_keras.model.engines import Engine

Cores = list[tuple[Box, np.ndarray]]  # places in the output, and uint8 [h, w, 3]

BATCH_PIXELS = 16e6  # SR pixels of a batch: what a worker returns at once (48 MB), and what its loss costs
LARGE = 8 * BATCH_PIXELS  # larger slides are computed in batches
# How long the lock of a lost machine on a work file may last: NFS 4 releases it after 90 s.
LOCK_SECONDS, LOCK_LOOK_SECONDS = 120.0, 2.0


def enlarge_all(cluster: Cluster, generator: Engine, jobs: Sequence[Job],
                options: EnlargeOptions) -> Iterator[tuple[Job, dict[str, Any] | Exception]]:
    """Yield each job with its report or its error, in the order in which they end."""
    opened = partial(_opened, generator.name, generator.path.absolute(), cluster.threads)
    model = describe_model(generator)
    large_first = sorted(jobs, key=lambda job: job.source.exists() and size_of(job.source), reverse=True)
    in_batches = [job for job in large_first[:len(jobs) % cluster.workers] if _is_large(job, generator.scale, options)]
    whole = ((job, _resumable(job, options)) for job in large_first if job not in in_batches)
    for (job, _), outcome in cluster.run_jobs(partial(enlarge_in_worker, opened=opened, model=model), whole, _ignore):
        yield job, SlideError(f"{job.source}: {outcome}") if isinstance(outcome, Died) else outcome
    for job in in_batches:
        compute = partial(super_resolve_on_cluster, cluster=cluster, opened=opened, source=job.source, options=options)
        yield job, try_job(generator, job, options, model=model, compute=compute)


def enlarge_in_worker(todo: tuple[Job, EnlargeOptions], report: Report, *, opened: Callable[[], Engine],
                      model: dict[str, Any]) -> dict[str, Any] | Exception:
    """Super-resolve a file in a worker; return its report or the error."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        outcome = try_job(opened(), *todo, model=model)
        if not isinstance(outcome, Held) or time.monotonic() > end:
            return outcome
        time.sleep(LOCK_LOOK_SECONDS)


def super_resolve_on_cluster(
    generator: Generator, lr: LRPlane, windows: WindowPlan, output: Output, *, cluster: Cluster,
    opened: Callable[[], Engine], source: Path, options: EnlargeOptions, has_tissue: HasTissue | None = None,
    progress: Callable[[int, bool], None] | None = None,
) -> Work:
    """Super-resolve a plane into an output as `loop.super_resolve_plane` does, on the workers of a cluster.

    `opened` gives the generator in a worker. The seconds of the work are divided by the number of workers.

    Raises:
        SlideError: The slide cannot be read, or reading it ends the workers.
        ValueError: The generator is of another scale, or a window does not fit in memory.
    """
    work, tell = Work(), progress or (lambda pixels, kept: None)
    compute = partial(compute_batch, opened=opened, source=source, options=options, tissue=has_tissue is not None)

    def todo() -> Iterator[WindowPlan]:
        for batch in window_batches(windows, BATCH_PIXELS):
            missing = [x for x in batch.columns if output.needs(box_of(batch.rows[0], x, windows.scale))]
            kept = sum(_pixels(batch.rows, [x], windows.scale) for x in batch.columns if x not in missing)
            if kept:
                work.kept_pixels += kept
                tell(kept, True)
            if missing:
                yield replace(batch, columns=missing)

    for _, outcome in cluster.run_jobs(compute, todo(), _ignore):
        if isinstance(outcome, Died):
            raise SlideError(f"{source}: {outcome}")
        cores, more, unreadable = outcome
        for cell in sorted(unreadable):
            lr.unreadable.add(cell)
        for box, sr in cores:
            output.write(box, sr)
            tell(box.hr_width * box.hr_height, False)
        work.network_pixels += more.network_pixels
        work.pixels += more.pixels
        work.network_seconds += more.network_seconds / cluster.workers
        work.glass_seconds += more.glass_seconds / cluster.workers
    return work


def compute_batch(batch: WindowPlan, report: Report, *, opened: Callable[[], Engine], source: Path,
                  options: EnlargeOptions, tissue: bool) -> tuple[Cores, Work, set[Cell]]:
    """Read and compute the windows of a batch in a worker; with `tissue`, by bicubic where there is only glass.

    Returns:
        The cores, the work they took, and the cells of the plane that could not be read.
    """
    lr = _plane(source, options)
    lr.unreadable, collected = UnreadablePlaces(), _Collected()
    has_tissue = _tissue(source, options) if tissue else None
    work = super_resolve_plane(opened(), lr, batch, collected, has_tissue=has_tissue)
    return collected.cores, work, lr.unreadable.cells


def window_batches(windows: WindowPlan, most_pixels: float) -> Iterator[WindowPlan]:
    """Cut windows into batches: parts of a row with `most_pixels` SR pixels at most, but at least one window."""
    for y in windows.rows:
        columns: list[Span] = []
        for x in windows.columns:
            if columns and _pixels([y], [*columns, x], windows.scale) > most_pixels:
                yield replace(windows, rows=[y], columns=columns)
                columns = []
            columns.append(x)
        yield replace(windows, rows=[y], columns=columns)


class _Collected:
    """An output that needs everything and keeps the cores, for the process that writes the file."""

    def __init__(self) -> None:
        self.cores: Cores = []

    def needs(self, box: Box) -> bool:
        return True

    def write(self, box: Box, pixels: np.ndarray) -> None:
        self.cores.append((box, pixels))


@lru_cache(maxsize=1)  # a process opens it once
def _opened(engine: str, model: Path, threads: int | None) -> Engine:
    from sr_keras.model.engines import open_engine

    return open_engine(engine, model, threads)


@lru_cache(maxsize=1)
def _plane(source: Path, options: EnlargeOptions) -> LRPlane:
    return open_plane(open_slide(source, options.assume_mpp), options)


@lru_cache(maxsize=1)
def _tissue(source: Path, options: EnlargeOptions) -> HasTissue:
    return find_tissue(_plane(source, options))


def _resumable(job: Job, options: EnlargeOptions) -> EnlargeOptions:
    """Return options with which a worker resumes what a lost worker left.

    Do not set resume if files may be overwritten or a work file existed before: it may belong to another run.
    """
    existed = work_path(job.output).exists()
    return options if options.overwrite or existed else replace(options, resume=True)


def _is_large(job: Job, scale: int, options: EnlargeOptions) -> bool:
    """Whether a job is a large slide that is not finished."""
    if is_picture(job.output) or (options.resume and job.output.exists()):
        return False
    try:
        with open_slide(job.source, options.assume_mpp) as slide:
            height, width = open_plane(slide, options).shape[:2]
    except (OSError, SlideError, ValueError):
        return False  # reported when the job runs
    return height * width * scale**2 > LARGE


def _pixels(rows: list[Span], columns: list[Span], scale: int) -> int:
    """Return the number of SR pixels of the cores."""
    height, width = (sum(span.core_stop - span.core_start for span in spans) for spans in (rows, columns))
    return height * width * scale**2


def _ignore(count: int) -> None:
    """Ignore the progress of workers; windows are counted when they arrive."""
