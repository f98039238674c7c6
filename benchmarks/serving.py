# SPDX-License-Identifier: Apache-2.0
"""Load a server of models, and print how many requests it answers, and how fast, over the number of clients.

    python -m benchmarks.serving --server=grpc://localhost:8500 --model_name=srgan_sqe_x4_light
    python -m benchmarks.serving                          # starts a server on this machine, by itself

Each client sends a tile, waits for the answer and sends the next, for --seconds at each number of clients. The table
has requests a second, the median and the 99th percentile of the time that a client waits, and what failed.

Without --server it starts `tensorflow_model_server` where that is on the PATH. Elsewhere it starts a stub: a gRPC
server in Python that speaks TensorFlow Serving's API and runs the SavedModel by TensorFlow. The stub shows the cost of
the network and of the messages, not that of the official server. Load only servers of your own.
"""
from __future__ import annotations

import multiprocessing
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from pipelines import console
from pipelines.errors import UserError, require
from sr_keras.client import ServerError, SuperResolutionClient
from sr_keras.config import SHIPPED_MODEL
from sr_keras.model.facts import versions_of

BINARY = "tensorflow_model_server"
START_S = 120

FLAGS = flags.FlagValues()
flags.DEFINE_string("server", None, "A server that runs, such as grpc://localhost:8500. Default: starts one.",
                    flag_values=FLAGS)
flags.DEFINE_string("model_name", "srgan_sqe_x4_light", "Name of the model on the server.", flag_values=FLAGS)
flags.DEFINE_string("models", str(Path(SHIPPED_MODEL).parent), "Folder of models for a server that is started.",
                    flag_values=FLAGS)
flags.DEFINE_integer("tile", 64, "Side of a request in LR pixels.", lower_bound=8, upper_bound=1024, flag_values=FLAGS)
flags.DEFINE_list("clients", ["1", "2", "4", "8"], "Numbers of clients at once.", flag_values=FLAGS)
flags.DEFINE_float("seconds", 5.0, "Seconds for each number of clients.", lower_bound=0.1, upper_bound=60.0,
                   flag_values=FLAGS)


@dataclass(frozen=True)
class Load:
    """What came of one number of clients: seconds that each request took, and the reasons of those that failed."""

    clients: int
    seconds: float
    latencies: tuple[float, ...]
    failures: tuple[str, ...]

    def row(self, pixels: int) -> str:
        """Return a row of the table; `pixels` is the number of SR pixels of a request."""
        rate = len(self.latencies) / self.seconds
        p50, p99 = (1e3 * np.percentile(self.latencies, (50, 99))) if self.latencies else (np.nan, np.nan)
        return f"| {self.clients} | {len(self.latencies)} | {len(self.failures)} | {rate:.1f} | {p50:.0f} | " \
               f"{p99:.0f} | {rate * pixels / 1e6:.2f} |"


