# SPDX-License-Identifier: Apache-2.0
"""Open a generator on an engine: the same weights, run by TensorFlow, LiteRT or ONNX Runtime.

    generator = open_engine("auto", "saved_models/demo", threads=2)
    print(generator.why)                           # litert: 0.104 s a tile of 128x128, tensorflow 0.121, onnx 0.117
    sr = generator(lr)                             # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]

The results of the engines agree within 1/255. Every engine opens whatever `load_generator` loads. All run on the CPU;
TensorFlow uses a GPU where there is one. Each runs the two parts of `split_network`, so that a large window takes
little memory; `engine.parts` computes the core of one.

Conversions and measurements run in processes of their own, whose memory is then free again. Their results are kept in
the user's cache folder ($XDG_CACHE_HOME or ~/.cache), under a hash of all that they depend on. Deleting the cache is
safe, and so is a cache that can't be read or written.
"""
from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.console import import_optional
from pipelines.errors import require
from pipelines.files import atomic_path, cache_home, write_text
from pipelines.workers import cores
from sr_keras.model.facts import FACTS_FILE, FLAGS_FILE, from_json
from sr_keras.model.loading import LoadedGenerator, find_generator, load_generator
from sr_keras.model.runtimes import AUTO, ENGINE_CHOICES, ENGINES, RUNTIMES, Function, Pixels, Runtime, check_parity
from sr_keras.model.split_network import Parts, cut

REVISION = 2  # of the cache; raise it to invalidate all entries
TILE = 128
BUDGET_S = 1.0
DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Engine(LoadedGenerator):
    """A generator on an engine: `name`, one of ENGINES, and `why` that one, in a line.

    `parts` takes arrays, and can skip the part of a window that is not kept.
    """

    name: str
    why: str
    parts: Parts


def open_engine(name: str, model_path: str | Path, threads: int | None = None) -> Engine:
    """Open a generator on an engine.

    Args:
        name: One of ENGINES, or "auto": the fastest that is installed, measured once on this machine.
        model_path: What `sr_keras.model.loading.load_generator` takes.
        threads: Threads that compute; all cores of this process if left out. TensorFlow's are those of the process.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: Unknown engine or wrong number of threads; not a generator; TensorFlow runs already with another
            number of threads.
        UserError: The engine is not installed, or the converted model differs from the generator.
    """
    require(name in ENGINE_CHOICES, "engine", f"be one of {', '.join(ENGINE_CHOICES)}", "check the spelling", name)
    require(threads is None or threads > 0, "threads", "be 1 or more", "leave it out for all cores", threads)
    found = find_generator(model_path)
    if name in ("tensorflow", AUTO) and threads is not None:
        _limit_tensorflow(threads)
    return _fastest(found, threads) if name == AUTO else _open(name, found, threads, "asked for")


def installed() -> list[str]:
    """Return the engines whose packages are installed."""
    return [name for name in ENGINES if name not in RUNTIMES
            or all(importlib.util.find_spec(package) for package in RUNTIMES[name].packages)]


