# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster of two machines trains one model, and says in one line what it can't do."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sr_keras.training.run_folder import read_metrics

ROOT = Path(__file__).parents[2]
TINY = ["--patch_size=64", "--stride=64", "--eval_patch_size=64", "--min_tissue=0", "--train_region=0,0,512,256",
        "--val_region=0,256,128,128", "--blocks=1", "--filters=4", "--crop_size=32", "--steps_per_epoch=1",
        "--lambda_m=0", "--autoencoder_epochs=0", "--warmup_epochs=2", "--adversarial_epochs=0", "--val_patches=1",
        "--nojit_compile"]


def train(run: Path, slide: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "sr_keras.train", f"--run={run}", f"--train_data={slide}", *TINY,
                           *more], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
@pytest.mark.timeout(2000)
@pytest.mark.server
def test_machines_of_a_ray_cluster_train_one_model(two_machines, sample_slide, tmp_path):
    ray = f"--ray={two_machines.address}"
    done = train(tmp_path / "run", sample_slide, ray, "--batch_size=2")
    assert done.returncode == 0, done.stderr
    assert "2 workers train\nwarmup, epoch 1: loss " in done.stdout
    assert "warmup, epoch 2: loss " in done.stdout
    assert "the generator: " in done.stdout
    assert (tmp_path / "run" / "generator.keras").exists()
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")] == ["1", "2"]
    assert "--strategy=multi_worker\n" in (tmp_path / "run" / "flags.txt").read_text()
    assert "--ray" not in (tmp_path / "run" / "flags.txt").read_text()

    refused = train(tmp_path / "other", sample_slide, ray, "--batch_size=3")
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "`batch_size` must be divisible by the 2 devices" in line
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "other").exists()
