# SPDX-License-Identifier: Apache-2.0
"""A run goes from a slide to a generator, survives kill -9, and says in one line what it can't do."""
from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.patches import find_sources
from pipelines.shards import write_shards

ROOT = Path(__file__).parents[2]
TINY = ["--patch_size=64", "--stride=64", "--eval_patch_size=64", "--min_tissue=0",
        "--train_region=0,0,512,256", "--val_region=0,256,128,128",
        "--blocks=1", "--filters=4", "--crop_size=32", "--batch_size=2", "--steps_per_epoch=2",
        "--autoencoder_epochs=2", "--warmup_epochs=2", "--adversarial_epochs=4", "--val_patches=2", "--nojit_compile",
        "--deterministic", "--corrupt_fraction=0.5", "--seed=3"]
ONE_EPOCH = ["--lambda_m=0", "--autoencoder_epochs=0", "--warmup_epochs=1", "--adversarial_epochs=0"]


def train(run: Path, slide: Path, *more: str, kill_at: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sr_keras.train", f"--run={run}", f"--train_data={slide}", *TINY, *more]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while kill_at and process.poll() is None:
            if kill_at.exists():
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        out, error = process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sample_slide) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = train(run, sample_slide)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return run


def held(path: Path) -> dict[str, np.ndarray]:
    """Return everything numeric in a .keras file: weights, statistics, averages, optimizers."""
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def test_run_leaves_everything_it_promises(finished):
    for name in ("flags.txt", "versions.json", "skipped.json", "metrics.csv", "autoencoder.keras", "warmup.keras",
                 "adversarial.keras", "generator.keras", "tensorboard/warmup", "pictures/adversarial-0004.png",
                 "checkpoints/adversarial-0004/model.keras", "data/train", "data/val"):
        assert (finished / name).exists(), name
    assert json.loads((finished / "skipped.json").read_text()) == []


