# SPDX-License-Identifier: Apache-2.0
"""The command: cells from tiles to table, resumed after kill -9, each trained once; and what it refuses."""
from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TINY = ["--patch_size=168", "--eval_patch_size=168", "--min_tissue=0", "--blocks=1", "--filters=4", "--crop_size=32",
        "--batch_size=2", "--steps_per_epoch=2", "--autoencoder_epochs=1", "--warmup_epochs=1",
        "--adversarial_epochs=1", "--best_by=last", "--val_patches=2", "--vgg_weights=hed", "--seeds=0",
        "--magnifications=slide-c:20x", "--deterministic"]
GRID = "--grid=method=srgan_sqe; fraction=0.5"
EQUAL = "--grid=method=srgan_sqe; balance=equal; q=2; fraction=0.5"


@pytest.fixture(scope="module")
def tiles(tmp_path_factory, histology) -> Path:
    """Return two training slides and one test slide, with two tiles of 168 each."""
    root = tmp_path_factory.mktemp("study_tiles")
    for slide, top, part in (("slide-a", 0, "train"), ("slide-b", 170, "train"), ("slide-c", 340, "val")):
        (root / part / slide).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(histology[top:top + 168, i * 168:i * 168 + 168]).save(root / part / slide / f"t{i}.png")
    return root


def command(tiles: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "study", f"--train_data={tiles / 'train'}", f"--val_data={tiles / 'val'}",
            f"--work={folder / 'work'}", f"--output={folder / 'out'}", *TINY, *more]


def study(tiles: Path, folder: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(tiles, folder, *more), cwd=ROOT, text=True, capture_output=True, timeout=900,
                          check=False)


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out" / "results.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def trainers(folder: Path) -> list[str]:
    """Return the live processes that train or score a cell of this study."""
    alive = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if str(folder) in words and ("sr_keras.train" in words or "sr_keras.evaluate" in words):
            alive.append(words)
    return alive


