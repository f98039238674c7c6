# SPDX-License-Identifier: Apache-2.0
"""A client for a generator on TensorFlow Serving or a compatible server.

    from sr_keras.client import SuperResolutionClient

    with SuperResolutionClient("grpc://localhost:8500", "demo") as client:
        sr = client.super_resolve(lr)                  # uint8 [H, W, 3] -> uint8 [scale*H, scale*W, 3]

    connection        tiles, requests in flight, retries
    protocol          where a server is, how to ask it, and what it may answer
    grpc_transport    gRPC, by the official stubs: needs the extra `serving`
    rest_transport    REST, by Python's HTTP client: needs no extra and no TensorFlow

Command line: sr-keras client
"""
from sr_keras.client.connection import SuperResolutionClient
from sr_keras.client.protocol import ClientOptions, ServerError

__all__ = ["ClientOptions", "ServerError", "SuperResolutionClient"]
