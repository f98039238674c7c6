"""Open a generator on an engine: the same weights, run by TensorFlow, LiteRT or ONNX Runtime.

    generator = open_engine("auto", "saved_models/demo", threads=2)
    print(generator.why)                           # litert: 0.104 s a tile of 128x128, tensorflow 0.121, onnx 0.117
    sr = generator(lr)                             # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]

Results of the three agree within 1/255. Whatever `models.load_generator` loads can be opened on each. All run on the
CPU but TensorFlow, which takes a GPU where it finds one. Each runs the two parts of `strips`, so that a large window
takes little memory; `engine.parts` computes the core of one. Conversions and measurements are made in processes of
their own, which take what they needed with them, and are kept in the user's cache folder ($XDG_CACHE_HOME or ~/.cache),
under a hash of all they depend on. To empty it costs nothing but time, and so does one that can't be read or written.
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
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipelines.console import import_optional
from pipelines.errors import require
from pipelines.files import atomic_path, write_text
from pipelines.workers import cores
from sr_keras.formats.litert import open_litert
from sr_keras.formats.onnx import DEFAULT_OPSET, open_onnx
from sr_keras.formats.parity import Pixels, check_parity
from sr_keras.model.facts import FLAGS_FILE, from_json
from sr_keras.model.loading import LoadedGenerator, find_generator, load_generator
from sr_keras.model.split_network import Function, Parts, cut

ENGINES = ("tensorflow", "litert", "onnx")
AUTO = "auto"
REVISION = 2  # Of what is kept; one more makes every kept conversion and measurement old.
TILE = 128
BUDGET_S = 1.0
DIGEST = hashlib.sha256().digest_size


class Format(NamedTuple):
    """How an engine that does not read Keras models gets its own: packages (first the runtime), extra, both ways."""

    packages: tuple[str, ...]
    extra: str
    convert: Callable[[Function], bytes]
    open: Callable[[bytes, int], Pixels]


def to_litert(function: Function) -> bytes:
    """Return a part as a float32 .tflite of built-in operations."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def to_onnx(function: Function) -> bytes:
    """Return a part as an .onnx, with the names that `export.onnx` opens."""
    import tf2onnx

    [spec] = function.input_signature
    named = tf.function(lambda lr: {"sr": function(lr)}, autograph=False,
                        input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name="lr")])
    model, _ = tf2onnx.convert.from_function(named, input_signature=named.input_signature, opset=DEFAULT_OPSET)
    return model.SerializeToString()


FORMATS = {
    "litert": Format(("ai_edge_litert",), "litert", to_litert, open_litert),
    "onnx": Format(("onnxruntime", "tf2onnx", "onnx"), "onnx", to_onnx, open_onnx),
}


@dataclass(frozen=True)
class Engine(LoadedGenerator):
    """A generator that says what runs it: `name`, one of ENGINES, and `why` that one, in a line.

    `parts` are what it runs; they take arrays and can leave out what of a window nobody keeps.
    """

    name: str
    why: str
    parts: Parts


def open_engine(name: str, model_path: str | Path, threads: int | None = None) -> Engine:
    """Open a generator on an engine.

    Args:
        name: one of ENGINES, or "auto": the fastest that is installed, measured once on this machine.
        model_path: what `models.load_generator` takes.
        threads: that compute; all cores of this process if left out. TensorFlow takes them for the whole process.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: No such engine or number of threads; not a generator; TensorFlow computes already, with another
            number of threads.
        UserError: The engine is not installed, or its model does not compute what the generator computes.
    """
    require(name in (*ENGINES, AUTO), "engine", f"be one of {', '.join((*ENGINES, AUTO))}", "choose one of these", name)
    require(threads is None or threads > 0, "threads", "be 1 or more", "leave it out for all cores", threads)
    found = find_generator(model_path)
    if name in ("tensorflow", AUTO) and threads is not None:
        _limit_tensorflow(threads)
    return _fastest(found, threads) if name == AUTO else _open(name, found, threads, "asked for")


def installed() -> list[str]:
    """Return the engines whose packages are installed."""
    return [name for name in ENGINES if name not in FORMATS
            or all(importlib.util.find_spec(package) for package in FORMATS[name].packages)]


