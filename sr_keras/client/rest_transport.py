# SPDX-License-Identifier: Apache-2.0
"""Ask TensorFlow Serving by REST, with Python's HTTP client. Needs no extra.

Each request has a connection of its own, which costs a thousandth of the time of a tile: none can be stale, and a load
balancer can distribute them. The server is reached directly and redirections are not followed, so that the header goes
only where it was meant to.

Requests use the row format ("instances"): in the column format TensorFlow Serving writes each number on a line of its
own behind 20 spaces.
"""
from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead, RemoteDisconnected
from typing import Any, TypedDict
from urllib.parse import quote

import msgspec
import numpy as np

from pipelines.files import Count
from sr_keras.client import protocol

# What TensorFlow Serving's HTTP server makes of gRPC's codes, read backwards.
CODES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
         412: "FAILED_PRECONDITION", 429: "RESOURCE_EXHAUSTED", 499: protocol.CANCELLED, 501: "UNIMPLEMENTED",
         503: protocol.UNAVAILABLE, 504: protocol.DEADLINE_EXCEEDED}
BYTES_PER_NUMBER = 8  # three digits, a comma, a space, and its share of brackets


class RestTransport:
    """One model of a server; threads may share it."""

    def __init__(self, address: protocol.Address, model_name: str, encoding: str,
                 options: protocol.ClientOptions) -> None:
        self._address = address
        self._path = f"/v1/models/{quote(model_name, safe='')}"
        self._encoding = encoding
        self._timeout_s = options.timeout_s
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if options.auth_header:
            self._headers["Authorization"] = options.auth_header
        self._trust = protocol.trust(options.ca_cert) if address.tls else None
        self._open: set[socket.socket] = set()
        self._closed = False

    def predict(self, lr: np.ndarray, expected: protocol.Expected, version: int | None) -> np.ndarray:
        if self._encoding == protocol.TENSOR:
            limit = BYTES_PER_NUMBER * expected.most_values + protocol.SLACK
            prediction = self._predict(protocol.SIGNATURES[protocol.TENSOR], {"lr": lr[0].tolist()}, version, limit)
            return protocol.from_numbers([prediction], expected)
        png = base64.b64encode(protocol.to_png(lr[0])).decode("ascii")
        prediction = self._predict(protocol.SIGNATURES[protocol.BYTES], {"image_bytes": {"b64": png}}, version,
                                   expected.most_bytes)
        try:
            data = base64.b64decode(prediction["b64"], validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise protocol.Failure(protocol.BAD_ANSWER, 'a prediction that is no {"b64": ...}') from error
        return protocol.from_png(data, expected)

    def about(self, version: int | None) -> dict[str, Any]:
        prediction = self._predict(protocol.ABOUT, {protocol.SIDE: 1}, version, protocol.SLACK)
        return prediction if isinstance(prediction, dict) else {}

    def states(self, version: int | None) -> dict[int, str]:
        answer = _parsed(self._ask("GET", self._versioned(version), None, protocol.SLACK))
        try:
            found = msgspec.convert(answer, _States, strict=False)["model_version_status"]  # versions are text
        except msgspec.ValidationError as error:
            raise protocol.Failure(protocol.BAD_ANSWER, f"JSON without a model_version_status ({error})") from error
        return {status["version"]: status["state"] for status in found}

    def close(self) -> None:
        self._closed = True
        for open_socket in list(self._open):
            _hang_up(open_socket)

    def _versioned(self, version: int | None) -> str:
        return self._path if version is None else f"{self._path}/versions/{version}"

    def _predict(self, signature: str, instance: dict[str, Any], version: int | None, limit: int) -> Any:
        """Return the one prediction of one instance."""
        body = json.dumps({"signature_name": signature, "instances": [instance]}, separators=(",", ":")).encode()
        predictions = _parsed(self._ask("POST", f"{self._versioned(version)}:predict", body, limit)).get("predictions")
        if not isinstance(predictions, list) or len(predictions) != 1:
            raise protocol.Failure(protocol.BAD_ANSWER, "JSON without the one prediction that is expected")
        return predictions[0]

    def _ask(self, method: str, path: str, body: bytes | None, limit: int) -> bytes:
        """Return the body of a 200, which must be complete in time and no longer than `limit`."""
        deadline = time.monotonic() + self._timeout_s
        connection = self._connect()
        try:
            with self._watched(connection.sock, deadline):
                connection.request(method, path, body, self._headers)
                response = connection.getresponse()
                data = response.read(limit + 1)
            cut_off = len(data) <= limit and bool(response.length)
        except (RemoteDisconnected, IncompleteRead, OSError) as error:
            failure = protocol.Failure(protocol.DROPPED, str(error) or type(error).__name__)
            raise self._broken(deadline, failure) from error
        except HTTPException as error:
            raise self._broken(deadline, protocol.Failure(protocol.BAD_ANSWER, f"no HTTP: {error!r}")) from error
        finally:
            connection.close()
        if cut_off or time.monotonic() >= deadline:
            dropped = protocol.Failure(protocol.DROPPED, f"{len(data)} bytes of {len(data) + (response.length or 0)}")
            raise self._broken(deadline, dropped)
        if len(data) > limit:
            raise protocol.Failure(protocol.BAD_ANSWER, f"more than the {limit} bytes that are possible")
        if response.status != 200:
            raise protocol.Failure(CODES.get(response.status, f"HTTP {response.status}"), _reason(data))
        return data

    def _connect(self) -> HTTPConnection:
        host, port = self._address.host, self._address.port
        connection = HTTPConnection(host, port, timeout=self._timeout_s) if self._trust is None else \
            HTTPSConnection(host, port, timeout=self._timeout_s, context=self._trust)
        try:
            connection.connect()
        except TimeoutError as error:
            raise protocol.Failure(protocol.DEADLINE_EXCEEDED, f"no connection in {self._timeout_s:g} s") from error
        except ssl.SSLError as error:
            raise protocol.Failure(protocol.NOT_TRUSTED, str(error)) from error
        except OSError as error:  # nothing was sent, so it may be retried
            raise protocol.Failure(protocol.UNAVAILABLE, str(error)) from error
        return connection

    @contextmanager
    def _watched(self, open_socket: socket.socket, deadline: float) -> Iterator[None]:
        """Close a socket at the deadline; its own timeout starts again with every byte that arrives."""
        watch = threading.Timer(max(0.0, deadline - time.monotonic()), _hang_up, [open_socket])
        watch.daemon = True
        self._open.add(open_socket)
        watch.start()
        try:
            if self._closed:
                raise protocol.Failure(protocol.CANCELLED, "the client is closed")
            yield
        finally:
            watch.cancel()
            self._open.discard(open_socket)

    def _broken(self, deadline: float, failure: protocol.Failure) -> protocol.Failure:
        """Return why there is no answer: the client hung up, or else the failure."""
        if self._closed:
            return protocol.Failure(protocol.CANCELLED, failure.reason)
        if time.monotonic() >= deadline:
            return protocol.Failure(protocol.DEADLINE_EXCEEDED, f"nothing whole in {self._timeout_s:g} s")
        return failure


class _Status(TypedDict):
    version: Count
    state: str


class _States(TypedDict):
    model_version_status: list[_Status]


def _hang_up(open_socket: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        open_socket.shutdown(socket.SHUT_RDWR)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise protocol.Failure(protocol.BAD_ANSWER, f"what is no JSON: {data[:80]!r}") from error
    if not isinstance(parsed, dict):
        raise protocol.Failure(protocol.BAD_ANSWER, "JSON that is not an object")
    return parsed


def _reason(data: bytes) -> str:
    """Return what the server says of its error.

    TensorFlow Serving escapes it as C is, which is not always JSON, and a proxy in front of it sends HTML.
    """
    with suppress(ValueError, RecursionError, KeyError, TypeError):
        return str(json.loads(data)["error"])
    return data.decode("utf-8", errors="replace")