def main() -> int:
    """Print the table; 1 if a request failed."""
    try:
        numbers = [int(text) for text in FLAGS.clients]
    except ValueError:
        numbers = []
    require(bool(numbers) and all(1 <= number <= 256 for number in numbers), "clients", "be numbers from 1 to 256",
            "write 1,2,4", FLAGS.clients)
    console.import_tensorflow()  # the API's messages import it
    with _server() as (address, what):
        print(f"{FLAGS.model_name} at {address} ({what}), requests of {FLAGS.tile}x{FLAGS.tile} LR pixels\n")
        print("| clients | answered | failed | requests/s | p50 (ms) | p99 (ms) | SR Mpixel/s |\n"
              "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        failures: list[str] = []
        for number in numbers:
            load, scale = measure(address, FLAGS.model_name, number, FLAGS.tile, FLAGS.seconds)
            print(load.row((scale * FLAGS.tile)**2), flush=True)
            failures += load.failures
    if failures:
        print(f"first failure: {failures[0]}", file=sys.stderr)
    return 1 if failures else 0


def measure(server: str, model_name: str, clients: int, tile: int, seconds: float) -> tuple[Load, int]:
    """Return what came of so many clients, each with a connection of its own, and the scale of the model.

    Raises:
        ServerError: The first request of a client, which is not counted, failed.
    """
    image = np.random.default_rng(0).integers(0, 256, (tile, tile, 3), np.uint8)
    ready = threading.Barrier(clients + 1)

    def ask(connection: SuperResolutionClient) -> tuple[list[float], list[str]]:
        latencies: list[float] = []
        failures: list[str] = []
        ready.wait(START_S)
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            try:
                connection.super_resolve(image)
                latencies.append(time.monotonic() - began)
            except ServerError as error:
                failures.append(str(error))
        return latencies, failures

    options: dict[str, Any] = {"tile": tile, "retries": 0, "timeout_s": 60.0}
    connections = [SuperResolutionClient(server, model_name, **options) for _ in range(clients)]
    try:
        for connection in connections:
            connection.super_resolve(image)
        with ThreadPoolExecutor(clients) as pool:
            asked = [pool.submit(ask, connection) for connection in connections]
            ready.wait(START_S)
            began = time.monotonic()
            outcomes = [one.result() for one in asked]
            took = time.monotonic() - began
        scale = connections[0].scale
    finally:
        for connection in connections:
            connection.close()
    return Load(clients, took, tuple(one for latencies, _ in outcomes for one in latencies),
                tuple(one for _, failures in outcomes for one in failures)), scale


@contextmanager
def _server() -> Iterator[tuple[str, str]]:
    """Yield address and kind of the server; one that was started ends with the block."""
    if FLAGS.server:
        yield FLAGS.server, "it runs already"
        return
    models = Path(FLAGS.models).resolve()
    require((models / FLAGS.model_name).is_dir(), "models", f"hold the model {FLAGS.model_name}",
            "name another folder, or a --server", FLAGS.models)
    with (official_server if shutil.which(BINARY) else stub_server)(models, FLAGS.model_name) as address:
        yield address, BINARY if shutil.which(BINARY) else "stub on this machine"


@contextmanager
def official_server(models: Path, name: str) -> Iterator[str]:
    """Start TensorFlow Serving with one model, and yield its address."""
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        port = found.getsockname()[1]
    command = [BINARY, f"--port={port}", "--rest_api_port=0", f"--model_name={name}",
               f"--model_base_path={models / name}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            address = f"grpc://127.0.0.1:{port}"
            with SuperResolutionClient(address, name, timeout_s=5.0, retries=START_S // 5) as client:
                client.health()
            yield address
        finally:
            process.terminate()


@contextmanager
def stub_server(models: Path, name: str) -> Iterator[str]:
    """Start the stub in a process of its own, which ends with this one, and yield its address."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(models / name, name, there), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(START_S):
            raise UserError(f"the stub server did not start within {START_S} s")
        try:
            port = here.recv()
        except EOFError as error:
            raise UserError("the stub server ended before it was ready; its message is above") from error
        yield f"grpc://127.0.0.1:{port}"
    finally:
        here.close()  # which ends it
        process.join(10)
        process.kill()


def _serve(model: Path, name: str, pipe: Connection) -> None:
    """Serve the newest version of a model on a free port, until the other end of the pipe is closed."""
    console.import_tensorflow()
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import (
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    folder = versions_of(model)[-1]
    loaded = tf.saved_model.load(str(folder))

    class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request: Any, context: Any) -> Any:
            signature = loaded.signatures[request.model_spec.signature_name or "serving_default"]
            try:
                outputs = signature(**{key: tf.constant(tf.make_ndarray(value))
                                       for key, value in request.inputs.items()})
            except tf.errors.OpError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            response = predict_pb2.PredictResponse()
            for key, value in outputs.items():
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return response

    class Models(model_service_pb2_grpc.ModelServiceServicer):
        def GetModelStatus(self, request: Any, context: Any) -> Any:
            if request.model_spec.name != name:
                context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
            response = get_model_status_pb2.GetModelStatusResponse()
            response.model_version_status.add(
                version=int(folder.name), state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)
            return response

    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    pipe.poll(None)
    server.stop(None)


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
