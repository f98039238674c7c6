# SPDX-License-Identifier: Apache-2.0
"""Measure how fast the files of a model are in every format, how long they load, and what memory they take.

    kinds = parse_kinds(["keras", "litert:float16", "onnx"])
    for line in report(measure(Path("saved_models/demo"), kinds)):
        print(line)

Files of the version are used where it has them; others are converted first, only to be measured. Each file is opened
in a process of its own, all at the same time. For every batch size all are called in turn, round after round, after one
call to warm up, so that other load on the machine affects all alike. The time is taken in the file's process, from an
array of pixels to an array of pixels. What can't be measured here is listed with the reason.

    import   of the runtime, beside NumPy
    load     from the file to the first answer, of one picture
    file     of a SavedModel: graph and weights
    memory   the largest memory of its process by the end of the calls of a batch size
"""
from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.timed_process import Call, Opened, TimedProcess
from pipelines.console import one_line
from pipelines.errors import UserError, require
from pipelines.workers import cores
from sr_keras.formats import FORMATS
from sr_keras.formats.format import FLOAT32, Format, Source, tensorflow_device
from sr_keras.model.tiles import Pixels

if TYPE_CHECKING:
    import keras


def _open_keras(path: Path, threads: int) -> Pixels:
    from sr_keras.model.loading import load_generator

    return load_generator(path)


Kind = tuple[str, str]  # format and precision
# The file of a run: measured, and never converted to.
FORMAT_KERAS = Format("keras", {"float32": FLOAT32}, file="generator.keras", packages=(), extra="",
                      runtime=("sr_keras.model.loading",), open=_open_keras,
                      convert=lambda source, precision, folder: iter(()),
                      device=tensorflow_device)
MEASURED = {"keras": FORMAT_KERAS, **FORMATS}
KINDS: list[Kind] = [(name, precision) for name, format in MEASURED.items() for precision in format.tolerances]
ALL = "all"
SIDE = 64
CALLS = {1: 6, 4: 2, 16: 1}  # per round, by batch size
CALLS_FOR_P99 = 30  # of a single picture, at least
MIB = 2**20


@dataclass(frozen=True)
class Speed:
    """What was measured of a file; `calls` by batch size."""

    kind: Kind
    file_bytes: int
    opened: Opened
    calls: dict[int, list[Call]] = field(default_factory=dict)

    def p50(self, batch: int) -> float:
        """Return the median seconds of a call."""
        return median(call.seconds for call in self.calls[batch])

    def p99(self, batch: int) -> float:
        """Return the 99th percentile of the seconds of a call, interpolated."""
        return float(np.percentile([call.seconds for call in self.calls[batch]], 99))

    def patches_per_second(self, batch: int) -> float:
        """Return pictures a second, by the median."""
        return batch / self.p50(batch)

    def peak_bytes(self, batch: int) -> int:
        """Return the largest memory of its process by the end of this batch size."""
        return max(call.peak_bytes for call in self.calls[batch])


@dataclass(frozen=True)
class Speeds:
    """What was measured on tiles of `side` LR pixels, and why the others were not."""

    side: int
    measured: list[Speed]
    missing: dict[Kind, str]


def parse_kinds(names: Sequence[str]) -> list[Kind]:
    """Return the named kinds in the order of KINDS.

    Args:
        names: "litert:int8", "litert" for all its precisions, or "all".

    Raises:
        ValueError: A name is unknown, or there is none.
    """
    known = [ALL, *MEASURED, *map(_name, KINDS)]
    require(bool(names) and set(names) <= set(known), "engines", f"be some of {', '.join(known)}",
            "check the spelling", ",".join(names))
    return [kind for kind in KINDS if {ALL, kind[0], _name(kind)} & set(names)]


def calls_of(rounds: int) -> dict[int, int]:
    """Return how many calls are measured, by batch size."""
    return {batch: max(rounds * calls, CALLS_FOR_P99 if batch == 1 else 1) for batch, calls in CALLS.items()}


def find_files(model: Path, kinds: Sequence[Kind], folder: Path) -> tuple[dict[Kind, Path], dict[Kind, str]]:
    """Return the file of each kind, or why there is none; missing ones are converted into `folder`.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: It is not a generator.
    """
    from sr_keras.formats.run_data import calibration_tissue
    from sr_keras.model.loading import find_generator, load_generator, load_keras

    found = find_generator(model)

    def load() -> keras.Model:
        _check_file(found)
        return load_keras(found)

    def load_samples() -> np.ndarray:
        return calibration_tissue(None, found.parent, load_generator(found).degrade).lr

    source = Source(load, load_samples, load_any=lambda: load_generator(found))
    files, missing = {}, {}
    for name, precision in kinds:
        try:
            files[name, precision] = _file(MEASURED[name], precision, found, source, folder)
        except UserError as error:
            missing[name, precision] = one_line(error)
    return files, missing


