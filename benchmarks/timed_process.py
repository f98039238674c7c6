# SPDX-License-Identifier: Apache-2.0
"""Run a model file in a process of its own, and measure the time and the memory it takes.

    with closing(TimedProcess(FORMATS["litert"], Path("1/litert/float16.tflite"), side=64)) as process:
        process.opened                         # Opened(import_s, load_s, device)
        process.call(batch=4)                  # Call(seconds, peak_bytes): uint8 [4, 64, 64, 3] in, uint8 out

A process opens one file and imports only what that needs: LiteRT and ONNX Runtime run without TensorFlow, as on the
machines they are chosen for. Pixels are random. Every runtime uses all cores of this process; TensorFlow and TensorRT
use a GPU if there is one.
"""
from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.console import import_optional, one_line
from pipelines.errors import UserError
from pipelines.workers import cores
from sr_keras.formats.format import Format

LONGEST_REASON = 300
PATIENCE_SECONDS = 10.0  # for a process to finish its current call
HUNG_UP = (EOFError, BrokenPipeError, ConnectionResetError)


class Opened(NamedTuple):
    """Seconds to import the runtime, seconds from the file to the first answer, and the device that computes."""

    import_s: float
    load_s: float
    device: str


class Call(NamedTuple):
    """Seconds that a call took, and the largest memory in bytes that its process had by then."""

    seconds: float
    peak_bytes: int


class TimedProcess:
    """A process that runs one model file, one call at a time."""

    def __init__(self, format: Format, path: Path, side: int) -> None:
        """Open the file and call it once.

        Args:
            format: Its format.
            path: The file, or the folder of a SavedModel.
            side: Side of its pictures in LR pixels.

        Raises:
            UserError: The runtime is not installed, refuses the file, or crashes.
        """
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, format.name, path, side), daemon=True)
        self._process.start()
        there.close()
        try:
            self.opened: Opened = self._receive()
        except BaseException:
            self.close()
            raise

    def call(self, batch: int) -> Call:
        """Super-resolve a batch.

        Raises:
            UserError: The call fails, or the process dies.
        """
        with suppress(BrokenPipeError):  # it died already; `_receive` says so
            self._connection.send(batch)
        return self._receive()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(PATIENCE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join(PATIENCE_SECONDS)
            raise UserError(f"its process died (exit code {self._process.exitcode})") from error
        if isinstance(answer, str):
            raise UserError(answer)
        return answer


def _serve(connection: Connection, name: str, path: Path, side: int) -> None:
    """Open a file, report what that took, and answer calls until the pipe breaks."""
    from benchmarks.format_speed import MEASURED

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent closes the pipe
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # log lines of runtimes; errors are sent through the pipe
    format = MEASURED[name]

    @cache
    def pictures(batch: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)

    with suppress(*HUNG_UP):
        try:
            first = pictures(1)
            began = time.perf_counter()
            for module in format.runtime:
                import_optional(module, format.extra)
            imported = time.perf_counter()
            run = format.open(path, cores())
            run(first)
            connection.send(Opened(imported - began, time.perf_counter() - imported, format.device()))
            while True:
                lr = pictures(connection.recv())
                began = time.perf_counter()
                run(lr)
                connection.send(Call(time.perf_counter() - began, _peak_bytes()))
        except HUNG_UP:
            raise
        except Exception as error:  # each runtime raises its own kinds
            connection.send(one_line(error)[:LONGEST_REASON])


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would report the parent's peak where that was larger
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
