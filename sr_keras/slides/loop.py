# SPDX-License-Identifier: Apache-2.0
"""Super-resolve a plane window by window: the one loop for whole slides and small pictures.

    LR plane -> windows -> network (bicubic where there is only glass) -> output

One thread reads ahead, this one runs the network, and a third writes. Only a few windows are in memory at once, so that
memory depends on the size of a window and not on the slide. `plan` chooses the windows.
"""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipelines.pixels import to_float, to_uint8
from sr_keras.model.tiles import Box, Span, box_of, checked, core_of
from sr_keras.slides.lr_plane import HasTissue, Plane
from sr_keras.slides.outputs import Output
from sr_keras.slides.window_plan import Window, WindowPlan, pyramid_tile

READ_AHEAD = 2  # windows
WRITE_BEHIND = 1  # cores that may wait to be written while the next is computed
BICUBIC_REACH = 2
BICUBIC_PIXELS = 2**16  # LR pixels that are enlarged at a time

Generator = Callable[[np.ndarray], np.ndarray]  # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]
_Tiles = tuple[int, int, int, int]  # top, bottom, left, right; in tiles of a window


@dataclass
class Work:
    """SR pixels made in this run, of which some by the network; those that existed before; and the seconds it took."""

    pixels: int = 0
    network_pixels: int = 0
    kept_pixels: int = 0
    network_seconds: float = 0.0
    glass_seconds: float = 0.0

    @property
    def glass_pixels(self) -> int:
        """SR pixels made by bicubic interpolation."""
        return self.pixels - self.network_pixels

    @property
    def seconds_saved(self) -> float:
        """Time that bicubic saved on glass, by the rate of the network; 0 if the network made no pixels."""
        if not self.network_pixels:
            return 0.0
        return max(0.0, self.network_seconds / self.network_pixels * self.glass_pixels - self.glass_seconds)


def super_resolve_plane(
    generator: Generator, lr: Plane | np.ndarray, windows: WindowPlan, output: Output, *,
    has_tissue: HasTissue | None = None, progress: Callable[[int, bool], None] | None = None,
) -> Work:
    """Super-resolve a plane into an output.

    Args:
        generator: Any engine.
        lr: The plane.
        windows: From `plan.plan_windows`.
        output: Gets every core that it needs.
        has_tissue: Whether a part of the plane contains tissue; bicubic is used elsewhere. None for the network
            everywhere.
        progress: Called with a number of SR pixels, and whether they existed before this run.

    Raises:
        ValueError: The generator is of another scale, or a window does not fit in memory.
    """
    work, writing = Work(), deque[Future[None]]()

    def tell(box: Box, kept: bool) -> None:
        if progress:
            progress(box.hr_width * box.hr_height, kept)

    def missing() -> Iterator[Window]:
        for window in windows:
            box = box_of(*window, windows.scale)
            if output.needs(box):
                yield window
            else:
                work.kept_pixels += box.hr_width * box.hr_height
                tell(box, True)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        for window, pixels in _read_ahead(reader, lr, missing()):
            inner = near_tissue(*window, windows, has_tissue)
            sr = _compute_core(generator, pixels.result(), window, inner, windows.scale, work)
            box = box_of(*window, windows.scale)
            writing.append(writer.submit(output.write, box, sr))
            while len(writing) > WRITE_BEHIND:
                writing.popleft().result()
            tell(box, False)
        while writing:
            writing.popleft().result()
    return work


def by_network(generator: Generator, pixels: np.ndarray, y: Span, x: Span, scale: int) -> np.ndarray:
    """Return the core of a window by the network, uint8 [scale*h, scale*w, 3].

    Raises:
        ValueError: The window does not fit in memory, or the generator is of another scale.
    """
    import tensorflow as tf

    stream = getattr(generator, "stream", None)
    try:
        if stream is not None:  # an engine that runs in bands computes only the core
            return stream.core(pixels, *(slice(span.core_start - span.window_start, span.core_stop - span.window_start)
                                        for span in (y, x)))
        batch = pixels[np.newaxis]
        output = checked(np.asarray(generator(batch)), batch, scale)
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise ValueError("`tile` must fit in memory; choose a smaller one. "
                         f"Received: tile={max(pixels.shape)}") from error
    return core_of(output[0], y, x, scale)[1]


def near_tissue(y: Span, x: Span, windows: WindowPlan, has_tissue: HasTissue | None) -> list[Window]:
    """Return parts of a window whose cores hold all its tiles near tissue, once, and as little glass as pays.

    In most slides windows are larger than the islands of tissue.
    """
    if has_tissue is None:
        return [Window(y, x)]
    side = pyramid_tile(windows.scale) // windows.scale
    rows, columns = list(_tiles(y, side)), list(_tiles(x, side))
    near = np.array([[has_tissue(_part(y, row, windows.halo).window, _part(x, column, windows.halo).window)
                      for column in columns] for row in rows])

    def part(box: _Tiles) -> Window:
        core = slice(rows[box[0]].start, rows[box[1] - 1].stop), slice(columns[box[2]].start, columns[box[3] - 1].stop)
        return Window(_part(y, core[0], windows.halo), _part(x, core[1], windows.halo))

    def cost(box: _Tiles | None) -> int:
        return part(box).y.side * part(box).x.side if box else 0

    def covered(box: _Tiles | None) -> list[Window]:
        if box is None:
            return []
        halves = min(_halves(near, box), key=lambda pair: sum(map(cost, pair)), default=None)
        if halves is None or sum(map(cost, halves)) >= cost(box):
            return [part(box)]
        return [window for half in halves for window in covered(half)]

    return covered(_around(near, (0, len(rows), 0, len(columns))))


