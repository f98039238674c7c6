"""Ask a generator that a server runs, TensorFlow Serving or what speaks like it.

    from sr_keras.client import SuperResolutionClient

    with SuperResolutionClient("grpc://localhost:8500", "demo") as client:
        sr = client.super_resolve(lr)                  # uint8 [H, W, 3] -> uint8 [scale*H, scale*W, 3]

    options, errors          what can be asked for, and what can go wrong
    answers, wire            what is due from a server, and what both ways to it share
    grpc_transport           through the official protos and stubs: the extra `serving`
    rest_transport           through Python's own HTTP client: no extra, and no TensorFlow
    retries, connection      what is tried again; tiles in flight

As a command: python -m sr_keras.client
"""
from sr_keras.client.connection import SuperResolutionClient
from sr_keras.client.errors import ServerError
from sr_keras.client.options import ClientOptions

__all__ = ["ClientOptions", "ServerError", "SuperResolutionClient"]
