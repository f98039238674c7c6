"""Slides on the machines of a cluster: one slide a worker, and what is left over in regions on all of them.

    with Cluster("auto", gpu=True, cpus=CPUS) as cluster:
        for job, outcome in enlarge_all(cluster, generator, jobs, options):
            ...

As many slides as can be dealt out evenly are done by one worker each, from reading to writing. The others, fewer than
there are workers, are cut into regions where they are large: workers read and compute the windows of a region, and this
process, the only one that writes the file, puts them into it, in whatever order they come.

The pixels are those of a run without a cluster, within 1/255 before JPEG. They are not the same bytes: sums of floats
depend on the number of threads and on the kind of processor (by 2e-7), a few values in a million are rounded the
other way for it, and JPEG spreads that over its block.

A slide whose worker was lost is gone on with by another; what was finished of it lies in the work file, beside the
output. Memory: here no more than the results of one region, in a worker what `options.memory` says and a region.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.cluster import Cluster
from pipelines.pyramid.store import Held
from pipelines.pyramid.writer import UNFINISHED
from pipelines.slide import SlideError, open_slide
from pipelines.workers import Died, Report
from sr_keras.model.tiles import Box, Span, box_of
from sr_keras.slides.config import EnlargeOptions
from sr_keras.slides.enlarge import enlarge_file, view_of
from sr_keras.slides.loop import Finished, Generator, Sink, Wanted, Work, super_resolve_plane
from sr_keras.slides.lr_plane import BadPlaces, LRView, TissueMap
from sr_keras.slides.output_paths import is_picture
from sr_keras.slides.reports import describe_model
from sr_keras.slides.windows import Plan

if TYPE_CHECKING:
    from sr_keras.model.engines import Engine

REGION_PIXELS = 16e6  # SR pixels of a region: what a worker hands over at once, 48 MB, and what its loss costs
LARGE = 8 * REGION_PIXELS  # slides of more are worth to be spread
# How long the hold of a lost machine on a work file may outlive it: NFS 4 gives a lock back after 90 s.
LOCK_SECONDS, LOCK_LOOK_SECONDS = 120.0, 2.0


class Job(NamedTuple):
    """A file, what becomes of it, and where its map of trust goes, if there shall be one."""

    source: Path
    target: Path
    trust_map: Path | None = None


@dataclass(frozen=True)
class Recipe:
    """What a worker must know of the generator: what to open, and what `reports.describe_model` says of it."""

    engine: str
    path: Path
    threads: int | None
    described: dict[str, Any]

    @property
    def generator(self) -> Engine:
        """The generator, which a process opens once."""
        return _opened(self.engine, self.path, self.threads)


def enlarge_all(cluster: Cluster, generator: Engine, jobs: Sequence[Job],
                options: EnlargeOptions) -> Iterator[tuple[Job, dict[str, Any] | Exception]]:
    """Yield each job with its report, or with why it failed, in the order in which they end."""
    recipe = Recipe(generator.name, generator.path.absolute(), cluster.threads, describe_model(generator))
    large_first = sorted(jobs, key=lambda job: _bytes(job.source), reverse=True)
    spread = [job for job in large_first[:len(jobs) % cluster.workers] if _is_large(job, generator.scale, options)]
    whole = ((job, _resuming(job, options)) for job in large_first if job not in spread)
    for (job, _), outcome in cluster.run_jobs(partial(enlarge_whole, recipe=recipe), whole, _ignore):
        yield job, SlideError(f"{job.source}: {outcome}") if isinstance(outcome, Died) else outcome
    for job in spread:
        loop = partial(spread_plane, cluster=cluster, recipe=recipe, source=job.source, options=options)
        try:
            yield job, enlarge_file(generator, job.source, job.target, options, trust_map=job.trust_map,
                                    model=recipe.described, loop=loop)
        except (OSError, SlideError, ValueError) as error:
            yield job, error


def enlarge_whole(todo: tuple[Job, EnlargeOptions], report: Report, *, recipe: Recipe) -> dict[str, Any] | Exception:
    """Super-resolve a file in a worker; return its report, or why that failed."""
    (source, target, trust_map), options = todo
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return enlarge_file(recipe.generator, source, target, options, trust_map=trust_map, model=recipe.described)
        except Held as error:
            if time.monotonic() > end:
                return error
            time.sleep(LOCK_LOOK_SECONDS)
        except (OSError, SlideError, ValueError) as error:
            return error


def spread_plane(
    generator: Generator, lr: LRView, windows: Plan, sink: Sink, *, cluster: Cluster, recipe: Recipe, source: Path,
    options: EnlargeOptions, has_tissue: Wanted | None = None, progress: Callable[[int, bool], None] | None = None,
) -> Work:
    """Super-resolve a plane into a sink as `loop.super_resolve_plane` does, on the workers of a cluster.

    Returns:
        What was done; its seconds are those of all workers, shared out among them.

    Raises:
        SlideError: The slide can't be read, or takes along who reads it.
        ValueError: The generator is of another scale, or a window does not fit in memory.
    """
    work, tell, workers = Work(), progress or (lambda pixels, kept: None), cluster.workers
    compute = partial(compute_region, recipe=recipe, source=source, options=options,
                      tissue=has_tissue is not None)

    def todo() -> Iterator[Plan]:
        for region in regions(windows, REGION_PIXELS):
            lacking = [x for x in region.columns if sink.lacks(box_of(region.rows[0], x, windows.scale))]
            kept = sum(_pixels(region.rows, [x], windows.scale) for x in region.columns if x not in lacking)
            if kept:
                work.kept_pixels += kept
                tell(kept, True)
            if lacking:
                yield replace(region, columns=lacking)

    for _, outcome in cluster.run_jobs(compute, todo(), _ignore):
        if isinstance(outcome, Died):
            raise SlideError(f"{source}: {outcome}")
        for cell in sorted(outcome.bad):
            lr.bad.add(cell)
        for one in outcome.finished:
            sink.put(one.box, one.sr)
            tell(one.box.hr_width * one.box.hr_height, False)
        _add(work, outcome.work, workers)
    return work


class Computed(NamedTuple):
    """A region that is done, what it took, and the cells of it that can't be read."""

    finished: list[Finished]
    work: Work
    bad: set[tuple[int, int]]