def test_metrics_hold_every_term_unweighted_and_weighted(finished):
    with open(finished / "metrics.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["stage"], row["epoch"]) for row in rows] == [
        (stage, str(epoch + 1)) for stage, epochs in (("autoencoder", 2), ("warmup", 2), ("adversarial", 4))
        for epoch in range(epochs)]
    last = {name: float(value) for name, value in rows[-1].items() if value and name != "stage"}
    for term, weight in (("fidelity", 1.0), ("manifold", 0.2), ("structural", 2.0), ("adversarial", 0.016)):
        assert last[f"weighted_{term}"] == pytest.approx(weight * last[term], rel=1e-3)
    assert last["loss"] == pytest.approx(sum(v for k, v in last.items() if k.startswith("weighted_")), rel=1e-3)
    assert 0 < last["d_hr"] < 1
    assert 0 < last["d_sr"] < 1
    assert rows[2]["adversarial"] == ""  # the warm-up has no such term


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["autoencoder-0001", "adversarial-0001"])
def test_killed_run_resumes_to_bit_identical_weights(moment, finished, sample_slide, tmp_path):
    run = tmp_path / "killed"
    killed = train(run, sample_slide, kill_at=run / "checkpoints" / moment)
    assert killed.returncode == -signal.SIGKILL
    assert not (run / "generator.keras").exists()
    resumed = train(run, sample_slide, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "continues after epoch" in resumed.stdout
    for name in ("autoencoder.keras", "warmup.keras", "generator.keras", "checkpoints/adversarial-0004/model.keras"):
        ours, theirs = held(run / name), held(finished / name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs), name


def errors(done):
    """Count the lines that are ours: TensorFlow writes some of its own while it is imported."""
    return sum(line.startswith("error: ") for line in done.stderr.splitlines())


def test_resume_with_other_flags_is_refused_and_changes_nothing(finished, sample_slide):
    before = (finished / "generator.keras").read_bytes()
    refused = train(finished, sample_slide, "--resume", "--q=1.5")
    assert refused.returncode == 2
    assert errors(refused) == 1
    assert "--q was not given and is 1.5" in refused.stderr
    assert (finished / "generator.keras").read_bytes() == before


def test_resume_without_the_data_names_the_flags_that_differ_and_no_other_slide(finished):
    refused = subprocess.run([sys.executable, "-m", "sr_keras.train", f"--run={finished}", "--resume"],
                             capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert f"these flags differ from the original run; resume with --flagfile={finished}" in refused.stderr
    assert "--train_data was" in refused.stderr


def test_loss_that_is_not_finite_stops_naming_the_term_and_keeps_the_last_checkpoint(sample_slide, tmp_path):
    run = tmp_path / "diverges"
    done = train(run, sample_slide, "--autoencoder_epochs=0", "--lambda_m=0", "--warmup_learning_rate=1e30",
                 "--warmup_epochs=4")
    assert done.returncode == 2
    assert "the term 'fidelity' is" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run / "warmup.keras").exists()


def test_shards_are_trained_on_whatever_tissue_they_were_extracted_with(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        Image.fromarray(np.full((64, 64, 3), 245, np.uint8)).save(tmp_path / part / "glass.png")
        write_shards(find_sources(tmp_path / part), tmp_path / "shards" / part, PatchOptions(64, min_tissue=0), 1)
    done = train(tmp_path / "run", tmp_path / "shards" / "train", f"--val_data={tmp_path / 'shards' / 'val'}",
                 "--train_region=", "--val_region=", "--min_tissue=0.5", *ONE_EPOCH)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_corrected_command_is_a_new_run_where_the_first_ended_before_it_had_its_data(sample_slide, tmp_path):
    wrong = train(tmp_path / "run", sample_slide, "--val_region=9000,0,64,64", *ONE_EPOCH)
    assert wrong.returncode == 2
    assert "lie inside the slide's 512 x 512 pixels" in wrong.stderr
    right = train(tmp_path / "run", sample_slide, *ONE_EPOCH)
    assert right.returncode == 0, right.stderr
    again = train(tmp_path / "run", sample_slide, *ONE_EPOCH)
    assert "add --resume" in again.stderr


@pytest.mark.parametrize(("flag", "says"), [
    ("--train_data=/no/such/slide.svs", "/no/such/slide.svs"),
    ("--crop_size=30", "`crop_size` must be divisible by scale=4"),
    ("--crop_size=128", "`crop_size` must be 64 or less, the side of a patch"),
    ("--eval_patch_size=8", "`eval_patch_size` must be 11 or more"),
    ("--autoencoder_epochs=0", "`autoencoder_epochs` must be positive for the manifold term"),
    ("--warmup_epochs=0 --adversarial_epochs=0", "`warmup_epochs` must be positive"),
    ("--generator=/no/such.keras", "`generator` must be a run, a .keras file or a SavedModel; give, for example, runs"),
    ("--generator=tests", "`generator` must be a .keras file, a run folder or a SavedModel folder"),
    ("--generator=setup.py", "`generator` must be a .keras file"),
    ("--generator=saved_models/srgan_sqe_x4", "give --scale=4 --tail_filters=48 --filters=48 --blocks="),
    ("--recolour=-0.5", "`recolour` must lie in"),
    ("--shrink=0.5", "`shrink` must be 1 or more"),
    ("--shrink=3", "`shrink` must be 2 or less, patch size / crop size"),
    ("--run=", "`run` must be the name of a folder"),
    ("--run=setup.py", "`run` must be the name of a folder"),
    ("--train_data=sample --train_region= --val_region= --eval_patch_size=256",
     "`eval_patch_size` must be 78 or less"),
    ("--autoencoder=setup.py", "setup.py"),
    ("--method=srgan --vgg_weights=/no/such.h5", "/no/such.h5"),
    ("--corrupt_kinds=outlier --outlier_dir=/no/such", "/no/such"),
    ("--best_by=ms_ssim", "161"),
    ("--method=gan", "--method=gan"),
    ("--lambda_c=1 --degradation=scanner", "`lambda_c` must be 0 unless LR is made by the textbook degradation"),
    ("--q=3", "`q` must lie in (0, 2]"),
    ("--colour=red", "colour"),
    ("--strategy=multi_worker", "`TF_CONFIG` must be JSON that names the workers"),
    ("--worker_wait_s=0", "`worker_wait_s` must"),
    ("--ray=nonsense", "`ray` must be auto, or the HOST:PORT of a cluster"),
])
def test_a_mistake_is_one_line_and_leaves_no_run(flag, says, sample_slide, tmp_path):
    done = train(tmp_path / "run", sample_slide, *flag.split())
    assert done.returncode == 2
    assert says in done.stderr
    assert errors(done) == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
