# SPDX-License-Identifier: Apache-2.0
"""The main claim of this project holds for a small cell of the study, trained on the sample image.

Over seeds 0, 1 and 2 SRGAN_SQE had MS-SSIM 0.927 to 0.942 here, SRGAN_E 0.832 to 0.892, bicubic 0.910.
"""
from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CELL = ["--grid=method=srgan_sqe,srgan_e; fraction=0.3", "--seeds=0", "--patch_size=64", "--eval_patch_size=168",
        "--min_tissue=0", "--blocks=4", "--filters=16", "--crop_size=64", "--batch_size=8", "--steps_per_epoch=100",
        "--autoencoder_epochs=1", "--warmup_epochs=3", "--adversarial_epochs=1", "--best_by=last", "--val_patches=3",
        "--ema_decay=0.99", "--cache=memory", "--magnifications=bottom:20x"]


@pytest.fixture(scope="module")
def scores(tmp_path_factory, histology) -> dict[str, dict[str, float]]:
    """Return method -> scores on clean patches that do not overlap the training patches."""
    root = tmp_path_factory.mktemp("guard")
    for part, slide, boxes in (("train", "top", [(0, 0, 336, 512)]),
                               ("val", "bottom", [(340, x, 168, 168) for x in (0, 172, 340)])):
        (root / part / slide).mkdir(parents=True)
        for i, (y, x, height, width) in enumerate(boxes):
            Image.fromarray(histology[y:y + height, x:x + width]).save(root / part / slide / f"t{i}.png")
    done = subprocess.run([sys.executable, "-m", "study", f"--train_data={root / 'train'}",
                           f"--val_data={root / 'val'}", f"--work={root / 'work'}", f"--output={root / 'out'}", *CELL],
                          cwd=ROOT, text=True, capture_output=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    with open(root / "out" / "results.csv", newline="") as handle:
        return {row["method"]: {name: float(row[name]) for name in ("ms_ssim", "qilv", "rrmse")}
                for row in csv.DictReader(handle)}


@pytest.mark.slow
@pytest.mark.parametrize("rival", ["srgan_e", "bicubic"])
def test_srgan_sqe_trained_with_30_percent_corrupted_beats_squared_error_and_bicubic(scores, rival):
    ours, theirs = scores["srgan_sqe"], scores[rival]
    assert ours["ms_ssim"] > theirs["ms_ssim"]
    assert ours["qilv"] > theirs["qilv"]
    assert ours["rrmse"] < theirs["rrmse"]
