# SPDX-License-Identifier: Apache-2.0
"""Open a generator on an engine: the same weights, run by TensorFlow, LiteRT or ONNX Runtime.

    generator = open_engine("auto", "saved_models/demo", threads=2)
    print(generator.why)                           # litert (opens fastest; rates not measured)
    sr = generator(lr)                             # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]

"auto" is TensorFlow where it sees a GPU, and LiteRT elsewhere, which opens fastest. `fastest` measures those that are
installed, which pays for a large slide.

The results of the engines agree within 1/255. Every engine opens whatever `load_generator` loads. All run on the CPU;
TensorFlow uses a GPU where there is one. Each runs a network in bands, see `sr_keras.model.streaming`, so that a large
window takes little memory.

Conversions and measurements run in processes of their own, whose memory is then free again. Their results are kept in
the user's cache folder ($XDG_CACHE_HOME or ~/.cache), under a hash of all that they depend on. Deleting the cache is
safe, and so is a cache that can't be read or written.
"""
from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

import numpy as np
import tensorflow as tf

from pipelines.console import import_optional, one_line
from pipelines.errors import require
from pipelines.files import Count, Positive, Side, atomic_path, cache_home, parse_json, read_json, write_text
from pipelines.workers import cores
from sr_keras.model.facts import FACTS_FILE, FLAGS_FILE, from_json, read_facts
from sr_keras.model.loading import LoadedGenerator, find_generator, load_generator
from sr_keras.model.own_process import call_apart
from sr_keras.model.runtimes import (
    AUTO,
    ENGINE_CHOICES,
    ENGINES,
    LITERT_INT8,
    PRECISIONS,
    RUNTIMES,
    LiteRTRunner,
    check_parity,
    why_not_int8,
)
from sr_keras.model.streaming import KINDS, Stream, as_keras, banded, frozen, kept_by, stream_of

REVISION = 3  # of the cache; raise it to invalidate all entries
TILE = 128
BUDGET_S = 1.0
LONGEST_REASON = 200
DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Engine(LoadedGenerator):
    """A generator on an engine: `name`, one of ENGINES or LITERT_INT8, and `why` that one, in a line.

    `stream` takes arrays, and can skip the part of a window that is not kept; int8 has none.
    """

    name: str
    why: str
    stream: Stream | None


def open_engine(name: str, model_path: str | Path, threads: int | None = None, precision: str = "float32") -> Engine:
    """Open a generator on an engine.

    Args:
        name: One of ENGINES; or "auto": TensorFlow on a GPU, else LiteRT, and TensorFlow if LiteRT can't run the model.
        model_path: What `sr_keras.model.loading.load_generator` takes.
        threads: Threads that compute; all cores of this process if left out. TensorFlow's are those of the process.
        precision: One of PRECISIONS. "auto" is LiteRT in int8 where the processor is faster with it and the results
            are close enough; the engine must be "auto" or "litert" then.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: Unknown engine or wrong number of threads; not a generator; TensorFlow runs already with another
            number of threads.
        UserError: The engine is not installed, or the converted model differs from the generator.
    """
    require(name in (*ENGINE_CHOICES, LITERT_INT8), "engine", f"be one of {', '.join(ENGINE_CHOICES)}",
            "check the spelling", name)
    require(threads is None or threads > 0, "threads", "be 1 or more", "leave it out for all cores", threads)
    require(precision in PRECISIONS, "precision", f"be {' or '.join(PRECISIONS)}", "check the spelling", precision)
    require(precision != AUTO or name in (AUTO, "litert"), "precision", "be float32 for this engine",
            "set the engine to litert or auto", name)
    found = find_generator(model_path)
    if name == LITERT_INT8:
        return _open_int8(found, threads)
    if precision == AUTO:
        reason = why_not_int8(found) if name != AUTO or not _gpus() else "there is a GPU"
        if reason is None:
            return _open_int8(found, threads)
        engine = open_engine(name, found, threads)
        return replace(engine, why=f"{engine.why}, in float32: {reason}")
    if name == AUTO:
        return _usual(found, threads)
    if name == "tensorflow":
        _limit_tensorflow(threads)
    return _open(name, found, threads, f"{name} (asked for)")


