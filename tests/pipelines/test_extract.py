# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.patches import find_sources
from pipelines.shards import open_shards, write_shards

ROOT = Path(__file__).parents[2]
SMALL = ["--patch_size=64", "--stride=16", "--min_tissue=0"]
OPTIONS = PatchOptions(patch_size=64, stride=16, min_tissue=0.0)


def extract(*arguments):
    return subprocess.run([sys.executable, "-m", "pipelines.extract", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, timeout=300)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wait_for(holds, seconds=120.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_extraction_leaves_nothing_that_looks_whole_and_goes_on(tmp_path, sample_slide, workers):
    (tmp_path / "data").mkdir()
    for name in ("a.tif", "b.tif"):
        shutil.copy(sample_slide, tmp_path / "data" / name)
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    command = [sys.executable, "-m", "pipelines.extract", f"--data={tmp_path / 'data'}", f"--output={killed}", *SMALL,
               f"--workers={workers}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: any(killed.glob(".*.tmp.*-00000.tfrecord" if workers == 2 else ".*.tmp.b-*")))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= (2 if workers == 2 else 0)
    process.kill()
    process.wait()
    wait_for(lambda: not any(is_running(pid) for pid in children), 10)
    finished = len(list(killed.glob("*.json")))
    assert finished < 2
    with pytest.raises(ValueError, match="be finished; repeat the extraction"):
        open_shards(killed)

    sources = find_sources(tmp_path / "data")
    assert write_shards(sources, killed, OPTIONS, workers=1, progress=False).kept == finished
    write_shards(sources, straight, OPTIONS, workers=1, progress=False)
    assert content(killed) == content(straight)
    assert open_shards(killed).count == 2 * 29**2


def test_extract_says_what_it_made_and_skipped(tmp_path, tile_folder):
    data = shutil.copytree(tile_folder, tmp_path / "data")
    (data / "slide-a" / "tile0.png").write_bytes(b"not a picture")
    done = extract(f"--data={data}", f"--output={tmp_path / 'shards'}", "--patch_size=128", "--min_tissue=0")
    assert done.returncode == 0
    assert "15 patches of 2 slides" in done.stdout
    assert "skipped: slide-a, tile0.png" in done.stdout


def test_extract_reads_pairs_of_two_folders_and_names_what_has_no_partner(tmp_path, tile_folder):
    for path in tile_folder.rglob("*.png"):
        target = tmp_path / "lr" / path.relative_to(tile_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).reduce(4).save(target)
    (tmp_path / "lr" / "slide-a" / "tile0.png").unlink()
    done = extract(f"--data={tile_folder}", f"--lr_data={tmp_path / 'lr'}", f"--output={tmp_path / 'shards'}")
    assert done.returncode == 0
    assert "15 patches of 2 slides" in done.stdout
    assert "skipped: slide-a, tile0.png" in done.stdout
    assert {shard.pair_scale for shard in open_shards(tmp_path / "shards").shards} == {4}


def test_extract_of_levels_from_a_slide_with_one_is_an_error_of_one_line(tmp_path, tile_folder):
    done = extract(f"--data={next(tile_folder.rglob('*.png'))}", "--pairs=levels", f"--output={tmp_path / 'shards'}")
    assert done.returncode == 2
    assert "has one level, and pairs of levels need another" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("output", ["", "slide-a"])
def test_output_among_the_slides_is_refused_and_nothing_is_written(output, tmp_path, tile_folder):
    data = shutil.copytree(tile_folder, tmp_path / "data")
    before = sorted(data.rglob("*"))
    done = extract(f"--data={data}", f"--output={data / output}", *SMALL)
    assert done.returncode == 2
    assert done.stderr.startswith("error: `output` must hold none of the slides")
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "`output` must be given"),
    (["--output="], "`output` must be given"),
    (["--output=setup.py"], "`output` must be a folder; setup.py is a file"),
    (["--output=x", "--mpp=inf"], "`mpp` must be positive and finite"),
    (["--output=x", "--data=nowhere"], "nowhere"),
    (["--output=x", "--sampling=random"], "`max_patches` must"),
    (["--output=x", "--no_such_flag=1"], "no_such_flag"),
    (["--output=x", "--pairs=no"], "pairs"),
    (["--output=x", "--pairs=levels", "--patch_size=130"], "`patch_size` must be divisible by scale=4 for pairs"),
    (["--output=x", "--lr_data=nowhere"], "`lr_data` must be a folder"),
    (["--output=x", "--data=sample,sample", "--lr_data=tests"], "`data` must be one folder with lr_data"),
])
def test_mistakes_are_answered_in_one_line(arguments, message):
    done = extract(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
