# SPDX-License-Identifier: Apache-2.0
"""Run bicubic interpolation: Pillow's, which is `sr_keras.metrics.bicubic` within rounding."""
from __future__ import annotations

import numpy as np
import PIL
from PIL import Image

from benchmarks.peers.runner import Peer, main

SCALE = 4


def open_peer() -> Peer:
    """Return the interpolation."""
    def run(lr: np.ndarray) -> np.ndarray:
        height, width = lr.shape[:2]
        return np.asarray(Image.fromarray(lr).resize((SCALE * width, SCALE * height), Image.Resampling.BICUBIC))

    return Peer(run, 0, 0, f"Pillow {PIL.__version__}")


if __name__ == "__main__":
    main(open_peer)