def _halves(near: np.ndarray, box: _Tiles) -> Iterator[tuple[_Tiles | None, _Tiles | None]]:
    """Yield the ways to cut a box in two, each shrunk to its tissue."""
    top, bottom, left, right = box
    for row in range(top + 1, bottom):
        yield _around(near, (top, row, left, right)), _around(near, (row, bottom, left, right))
    for column in range(left + 1, right):
        yield _around(near, (top, bottom, left, column)), _around(near, (top, bottom, column, right))


def _around(near: np.ndarray, box: _Tiles) -> _Tiles | None:
    """Return the smallest box around the tissue in a box; None if it has none."""
    rows, columns = near[box[0]:box[1], box[2]:box[3]].nonzero()
    if not len(rows):
        return None
    return (box[0] + int(rows.min()), box[0] + int(rows.max()) + 1,
            box[2] + int(columns.min()), box[2] + int(columns.max()) + 1)


def _tiles(span: Span, side: int) -> list[slice]:
    return [slice(start, min(start + side, span.core_stop)) for start in range(span.core_start, span.core_stop, side)]


def _part(span: Span, core: slice, halo: int) -> Span:
    """Return the part of a span with that core; at the ends of the span's core it keeps all of the window there."""
    return Span(span.window_start if core.start == span.core_start else max(span.window_start, core.start - halo),
                span.window_stop if core.stop == span.core_stop else min(span.window_stop, core.stop + halo),
                core.start, core.stop)


def _compute_core(generator: Generator, pixels: np.ndarray, window: Window, inner: list[Window], scale: int,
                  work: Work) -> np.ndarray:
    """Return the core of a window: by the network in the cores of `inner`, and by bicubic around them."""
    box, started = box_of(*window, scale), time.monotonic()
    work.pixels += box.hr_width * box.hr_height
    if inner == [window]:
        sr = by_network(generator, pixels, *window, scale)
        work.network_seconds += time.monotonic() - started
        work.network_pixels += box.hr_width * box.hr_height
        return sr
    sr = _by_bicubic(pixels, window, scale)
    work.glass_seconds += time.monotonic() - started
    for part in inner:
        started = time.monotonic()
        inside = box_of(*part, scale)
        top, left = inside.hr_y - box.hr_y, inside.hr_x - box.hr_x
        sr[top:top + inside.hr_height, left:left + inside.hr_width] = by_network(
            generator, _crop(pixels, window, part), *part, scale)
        work.network_seconds += time.monotonic() - started
        work.network_pixels += inside.hr_width * inside.hr_height
    return sr


def _by_bicubic(pixels: np.ndarray, window: Window, scale: int) -> np.ndarray:
    """Return the core of a window by bicubic interpolation, computed from its neighbourhood alone.

    Some rows are computed at a time: in floats, the whole of a large window would take gigabytes.
    """
    from sr_keras.metrics import bicubic

    rows, columns = window
    sr = np.empty((scale * (rows.core_stop - rows.core_start), scale * (columns.core_stop - columns.core_start), 3),
                  np.uint8)
    step = max(1, BICUBIC_PIXELS // columns.side)
    for start in range(rows.core_start, rows.core_stop, step):
        stop = min(start + step, rows.core_stop)
        seen = Window(*(Span(max(span.window_start, span.core_start - BICUBIC_REACH),
                             min(span.window_stop, span.core_stop + BICUBIC_REACH), *span[2:])
                        for span in (rows._replace(core_start=start, core_stop=stop), columns)))
        part = to_uint8(bicubic(to_float(_crop(pixels, window, seen))[np.newaxis], scale)).numpy()[0]
        sr[scale * (start - rows.core_start):scale * (stop - rows.core_start)] = core_of(part, *seen, scale)[1]
    return sr


def _crop(pixels: np.ndarray, window: Window, part: Window) -> np.ndarray:
    """Return the pixels of a part of a window."""
    rows, columns = (slice(inner.window_start - outer.window_start, inner.window_stop - outer.window_start)
                     for outer, inner in zip(window, part, strict=True))
    return pixels[rows, columns]


def _read_ahead(reader: ThreadPoolExecutor, lr: Plane | np.ndarray, todo: Iterator[Window]
                ) -> Iterator[tuple[Window, Future[np.ndarray]]]:
    """Yield each window and its pixels, while the next windows are being read."""
    waiting: deque[tuple[Window, Future[np.ndarray]]] = deque()
    for window in todo:
        waiting.append((window, reader.submit(lr.__getitem__, (window.y.window, window.x.window))))
        if len(waiting) > READ_AHEAD:
            yield waiting.popleft()
    yield from waiting