def fastest(engine: Engine, threads: int | None = None) -> Engine:
    """Return the fastest of the engines that are installed, in place of one that "auto" opened.

    They are measured one after the other, in about half a minute, once for each model and machine. One that can't run
    the model is left out. Nothing is measured on a GPU.
    """
    names = installed()
    if _gpus() or len(names) == 1:
        return engine
    seconds = _measured(names, engine.path, threads)
    rates = {name: (engine.scale * TILE)**2 / 1e6 / took for name, took in seconds.items()}
    first, *others = sorted(rates, key=rates.__getitem__, reverse=True) or [engine.name]
    if not others:
        return engine
    slower = ", ".join(f"{name} {rates[name]:.2f}" for name in others)
    why = f"{first} ({rates[first]:.2f} Mpixel/s when it was measured; {slower})"
    return replace(engine, why=why) if first == engine.name else _open(first, engine.path, threads, why)


def installed() -> list[str]:
    """Return the engines whose packages are installed."""
    return [name for name in ENGINES if name not in RUNTIMES
            or all(importlib.util.find_spec(package) for package in RUNTIMES[name].packages)]


def cache_folder() -> Path:
    """Return the cache folder, without creating it."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else cache_home()) / "sr_keras" / "engines"


def measure(run: Callable[[], object], budget_s: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the median seconds of calls during `budget_s`, at least one, after one to warm up."""
    run()
    seconds: list[float] = []
    end = clock() + budget_s
    while not seconds or clock() < end:
        began = clock()
        run()
        seconds.append(clock() - began)
    return median(seconds)


def _open(name: str, found: Path, threads: int | None, why: str) -> Engine:
    if name in RUNTIMES:
        import_optional(RUNTIMES[name].packages[0], RUNTIMES[name].extra)  # before a conversion, which takes long
        with contextlib.suppress(ValueError):  # it makes the glass, and may run already with another number
            _limit_tensorflow(threads)
        models, delay, about = _converted(name, found)
        stream = _stream_of_files(name, models, threads or cores(), about["scale"], delay)
    else:
        loaded = load_generator(found)
        about = {"scale": loaded.scale, "halo": loaded.halo, "facts": loaded.facts}
        stream = stream_of(as_keras(loaded))
    return Engine(path=found, **about, run=lambda lr: tf.constant(stream(lr.numpy())), name=name, why=why,
                  stream=stream)


def _stream_of_files(name: str, models: list[bytes], threads: int, scale: int, delay: int) -> Stream:
    bands = dict(zip(KINDS, RUNTIMES[name].open(models, threads), strict=True))
    return Stream(lambda top, bottom: bands[top, bottom], scale, delay)


def _usual(found: Path, threads: int | None) -> Engine:
    """Open LiteRT; TensorFlow where it has a GPU, or where LiteRT can't run the model."""
    if _gpus():
        why = "it has a GPU"
    elif "litert" not in installed():
        why = "LiteRT is not installed"
    else:
        try:
            return _open("litert", found, threads, "litert (opens fastest; rates not measured)")
        except Exception as error:  # converters and native code raise exceptions of every kind
            why = f"LiteRT can't run this model: {one_line(error)[:LONGEST_REASON]}"
    _limit_tensorflow(threads)
    return _open("tensorflow", found, threads, f"tensorflow ({why})")


def _open_int8(found: Path, threads: int | None) -> Engine:
    """Open the int8 file of an exported model."""
    said, run = read_facts(found), LiteRTRunner((found / "litert" / "int8.tflite").read_bytes(), threads or cores())
    return Engine(found, said["scale"], said["halo"], from_json(said, found), lambda lr: tf.constant(run(lr.numpy())),
                  LITERT_INT8, "litert in int8 (the processor has VNNI instructions)", None)


def _gpus() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def _measured(names: list[str], found: Path, threads: int | None) -> dict[str, float]:
    """Return the seconds that a tile takes by each engine that can run the model; the cache keeps them."""
    kept = cache_folder() / f"{_key(found, *names, _cpu(), threads or cores())}.json"
    with contextlib.suppress(OSError, ValueError):  # not measured yet, or damaged
        content = read_json(kept, dict[str, Positive], "remove it")
        if content and content.keys() <= set(names):
            return content
    seconds = {}
    for name in names:  # one after the other: all at once would take more memory than a slide does
        with contextlib.suppress(Exception):  # converters and native code raise exceptions of every kind
            seconds[name] = call_apart(_seconds, name, found, threads)
    with contextlib.suppress(OSError):
        write_text(kept, json.dumps(seconds))
    return seconds


