# SPDX-License-Identifier: Apache-2.0
"""Ask TensorFlow Serving by gRPC, with its official stubs. Needs the extra `serving`.

The server is reached directly: a proxy of the environment is for the web, and would see the header.
"""
from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from sr_keras.client import protocol

# How gRPC reports a failed TLS handshake, which it calls UNAVAILABLE.
UNTRUSTED = ("Handshake failed", "handshake failed", "Verification Check failed")
# How it reports an answer that is too large, as sent or unpacked, or no such message.
UNREADABLE = ("CLIENT: Received message larger", "Decompressed message larger", "Exception deserializing response")
States = get_model_status_pb2.ModelVersionStatus.State


class GrpcTransport:
    """A channel to one model of a server; threads may share it."""

    def __init__(self, address: protocol.Address, model_name: str, encoding: str,
                 options: protocol.ClientOptions) -> None:
        self._model_name = model_name
        self._encoding = encoding
        self._timeout_s = options.timeout_s
        self._metadata = [("authorization", options.auth_header)] if options.auth_header else []
        self._channel = _channel(address, options)
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel).GetModelStatus

    def predict(self, lr: np.ndarray, expected: protocol.Expected, version: int | None) -> np.ndarray:
        if self._encoding == protocol.BYTES:
            tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[protocol.to_png(lr[0])])
            outputs = self._outputs("image_bytes", tensor, (1,), protocol.SIGNATURES[protocol.BYTES], version)
        else:
            tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_UINT8, tensor_content=lr.tobytes())
            outputs = self._outputs("lr", tensor, lr.shape, protocol.SIGNATURES[protocol.TENSOR], version)
        return self._pixels(outputs, expected)

    def about(self, version: int | None) -> dict[str, Any]:
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_INT32, int_val=[1])
        outputs = self._outputs(protocol.SIDE, tensor, (1,), protocol.ABOUT, version)
        return {name: _one_number(outputs[name]) for name in outputs}

    def states(self, version: int | None) -> dict[int, str]:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec(version))
        response = self._ask(self._status, request)
        return {found.version: _name_of(States, found.state) for found in response.model_version_status}

    def close(self) -> None:
        self._channel.close()

    def _spec(self, version: int | None, signature: str = "") -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self._model_name, signature_name=signature)
        if version is not None:
            spec.version.value = version
        return spec

    def _outputs(self, name: str, tensor: Any, shape: tuple[int, ...], signature: str, version: int | None) -> Any:
        """Return the outputs of a signature for its one input."""
        for side in shape:
            tensor.tensor_shape.dim.add(size=side)
        request = predict_pb2.PredictRequest(model_spec=self._spec(version, signature), inputs={name: tensor})
        response = self._ask(self._predict, request)
        said = response.model_spec  # optional
        if said.name not in ("", self._model_name):
            raise protocol.Failure(protocol.BAD_ANSWER, f"the answer of model {said.name!r}")
        if version is not None and said.HasField("version") and said.version.value != version:
            raise protocol.Failure(protocol.BAD_ANSWER, f"the answer of version {said.version.value}")
        return response.outputs

    def _ask(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failure(error) from error
        except ValueError as error:
            raise protocol.Failure(protocol.CANCELLED, "the channel is closed") from error

    def _pixels(self, outputs: Any, expected: protocol.Expected) -> np.ndarray:
        name = protocol.OUTPUTS[self._encoding]
        if name not in outputs:
            raise protocol.Failure(protocol.BAD_ANSWER, f"outputs {sorted(outputs)} where {name!r} is expected")
        tensor = outputs[name]
        wanted = types_pb2.DT_STRING if self._encoding == protocol.BYTES else types_pb2.DT_UINT8
        if tensor.dtype != wanted:
            found, expected_type = (_name_of(types_pb2.DataType, dtype) for dtype in (tensor.dtype, wanted))
            raise protocol.Failure(protocol.BAD_ANSWER, f"{name} of {found} where {expected_type} is expected")
        shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
        if self._encoding == protocol.BYTES:
            if shape != (1,) or len(tensor.string_val) != 1:
                raise protocol.Failure(protocol.BAD_ANSWER, f"{name} of shape {list(shape)} where [1] is expected")
            return protocol.from_png(tensor.string_val[0], expected)
        content = tensor.tensor_content
        return protocol.from_numbers(np.frombuffer(content, np.uint8) if content else tensor.int_val, expected, shape)


def _channel(address: protocol.Address, options: protocol.ClientOptions) -> grpc.Channel:
    host = f"[{address.host}]" if ":" in address.host else address.host
    target = f"{host}:{address.port}"
    largest = protocol.Expected(options.tile, options.tile, options.scale)
    settings = [
        ("grpc.max_receive_message_length", largest.most_bytes),
        ("grpc.enable_retries", 0),  # see `connection.retried`
        ("grpc.enable_http_proxy", 0),
        # Until then a channel that could not connect fails at once; each of our attempts must be a real one.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if not address.tls:
        return grpc.insecure_channel(target, settings)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(_roots(options)), settings)


def _roots(options: protocol.ClientOptions) -> bytes | None:
    """Return the trusted certificates as PEM: by default gRPC has a list of its own, not this system's."""
    context = protocol.trust(options.ca_cert)
    if options.ca_cert is not None:
        return Path(options.ca_cert).read_bytes()
    return "".join(map(ssl.DER_cert_to_PEM_cert, context.get_ca_certs(binary_form=True))).encode() or None


def _failure(error: Any) -> protocol.Failure:
    code, details = error.code().name, error.details() or ""
    if code == protocol.UNAVAILABLE and any(said in details for said in UNTRUSTED):
        return protocol.Failure(protocol.NOT_TRUSTED, details)
    if any(said in details for said in UNREADABLE):
        return protocol.Failure(protocol.BAD_ANSWER, details)
    return protocol.Failure(code, details)


def _one_number(tensor: Any) -> int | None:
    """Return the int32 in a tensor of one value; None if it is another tensor."""
    if tensor.dtype != types_pb2.DT_INT32:
        return None
    if len(tensor.tensor_content) == 4:
        return int.from_bytes(tensor.tensor_content, "little", signed=True)
    return tensor.int_val[0] if len(tensor.int_val) == 1 else None


def _name_of(enum: Any, number: int) -> str:
    """Return the name of a number; a newer server may send one without a name."""
    return enum.Name(number) if number in enum.values() else f"number {number}"