def compute_region(region: Plan, report: Report, *, recipe: Recipe, source: Path, options: EnlargeOptions,
                   tissue: bool) -> Computed:
    """Read and compute the windows of a region in a worker; `tissue` says whether bicubic does for glass."""
    lr = _view(source, options)
    lr.bad, finished = BadPlaces(), list[Finished]()
    work = super_resolve_plane(recipe.generator, lr, region, _Nowhere(),
                               has_tissue=_tissue(source, options).any_in if tissue else None,
                               each=finished.append)
    return Computed(finished, work, lr.bad.cells)


def regions(windows: Plan, most_pixels: float) -> Iterator[Plan]:
    """Cut windows into regions of a row each, of `most_pixels` SR pixels at most, but of one window at least."""
    for y in windows.rows:
        columns: list[Span] = []
        for x in windows.columns:
            if columns and _pixels([y], [*columns, x], windows.scale) > most_pixels:
                yield replace(windows, rows=[y], columns=columns)
                columns = []
            columns.append(x)
        yield replace(windows, rows=[y], columns=columns)


class _Nowhere:
    """A sink that lacks all and keeps nothing: who computes for another hands over what is finished."""

    def lacks(self, box: Box) -> bool:
        return True

    def put(self, box: Box, pixels: np.ndarray) -> None:
        pass


@lru_cache(maxsize=1)
def _opened(engine: str, model: Path, threads: int | None) -> Engine:
    from sr_keras.model.engines import open_engine

    return open_engine(engine, model, threads)


@lru_cache(maxsize=1)
def _view(source: Path, options: EnlargeOptions) -> LRView:
    return view_of(open_slide(source, options.assume_mpp), options)


@lru_cache(maxsize=1)
def _tissue(source: Path, options: EnlargeOptions) -> TissueMap:
    return TissueMap(_view(source, options))


def _resuming(job: Job, options: EnlargeOptions) -> EnlargeOptions:
    """Return options by which a worker goes on with what a lost one left.

    Where something may be replaced, or was there before, they stay as they are: that must not be taken for it.
    """
    begun = job.target.with_name(job.target.name + UNFINISHED).exists()
    return options if options.overwrite or begun else replace(options, resume=True)


def _bytes(source: Path) -> int:
    return source.stat().st_size if source.exists() else 0  # of a link to nothing, which fails when its turn comes


def _is_large(job: Job, scale: int, options: EnlargeOptions) -> bool:
    """Whether a job is worth to be spread: a slide of many pixels that is not there yet."""
    if is_picture(job.target) or (options.resume and job.target.exists()):
        return False
    try:
        with open_slide(job.source, options.assume_mpp) as slide:
            height, width = LRView(slide, options.mpp, options.level, options.region).shape[:2]
    except (OSError, SlideError, ValueError):
        return False  # it fails when its turn comes, and says why
    return height * width * scale**2 > LARGE


def _add(work: Work, more: Work, workers: int) -> None:
    work.network_pixels += more.network_pixels
    work.glass_pixels += more.glass_pixels
    work.network_seconds += more.network_seconds / workers
    work.glass_seconds += more.glass_seconds / workers


def _pixels(rows: list[Span], columns: list[Span], scale: int) -> int:
    """Return how many SR pixels the cores have."""
    height, width = (sum(span.core_stop - span.core_start for span in spans) for spans in (rows, columns))
    return height * width * scale**2


def _ignore(count: int) -> None:
    """Take no notice: windows are counted as they come."""
