"""How fast each form of a generator is, what it takes to load and to keep: one table from one run.

    kinds = parse_kinds(["keras", "litert:float16", "onnx"])
    for line in report(measure(Path("saved_models/demo"), kinds)):
        print(line)

Files are those of the version where it has them, else they are converted first. Each form is then open in a process of
its own, all at the same time; for every batch size all are called in turn, round after round, after one call to warm
up, so that whatever else the machine does falls on all alike. The clock runs in the form's process, from an array of
pixels to an array of pixels. What can't be measured here is named with the reason, and the others are measured.

    import   of the runtime, beside NumPy
    load     from the file to the first answer, of one picture
    file     of a SavedModel: graph and weights
    memory   the most its process had, by the end of the calls of a batch size
"""
from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from pipelines.console import one_line
from pipelines.errors import UserError, require
from pipelines.workers import cores
from sr_keras.formats.runtimes import FormProcess, Kind, Opened, Took

ALL = "all"
PRECISIONS = {"keras": ("float32",), "saved_model": ("float32",),
              "litert": ("float32", "float16", "int8_dynamic", "int8"), "onnx": ("float32",),
              "tensorrt": ("float32", "float16", "int8")}
KINDS = [(form, precision) for form, precisions in PRECISIONS.items() for precision in precisions]
SIDE = 64
CALLS = {1: 6, 4: 2, 16: 1}  # by batch size, a round
CALLS_FOR_P99 = 30  # of a single picture, however few the rounds
MIB = 2**20


@dataclass(frozen=True)
class Rate:
    """What was measured of a form: `took`, its calls by batch size; `file_bytes`, the size of its file."""

    kind: Kind
    file_bytes: int
    opened: Opened
    took: dict[int, list[Took]] = field(default_factory=dict)

    def p50(self, batch: int) -> float:
        """Return the median seconds of a call."""
        return median(call.seconds for call in self.took[batch])

    def p99(self, batch: int) -> float:
        """Return the seconds that 99 of 100 calls keep within, interpolated between the slowest where they are few."""
        return float(np.percentile([call.seconds for call in self.took[batch]], 99))

    def patches_per_second(self, batch: int) -> float:
        """Return pictures a second, by the median."""
        return batch / self.p50(batch)

    def peak_bytes(self, batch: int) -> int:
        """Return the most memory that its process had by then."""
        return max(call.peak_bytes for call in self.took[batch])


@dataclass(frozen=True)
class Rates:
    """What was measured of all, on tiles of `side` LR pixels, and why not of the others."""

    side: int
    measured: list[Rate]
    lacking: dict[Kind, str]


def parse_kinds(names: Sequence[str]) -> list[Kind]:
    """Return the kinds that were named, in the order of KINDS.

    Args:
        names: each "litert:int8", or "litert" for all its precisions, or "all" for all there are.

    Raises:
        ValueError: There is no such one, or none was named.
    """
    known = [ALL, *PRECISIONS, *map(_name, KINDS)]
    require(bool(names) and set(names) <= set(known), "engines", f"be some of {', '.join(known)}",
            "leave out the others", ",".join(names))
    return [kind for kind in KINDS if {ALL, kind[0], _name(kind)} & set(names)]


def calls_of(rounds: int) -> dict[int, int]:
    """Return how many calls are measured, by batch size."""
    return {batch: max(rounds * calls, CALLS_FOR_P99 if batch == 1 else 1) for batch, calls in CALLS.items()}


