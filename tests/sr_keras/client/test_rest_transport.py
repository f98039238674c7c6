# SPDX-License-Identifier: Apache-2.0
"""What REST alone has: JSON, redirections, and the body that TensorFlow Serving takes.

`test_connection_transports.py` has what both ways share: a slow server, a dropped connection, another shape or dtype.
"""
from __future__ import annotations

import json
import socket
import time

import numpy as np
import pytest

from sr_keras.client import ServerError

from .conftest import Rest
from .test_connection_transports import refusal

pytestmark = pytest.mark.server
LR = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("answer", [
    {}, {"model_version_status": 5}, {"model_version_status": [5]}, {"model_version_status": [{"state": "AVAILABLE"}]},
    {"model_version_status": [{"version": float("inf"), "state": "AVAILABLE"}]},
    {"model_version_status": [{"version": "x", "state": "AVAILABLE"}]},
    {"model_version_status": [{"version": "1", "state": ["AVAILABLE"]}]}])
def test_states_of_another_type_are_refused(answer, serve, connect, monkeypatch):
    monkeypatch.setattr(Rest, "_status", lambda handler, body: answer)
    with pytest.raises(ServerError, match="JSON without a model_version_status"):
        connect(serve("rest")).health()


def test_answer_that_drips_in_is_given_up_at_the_deadline(listen, connect):
    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        for letter in b"HTTP/1.1 200 OK\r\nX-Header: " + b"x" * 200:
            connection.sendall(bytes([letter]))
            time.sleep(0.05)

    started = time.monotonic()
    error = refusal(connect(f"http://127.0.0.1:{listen(drip)}", timeout_s=0.5), LR)
    assert time.monotonic() - started < 3
    assert error.code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"[1, 2]", b'{"predictions": []}', b'{"predictions": 1}',
                                  b'{"predictions": [{"b64": "?"}]}', b'{"predictions": ["x"]}', b"[" * 20000])
def test_json_that_is_no_answer_is_refused(body, listen, connect):
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    client = connect(f"http://127.0.0.1:{listen(answer)}", scale=4)
    error = refusal(client, LR)
    assert error.code == "BAD_ANSWER"
    with pytest.raises(ServerError, match="BAD_ANSWER"):
        client.health()


def test_redirection_is_not_followed(listen, connect):
    def elsewhere(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

    assert refusal(connect(f"http://127.0.0.1:{listen(elsewhere)}"), LR).code == "HTTP 302"


def test_what_a_server_says_is_shown_short_and_harmless(serve, connect, model):
    model.refusals = [("INVALID_ARGUMENT", "\x1b[31mred\x07 " + "long " * 500)]
    error = str(refusal(connect(serve("rest"), scale=4), LR))
    assert error.isprintable()
    assert len(error) < 500


def test_rest_body_is_what_tensorflow_serving_takes(listen, connect):
    bodies: list[bytes] = []

    def keep(connection: socket.socket) -> None:
        while not b"".join(bodies).endswith(b"]}") and (data := connection.recv(65536)):
            bodies.append(data)

    address = f"http://127.0.0.1:{listen(keep)}"
    refusal(connect(address, scale=4, encoding="tensor", model_version=7), LR[:1, :2])
    head, body = b"".join(bodies).split(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/models/demo/versions/7:predict HTTP/1.1\r\n")
    assert json.loads(body) == {"signature_name": "serving_default", "instances": [{"lr": LR[:1, :2].tolist()}]}
