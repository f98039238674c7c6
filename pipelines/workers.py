# SPDX-License-Identifier: Apache-2.0
"""Run jobs in parallel processes, any of which may die without losing the others.

Slide readers are C libraries, and slides come from anywhere. If a reader crashes, or the kernel kills it for its
memory, only one slide may be lost. `concurrent.futures` fails every job when one process dies.

One pipe per process carries jobs, progress and outcomes. It is also the stop signal: when the parent closes it, the
worker's next report raises BrokenPipeError and it cleans up. If the parent is killed, its workers exit at once, before
the same work can be started again. Workers are spawned: TensorFlow does not survive a fork.
"""
from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

Report = Callable[[int], None]
Work = Callable[[Any, Report], Any]

ATTEMPTS = 2
PATIENCE_SECONDS = 10.0  # for a worker to stop and clean up


@dataclass(frozen=True)
class Died:
    """The outcome of a job whose process died at each attempt.

    A negative exit code is a signal; None is unknown.
    """

    exit_code: int | None
    attempts: int = ATTEMPTS

    def __str__(self) -> str:
        code = "" if self.exit_code is None else f" (exit code {self.exit_code})"
        return f"its process died {self.attempts} times{code}"


def run_jobs(work: Work, jobs: Iterable[Any], processes: int, report: Report) -> Iterator[tuple[Any, Any]]:
    """Yield (job, result of `work(job, report)` or a `Died`) in the order in which the jobs end.

    Args:
        work: A function of a module, called as work(job, report); it may call report(n) when n more items are done.
        jobs: Picklable.
        processes: How many at a time; 1 runs the jobs in this process.
        report: Called with what `work` reports; with a negative number when a job starts again.

    Raises:
        Exception: The exception of `work`; unfinished jobs are stopped.
    """
    if processes <= 1:
        for job in jobs:
            yield job, work(job, report)
        return
    waiting = deque((job, 1) for job in jobs)
    lanes: list[_Lane] = []
    try:
        while waiting or lanes:
            while waiting and len(lanes) < processes:
                lanes.append(_Lane(work, *waiting.popleft()))
            ready = wait([lane.connection for lane in lanes])
            for lane in [lane for lane in lanes if lane.connection in ready]:
                kind, value = lane.receive()
                if kind == "progress":
                    lane.reported += value
                    report(value)
                    continue
                if kind == "failed":
                    raise value
                if kind == "died" and lane.attempt < ATTEMPTS:
                    report(-lane.reported)
                    waiting.appendleft((lane.job, lane.attempt + 1))
                else:
                    yield lane.job, Died(value) if kind == "died" else value
                if kind == "done" and waiting:
                    lane.give(*waiting.popleft())
                else:
                    lanes.remove(lane)
                    lane.stop()
    finally:
        for lane in lanes:
            lane.connection.close()  # all of them first, so that they clean up in parallel
        for lane in lanes:
            lane.stop()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Return how many bytes of memory are available; all of the memory if the system does not tell."""
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class _Lane:
    """A worker's process and its job."""

    def __init__(self, work: Work, job: Any, attempt: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, work), daemon=True)
        self._process.start()
        there.close()
        self.give(job, attempt)

    def give(self, job: Any, attempt: int) -> None:
        self.job, self.attempt, self.reported = job, attempt, 0
        with suppress(BrokenPipeError):  # it died; `receive` returns that
            self.connection.send(job)

    def receive(self) -> tuple[str, Any]:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(PATIENCE_SECONDS)
            return "died", self._process.exitcode

    def stop(self) -> None:
        self.connection.close()
        self._process.join(PATIENCE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, work: Work) -> None:
    """Be a worker: do jobs until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent closed the pipe
        while True:
            job = connection.recv()
            try:
                answer = "done", work(job, lambda count: connection.send(("progress", count)))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                answer = "failed", error
            connection.send(answer)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