def cache_folder() -> Path:
    """Return the cache folder, without creating it."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else cache_home()) / "sr_keras" / "engines"


def measure(runs: Mapping[str, Callable[[], object]], budget_s: float,
            clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Run all in turn, round after round, for `budget_s` and at least once, after one round to warm up.

    Returns:
        The median seconds of each. Other load on the machine affects all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = clock() + budget_s
    while not all(seconds.values()) or clock() < end:
        for name, run in runs.items():
            began = clock()
            run()
            seconds[name].append(clock() - began)
    return {name: median(times) for name, times in seconds.items()}


def _open(name: str, found: Path, threads: int | None, why: str) -> Engine:
    if name not in RUNTIMES:
        loaded = load_generator(found)
        about: dict[str, Any] = {"scale": loaded.scale, "halo": loaded.halo, "facts": loaded.facts}
        trunk, tail = cut(loaded.run)
        parts = Parts(_of_arrays(trunk), _of_arrays(tail), loaded.scale)
    else:
        runtime = RUNTIMES[name]
        import_optional(runtime.packages[0], runtime.extra)  # before a conversion, which may take minutes
        models, about = _converted(name, found)
        parts = _opened(runtime, models, threads, about["scale"])
    return Engine(path=found, **about, run=lambda lr: tf.constant(parts(lr.numpy())), name=name, why=why, parts=parts)


def _of_arrays(function: Function) -> Pixels:
    return lambda images: function(tf.constant(images)).numpy()


def _opened(runtime: Runtime, models: list[bytes], threads: int | None, scale: int) -> Parts:
    trunk, tail = (runtime.open(model, threads or cores()) for model in models)
    return Parts(trunk, tail, scale)


def _fastest(found: Path, threads: int | None) -> Engine:
    """Open the engine that is fastest by a measurement, which is kept in the cache."""
    names = installed()
    if len(names) == 1:
        return _open(names[0], found, threads, f"{names[0]}: no other engine is installed")
    kept = cache_folder() / f"{_key(found, *names, _cpu(), threads or cores())}.json"
    seconds = _read_seconds(kept, names)
    if seconds is None:
        # One after the other: all at once would take more memory than a slide does.
        seconds = {name: _apart(_seconds, name, found, threads) for name in names}
        with contextlib.suppress(OSError):
            write_text(kept, json.dumps(seconds))
    return _open(min(seconds, key=seconds.__getitem__), found, threads, _why(seconds))


def _seconds(name: str, found: Path, threads: int | None) -> float:
    """Return the seconds that a tile takes; called in a process of its own."""
    if threads is not None:
        _limit_tensorflow(threads)
    engine = _open(name, found, threads, "")
    lr = np.random.default_rng(0).integers(0, 256, (1, TILE, TILE, 3), dtype=np.uint8)
    return measure({name: lambda: engine.parts(lr)}, BUDGET_S)[name]


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of this module in a process of its own: converters and TensorFlow give no memory back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _why(seconds: Mapping[str, float]) -> str:
    first, *others = sorted(seconds, key=seconds.__getitem__)
    slower = ", ".join(f"{name} {seconds[name]:.3f}" for name in others)
    return f"{first}: {seconds[first]:.3f} s a tile of {TILE}x{TILE}, {slower}"


def _read_seconds(path: Path, names: list[str]) -> dict[str, float] | None:
    """Return the kept measurements of `names`; None if there are none, or the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(found[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _converted(name: str, found: Path) -> tuple[list[bytes], dict[str, Any]]:
    """Return a model's parts in an engine's format, and its scale, halo and facts; from the cache if possible."""
    kept = cache_folder() / _key(found, name)
    entry = b""
    with contextlib.suppress(OSError):
        entry = kept.read_bytes()
    if entry[:DIGEST] != hashlib.sha256(entry[DIGEST:]).digest():
        entry = _apart(_convert, name, found)
        with contextlib.suppress(OSError), atomic_path(kept) as temporary:
            temporary.write_bytes(entry)
    line, _, rest = entry[DIGEST:].partition(b"\n")
    about = json.loads(line)
    about["facts"] = from_json(about["facts"], found)
    trunk = about.pop("trunk_bytes")
    return [rest[:trunk], rest[trunk:]], about


def _convert(name: str, found: Path) -> bytes:
    """Return a cache entry: SHA-256 of the rest, a line of JSON, trunk, tail.

    Raises:
        ParityError: The converted parts differ from the generator.
    """
    loaded, runtime = load_generator(found), RUNTIMES[name]
    trunk, tail = models = [runtime.convert(part) for part in cut(loaded.run)]
    check_parity(loaded, _opened(runtime, models, 1, loaded.scale))
    about = {"scale": loaded.scale, "halo": loaded.halo, "facts": loaded.facts.as_json(), "trunk_bytes": len(trunk)}
    content = json.dumps(about).encode() + b"\n" + trunk + tail
    return hashlib.sha256(content).digest() + content


def _key(found: Path, *parts: object) -> str:
    """Return a hash of the model's files, of the versions of the packages that convert and run it, and of `parts`."""
    digest = hashlib.sha256(json.dumps([REVISION, *parts, _versions()]).encode())
    for path in _files(found):
        content = path.read_bytes()
        digest.update(f"\n{path.relative_to(found.parent)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:32]


def _files(found: Path) -> list[Path]:
    if found.is_dir():
        return sorted(path for path in found.rglob("*") if path.is_file())
    facts = [found.parent / FACTS_FILE, found.parent / FLAGS_FILE]
    return [found, *(path for path in facts if path.is_file())]


def _versions() -> dict[str, str]:
    packages = ["sr_keras", "tensorflow", "keras"]
    packages += [name for runtime in RUNTIMES.values() for name in runtime.packages]
    found = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _cpu() -> str:
    with contextlib.suppress(OSError):
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if named:
            return named[1]
    return platform.processor() or platform.machine()


def _limit_tensorflow(threads: int) -> None:
    """Set TensorFlow's number of threads, which is possible only before its first computation."""
    threading = tf.config.threading
    for current, change in ((threading.get_intra_op_parallelism_threads, threading.set_intra_op_parallelism_threads),
                            (threading.get_inter_op_parallelism_threads, threading.set_inter_op_parallelism_threads)):
        if current() == threads:
            continue
        try:
            change(threads)
        except RuntimeError as error:
            raise ValueError("`threads` must be given before TensorFlow first computes in a process; open this engine "
                             f"first, or leave threads out. Received: threads={threads}") from error
