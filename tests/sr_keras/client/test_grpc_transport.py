# SPDX-License-Identifier: Apache-2.0
"""Whatever a gRPC server does, the client ends in time, in one line, and without filling memory.

`test_connection_transports.py` has what both ways share: a slow server, a dropped connection, another shape or dtype.
"""
from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from sr_keras.client import ServerError

pytestmark = pytest.mark.server
DATA, HEADERS, RESET, SETTINGS, PING = 0, 1, 3, 4, 6  # kinds of HTTP/2 frames
END_STREAM, END_HEADERS = 1, 4
PREFACE = 24  # bytes that a client says first
TIMEOUT_S = 1.0
GROWTH = 10 * 2**20  # bytes


def refusal(client, *, health: bool = False) -> ServerError:
    """Return what a client says of an 8x8 picture, or of the model's states: one line, in time."""
    started = time.monotonic()
    with pytest.raises(ServerError) as caught:
        client.health() if health else client.super_resolve(np.zeros((8, 8, 3), np.uint8))
    assert time.monotonic() - started < TIMEOUT_S + 4
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return caught.value


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Start a gRPC server that answers every request of every service with the same bytes; returns its address."""
    servers = []

    class Anything(grpc.GenericRpcHandler):
        def __init__(self, answer: bytes) -> None:
            self.answer = answer

        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: self.answer)

    def start(answer: bytes) -> str:
        server = grpc.server(ThreadPoolExecutor(2), handlers=[Anything(answer)],
                             options=[("grpc.max_send_message_length", -1)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"grpc://127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait(5)


@pytest.fixture
def speaking(listen) -> Callable[[Callable[[socket.socket, int], None]], str]:
    """Start a server that speaks HTTP/2 and does as it is told with each whole request; returns its address."""

    def start(answer: Callable[[socket.socket, int], None]) -> str:
        def handle(connection: socket.socket) -> None:
            file = connection.makefile("rb")
            file.read(PREFACE)
            connection.sendall(frame(SETTINGS, 0, 0, b""))
            while len(head := file.read(9)) == 9:
                file.read(int.from_bytes(head[:3], "big"))
                if head[3] == DATA and head[4] & END_STREAM:
                    answer(connection, int.from_bytes(head[5:], "big"))

        return f"grpc://127.0.0.1:{listen(handle)}"

    return start


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(*pairs: tuple[bytes, bytes]) -> bytes:
    """Return headers as HPACK literals with new names."""
    return b"".join(b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in pairs)


def prediction(name: str = "sr", model: str = "", version: int | None = None, shape=(1, 32, 32, 3), *,
               content: bytes | None = None, dtype=tf.uint8, numbers=()) -> bytes:
    """Return the bytes of an answer; by default the right one for 8x8 pixels and a scale of 4."""
    response = predict_pb2.PredictResponse()
    tensor = response.outputs[name]
    tensor.dtype = dtype.as_datatype_enum
    for side in shape:
        tensor.tensor_shape.dim.add(size=side)
    tensor.tensor_content = bytes(32 * 32 * 3) if content is None else content
    tensor.int_val.extend(numbers)
    response.model_spec.name = model
    if version is not None:
        response.model_spec.version.value = version
    return response.SerializeToString()


def test_right_answer_is_taken(answering, connect):
    """Else the tests below would show nothing."""
    client = connect(answering(prediction(model="demo", version=3)), scale=4, model_version=3)
    assert client.super_resolve(np.zeros((8, 8, 3), np.uint8)).shape == (32, 32, 3)


@pytest.mark.parametrize("answer", [b"\xff\x00garbage" * 100, b"\x0a\x03abc", b"\n\x04\n\x02\xff\xfe"],
                         ids=["garbage", "another message", "no UTF-8"])
def test_bytes_that_are_no_answer_are_refused(answer, answering, connect):
    error = refusal(connect(answering(answer), scale=4))
    assert error.code == "BAD_ANSWER"
    assert "deserializing" in str(error)


def test_states_that_are_garbage_are_refused(answering, connect):
    assert refusal(connect(answering(b"\xff\x00garbage")), health=True).code == "BAD_ANSWER"
    assert refusal(connect(answering(b"")), health=True).code == "UNAVAILABLE"


@pytest.mark.parametrize(("answer", "says"), [
    (b"", "outputs []"),
    (prediction("probabilities"), "outputs ['probabilities']"),
    (prediction(dtype=tf.float32, content=np.full((32, 32, 3), np.nan, np.float32).tobytes()), "DT_FLOAT"),
    (prediction(dtype=tf.string), "DT_STRING"),
    (prediction(shape=(1, 16, 16, 3), content=bytes(768)), "[1, 16, 16, 3]"),  # right for a request of 4x4 pixels
    (prediction(shape=()), "of shape []"),
    (prediction(shape=(-1, 32, 32, 3)), "[-1, 32, 32, 3]"),
    (prediction(shape=(1, 2**40, 2**40, 3)), "1099511627776"),
    (prediction(shape=[1] * 5_000), "of shape [1, 1"),
    (prediction(content=bytes(30)), "does not fill"),
    (prediction(content=bytes(32 * 32 * 3 + 1)), "does not fill"),
    (prediction(content=b""), "does not fill"),
    (prediction(content=b"", numbers=[7]), "does not fill"),
    (prediction(content=b"", numbers=[-1] * 3072), "from 0 to 255"),
    (prediction(content=b"", numbers=[256] * 3072), "from 0 to 255"),
    (prediction(model="other"), "the answer of model 'other'"),
    (prediction(model="demo", version=2), "the answer of version 2"),
], ids=lambda value: None if isinstance(value, bytes) else value)
def test_answer_of_another_form_or_for_another_request_is_refused(answer, says, answering, connect):
    error = refusal(connect(answering(answer), scale=4, model_version=3))
    assert error.code == "BAD_ANSWER"
    assert says in str(error)


def test_server_without_the_service_is_told(connect):
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    error = refusal(connect(f"grpc://127.0.0.1:{port}", scale=4))
    server.stop(None).wait(5)
    assert error.code == "UNIMPLEMENTED"
    assert "has no such service" in str(error)


def test_redirection_is_not_followed(speaking, listen, connect):
    followed = []
    elsewhere = listen(lambda connection: followed.append(connection))

    def redirect(connection: socket.socket, stream: int) -> None:
        connection.sendall(frame(HEADERS, END_HEADERS | END_STREAM, stream, headers(
            (b":status", b"302"), (b"location", b"http://127.0.0.1:%d/" % elsewhere))))

    error = refusal(connect(speaking(redirect), scale=4))
    assert "302" in str(error)
    assert not followed


def test_server_that_takes_the_connection_and_is_silent_is_given_up(listen, connect):
    for handle in (lambda connection: connection.recv(2**30, socket.MSG_WAITALL), drip):
        error = refusal(connect(f"grpc://127.0.0.1:{listen(handle)}", scale=4, timeout_s=TIMEOUT_S))
        assert error.code == "DEADLINE_EXCEEDED"


def drip(connection: socket.socket) -> None:
    """Send the start of an answer byte by byte."""
    for byte in frame(SETTINGS, 0, 0, bytes(6) * 100):
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def test_answer_that_never_ends_is_given_up(speaking, connect):
    def go_on(connection: socket.socket, stream: int) -> None:
        connection.sendall(frame(HEADERS, END_HEADERS, stream, headers(
            (b":status", b"200"), (b"content-type", b"application/grpc"))))
        while True:
            connection.sendall(frame(DATA, 0, stream, b"") + frame(PING, 0, 0, bytes(8)))
            time.sleep(0.02)

    assert refusal(connect(speaking(go_on), scale=4, timeout_s=TIMEOUT_S)).code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("answer", [
    lambda stream: frame(RESET, 0, stream, struct.pack(">I", 8)), lambda stream: frame(0x77, 255, stream, b"x" * 99),
    lambda stream: frame(HEADERS, END_HEADERS, stream, b"\xff" * 50), lambda stream: b"\xff" * 2000,
    lambda stream: frame(DATA, END_STREAM, stream, b"\x00\x00\x00\x00\x05hello"),
], ids=["reset", "unknown frame", "headers that are none", "no frames", "data without headers"])
def test_damaged_http2_is_one_line(answer, speaking, connect):
    client = connect(speaking(lambda connection, stream: connection.sendall(answer(stream))), scale=4,
                     timeout_s=TIMEOUT_S, retries=1)
    assert refusal(client).code in {"CANCELLED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN",
                                    "BAD_ANSWER"}


def grown(*addresses: str) -> list[tuple[int, str]]:
    """Return by how many bytes a process grows while it asks each server, and what it says; it writes nothing else."""
    code = """if True:
        import sys, numpy as np
        from pathlib import Path
        from sr_keras.client import ServerError, SuperResolutionClient
        bytes_of = lambda name: 1024 * int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])
        for address in sys.argv[1:]:
            with SuperResolutionClient(address, "demo", scale=4, halo=2, tile=8, timeout_s=20, retries=0) as client:
                Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
                before = bytes_of('VmRSS')
                try:
                    client.super_resolve(np.zeros((8, 8, 3), np.uint8))
                except ServerError as error:
                    print(bytes_of('VmHWM') - before, error)
        """
    ran = subprocess.run([sys.executable, "-c", code, *addresses], capture_output=True, text=True, check=True,
                         timeout=120, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert "Traceback" not in ran.stderr
    return [(int(line.split()[0]), line) for line in ran.stdout.splitlines()]


def test_huge_answers_do_not_fill_memory_and_nothing_is_printed(answering, speaking):
    """64 MiB of zeros are 64 KiB when packed: within what the client reads before it knows the size."""
    packed = zlib.compressobj(9, wbits=31)
    bomb = packed.compress(prediction(content=bytes(60 * 2**20))) + packed.flush()

    def explode(connection: socket.socket, stream: int) -> None:
        connection.sendall(frame(HEADERS, END_HEADERS, stream, headers(
            (b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-encoding", b"gzip"))))
        body = b"\x01" + struct.pack(">I", len(bomb)) + bomb
        for start in range(0, len(body), 16_000):
            connection.sendall(frame(DATA, 0, stream, body[start:start + 16_000]))
        connection.sendall(frame(HEADERS, END_HEADERS | END_STREAM, stream, headers((b"grpc-status", b"0"))))

    assert len(bomb) < 65_000
    answers = grown(answering(b"\xff garbage"), speaking(explode), answering(bytes(100 * 2**20)))
    assert len(answers) == 3
    for growth, said in answers:
        assert "BAD_ANSWER" in said
        assert growth < GROWTH
