# SPDX-License-Identifier: Apache-2.0
"""OpenSlide's own slides; in a process apart for a format whose damaged files can crash it.

OpenSlide 4.0.1 ends in a segmentation fault on some damaged DICOM files. Then only that process ends, and ours goes on
with the next slide. It costs half a second for each slide that is opened, and a copy of the pixels.

It is not a process of `multiprocessing`, which would run the script of the user again if that has no
`if __name__ == "__main__":`.
"""
from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from PIL import Image

from pipelines.errors import SlideError
from pipelines.readers import limits
from pipelines.readers.folders import check_series, dicom_file_of, is_dicom
from pipelines.readers.limits import Dimensions

# OpenSlide keeps 32 MiB of decoded tiles. One of 4096 x 4096 pixels is larger, and would be decoded for every window.
USUAL_CACHE, TILES_IN_CACHE = 32 * 2**20, 4  # a window on a corner touches four tiles
RGB_BYTES, KEPT_PIXEL_BYTES = 3, 4
SMALL_TILE = 256  # where the format does not tell
CODE = "import sys; from pipelines.readers.openslide_process import serve; serve(int(sys.argv[1]))"
PATIENCE_SECONDS = 10.0  # for the process to end


def open_by_library(path: Path) -> openslide.OpenSlide | ApartSlide:
    """Return the slide of a file or of the folder of a DICOM series, with a cache for its tiles.

    Raises:
        openslide.OpenSlideError: OpenSlide cannot open it.
        SlideError: Its tiles are too large, or it is DICOM and OpenSlide crashed or would mix slides.
    """
    path = dicom_file_of(path)
    if not is_dicom(path):
        return _open_here(path)
    check_series(path)
    return ApartSlide(path)


def tile_sizes(slide: openslide.OpenSlide | ApartSlide) -> tuple[Dimensions, ...]:
    """Return width and height of the tiles of each level."""
    def side(level: int, name: str) -> int:
        return int(slide.properties.get(f"openslide.level[{level}].tile-{name}", SMALL_TILE))

    return tuple((side(level, "width"), side(level, "height")) for level in range(len(slide.level_dimensions)))


def associated_images(slide: openslide.OpenSlide | ApartSlide) -> dict[str, Image.Image]:
    """Return label, macro and thumbnail, up to one that cannot be read: OpenSlide reads nothing after it.

    One of more pixels than the limit is left out: its size is a lie, for which OpenSlide would take the memory.
    """
    images: dict[str, Image.Image] = {}
    with suppress(openslide.OpenSlideError, SlideError):
        if isinstance(slide, ApartSlide):
            return slide.ask("associated_images")
        for name in slide.associated_images:
            sides = (slide.properties[f"openslide.associated.{name}.{side}"] for side in ("width", "height"))
            if math.prod(map(int, sides)) <= limits.LARGEST_ASSOCIATED_PIXELS:
                images[name] = slide.associated_images[name]
    return images


class ApartSlide:
    """What this project uses of `openslide.OpenSlide`, in a process apart; a context manager.

    Every call raises openslide.OpenSlideError as OpenSlide does, or SlideError if the process died.
    """

    properties: dict[str, str]
    level_dimensions: tuple[Dimensions, ...]
    level_downsamples: tuple[float, ...]
    _profile: bytes | None

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._connection, there = Pipe()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CODE, str(there.fileno())], pass_fds=[there.fileno()], stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        try:
            vars(self).update(self.ask(path))
        except (openslide.OpenSlideError, SlideError):
            self.close()
            raise

    def __enter__(self) -> ApartSlide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_region(self, l0_corner: tuple[int, int], level: int, size: Dimensions) -> np.ndarray:
        """Return what OpenSlide reads: uint8 [height, width, 4]."""
        return self.ask((l0_corner, level, size))

    def ask(self, question: object) -> Any:
        """Return the answer of `_answer`, or raise it."""
        with self._lock:
            try:
                self._connection.send(question)
                answer = self._connection.recv()
            except (EOFError, OSError) as error:  # a closed connection too
                raise SlideError(f"{self._path}: {self._death()}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        if self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_SECONDS)
            self._process.kill()
        self._process.wait()

    def _death(self) -> str:
        if self._connection.closed:
            return "is closed; open it again"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_SECONDS)
        status = self._process.poll()
        how = signal.Signals(-status).name if status is not None and status < 0 else f"exit status {status}"
        return f"OpenSlide crashed on it ({how}); the file is damaged, copy it again"


def serve(descriptor: int) -> None:
    """Be the process apart: answer until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the other one decides
    slide: openslide.OpenSlide | None = None
    path: Path | None = None
    with Connection(descriptor) as connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            question = connection.recv()
            path = path or question
            try:
                slide = slide or _open_here(path)
                answer = _answer(slide, question)
            except (openslide.OpenSlideError, SlideError) as error:
                answer = error
                if slide:
                    slide.close()
                slide = None  # after one error it repeats that error for every tile
            except Exception as error:  # which may not travel
                answer = SlideError(f"cannot be read as a slide or image ({type(error).__name__}: {error})")
            connection.send(answer)


def _answer(slide: openslide.OpenSlide, question: Any) -> Any:
    """Answer the question for its facts (the path), its images, or a region (the arguments of `read_region`)."""
    if isinstance(question, Path):
        return {name: getattr(slide, name) for name in ("level_dimensions", "level_downsamples", "_profile")} | {
            "properties": dict(slide.properties)}
    if question == "associated_images":
        return associated_images(slide)
    return np.asarray(slide.read_region(*question))


def _open_here(path: Path) -> openslide.OpenSlide:
    slide = openslide.OpenSlide(path)
    sizes = tile_sizes(slide)
    limits.check_segments(path, (RGB_BYTES * width * height for width, height in sizes))
    tile = KEPT_PIXEL_BYTES * max(width * height for width, height in sizes)
    kept = max(USUAL_CACHE, tile, min(TILES_IN_CACHE * tile, limits.KEPT_BYTES))  # at least one, better a few
    slide.set_cache(openslide.OpenSlideCache(kept))
    return slide