def _check_file(found: Path) -> None:
    if found.is_dir():
        raise UserError("`model` must be a run or a .keras file for this; a SavedModel has no layers. Received: "
                        f"model={found}")


def _file(format: Format, precision: str, found: Path, source: Source, folder: Path) -> Path:
    if (reason := format.missing()) is not None:
        raise UserError(reason)
    if format is FORMAT_KERAS:
        _check_file(found)
        return found
    if found.is_dir() and (kept := format.path(found, precision)).exists():
        return kept
    format.check_installed()
    for _ in format.convert(source, precision, folder / format.name):
        pass
    return format.path(folder / format.name, precision)


def measure(model: Path, kinds: Sequence[Kind], side: int = SIDE, rounds: int = 7) -> Speeds:
    """Measure the files of a generator side by side.

    Args:
        model: What `sr_keras.model.loading.load_generator` takes.
        kinds: See `parse_kinds`.
        side: Side of the tiles in LR pixels.
        rounds: How often CALLS are made.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: It is not a generator.
        UserError: No file can be measured.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as processes:
        # In a process of its own: neither converters nor TensorFlow give memory back.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            files, missing = pool.submit(find_files, model, kinds, Path(folder)).result()
        speeds: list[Speed] = []
        calls: dict[Kind, Callable[[int], Call]] = {}
        for kind, path in files.items():  # one after the other: each loads undisturbed
            try:
                process = processes.enter_context(closing(TimedProcess(MEASURED[kind[0]], path, side)))
            except UserError as error:
                missing[kind] = one_line(error)
            else:
                calls[kind] = process.call
                speeds.append(Speed(kind, _size(path), process.opened))
        measured = call_in_turn(speeds, calls, calls_of(rounds), missing)
    if not measured:
        raise UserError("; ".join(_reasons(missing)))
    return Speeds(side, measured, missing)


def call_in_turn(speeds: Sequence[Speed], calls: dict[Kind, Callable[[int], Call]], counts: dict[int, int],
                 missing: dict[Kind, str]) -> list[Speed]:
    """Call all files in turn, for each batch size from the smallest; one more call each warms up.

    Args:
        speeds: The files; their calls are added.
        calls: Runs a batch, by kind.
        counts: How many calls to measure, by batch size.
        missing: Receives the reason where a file fails.

    Returns:
        The files that did not fail.
    """
    left = list(speeds)
    for batch, count in sorted(counts.items()):
        for number in range(count + 1):
            for speed in list(left):
                try:
                    call = calls[speed.kind](batch)
                except UserError as error:
                    missing[speed.kind] = f"batch {batch}: {one_line(error)}"
                    left.remove(speed)
                    continue
                if number:
                    speed.calls.setdefault(batch, []).append(call)
    return left


def report(speeds: Speeds) -> Iterator[str]:
    """Yield the lines of a Markdown table, with the conditions before it and what is missing after it."""
    counts = {batch: len(calls) for batch, calls in speeds.measured[0].calls.items()}
    batches = list(counts)
    yield (f"Tiles of {speeds.side}x{speeds.side} LR pixels, {cores()} cores; all formats in turn, calls measured: "
           f"{', '.join(f'{count} of batch {batch}' for batch, count in counts.items())}. p99 of so few is close to "
           "the slowest. Load: from the file to the first answer.")
    yield ""
    head = ["format", "device", "file (MiB)", "import (s)", "load (s)"]
    for batch in batches:
        head += [f"batch {batch}: p50 / p99 (ms)", "patches/s"]
    head.append(f"peak memory (MiB), batch {' / '.join(map(str, batches))}")
    yield f"| {' | '.join(head)} |"
    yield "| --- | --- |" + " ---: |" * (len(head) - 2)
    for speed in speeds.measured:
        yield f"| {' | '.join(_cells(speed, batches))} |"
    if speeds.missing:
        yield ""
        yield from (f"Not measured: {line}" for line in _reasons(speeds.missing))


def _cells(speed: Speed, batches: Sequence[int]) -> Iterator[str]:
    yield from (_name(speed.kind), speed.opened.device, f"{speed.file_bytes / MIB:.2f}",
                f"{speed.opened.import_s:.2f}", f"{speed.opened.load_s:.2f}")
    for batch in batches:
        yield f"{1000 * speed.p50(batch):.1f} / {1000 * speed.p99(batch):.1f}"
        yield f"{speed.patches_per_second(batch):.1f}"
    yield " / ".join(f"{speed.peak_bytes(batch) / MIB:.0f}" for batch in batches)


def _reasons(missing: dict[Kind, str]) -> Iterator[str]:
    """Yield each reason once, with all kinds that it holds for."""
    for reason in dict.fromkeys(missing.values()):
        yield f"{', '.join(_name(kind) for kind in missing if missing[kind] == reason)}: {reason}"


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    parts = [path / "saved_model.pb", *(path / "variables").iterdir()]  # other formats lie beside them
    return sum(part.stat().st_size for part in parts)


def _name(kind: Kind) -> str:
    return ":".join(kind)