def measure(model: Path, kinds: Sequence[Kind], side: int = SIDE, rounds: int = 7) -> Rates:
    """Measure forms of a generator side by side.

    Args:
        model: what `models.load_generator` takes.
        kinds: format and precision of each; see `parse_kinds`.
        side: of the tiles, in LR pixels.
        rounds: how often CALLS are made.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: It is not a generator.
        UserError: No form can be measured.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_forms:
        # In a process of its own: neither converters nor TensorFlow give memory back.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            files, lacking = pool.submit(_find_files, model, kinds, Path(folder)).result()
        rates: list[Rate] = []
        processes: dict[Kind, FormProcess] = {}
        for kind, path in files.items():  # one after the other: each loads undisturbed
            try:
                processes[kind] = open_forms.enter_context(closing(FormProcess(kind[0], path, side)))
                rates.append(Rate(kind, _size(path), processes[kind].opened))
            except UserError as error:
                lacking[kind] = one_line(error)
        measured = call_in_turn(rates, processes, calls_of(rounds), lacking)
    if not measured:
        raise UserError("; ".join(_lacking(lacking)))
    return Rates(side, measured, lacking)


def call_in_turn(rates: Sequence[Rate], processes: dict[Kind, FormProcess], calls: dict[int, int],
                 lacking: dict[Kind, str]) -> list[Rate]:
    """Call all in turn, batch size after batch size, smallest first; one more call each warms up.

    Args:
        rates: of what is open; their calls are added.
        processes: by kind.
        calls: by batch size.
        lacking: gets the reason where a form fails.

    Returns:
        The rates of those that did not fail.
    """
    left = list(rates)
    for batch, count in sorted(calls.items()):
        for number in range(count + 1):
            for rate in list(left):
                try:
                    took = processes[rate.kind].call(batch)
                except UserError as error:
                    lacking[rate.kind] = f"batch {batch}: {one_line(error)}"
                    left.remove(rate)
                    continue
                if number:
                    rate.took.setdefault(batch, []).append(took)
    return left


def report(rates: Rates) -> Iterator[str]:
    """Yield the lines of a Markdown table, with what it was measured on before it and what is lacking behind it."""
    counts = {batch: len(calls) for batch, calls in rates.measured[0].took.items()}
    batches = list(counts)
    yield (f"Tiles of {rates.side}x{rates.side} LR pixels, {cores()} cores; all forms in turn, calls measured: "
           f"{', '.join(f'{count} of batch {batch}' for batch, count in counts.items())}. p99 of so few is close to "
           "the slowest. Load: from the file to the first answer.")
    yield ""
    head = ["form", "on", "file (MiB)", "import (s)", "load (s)"]
    for batch in batches:
        head += [f"batch {batch}: p50 / p99 (ms)", "patches/s"]
    head.append(f"peak memory (MiB), batch {' / '.join(map(str, batches))}")
    yield f"| {' | '.join(head)} |"
    yield "| --- | --- |" + " ---: |" * (len(head) - 2)
    for rate in rates.measured:
        yield f"| {' | '.join(_cells(rate, batches))} |"
    if rates.lacking:
        yield ""
        yield from (f"Not measured: {line}" for line in _lacking(rates.lacking))


def _cells(rate: Rate, batches: Sequence[int]) -> Iterator[str]:
    yield from (_name(rate.kind), rate.opened.device, f"{rate.file_bytes / MIB:.2f}", f"{rate.opened.import_s:.2f}",
                f"{rate.opened.load_s:.2f}")
    for batch in batches:
        yield f"{1000 * rate.p50(batch):.1f} / {1000 * rate.p99(batch):.1f}"
        yield f"{rate.patches_per_second(batch):.1f}"
    yield " / ".join(f"{rate.peak_bytes(batch) / MIB:.0f}" for batch in batches)


def _lacking(lacking: dict[Kind, str]) -> Iterator[str]:
    """Yield each reason once, with all that it holds for."""
    for reason in dict.fromkeys(lacking.values()):
        yield f"{', '.join(_name(kind) for kind in lacking if lacking[kind] == reason)}: {reason}"


def _find_files(model: Path, kinds: Sequence[Kind], folder: Path) -> tuple[dict[Kind, Path], dict[Kind, str]]:
    from sr_keras.formats.find_exports import find_files  # imports all writers; whoever measures needs none

    return find_files(model, kinds, folder)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    parts = [path / "saved_model.pb", *(path / "variables").iterdir()]  # the other forms lie beside them
    return sum(part.stat().st_size for part in parts)


def _name(kind: Kind) -> str:
    return ":".join(kind)
