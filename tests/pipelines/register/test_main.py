# SPDX-License-Identifier: Apache-2.0
"""The command line: mistakes are told in one line, and leave nothing behind."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import SlideError
from pipelines.register import __main__ as command
from pipelines.register import scans
from pipelines.scan_pairs import Fit, Registration, Rejected, ScanFile

ROOT = Path(__file__).parents[3]


def register(*arguments):
    return subprocess.run([sys.executable, "-m", "pipelines.register", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "`output` must be given"),
    (["--output={tmp}/pairs.csv"], "`output` must be a .json file"),
    (["--output={tmp}/pairs.json", "--hr={slide}"], "`lr` must be given"),
    (["--output={tmp}/pairs.json", "--lr=nowhere.svs", "--hr={slide}"], "nowhere.svs"),
    (["--output={tmp}/pairs.json", "--lr=setup.py", "--hr={slide}"], "setup.py: is not a slide or image"),
    (["--output={tmp}/pairs.json", "--lr={slide}", "--hr={slide}"], "`hr` must be another file than lr"),
    (["--output={tmp}/pairs.json", "--lr={slide}", "--hr={slide}", "--patch_size=8"], "`patch_size` must be 32 or"),
    (["--output={tmp}/pairs.json", "--lr={slide}", "--hr={slide}", "--max_patches=0"], "`max_patches` must be"),
])
def test_mistakes_are_answered_in_one_line_and_nothing_is_written(tmp_path, sample_slide, arguments, message):
    done = register(*(argument.format(tmp=tmp_path, slide=sample_slide) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["pairs.json", "pairs.png"])
def test_files_of_a_user_are_replaced_only_when_asked(run_program, tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("mine")
    arguments = ("--lr=a.tif", f"--hr={ROOT / 'setup.py'}", f"--output={tmp_path / 'pairs.json'}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(ValueError, match=f"`output` must not exist, nor its picture; .*--overwrite.*{name}"):
        run_program(command, *arguments)
    with pytest.raises(SlideError, match=r"a\.tif"):  # it comes as far as the scans
        run_program(command, *arguments, "--overwrite")
    assert (tmp_path / name).read_text() == "mine"


def test_picture_never_replaces_a_scan(run_program, tmp_path):
    (tmp_path / "scan.png").write_text("a scan")
    with pytest.raises(ValueError, match="`output` must leave the scans as they are; choose another name"):
        run_program(command, f"--lr={tmp_path / 'scan.png'}", f"--hr={ROOT / 'setup.py'}",
                    f"--output={tmp_path / 'scan.json'}", "--overwrite")


def test_what_was_found_is_told_and_what_comes_next(run_program, tmp_path, monkeypatch, capsys):
    file, turn = ScanFile("a.tif", "a.tif", 9, 99, 99, None), np.deg2rad(0.7)
    transform = ((3.97 * np.cos(turn), -3.97 * np.sin(turn), 0.0), (3.97 * np.sin(turn), 3.97 * np.cos(turn), 0.0))
    fits = tuple(Fit(x, 0, (0.3, 0.4), 0.9, 0.8, 0.21, 0.9, 0.3) for x in (0, 128, 256))
    found = Registration(file, file, transform, 4, 128, ((1.0, 0.0),) * 3, fits, (Rejected(0, 128, "blank"),))
    monkeypatch.setattr(scans, "register_scans", lambda *_: found)
    assert run_program(command, "--lr=a.tif", "--hr=b.tif", f"--output={tmp_path / 'p.json'}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["3.9700 HR pixels per LR pixel (scale 4), 0.700 degrees",
                         "3 of 4 patches fit, median residual 0.21 HR pixels, correlation 0.90",
                         "left out: 25% (1 blank)"]
    assert lines[3].startswith(f"look at {tmp_path / 'p.png'}, then: sr-keras extract --pairs=")
