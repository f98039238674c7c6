# SPDX-License-Identifier: Apache-2.0
"""Serve the ONNX form of a model by NVIDIA Triton, on this machine alone, until Ctrl-C.

    python -m venv triton && triton/bin/pip install nvidia-pytriton==0.7.0 onnxruntime
    triton/bin/python docs/triton_server.py saved_models/NAME/VERSION/onnx/model.onnx NAME [PORT]

The gRPC port is PORT, 8001 if left out, and REST is at the port after it. Tensors: lr uint8 [B, H, W, 3] -> sr.
Needs nothing of this project.
"""
import sys

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

MOST = 8  # requests that are computed as one


def main(path: str, name: str, port: int = 8001) -> None:
    """Serve until the process is stopped."""
    session = onnxruntime.InferenceSession(path)
    (tensor,) = session.get_inputs()

    @batch
    def super_resolve(lr: np.ndarray) -> list[np.ndarray]:
        return session.run(None, {tensor.name: lr})

    pixels = {"dtype": np.uint8, "shape": (-1, -1, 3)}
    here = TritonConfig(grpc_address="127.0.0.1", grpc_port=port, http_address="127.0.0.1", http_port=port + 1,
                        allow_metrics=False)
    with Triton(config=here) as triton:
        triton.bind(name, super_resolve, [Tensor(name="lr", **pixels)], [Tensor(name="sr", **pixels)],
                    config=ModelConfig(max_batch_size=MOST))
        triton.serve()


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
