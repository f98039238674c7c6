"""A plane of LR pixels goes in, tiles of SR pixels come out: the one way of a whole slide and of a small picture.

    lr (`.shape`, `[y0:y1, x0:x1]`) -> windows -> network, or bicubic where there is only glass -> sink

Windows are read ahead in a thread, the network runs in this one, and the sink encodes in its own. Of the plane no more
is held than a few windows: memory follows from the size of a window, not of the slide. Windows are chosen by `windows`.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pipelines.pixels import to_float, to_uint8
from sr_keras.tiling import Box, Span, checked, core_of, spans
from sr_keras.whole_slide.windows import Plan, pyramid_tile

READ_AHEAD = 2
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
    """A core that is done, for whoever wants to look at it: `lr` uint8 [h, w, 3], `sr` uint8 [scale*h, scale*w, 3]."""

    box: Box
    lr: np.ndarray
    sr: np.ndarray
    glass: bool


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
        each: Called with every finished core: a map of trust may be made from them.

    Raises:
        ValueError: The generator is of another scale, or a window does not fit in memory.
    """
    work = Work()
    tell = progress or (lambda pixels, kept: None)

    def todo() -> Iterator[tuple[Span, Span]]:
        for y, x in windows:
            box = _box(y, x, windows.scale)
            if sink.lacks(box):
                yield y, x
            else:
                work.kept_pixels += box.hr_width * box.hr_height
                tell(box.hr_width * box.hr_height, True)

    for y, x, glass, pixels in _read_ahead(lr, todo(), has_tissue):
        start = time.monotonic()
        sr = _enlarged(pixels, y, x, windows.scale) if glass else _by_network(generator, pixels, y, x, windows.scale)
        _count(work, sr, glass, time.monotonic() - start)
        box = _box(y, x, windows.scale)
        sink.put(box, sr)
        if each:
            each(Finished(box, _lr_core(pixels, y, x), sr, glass))
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
        sr, exact = (_by_network(generator, lr[rows.window, columns.window], rows, columns, scale)
                     for rows, columns in ((y, x), wide))
        errors.append(np.abs(sr.astype(np.int16) - exact))
    return max(int(error.max()) for error in errors), float(np.mean([error.mean() for error in errors]))


def _read_ahead(lr: Plane | np.ndarray, todo: Iterator[tuple[Span, Span]],
                has_tissue: Wanted | None) -> Iterator[tuple[Span, Span, bool, np.ndarray]]:
    """Yield windows with their pixels; the next ones are being read meanwhile."""
    waiting: deque[_Reading] = deque()
    reader = ThreadPoolExecutor(1)
    try:
        for y, x in todo:
            glass = has_tissue is not None and not has_tissue(y.window, x.window)
            waiting.append(_Reading(y, x, glass, reader.submit(lr.__getitem__, (y.window, x.window))))
            if len(waiting) > READ_AHEAD:
                yield _read(waiting.popleft())
        while waiting:
            yield _read(waiting.popleft())
    finally:
        reader.shutdown(cancel_futures=True)


class _Reading(NamedTuple):
    y: Span
    x: Span
    glass: bool
    pixels: Future[np.ndarray]


def _read(one: _Reading) -> tuple[Span, Span, bool, np.ndarray]:
    return one.y, one.x, one.glass, one.pixels.result()


def _by_network(generator: Generator, pixels: np.ndarray, y: Span, x: Span, scale: int) -> np.ndarray:
    import tensorflow as tf

    batch = pixels[np.newaxis]
    try:
        output = checked(np.asarray(generator(batch)), batch, scale)
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise ValueError("`tile` must fit in memory; choose a smaller one. "
                         f"Received: tile={max(pixels.shape)}") from error
    return core_of(output[0], y, x, scale)[1]


def _enlarged(pixels: np.ndarray, y: Span, x: Span, scale: int) -> np.ndarray:
    """Return the core by bicubic interpolation, as `scores.bicubic` does it, from no more than that sees."""
    from sr_keras.scores.measure import bicubic

    rows, columns = (Span(max(span.window_start, span.core_start - BICUBIC_REACH),
                          min(span.window_stop, span.core_stop + BICUBIC_REACH), span.core_start, span.core_stop)
                     for span in (y, x))
    seen = pixels[rows.window_start - y.window_start:rows.window_stop - y.window_start,
                  columns.window_start - x.window_start:columns.window_stop - x.window_start]
    return core_of(to_uint8(bicubic(to_float(seen)[np.newaxis], scale).numpy())[0], rows, columns, scale)[1]


def _count(work: Work, sr: np.ndarray, glass: bool, seconds: float) -> None:
    pixels = sr.shape[0] * sr.shape[1]
    if glass:
        work.glass_pixels += pixels
        work.glass_seconds += seconds
    else:
        work.network_pixels += pixels
        work.network_seconds += seconds


def _box(y: Span, x: Span, scale: int) -> Box:
    return Box(scale * x.core_start, scale * y.core_start, scale * (x.core_stop - x.core_start),
               scale * (y.core_stop - y.core_start))


def _lr_core(pixels: np.ndarray, y: Span, x: Span) -> np.ndarray:
    return pixels[y.core_start - y.window_start:y.core_stop - y.window_start,
                  x.core_start - x.window_start:x.core_stop - x.window_start]
