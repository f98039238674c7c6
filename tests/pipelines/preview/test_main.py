# SPDX-License-Identifier: Apache-2.0
"""The preview is one command: what it draws, prints, and refuses."""
from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from absl import flags
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.patches import find_sources
from pipelines.preview import __main__ as program
from pipelines.preview.__main__ import choose_patches


def run_preview(*arguments):
    return subprocess.run([sys.executable, "-m", "pipelines.preview", *arguments], capture_output=True, text=True)


@pytest.fixture
def command(run_program):
    return partial(run_program, program)


def test_choose_patch_prefers_the_patch_with_most_to_see(tmp_path, histology):
    for name, tile in (("a", np.full((64, 64, 3), (200, 90, 160), np.uint8)), ("b", histology[:64, :64])):
        Image.fromarray(tile).save(tmp_path / f"{name}.png")
    (chosen,) = choose_patches(find_sources(tmp_path), PatchOptions(patch_size=64, min_tissue=0.0), 1)
    assert chosen.name == "b"


def test_choose_patch_says_why_there_is_none(tile_folder):
    with pytest.raises(ValueError, match=r"^`data` must have a patch to show; .*smaller than a patch"):
        choose_patches(find_sources(tile_folder), PatchOptions(patch_size=512), 3)


def test_command_draws_corruptions(tmp_path, tile_folder):
    done = run_preview(f"--output={tmp_path / 'deep' / 'preview.png'}", f"--data={tile_folder}", "--show=corruptions",
                       f"--outlier_dir={tile_folder}", "--patch_size=64", "--scale=2", "--degradation=textbook")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "deep" / "preview.png") as picture:
        assert picture.width > 2000
    assert len(list((tmp_path / "deep").iterdir())) == 1


@pytest.mark.parametrize(("data", "output"), [
    ("data/tile0.png", "data/tile0.png"), ("data", "data/tile0.png"), ("data", "data/new.png"),
    ("sample", "outliers/new.png")])
def test_a_picture_among_those_it_shows_is_refused_and_they_stay(command, data, output, tmp_path, tile_folder):
    for name in ("data", "outliers"):
        shutil.copytree(tile_folder / "slide-a", tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    with pytest.raises(ValueError, match=r"^`output` must lie outside of data and outlier_dir"):
        command(f"--output={tmp_path / output}", f"--data={data if data == 'sample' else tmp_path / data}",
                f"--outlier_dir={tmp_path / 'outliers'}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


@pytest.mark.parametrize("name", ["p.jpg", "p", "folder.png"])
def test_output_that_is_no_png_is_refused(command, name, tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"^`output` must be a \.png file"):
        command(f"--output={tmp_path / name}")


def test_a_picture_that_is_there_is_replaced(command, tmp_path, tile_folder, capsys):
    (tmp_path / "preview.png").write_bytes(b"an older one")
    assert command(f"--output={tmp_path / 'preview.png'}", f"--data={tile_folder}", "--patch_size=64",
                   "--degradation=pyramid") == 0
    with Image.open(tmp_path / "preview.png") as picture:
        assert picture.width > 2000
    assert capsys.readouterr().out.startswith("There are no pairs in the data")


def test_table_compares_presets_with_the_real_lr_of_pairs(command, tmp_path, histology, capsys):
    (tmp_path / "pairs").mkdir()
    for i in range(3):
        tile = Image.fromarray(histology[:160, 160 * i:160 * i + 160])
        tile.save(tmp_path / "pairs" / f"tile{i}.png")
        tile.reduce(4).save(tmp_path / "pairs" / f"tile{i}_lr00.png")
    assert command(f"--output={tmp_path / 'family.png'}", f"--data={tmp_path / 'pairs'}", "--degradation=textbook",
                   "--resamplings=box", "--blurs=none") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 pairs of 1 slides"
    assert [line.split()[0] for line in lines[3:7]] == ["real", "scanner", "pyramid", "textbook"]
    assert lines[6].split()[1:9] == ["0.00", "(0.00)"] * 4, "a plain mean is what these pairs are"


def test_user_mistake_is_one_line(tmp_path, tile_folder):
    done = run_preview(f"--output={tmp_path / 'preview.png'}", f"--data={tile_folder}", "--patch_size=63")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: `patch_size` must be divisible by scale=4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("flag", "message"), [
    ("--data=nowhere", "`data` must exist"),
    ("--output=", "`output` must be given"),
    ("--degradation=microscope", "flag --degradation=microscope"),
    ("--jpeg_quality=0,90", "`jpeg_quality` must lie in 1 to 100"),
])
def test_mistake_is_named(command, flag, message, tmp_path, tile_folder):
    with pytest.raises((ValueError, FileNotFoundError, flags.Error), match=re.escape(message)):
        command(f"--output={tmp_path / 'preview.png'}", f"--data={tile_folder}", flag)
    assert not list(tmp_path.iterdir())
