"""A plane of LR pixels goes in, tiles of SR pixels come out: the one way of a whole slide and of a small picture.

    lr (`.shape`, `[y0:y1, x0:x1]`) -> windows -> network, or bicubic where there is only glass -> sink

Windows are read ahead in a thread, the network runs in this one, and a third hands cores to the sink, which encodes in
its own and waits for the disk. Of the plane no more is held than a few windows: memory follows from the size of a
window, not of the slide. Windows are chosen by `windows`.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from pipelines.pixels import to_float, to_uint8
from sr_keras.model.tiles import Box, Span, box_of, checked, core_of, spans
from sr_keras.slides.windows import Plan, pyramid_tile

READ_AHEAD = 2
WRITE_BEHIND = 1  # cores that wait for the sink while the next is computed
BICUBIC_REACH = 2
MEASURED_PLACES = 3

Generator = Callable[[np.ndarray], np.ndarray]  # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]
Wanted = Callable[[slice, slice], bool]


class Plane(Protocol):
    """LR pixels, uint8 RGB, that are read by `plane[y0:y1, x0:x1]`."""

    shape: tuple[int, int, int]

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """Return uint8 [y1 - y0, x1 - x0, 3]."""


class Sink(Protocol):
    """Where SR pixels go."""

    def lacks(self, box: Box) -> bool:
        """Whether a box of SR pixels, or a part of it, is not there yet."""

    def put(self, box: Box, pixels: np.ndarray) -> None:
        """Take a box of SR pixels."""


class Finished(NamedTuple):
    """A core that is done, `sr` uint8 [scale*h, scale*w, 3], and where it belongs."""

    box: Box
    sr: np.ndarray


@dataclass
class Work:
    """What was done, and what it took: SR pixels and seconds."""

    network_pixels: int = 0
    glass_pixels: int = 0
    kept_pixels: int = 0
    network_seconds: float = 0.0
    glass_seconds: float = 0.0

    @property
    def pixels(self) -> int:
        """SR pixels made in this run."""
        return self.network_pixels + self.glass_pixels

    @property
    def seconds_saved(self) -> float:
        """What the network would have taken for the glass, less what bicubic took; 0 where it made nothing."""
        if not self.network_pixels:
            return 0.0
        return max(0.0, self.network_seconds / self.network_pixels * self.glass_pixels - self.glass_seconds)


def super_resolve_plane(
    generator: Generator, lr: Plane | np.ndarray, windows: Plan, sink: Sink, *, has_tissue: Wanted | None = None,
    progress: Callable[[int, bool], None] | None = None, each: Callable[[Finished], None] | None = None,
) -> Work:
    """Super-resolve a plane into a sink, window by window.

    Args:
        generator: What makes SR of LR; any engine.
        lr: The plane.
        windows: From `windows.plan`.
        sink: Gets every core that it lacks.
        has_tissue: Whether rows and columns of the plane hold any; where they do not, bicubic is good enough. None
            for the network everywhere.
        progress: Called with SR pixels that are there, and whether they were before, as they come.
        each: Called with every finished core.

    Raises:
        ValueError: The generator is of another scale, or a window does not fit in memory.
    """
    work = Work()
    tell = progress or (lambda pixels, kept: None)

    def todo() -> Iterator[tuple[Span, Span]]:
        for y, x in windows:
            box = box_of(y, x, windows.scale)
            if sink.lacks(box):
                yield y, x
            else:
                work.kept_pixels += box.hr_width * box.hr_height
                tell(box.hr_width * box.hr_height, True)

    with _Behind(sink) as behind:
        for y, x, part, pixels in _read_ahead(lr, todo(), windows, has_tissue):
            sr = _core(generator, pixels, y, x, part, windows.scale, work)
            box = box_of(y, x, windows.scale)
            behind.put(box, sr)
            if each:
                each(Finished(box, sr))
            tell(box.hr_width * box.hr_height, False)
    return work


def halo_error(generator: Generator, lr: Plane | np.ndarray, scale: int, halo: int, full: int,
               has_tissue: Wanted | None = None) -> tuple[int, float]:
    """Return the largest and the mean error of SR, in steps of 8 bit, that `halo` makes where `full` makes none.

    It is measured on a core each at a few places with tissue; the largest sits at the seams.
    """
    step = pyramid_tile(scale) // scale
    narrow = [spans(side, min(side, 2 * halo + step), halo, step) for side in lr.shape[:2]]
    places = [(y, x) for y in narrow[0] for x in narrow[1] if has_tissue is None or has_tissue(y.core, x.core)]
    places = places or [(narrow[0][0], narrow[1][0])]
    errors = []
    for i in sorted({round(share * (len(places) - 1)) for share in np.linspace(0, 1, MEASURED_PLACES + 2)[1:-1]}):
        y, x = places[i]
        wide = [Span(max(0, span.core_start - full), min(side, span.core_stop + full), span.core_start, span.core_stop)
                for span, side in zip((y, x), lr.shape[:2], strict=True)]
        sr, exact = (by_network(generator, lr[rows.window, columns.window], rows, columns, scale)
                     for rows, columns in ((y, x), wide))
        errors.append(np.abs(sr.astype(np.int16) - exact))
    return max(int(error.max()) for error in errors), float(np.mean([error.mean() for error in errors]))


def by_network(generator: Generator, pixels: np.ndarray, y: Span, x: Span, scale: int) -> np.ndarray:
    """Return the core of a window, uint8 [scale*h, scale*w, 3].

    Raises:
        ValueError: It does not fit in memory, or the generator is of another scale.
    """
    import tensorflow as tf

    parts = getattr(generator, "parts", None)
    try:
        if parts is not None:  # an engine computes no more than the core
            return parts.core(pixels, *(slice(span.core_start - span.window_start, span.core_stop - span.window_start)
                                        for span in (y, x)))
        batch = pixels[np.newaxis]
        output = checked(np.asarray(generator(batch)), batch, scale)
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise ValueError("`tile` must fit in memory; choose a smaller one. "
                         f"Received: tile={max(pixels.shape)}") from error
    return core_of(output[0], y, x, scale)[1]


def near_tissue(y: Span, x: Span, windows: Plan, has_tissue: Wanted | None) -> tuple[Span, Span] | None:
    """Return the window within a window that the network has to see, whose core holds all tiles near tissue, if any.

    Windows are larger than the islands of tissue in some slides, and the glass around those is bicubic's.
    """
    if has_tissue is None:
        return y, x
    side = pyramid_tile(windows.scale) // windows.scale
    near = [(rows, columns) for rows in _tiles(y, side) for columns in _tiles(x, side)
            if has_tissue(_part(y, rows, windows.halo).window, _part(x, columns, windows.halo).window)]
    if not near:
        return None
    rows, columns = (slice(min(one.start for one in axis), max(one.stop for one in axis))
                     for axis in zip(*near, strict=True))
    return _part(y, rows, windows.halo), _part(x, columns, windows.halo)


def _tiles(span: Span, side: int) -> list[slice]:
    return [slice(start, min(start + side, span.core_stop)) for start in range(span.core_start, span.core_stop, side)]


def _part(span: Span, core: slice, halo: int) -> Span:
    """Return the span of a part of a core; where that ends with the core, with all of the window there."""
    return Span(span.window_start if core.start == span.core_start else max(span.window_start, core.start - halo),
                span.window_stop if core.stop == span.core_stop else min(span.window_stop, core.stop + halo),
                core.start, core.stop)


def _core(generator: Generator, pixels: np.ndarray, y: Span, x: Span, part: tuple[Span, Span] | None, scale: int,
          work: Work) -> np.ndarray:
    """Return the core of a window, uint8 [h, w, 3], by the network in the core of `part` and else by bicubic."""
    if part == (y, x):
        return _timed(work, "network", lambda: by_network(generator, pixels, y, x, scale))
    if part is None:
        return _timed(work, "glass", lambda: _enlarged(pixels, y, x, scale))
    sr = np.empty((scale * (y.core_stop - y.core_start), scale * (x.core_stop - x.core_start), 3), np.uint8)

    def fill(rows: Span, columns: Span, kind: str, make: Callable[[], np.ndarray]) -> None:
        box = box_of(rows, columns, scale)
        top, left = box.hr_y - scale * y.core_start, box.hr_x - scale * x.core_start
        sr[top:top + box.hr_height, left:left + box.hr_width] = _timed(work, kind, make)

    rows, columns = part
    seen = pixels[rows.window_start - y.window_start:rows.window_stop - y.window_start,
                  columns.window_start - x.window_start:columns.window_stop - x.window_start]
    fill(rows, columns, "network", lambda: by_network(generator, seen, rows, columns, scale))
    for above, beside in _around(y, x, rows, columns):
        fill(above, beside, "glass", partial(_enlarged, pixels, above, beside, scale))
    return sr


def _around(y: Span, x: Span, rows: Span, columns: Span) -> Iterator[tuple[Span, Span]]:
    """Yield what of a core lies above, below, left and right of the core of its part, as windows."""
    left, right = (x.core_start, columns.core_start), (columns.core_stop, x.core_stop)
    for down, across in (((y.core_start, rows.core_start), x[2:]), ((rows.core_stop, y.core_stop), x[2:]),
                         (rows[2:], left), (rows[2:], right)):
        if down[0] < down[1] and across[0] < across[1]:
            yield y._replace(core_start=down[0], core_stop=down[1]), x._replace(core_start=across[0],
                                                                                  core_stop=across[1])


def _timed(work: Work, kind: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return what is made, and count its pixels and seconds as those of "network" or "glass"."""
    start = time.monotonic()
    sr = make()
    for name, value in (("pixels", sr.shape[0] * sr.shape[1]), ("seconds", time.monotonic() - start)):
        setattr(work, f"{kind}_{name}", getattr(work, f"{kind}_{name}") + value)
    return sr


