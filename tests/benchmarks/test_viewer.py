# SPDX-License-Identifier: Apache-2.0
"""The viewer's timing comes from a real browser, and says so where there is none."""
from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import viewer
from pipelines.errors import UserError

ROOT = Path(__file__).parents[2]


def test_missing_browser_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="Chromium and its driver must be installed"), viewer.chromium():
        pass


@pytest.mark.server
def test_server_ends_with_its_block_whatever_happens_there(loaded, sample_slide):
    with pytest.raises(ZeroDivisionError), viewer.serving([sample_slide], [loaded]) as running:
        raise ZeroDivisionError
    assert not running.tiles._thread.is_alive()
    with pytest.raises(TypeError), viewer.serving(nothing=True):
        pass


@pytest.mark.slow
@pytest.mark.server
def test_table_has_a_time_for_each_goal():
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    done = subprocess.run([sys.executable, "-m", "benchmarks.viewer", "--engine=tensorflow", "--rounds=2"], cwd=ROOT,
                          capture_output=True, text=True, check=True, timeout=900)
    rows = re.findall(r"^\| (.*?) \| ([\d.]+) \| ([\d.]+) \|", done.stdout, re.MULTILINE)
    assert [name for name, *_ in rows] == list(viewer.GOALS)
    times = {name: float(middle) for name, middle, _ in rows}
    assert 0 < times["click to the first tile"] <= times["click to all tiles"]
    assert 0 < times["pan to the first tile"] <= times["pan to all tiles"]
