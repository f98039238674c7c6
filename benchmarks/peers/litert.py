# SPDX-License-Identifier: Apache-2.0
"""Run a .tflite, lr -> sr as `sr_keras.formats.litert` writes them: the shipped models, and ESRGAN-thick converted."""
from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from benchmarks.peers.runner import Peer, main
from sr_keras.model.runtimes import LiteRTRunner


def open_peer(file: str) -> Peer:
    """Open a file."""
    model = Path(file).read_bytes()
    run = LiteRTRunner(model, threads=1)
    return Peer(lambda lr: run(lr[None])[0], weight_bytes(model), len(model), f"LiteRT {version('ai-edge-litert')}")


def weight_bytes(model: bytes) -> int:
    """Return the bytes of the constants that are float32 tensors."""
    content = schema.ModelT.InitFromPackedBuf(model, 0)
    tensors = [tensor for graph in content.subgraphs for tensor in graph.tensors
               if tensor.type == schema.TensorType.FLOAT32]
    data = (content.buffers[number].data for number in {tensor.buffer for tensor in tensors})
    return sum(len(one) for one in data if one is not None)


if __name__ == "__main__":
    main(open_peer)
