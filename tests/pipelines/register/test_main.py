# SPDX-License-Identifier: Apache-2.0
"""The command line: mistakes are told in one line, and leave nothing behind."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
