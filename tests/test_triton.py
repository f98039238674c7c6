# SPDX-License-Identifier: Apache-2.0
"""A real Triton serves the ONNX form with the pixels of the SavedModel.

Triton's server is in PyPI's nvidia-pytriton, which needs an environment of its own: SR_KERAS_TRITON_PYTHON names its
python. Without that variable the test is skipped.
"""
from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sr_keras.config import SHIPPED_MODEL
from sr_keras.model.loading import load_generator

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("SR_KERAS_TRITON_PYTHON")
ASK = """
import sys, numpy as np
from pytriton.client import ModelClient
with ModelClient(f"grpc://127.0.0.1:{sys.argv[1]}", "light", init_timeout_s=90) as client:
    np.save(sys.argv[3], client.infer_batch(np.load(sys.argv[2]))["sr"])
"""
pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.skipif(
    PYTHON is None, reason="SR_KERAS_TRITON_PYTHON names no python with nvidia-pytriton")]


def free_port() -> int:
    """Return a port that is free, as is the next."""
    while True:
        with closing(socket.create_server(("127.0.0.1", 0))) as one:
            port = one.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def test_triton_gives_the_pixels_of_the_saved_model(histology, tmp_path):
    model = SHIPPED_MODEL.with_name("srgan_sqe_x4_light")
    (onnx,) = model.glob("*/onnx/model.onnx")
    port = free_port()
    lr = np.stack([histology[:40, :56], histology[100:140, 100:156]])
    np.save(tmp_path / "lr.npy", lr)
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen([PYTHON, ROOT / "docs" / "triton_server.py", onnx, "light", str(port)], stdout=log,
                                  stderr=log)
    try:
        ask = [PYTHON, "-c", ASK, str(port), tmp_path / "lr.npy", tmp_path / "sr.npy"]
        end = time.monotonic() + 120
        while (done := subprocess.run(ask, capture_output=True, text=True, check=False, timeout=180)).returncode:
            assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < end, done.stderr
        sr = np.load(tmp_path / "sr.npy")
        assert np.abs(sr.astype(int) - np.asarray(load_generator(model)(lr)).astype(int)).max() <= 1
    finally:
        server.terminate()
        server.wait(60)