def _seconds(name: str, found: Path, threads: int | None) -> float:
    """Return the seconds that a tile takes; called in a process of its own."""
    _limit_tensorflow(threads)
    engine = _open(name, found, threads, "")
    lr = np.random.default_rng(0).integers(0, 256, (1, TILE, TILE, 3), dtype=np.uint8)
    return measure(lambda: engine(lr), BUDGET_S)


def _converted(name: str, found: Path) -> tuple[list[bytes], int, dict[str, Any]]:
    """Return bands in an engine's format, their delay, and scale, halo and facts; from the cache if possible."""
    kept = cache_folder() / _key(found, name)
    entry = b""
    with contextlib.suppress(OSError):
        entry = kept.read_bytes()
    if entry[:DIGEST] != hashlib.sha256(entry[DIGEST:]).digest():
        entry = call_apart(_convert, name, found)
        with contextlib.suppress(OSError), atomic_path(kept) as temporary:
            temporary.write_bytes(entry)
    line, _, rest = entry[DIGEST:].partition(b"\n")
    about = parse_json(line, _About, kept, "remove it")
    ends = list(itertools.accumulate(about["bytes"]))
    models = [rest[end - size:end] for end, size in zip(ends, about["bytes"], strict=True)]
    return models, about["delay"], {"scale": about["scale"], "halo": about["halo"],
                                    "facts": from_json(about["facts"], found)}


class _About(TypedDict):
    """The line of a cache entry."""

    scale: Side
    halo: Count
    delay: Count
    facts: dict[str, Any]
    bytes: list[Count]


def _convert(name: str, found: Path) -> bytes:
    """Return a cache entry: SHA-256 of the rest, a line of JSON, the bands of KINDS.

    Raises:
        ParityError: The converted bands differ from the generator.
    """
    loaded = load_generator(found)
    model = as_keras(loaded)
    specs, delay, _ = kept_by(model)
    models = [RUNTIMES[name].convert(frozen(banded(model, *kind, specs))) for kind in KINDS]
    stream = _stream_of_files(name, models, 1, loaded.scale, delay)
    check_parity(loaded, lambda lr: replace(stream, band_pixels=1)(lr))
    check_parity(loaded, stream)
    about = {"scale": loaded.scale, "halo": loaded.halo, "delay": delay, "facts": asdict(loaded.facts),
             "bytes": [*map(len, models)]}
    content = json.dumps(about).encode() + b"\n" + b"".join(models)
    return hashlib.sha256(content).digest() + content


def _key(found: Path, *parts: object) -> str:
    """Return a hash of the model's files, of the versions of the packages that convert and run it, and of `parts`."""
    digest = hashlib.sha256(json.dumps([REVISION, *parts, _versions()]).encode())
    files = found.rglob("*") if found.is_dir() else (found, found.parent / FACTS_FILE, found.parent / FLAGS_FILE)
    for path in sorted(path for path in files if path.is_file()):
        content = path.read_bytes()
        digest.update(f"\n{path.relative_to(found.parent)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:32]


def _versions() -> dict[str, str]:
    found = {}
    runtimes = [package for runtime in RUNTIMES.values() for package in runtime.packages]
    for package in ("sr_keras", "tensorflow", "keras", *runtimes):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _cpu() -> str:
    with contextlib.suppress(OSError):
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if named:
            return named[1]
    return platform.processor() or platform.machine()


def _limit_tensorflow(threads: int | None) -> None:
    """Set TensorFlow's number of threads, which is possible only before its first computation."""
    threading = tf.config.threading
    if threads in (None, threading.get_intra_op_parallelism_threads()):
        return
    try:
        threading.set_intra_op_parallelism_threads(threads)
        threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise ValueError("`threads` must be given before TensorFlow first computes in a process; open this engine "
                         f"first, or leave threads out. Received: threads={threads}") from error
