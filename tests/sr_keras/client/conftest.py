# SPDX-License-Identifier: Apache-2.0
"""Servers to ask, on 127.0.0.1: one by the official stubs, one that speaks TensorFlow Serving's REST, around one model.

The model repeats pixels, so what is right is known exactly, and does on demand what a bad server does. Where
`tensorflow_model_server` is on the PATH the tests of `test_model_server.py` run against it too.
"""
from __future__ import annotations

import base64
import io
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from sr_keras.client import SuperResolutionClient

BINARY = "tensorflow_model_server"
HTTP = {"INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401, "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429, "INTERNAL": 500,
        "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504}
STATUS_PATH = r"/v1/models/([^/:]+)(?:/versions/(\d+))?"
WAYS = ("grpc", "rest")


def pytest_terminal_summary(terminalreporter) -> None:
    if shutil.which(BINARY) is None:
        terminalreporter.write_line(f"the client was tested against loopback servers only: {BINARY} is not on the PATH")


class Refused(Exception):
    """What a server refuses with: gRPC's code and a message."""


def repeated(lr: np.ndarray, scale: int = 4) -> np.ndarray:
    """Return [..., H, W, 3] with each pixel `scale` times a side."""
    return lr.repeat(scale, -3).repeat(scale, -2)


class FakeModel:
    """A model called demo; each attribute is a way to be bad."""

    def __init__(self) -> None:
        self.scale = 4
        self.halo: int = 2
        self.max_pixels = 2**20
        self.says = True  # whether it has the signature `about`
        self.states = {1: "END", 2: "AVAILABLE", 3: "AVAILABLE", 4: "LOADING"}
        self.refusals: list[tuple[str, str]] = []  # one is taken by each request
        self.delay: Callable[[int], float] = lambda number: 0.0
        self.change: Callable[[np.ndarray], np.ndarray] = lambda sr: sr
        self.encode: Callable[[np.ndarray], bytes] = png
        self.output: str | None = None
        self.as_numbers = False  # gRPC: in int_val and not in tensor_content
        self.asked: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.over = threading.Event()
        self._lock = threading.Lock()

    def predict(self, inputs: dict[str, Any], signature: str, version: int | None, auth: str | None) -> dict[str, Any]:
        with self._lock:
            number = len(self.asked)
            refusal = self.refusals.pop(0) if self.refusals else None
            self.asked.append({"signature": signature, "version": version, "auth": auth})
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.over.wait(self.delay(number))
            if refusal:
                raise Refused(*refusal)
            return self._computed(inputs, signature)
        finally:
            with self._lock:
                self.at_once -= 1

    def _computed(self, inputs: dict[str, Any], signature: str) -> dict[str, Any]:
        if signature == "serving_default":
            lr = inputs["lr"]
            assert lr.dtype == np.uint8
            return {self.output or "sr": self.change(repeated(lr, self.scale))}
        if signature == "encoded":
            lr = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in inputs["image_bytes"]])
            return {self.output or "sr_bytes": [self.encode(sr) for sr in self.change(repeated(lr, self.scale))]}
        if signature == "about" and self.says:
            (side,) = inputs["side"]
            return {name: np.array([value], np.int32) for name, value in {
                "sr_side": self.scale * side, "halo": self.halo, "max_pixels": self.max_pixels}.items()}
        raise Refused("INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def')

    def check(self, name: str, version: int | None) -> None:
        if name != "demo" or self.states.get(version or 3) != "AVAILABLE":
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise Refused("NOT_FOUND", f"Servable not found for request: {wanted}")

    def status(self, name: str, version: int | None) -> dict[int, str]:
        if name != "demo" or version not in (None, *self.states):
            raise Refused("NOT_FOUND", f"Could not find any versions of model {name}")
        return {found: state for found, state in self.states.items() if version in (None, found)}


def png(sr: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(sr).save(file, "PNG", compress_level=1)
    return file.getvalue()


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model: FakeModel) -> None:
        self.model = model

    def Predict(self, request, context):
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        auth = dict(context.invocation_metadata()).get("authorization")
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        try:
            self.model.check(spec.name, version)
            outputs = self.model.predict(inputs, spec.signature_name or "serving_default", version, auth)
        except Refused as error:
            context.abort(grpc.StatusCode[error.args[0]], error.args[1])
        response = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            if self.model.as_numbers:
                response.outputs[name].tensor_content = b""
                del response.outputs[name].int_val[:]
                response.outputs[name].int_val.extend(value.ravel().tolist())
        return response


class Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, model: FakeModel) -> None:
        self.model = model

    def GetModelStatus(self, request, context):
        spec = request.model_spec
        response = get_model_status_pb2.GetModelStatusResponse()
        try:
            states = self.model.status(spec.name, spec.version.value if spec.HasField("version") else None)
        except Refused as error:
            context.abort(grpc.StatusCode[error.args[0]], error.args[1])
        for version, state in states.items():
            response.model_version_status.add(
                version=version, state=get_model_status_pb2.ModelVersionStatus.State.Value(state))
        return response


