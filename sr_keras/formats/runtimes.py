"""A form of a generator in a process of its own, run by its own runtime: what it takes to open, to call and to keep.

    with closing(FormProcess("litert", Path("1/litert/float16.tflite"), side=64)) as form:
        form.opened                            # Opened(import_s, load_s, device)
        form.call(batch=4)                     # Took(seconds, peak_bytes): uint8 [4, 64, 64, 3] in, uint8 out

A process opens one form and imports what that needs and no more: LiteRT and ONNX Runtime run without TensorFlow, as on
the machines that they are chosen for. So they are opened here and not by `export.litert` and `export.onnx`, which write
forms, too. Pixels are random, since no form takes longer for some than for others. Every runtime computes on all cores
of this process; Keras, SavedModel and TensorRT on a GPU where there is one.
"""
from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.console import import_optional, one_line
from pipelines.errors import UserError
from pipelines.workers import cores

Kind = tuple[str, str]  # format, which names its runtime, and precision
Pixels = Callable[[np.ndarray], np.ndarray]

ERRORS_ONLY = 3
LONGEST_REASON = 300
PATIENCE_SECONDS = 10.0  # for a process to finish the call that it is at


class Opened(NamedTuple):
    """Seconds that the import of the runtime took, those from the file to the first answer, and what computes it."""

    import_s: float
    load_s: float
    device: str


class Took(NamedTuple):
    """Seconds that a call took, and the most memory in bytes that its process had by then."""

    seconds: float
    peak_bytes: int


class FormProcess:
    """A form, open in a process of its own. One call at a time."""

    def __init__(self, runtime: str, path: Path, side: int) -> None:
        """Open it, and have it answer once.

        Args:
            runtime: one of RUNTIMES.
            path: what that opens: a file, or the folder of a SavedModel.
            side: of its pictures, in LR pixels.

        Raises:
            UserError: The runtime is not installed, does not take the file, or dies of it.
        """
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, runtime, path, side), daemon=True)
        self._process.start()
        there.close()
        try:
            self.opened: Opened = self._receive()
        except BaseException:
            self.close()
            raise

    def call(self, batch: int) -> Took:
        """Have it super-resolve so many pictures at once.

        Raises:
            UserError: It can't, or dies of it.
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


def _keras() -> Callable[[Path], Pixels]:
    from sr_keras.model.loading import load_generator

    return load_generator


def _saved_model() -> Callable[[Path], Pixels]:
    import tensorflow as tf

    def open_folder(path: Path) -> Pixels:
        loaded = tf.saved_model.load(str(path))
        name = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
        return lambda lr: loaded.signatures[name](lr=tf.constant(lr))["sr"].numpy()  # `loaded` owns the weights

    return open_folder


def _litert() -> Callable[[Path], Pixels]:
    litert = import_optional("ai_edge_litert.interpreter", "litert")

    def open_file(path: Path) -> Pixels:
        interpreter = litert.Interpreter(model_path=str(path), num_threads=cores())
        [lr_index], [sr_index] = ([detail["index"] for detail in details] for details in (
            interpreter.get_input_details(), interpreter.get_output_details()))
        allocated: tuple[int, ...] = ()

        def run(lr: np.ndarray) -> np.ndarray:
            nonlocal allocated
            if lr.shape != allocated:
                interpreter.resize_tensor_input(lr_index, lr.shape)
                interpreter.allocate_tensors()
                allocated = lr.shape
            interpreter.set_tensor(lr_index, lr)
            interpreter.invoke()
            return interpreter.get_tensor(sr_index)

        return run

    return open_file


def _onnx() -> Callable[[Path], Pixels]:
    onnxruntime = import_optional("onnxruntime", "onnx")

    def open_file(path: Path) -> Pixels:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = cores(), 1
        options.log_severity_level = ERRORS_ONLY
        # Its threads would wait for the next call at full speed, in the time of another form's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda lr: session.run(["sr"], {"lr": lr})[0]

    return open_file


def _tensorrt() -> Callable[[Path], Pixels]:
    from sr_keras.formats.tensorrt import TensorRTRunner

    return lambda path: TensorRTRunner(path.read_bytes())


# Each imports its runtime and returns what opens a file.
RUNTIMES: dict[str, Callable[[], Callable[[Path], Pixels]]] = {
    "keras": _keras, "saved_model": _saved_model, "litert": _litert, "onnx": _onnx, "tensorrt": _tensorrt}
BY_TENSORFLOW = ("keras", "saved_model")


def _serve(connection: Connection, runtime: str, path: Path, side: int) -> None:
    """Open a form, say what that took, and answer calls until the pipe breaks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides, by the pipe
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # chatter of runtimes; what goes wrong is said by the pipe

    @cache
    def pictures(batch: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent wants no more
        try:
            first = pictures(1)
            began = time.perf_counter()
            open_path = RUNTIMES[runtime]()
            imported = time.perf_counter()
            run = open_path(path)
            run(first)
            connection.send(Opened(imported - began, time.perf_counter() - imported, _device(runtime)))
            while True:
                lr = pictures(connection.recv())
                began = time.perf_counter()
                run(lr)
                connection.send(Took(time.perf_counter() - began, _peak_bytes()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # each runtime has its own
            connection.send(one_line(error)[:LONGEST_REASON])


def _device(runtime: str) -> str:
    if runtime in BY_TENSORFLOW:
        import tensorflow as tf

        return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return "GPU" if runtime == "tensorrt" else "CPU"


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would give the parent's where that had more
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
