# SPDX-License-Identifier: Apache-2.0
"""Ask TensorFlow Serving by gRPC, with its official stubs. Needs the extra `serving`.

The server is reached directly: a proxy of the environment is for the web, and would see the header.
"""
from __future__ import annotations

import ssl
import struct
from typing import Any

import grpc
import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from sr_keras.client.options import BYTES, Address, ClientOptions, trust
from sr_keras.client.protocol import (
    ABOUT,
    BAD_ANSWER,
    CANCELLED,
    NOT_TRUSTED,
    OUTPUTS,
    SIDE,
    SIGNATURES,
    UNAVAILABLE,
    Expected,
    Failure,
    from_content,
    from_numbers,
    from_png,
    most_bytes,
    to_png,
)

# How gRPC reports a failed TLS handshake, which it calls UNAVAILABLE.
UNTRUSTED = ("Handshake failed", "handshake failed", "Verification Check failed")
INT32 = struct.Struct("<i")
States, DataType = get_model_status_pb2.ModelVersionStatus.State, types_pb2.DataType


class GrpcTransport:
    """A channel to one model of a server; threads may share it."""

    def __init__(self, address: Address, model_name: str, encoding: str, options: ClientOptions) -> None:
        self._model_name = model_name
        self._encoding = encoding
        self._timeout_s = options.timeout_s
        self._metadata = [("authorization", options.auth_header)] if options.auth_header else []
        self._channel = _channel(address, options)
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel).GetModelStatus

    def predict(self, lr: np.ndarray, expected: Expected, version: int | None) -> np.ndarray:
        """See `Transport`."""
        request = predict_pb2.PredictRequest()
        self._name(request.model_spec, version)
        request.model_spec.signature_name = SIGNATURES[self._encoding]
        if self._encoding == BYTES:
            tensor = request.inputs["image_bytes"]
            tensor.dtype, shape = types_pb2.DT_STRING, (1,)
            tensor.string_val.append(to_png(lr[0]))
        else:
            tensor = request.inputs["lr"]
            tensor.dtype, shape, tensor.tensor_content = types_pb2.DT_UINT8, lr.shape, lr.tobytes()
        for side in shape:
            tensor.tensor_shape.dim.add(size=side)
        return self._pixels(self._ask(self._predict, request), expected)

    def about(self, version: int | None) -> dict[str, Any]:
        """See `Transport`."""
        request = predict_pb2.PredictRequest()
        self._name(request.model_spec, version)
        request.model_spec.signature_name = ABOUT
        tensor = request.inputs[SIDE]
        tensor.dtype = types_pb2.DT_INT32
        tensor.int_val.append(1)
        tensor.tensor_shape.dim.add(size=1)
        outputs = self._ask(self._predict, request).outputs
        return {name: _one_number(outputs[name]) for name in outputs}

    def states(self, version: int | None) -> dict[int, str]:
        """See `Transport`."""
        request = get_model_status_pb2.GetModelStatusRequest()
        self._name(request.model_spec, version)
        response = self._ask(self._status, request)
        return {found.version: _name_of(States, found.state) for found in response.model_version_status}

    def close(self) -> None:
        """Close the channel; pending requests fail as CANCELLED."""
        self._channel.close()

    def _name(self, spec: Any, version: int | None) -> None:
        spec.name = self._model_name
        if version is not None:
            spec.version.value = version

    def _ask(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failure(error) from error
        except ValueError as error:
            raise Failure(CANCELLED, "the channel is closed") from error

    def _pixels(self, response: Any, expected: Expected) -> np.ndarray:
        output = OUTPUTS[self._encoding]
        if output not in response.outputs:
            raise Failure(BAD_ANSWER, f"outputs {sorted(response.outputs)} where {output!r} is expected")
        tensor = response.outputs[output]
        wanted = types_pb2.DT_STRING if self._encoding == BYTES else types_pb2.DT_UINT8
        if tensor.dtype != wanted:
            found, expected_type = (_name_of(DataType, dtype) for dtype in (tensor.dtype, wanted))
            raise Failure(BAD_ANSWER, f"{output} of {found} where {expected_type} is expected")
        shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
        if self._encoding == BYTES:
            if shape != (1,) or len(tensor.string_val) != 1:
                raise Failure(BAD_ANSWER, f"{output} of shape {list(shape)} where [1] is expected")
            return from_png(tensor.string_val[0], expected)
        if tensor.tensor_content:
            return from_content(shape, tensor.tensor_content, expected)
        return from_numbers(tensor.int_val, expected, shape)


def _channel(address: Address, options: ClientOptions) -> grpc.Channel:
    host = f"[{address.host}]" if ":" in address.host else address.host
    target = f"{host}:{address.port}"
    largest = Expected(options.tile, options.tile, options.scale)
    settings = [
        ("grpc.max_receive_message_length", most_bytes(largest.most_values)),
        ("grpc.enable_retries", 0),  # see `connection.retried`
        ("grpc.enable_http_proxy", 0),
        # Until then a channel that could not connect fails at once; each of our attempts shall be a real one.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if not address.tls:
        return grpc.insecure_channel(target, settings)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(_roots(options)), settings)


def _roots(options: ClientOptions) -> bytes | None:
    """Return the trusted certificates as PEM: by default gRPC has a list of its own, not this system's."""
    context = trust(options.ca_cert)
    if options.ca_cert is not None:
        with open(options.ca_cert, "rb") as file:
            return file.read()
    return "".join(map(ssl.DER_cert_to_PEM_cert, context.get_ca_certs(binary_form=True))).encode() or None


def _failure(error: Any) -> Failure:
    code, details = error.code().name, error.details() or ""
    if code == UNAVAILABLE and any(said in details for said in UNTRUSTED):
        return Failure(NOT_TRUSTED, details)
    if "CLIENT: Received message larger" in details:
        return Failure(BAD_ANSWER, details)
    return Failure(code, details)


def _one_number(tensor: Any) -> int | None:
    """Return the int32 in a tensor of one value; None if it is another tensor."""
    if tensor.dtype != types_pb2.DT_INT32:
        return None
    if len(tensor.tensor_content) == INT32.size:
        return INT32.unpack(tensor.tensor_content)[0]
    return tensor.int_val[0] if len(tensor.int_val) == 1 else None


def _name_of(enum: Any, number: int) -> str:
    """Return the name of a number; a newer server may send one without a name."""
    return enum.Name(number) if number in enum.values() else f"number {number}"