class Rest(BaseHTTPRequestHandler):
    """TensorFlow Serving's REST, its rows, {"b64": ...} and errors, as http_rest_api_handler.cc and json_tensor.cc."""

    model: FakeModel
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(self._status)

    def do_POST(self) -> None:
        self._answer(self._predict)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, make: Callable[[bytes], Any]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, text = 200, json.dumps(make(body))
        except Refused as error:
            escaped = error.args[1].replace('"', r"\"").replace("'", r"\'").replace("\n", r"\n")  # absl::CEscape
            status, text = HTTP[error.args[0]], f'{{ "error": "{escaped}" }}'
        with suppress(OSError):  # the client hung up
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

    def _status(self, body: bytes) -> Any:
        name, version = self._named(STATUS_PATH)
        return {"model_version_status": [
            {"version": str(found), "state": state, "status": {"error_code": "OK", "error_message": ""}}
            for found, state in self.model.status(name, version).items()]}

    def _predict(self, body: bytes) -> Any:
        name, version = self._named(f"{STATUS_PATH}:predict")
        self.model.check(name, version)
        request = json.loads(body)
        inputs: dict[str, Any] = {}
        for instance in request["instances"]:
            for key, value in instance.items():
                is_bytes = isinstance(value, dict)
                inputs.setdefault(key, []).append(base64.b64decode(value["b64"]) if is_bytes else value)
        for key, dtype in (("lr", np.uint8), ("side", np.int32)):
            if key in inputs:
                inputs[key] = np.array(inputs[key], dtype)
        outputs = self.model.predict(inputs, request["signature_name"], version, self.headers.get("Authorization"))
        columns = {name: value.tolist() if isinstance(value, np.ndarray) else
                   [{"b64": base64.b64encode(data).decode()} for data in value] for name, value in outputs.items()}
        if len(columns) == 1:  # a row is an object only where there are several outputs
            return {"predictions": next(iter(columns.values()))}
        return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}

    def _named(self, pattern: str) -> tuple[str, int | None]:
        found = re.fullmatch(pattern, self.path)
        if not found:
            raise Refused("INVALID_ARGUMENT", f"Malformed request: {self.command} {self.path}")
        return found[1], int(found[2]) if found[2] else None


@pytest.fixture
def model() -> Iterator[FakeModel]:
    found = FakeModel()
    yield found
    found.over.set()  # no server thread sleeps on


@pytest.fixture
def grpc_port(model) -> Iterator[Callable[..., int]]:
    """Start a gRPC server around the model; returns its port."""
    servers = []

    def start(credentials: grpc.ServerCredentials | None = None) -> int:
        server = grpc.server(ThreadPoolExecutor(16))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(model), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(model), server)
        port = server.add_secure_port("127.0.0.1:0", credentials) if credentials else \
            server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return port

    yield start
    model.over.set()
    for server in servers:
        server.stop(None).wait(5)


@pytest.fixture
def rest_port(model) -> Iterator[Callable[..., int]]:
    """Start a REST server around the model; returns its port."""
    servers = []

    def start(context: Any = None) -> int:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Rest,), {"model": model}))
        server.daemon_threads = True
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        servers.append(server)
        return server.server_address[1]

    yield start
    model.over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def serve(grpc_port, rest_port) -> Callable[[str], str]:
    """Start a server; returns its address."""
    return lambda way: f"grpc://127.0.0.1:{grpc_port()}" if way == "grpc" else f"http://127.0.0.1:{rest_port()}"


@pytest.fixture
def connect() -> Iterator[Callable[..., SuperResolutionClient]]:
    """Make a client of small tiles that does not wait between attempts; `slept` says how long it would have."""
    clients = []

    def make(server: str, name: str = "demo", **options: Any) -> SuperResolutionClient:
        slept: list[float] = []
        client = SuperResolutionClient(server, name, sleep=slept.append, **{
            "tile": 12, "halo": 2, "timeout_s": 20, "retries": 2, **options})
        client.slept = slept  # type: ignore[attr-defined]
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def dead_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Start a server that does with each connection what it is told; returns its port."""
    listeners = []

    def serve_each(listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        for _ in range(100):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handled, args=[connection, handle], daemon=True).start()

    def handled(connection: socket.socket, handle: Callable[[socket.socket], None]) -> None:
        with connection, suppress(OSError):  # the other side went first
            handle(connection)

    def start(handle: Callable[[socket.socket], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=serve_each, args=[listener, handle], daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def cut_off(listen) -> Callable[[str, int], str]:
    """Stand between a client and a server, and hang up after so many bytes of the answer; returns the address."""

    def start(server: str, after: int) -> str:
        scheme, port = server.split("://127.0.0.1:")

        def relay(client: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", int(port))) as upstream:
                threading.Thread(target=pump, args=[client, upstream, 2**30], daemon=True).start()
                pump(upstream, client, after)
                client.shutdown(socket.SHUT_RDWR)

        return f"{scheme}://127.0.0.1:{listen(relay)}"

    def pump(source: socket.socket, target: socket.socket, left: int) -> None:
        with suppress(OSError):  # one of them hung up
            while left and (data := source.recv(min(left, 65536))):
                target.sendall(data)
                left -= len(data)

    return start