def cache_folder() -> Path:
    """Return where conversions and measurements are kept; nothing is made."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "sr_keras" / "engines"


def measure(runs: Mapping[str, Callable[[], object]], budget_s: float,
            clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Run all in turn, round after round, for `budget_s` and once at least, after one round to warm up.

    Returns:
        The median seconds of each; whatever else the machine does fell on all alike.
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
    if name not in FORMATS:
        loaded = load_generator(found)
        about: dict[str, Any] = {"scale": loaded.scale, "halo": loaded.halo, "facts": loaded.facts}
        trunk, tail = cut(loaded.run)
        parts = Parts(_of_arrays(trunk), _of_arrays(tail), loaded.scale)
    else:
        form = FORMATS[name]
        import_optional(form.packages[0], form.extra)  # before the minutes that a conversion may take
        models, about = _converted(name, found)
        parts = _opened(form, models, threads, about["scale"])
    return Engine(path=found, **about, run=lambda lr: tf.constant(parts(lr.numpy())), name=name, why=why, parts=parts)


def _of_arrays(function: Function) -> Pixels:
    return lambda images: function(tf.constant(images)).numpy()


def _opened(form: Format, models: list[bytes], threads: int | None, scale: int) -> Parts:
    trunk, tail = (form.open(model, threads or cores()) for model in models)
    return Parts(trunk, tail, scale)


def _fastest(found: Path, threads: int | None) -> Engine:
    """Open the engine that was the fastest, when measured now or before."""
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
    """Return what a tile takes; in a process of its own."""
    if threads is not None:
        _limit_tensorflow(threads)
    engine = _open(name, found, threads, "")
    lr = np.random.default_rng(0).integers(0, 256, (1, TILE, TILE, 3), dtype=np.uint8)
    return measure({name: lambda: engine.parts(lr)}, BUDGET_S)[name]


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of this module in a process of its own: neither converters nor TensorFlow give memory back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _why(seconds: Mapping[str, float]) -> str:
    first, *others = sorted(seconds, key=seconds.__getitem__)
    slower = ", ".join(f"{name} {seconds[name]:.3f}" for name in others)
    return f"{first}: {seconds[first]:.3f} s a tile of {TILE}x{TILE}, {slower}"


def _read_seconds(path: Path, names: list[str]) -> dict[str, float] | None:
    """Return what was measured of `names`; None where nothing was, or the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(found[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _converted(name: str, found: Path) -> tuple[list[bytes], dict[str, Any]]:
    """Return a model's parts in an engine's format, and what a LoadedGenerator says of it; from the cache if there."""
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
    """Return an entry of the cache, one file: SHA-256 of the rest, facts as a line of JSON, trunk, tail.

    Raises:
        ParityError: They do not compute what the generator computes.
    """
    loaded, form = load_generator(found), FORMATS[name]
    trunk, tail = models = [form.convert(part) for part in cut(loaded.run)]
    check_parity(loaded.run, _opened(form, models, 1, loaded.scale))
    about = {"scale": loaded.scale, "halo": loaded.halo, "facts": loaded.facts.as_json(), "trunk_bytes": len(trunk)}
    content = json.dumps(about).encode() + b"\n" + trunk + tail
    return hashlib.sha256(content).digest() + content


def _key(found: Path, *parts: object) -> str:
    """Return a hash of the model, of what belongs to it, of the versions that convert and run it, and of `parts`."""
    digest = hashlib.sha256(json.dumps([REVISION, *parts, _versions()]).encode())
    for path in _files(found):
        content = path.read_bytes()
        digest.update(f"\n{path.relative_to(found.parent)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:32]


def _files(found: Path) -> list[Path]:
    if found.is_dir():
        return sorted(path for path in found.rglob("*") if path.is_file())
    flags = found.parent / FLAGS_FILE  # of the run, which the facts hold
    return [found, flags] if flags.is_file() else [found]


def _versions() -> dict[str, str]:
    packages = ["sr_keras", "tensorflow", "keras", *(name for form in FORMATS.values() for name in form.packages)]
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
    """Tell TensorFlow how many threads to compute with, which it takes only before its first computation."""
    threading = tf.config.threading
    for told, tell in ((threading.get_intra_op_parallelism_threads, threading.set_intra_op_parallelism_threads),
                       (threading.get_inter_op_parallelism_threads, threading.set_inter_op_parallelism_threads)):
        if told() == threads:
            continue
        try:
            tell(threads)
        except RuntimeError as error:
            raise ValueError("`threads` must be given before TensorFlow first computes in a process; open this engine "
                             f"first, or leave threads out. Received: threads={threads}") from error
