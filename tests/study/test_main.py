# SPDX-License-Identifier: Apache-2.0
"""The command: cells from tiles to tables, resumed after kill -9; and what it refuses."""
from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TINY = ["--patch_size=168", "--eval_patch_size=168", "--min_tissue=0", "--blocks=1", "--filters=4", "--crop_size=32",
        "--batch_size=2", "--steps_per_epoch=2", "--autoencoder_epochs=1", "--warmup_epochs=1",
        "--adversarial_epochs=1", "--best_by=last", "--val_patches=2", "--vgg_weights=hed", "--scored_tiles=2",
        "--deterministic"]
GRID = "--grid=method=srgan_sqe,srgan; fraction=0.5"
FOLDS = "slide,case,magnification,fold\nslide-a,a,20x,0\nslide-b,b,40x,0\nslide-c,c,40x,1\n"
CLAIMS = ("alpha: 0.05\neffects: {ms_ssim: 0.002}\nclaims:\n- {claim: SQE beats SRGAN, "
          "better: srgan_sqe-q0.5-0.5-mixed-hr, than: srgan-q2-0.5-mixed-hr, by: 1}\n")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory, histology) -> Path:
    """Return three slides of two tiles, with folds and claims."""
    root = tmp_path_factory.mktemp("study_tiles")
    for slide, top in (("slide-a", 0), ("slide-b", 170), ("slide-c", 340)):
        (root / "tiles" / slide).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(histology[top:top + 168, i * 168:i * 168 + 168]).save(
                root / "tiles" / slide / f"t{i}.png")
    (root / "folds.csv").write_text(FOLDS)
    (root / "claims.yaml").write_text(CLAIMS)
    return root


def command(tiles: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "study", f"--data={tiles / 'tiles'}", f"--folds={tiles / 'folds.csv'}",
            f"--claims={tiles / 'claims.yaml'}", f"--work={folder / 'work'}", f"--output={folder / 'out'}",
            *TINY, *more]


def study(tiles: Path, folder: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(tiles, folder, *more), cwd=ROOT, text=True, capture_output=True, timeout=900,
                          check=False)


def table(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with open(folder / "out" / "results.csv", newline="") as handle:
        return {(row["cell"], row["slide"]): {name: value for name, value in row.items() if name != "seconds"}
                for row in csv.DictReader(handle)}


@pytest.fixture(scope="module")
def killed_then_finished(tmp_path_factory, tiles) -> Path:
    """Return a study that was killed while a cell trained, and then resumed to its end."""
    folder = tmp_path_factory.mktemp("study")
    with subprocess.Popen(command(tiles, folder, GRID, "--at_once=2"), cwd=ROOT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(folder.glob("work/cells/*/warmup.keras")):
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
    done = study(tiles, folder, GRID, "--at_once=2")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_killed_study_has_every_slide_once_by_a_cell_that_did_not_see_it(killed_then_finished):
    settings = ("bicubic", "srgan-q2-0.5-mixed-hr", "srgan_sqe-q0.5-0.5-mixed-hr")
    folds = {"slide-a": 0, "slide-b": 0, "slide-c": 1}
    assert set(table(killed_then_finished)) == {(f"{setting}-fold{fold}", slide) for setting in settings
                                                for slide, fold in folds.items()}


@pytest.mark.slow
def test_cell_that_was_killed_ends_as_one_that_was_not(killed_then_finished, tiles, tmp_path):
    done = study(tiles, tmp_path, "--grid=method=srgan_sqe; fraction=0.5", "--grid=method=srgan; fraction=0.5",
                 "--at_once=1")
    assert done.returncode == 0, done.stderr
    one, other = table(tmp_path), table(killed_then_finished)
    assert one.keys() == other.keys()
    for key, row in one.items():
        assert row.keys() == other[key].keys()
        for name, value in row.items():
            assert _is_same(value, other[key][name]), (key, name)


def _is_same(one: str, other: str) -> bool:
    """Whether two values of a table are equal but for the threads: two cells at once have half of them each."""
    is_number = one.replace(".", "", 1).isdigit()
    return float(one) == pytest.approx(float(other), rel=1e-4) if is_number else one == other


@pytest.mark.slow
def test_finished_study_trains_nothing_again_even_without_its_runs(killed_then_finished, tiles, tmp_path):
    shutil.copytree(killed_then_finished / "out", tmp_path / "out")
    flags = tmp_path / "out/common.flags"
    assert "--shrink=1.0\n" in flags.read_text()
    flags.write_text(flags.read_text().replace("--shrink=1.0\n", ""))  # as a version before that flag wrote it
    done = study(tiles, tmp_path, GRID)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "work" / "cells").exists()
    assert table(tmp_path) == table(killed_then_finished)
    assert "SQE beats SRGAN" in (tmp_path / "out/tables.md").read_text()


@pytest.mark.slow
def test_cells_made_otherwise_or_by_other_folds_are_refused(killed_then_finished, tiles, tmp_path):
    done = study(tiles, killed_then_finished, GRID, "--batch_size=3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: `flags` must equal those in")
    done = study(tiles, killed_then_finished, GRID, "--train=false", "--vgg_weights=imagenet")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: `flags` must equal those in")  # no table calls it VGG19
    (tmp_path / "folds.csv").write_text(FOLDS.replace("slide-b,b,40x,0", "slide-b,b,40x,1"))
    done = study(tiles, killed_then_finished, GRID, f"--folds={tmp_path / 'folds.csv'}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: `folds` must be the file that the results were made with")


@pytest.mark.parametrize(("more", "message"), [
    ([GRID, "--q=1"], "`flags` must not include flags that the study sets"),
    ([GRID, "--train_data=tiles"], "`flags` must not include flags that the study sets"),
    ([], "`grid` must be set"),
    ([GRID, "--grid=method=srgan; blocks=abc"], "`grid` must have valid values"),
    ([GRID, "--grid=method=srgan; fraction=0.3; kind=outlier"], "`outlier_dir` must name a folder of tiles"),
    ([GRID, "--lambda_c=-1"], "`lambda_c` must be 0 or more"),
    ([GRID, "--data=nosuch"], "`data` must exist"),
    ([GRID, "--best_by=ssim"], "`best_by` must be last, because the validation slides are scored"),
    ([GRID, "--folds={root}/shared.csv"], "`folds` must have the slides of a case (patient) in one fold"),
    ([GRID, "--folds={root}/few.csv"], "`folds` must have every slide of --data in a fold"),
    ([GRID, "--folds={root}/many.csv"], "`data` must have every slide of"),
    (["--grid=method=srgan"], "`claims` must name cells of the grid"),
    ([GRID, "--train=false"], "`output` must contain results.csv with --train=false"),
    ([GRID, "--page=nosuch.md"], "`page` must be a Markdown file"),
])
def test_mistake_is_one_line_and_makes_nothing(tiles, tmp_path, more, message):
    (tmp_path / "shared.csv").write_text(FOLDS.replace("slide-c,c", "slide-c,a"))
    (tmp_path / "few.csv").write_text(FOLDS.replace("slide-b,b,40x,0\n", ""))
    (tmp_path / "many.csv").write_text(FOLDS + "slide-d,d,40x,1\n")
    done = study(tiles, tmp_path, *(flag.format(root=tmp_path) for flag in more))
    assert done.returncode == 2
    assert done.stderr.startswith("error: " + message)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "out").exists()
