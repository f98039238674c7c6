# SPDX-License-Identifier: Apache-2.0
"""Several devices train as one: the same losses, and a killed worker costs an epoch at most."""
from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from sr_keras.training.run_folder import read_metrics

from .conftest import free_addresses

EPOCHS = 10  # of two steps each
TINY = ["--patch_size=64", "--stride=64", "--eval_patch_size=64", "--min_tissue=0", "--train_region=0,0,512,256",
        "--val_region=0,256,128,128", "--blocks=1", "--filters=4", "--crop_size=32", "--batch_size=4",
        "--steps_per_epoch=2", "--lambda_m=0", "--autoencoder_epochs=0", "--warmup_epochs=0",
        f"--adversarial_epochs={EPOCHS}", "--val_patches=1", "--nojit_compile", "--corrupt_fraction=0.5", "--seed=3",
        "--keep_checkpoints=1", "--worker_wait_s=300"]


@pytest.fixture
def start(sample_slide, start_python):
    """Start a training."""
    def begin(run: Path, *more: str, tf_config: str = "") -> subprocess.Popen:
        return start_python("-m", "sr_keras.train", f"--run={run}", f"--train_data={sample_slide}", *TINY, *more,
                            env={**os.environ, "TF_CONFIG": tf_config})

    return begin


@pytest.fixture
def start_two(start):
    """Start the two workers of a training, on free ports."""

    def begin(run: Path, *more: str) -> list[subprocess.Popen]:
        addresses = free_addresses(2)
        return [start(run, "--strategy=multi_worker", *more, tf_config=json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})) for index in (0, 1)]

    return begin


def losses(run: Path) -> list[list[float]]:
    """Return what each epoch has logged, without the seconds it took."""
    return [[float(value) for name, value in row.items() if name not in ("stage", "seconds") and value]
            for row in read_metrics(run)]


@pytest.mark.slow
@pytest.mark.timeout(2700)
@pytest.mark.server
def test_two_workers_train_as_one_device_and_go_on_after_one_was_killed(start, start_two, tmp_path):
    alone = start(tmp_path / "one")
    first, second = start_two(tmp_path / "two")
    end = time.monotonic() + 900
    while first.poll() is None and not (tmp_path / "two/checkpoints/adversarial-0004").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    second.kill()
    began = time.monotonic()
    said = first.communicate(timeout=90)[1].replace("\r", "\n").splitlines()
    assert time.monotonic() - began < 30
    assert first.returncode == 2
    (line,) = [line for line in said if line.startswith("error: ")]
    assert "worker 1 at localhost:" in line
    assert "was lost" in line
    assert not [line for line in said if "Traceback" in line]
    trained = len(losses(tmp_path / "two"))
    assert 3 <= trained < EPOCHS

    again = start_two(tmp_path / "two", "--resume")
    told = [one.communicate(timeout=900) for one in again]
    assert [one.returncode for one in again] == [0, 0], told
    assert f"adversarial: continues after epoch {trained} of {EPOCHS}" in told[0][0]
    assert "the generator: " in told[0][0]
    assert told[1][0] == ""

    assert "the generator: " in alone.communicate(timeout=900)[0]
    ours, golden = (np.array(losses(tmp_path / name)) for name in ("two", "one"))
    assert ours.shape == golden.shape
    assert len(ours) == EPOCHS
    np.testing.assert_allclose(ours, golden, rtol=1e-3, atol=1e-4)