@pytest.fixture(scope="module")
def killed_then_finished(tmp_path_factory, tiles) -> Path:
    """Return a study that was killed while its first cell trained, and then resumed to its end."""
    folder = tmp_path_factory.mktemp("study")
    with subprocess.Popen(command(tiles, folder, GRID, EQUAL, "--at_once=1"), cwd=ROOT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(folder.glob("work/cells/*/run/warmup.keras")):
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while trainers(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not trainers(folder), "cells outlive the study that started them"
    done = study(tiles, folder, GRID, EQUAL, "--at_once=2")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_killed_study_goes_on_and_has_each_cell_once(killed_then_finished):
    names = sorted(row["cell"] for row in table(killed_then_finished))
    assert names == ["bicubic", "srgan_sqe-q0.5-paper-0.5-mixed-hr-seed0",
                     "srgan_sqe-q2-equal-0.5-mixed-hr-seed0"]


@pytest.mark.slow
def test_cell_that_was_killed_ends_as_one_that_was_not(killed_then_finished, tiles, tmp_path):
    done = study(tiles, tmp_path, "--grid=method=srgan_sqe; fraction=0.5")
    assert done.returncode == 0, done.stderr
    (whole,) = [row for row in table(tmp_path) if row["method"] == "srgan_sqe"]
    (killed,) = [row for row in table(killed_then_finished) if row["cell"] == whole["cell"]]
    assert {name: killed[name] for name in killed if name != "seconds"} == {
        name: whole[name] for name in whole if name != "seconds"}


@pytest.mark.slow
def test_row_says_what_made_it(killed_then_finished):
    rows = {row["cell"]: row for row in table(killed_then_finished)}
    equal = rows["srgan_sqe-q2-equal-0.5-mixed-hr-seed0"]
    assert equal["slide"] == "slide-c"
    assert equal["magnification"] == "20x"
    assert equal["patches"] == "2"
    assert "--q=2 " in equal["flags"]
    assert "--lambda_s=2 " not in equal["flags"]  # it was weighed anew
    assert float(equal["seconds"]) > 0
    assert equal["commit"]
    for row in rows.values():
        assert all(np.isfinite(float(row[name])) for name in ("psnr", "ms_ssim", "qilv", "rrmse"))


@pytest.mark.slow
def test_finished_study_trains_nothing_again_even_without_its_runs(killed_then_finished, tiles, tmp_path):
    shutil.copytree(killed_then_finished / "out", tmp_path / "out")
    flags = tmp_path / "out/common.flags"
    assert "--shrink=1.0\n" in flags.read_text()
    flags.write_text(flags.read_text().replace("--shrink=1.0\n", ""))  # as a version before that flag wrote it
    done = study(tiles, tmp_path, GRID, EQUAL)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "work" / "cells").exists()
    assert table(tmp_path) == table(killed_then_finished)


@pytest.mark.slow
def test_cells_made_otherwise_are_refused(killed_then_finished, tiles):
    done = study(tiles, killed_then_finished, GRID, "--batch_size=3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: `flags` must equal those in")
    assert "--batch_size=3" in done.stderr


@pytest.mark.slow
def test_cell_that_fails_is_named_and_costs_no_other(tiles, tmp_path):
    done = study(tiles, tmp_path, "--grid=method=fidelity; warmup_learning_rate=1e30,1e-3")
    assert done.returncode == 1
    assert "failed: fidelity-q0.5-paper-clean-seed0-warmup_learning_rate=1e30" in done.stderr
    assert "warmup_learning_rate=1e30," in (tmp_path / "out/failed.csv").read_text()
    assert [row["variant"] for row in table(tmp_path) if row["method"] == "fidelity"] == ["warmup_learning_rate=1e-3"]


@pytest.mark.parametrize(("more", "message"), [
    (["--grid=method=srgan"], "`flags` must not include flags that the grid sets"),
    ([], "`grid` must be set"),
    (["--grid=method=srgan", "--seeds=a"], "`seeds` must be integers"),
    (["--grid=method=srgan", "--seeds="], "`seeds` must have at least one value"),
    (["--grid=method=srgan; blocks=abc"], "`grid` must have valid values"),
    (["--grid=method=srgan; fraction=0.3; kind=outlier"], "`outlier_dir` must name a folder of tiles"),
    (["--grid=method=srgan", "--lambda_c=-1"], "`lambda_c` must be 0 or more"),
    (["--grid=method=srgan", "--train_data=nosuch"], "`train_data` must exist"),
    (["--grid=method=srgan", "--case_pattern=(slide)"], "`train_data` and `val_data` must share no case (patient)"),
    (["--grid=method=srgan", "--magnifications=erosion"], "`magnifications` must be SLIDE:MAGNIFICATION"),
    (["--grid=method=srgan", "--best_by=ssim"], "`best_by` must be last if the validation slides are scored"),
    (["--grid=method=srgan", "--eval_patch_size=128"], "`eval_patch_size` must be 161 or more"),
])
def test_mistake_is_one_line_and_makes_nothing(tiles, tmp_path, more, message):
    done = study(tiles, tmp_path, *more, *(["--q=1"] if "that the grid sets" in message else []))
    assert done.returncode == 2
    assert done.stderr.startswith("error: " + message)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("gib", "expected"), [(64, 4), (5, 3), (0.5, 1)])
def test_as_many_cells_as_cores_and_memory_have_room_for(monkeypatch, tile_folder, tmp_path, gib, expected):
    from pipelines.config import PatchOptions
    from pipelines.shards import write_shards
    from pipelines.sources import find_sources
    from study import __main__ as study_command

    write_shards(find_sources(tile_folder), tmp_path, PatchOptions(patch_size=128, min_tissue=0), workers=1,
                 progress=False)
    study_command.FLAGS(["study", "--cache=memory"])
    monkeypatch.setattr(study_command, "cores", lambda: 4)
    monkeypatch.setattr(study_command, "available_memory", lambda: int(gib * 2**30))
    assert study_command._at_once(tmp_path) == expected