def _read_ahead(lr: Plane | np.ndarray, todo: Iterator[tuple[Span, Span]], windows: Plan,
                has_tissue: Wanted | None) -> Iterator[_Read]:
    """Yield windows with their pixels; the next ones are being read meanwhile."""
    waiting: deque[tuple[Span, Span, tuple[Span, Span] | None, Future[np.ndarray]]] = deque()

    def first() -> _Read:
        y, x, part, pixels = waiting.popleft()
        return _Read(y, x, part, pixels.result())

    reader = ThreadPoolExecutor(1)
    try:
        for y, x in todo:
            waiting.append((y, x, near_tissue(y, x, windows, has_tissue),
                            reader.submit(lr.__getitem__, (y.window, x.window))))
            if len(waiting) > READ_AHEAD:
                yield first()
        while waiting:
            yield first()
    finally:
        reader.shutdown(cancel_futures=True)


class _Read(NamedTuple):
    y: Span
    x: Span
    part: tuple[Span, Span] | None
    pixels: np.ndarray


class _Behind:
    """Hands cores to a sink in a thread, in turn; left without an error, all of them are there."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._thread = sink, ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> _Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self._wait(0 if kind is None else len(self._waiting))
        finally:
            self._thread.shutdown(cancel_futures=True)

    def put(self, box: Box, pixels: np.ndarray) -> None:
        """Hand on a core; waits where too many do already. Raises what the sink raised of one before."""
        self._waiting.append(self._thread.submit(self._sink.put, box, pixels))
        self._wait(WRITE_BEHIND)

    def _wait(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft().result()


def _enlarged(pixels: np.ndarray, y: Span, x: Span, scale: int) -> np.ndarray:
    """Return the core by bicubic interpolation, as `scores.bicubic` does it, from no more than that sees."""
    from sr_keras.metrics import bicubic

    rows, columns = (Span(max(span.window_start, span.core_start - BICUBIC_REACH),
                          min(span.window_stop, span.core_stop + BICUBIC_REACH), span.core_start, span.core_stop)
                     for span in (y, x))
    seen = pixels[rows.window_start - y.window_start:rows.window_stop - y.window_start,
                  columns.window_start - x.window_start:columns.window_stop - x.window_start]
    return core_of(to_uint8(bicubic(to_float(seen)[np.newaxis], scale)).numpy()[0], rows, columns, scale)[1]
