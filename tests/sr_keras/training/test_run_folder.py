# SPDX-License-Identifier: Apache-2.0
"""A run folder keeps its flags, refuses a resume with other flags, and lists the scores of its epochs."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import keras
import pytest

from pipelines.sources import RUN_FILES
from sr_keras.model.facts import FLAGS_FILE
from sr_keras.training.run_folder import VERSIONS_FILE, open_run, read_metrics, record_metrics, versions

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


def begin(run: Path) -> None:
    """What the first thing that a run makes leaves behind."""
    (run / "parts.json").write_text("{}")


def test_a_run_is_known_by_two_of_its_files_where_slides_are_looked_for(tmp_path):
    open_run(tmp_path, "--q=1", resume=False)
    assert {path.name for path in tmp_path.glob("[!.]*")} == RUN_FILES == {FLAGS_FILE, VERSIONS_FILE}


def test_open_run_writes_flags_and_versions(tmp_path):
    open_run(tmp_path / "run", "--q=0.5\n", resume=False)
    assert (tmp_path / "run" / "flags.txt").read_text() == "--q=0.5\n"
    written = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert written["keras"] == keras.__version__ == versions()["keras"]


def test_versions_name_all_that_is_required_and_no_extra():
    project = tomllib.loads(PROJECT.read_text())["project"]
    names = {re.split(r"[^\w.-]", line)[0] for line in project["dependencies"]}
    assert versions().keys() == names | {"python", "platform", "commit", "sr_keras"}
    assert all(versions()[name] == version(name) for name in names)


def test_open_run_refuses_a_run_that_is_there_unless_it_resumes(tmp_path):
    open_run(tmp_path, "--q=0.5\n", resume=True)
    begin(tmp_path)
    with pytest.raises(ValueError, match=r"`run` must be a new folder; add --resume"):
        open_run(tmp_path, "--q=0.5\n", resume=False)
    open_run(tmp_path, "--q=0.5\n", resume=True)


def test_open_run_refuses_contradicting_flags_and_names_them(tmp_path):
    open_run(tmp_path, "--q=0.5\n--blocks=8\n--workers=2\n", resume=False)
    begin(tmp_path)
    with pytest.raises(ValueError, match=r"--q was 0.5 and is 2.0") as caught:
        open_run(tmp_path, "--q=2.0\n--blocks=8\n--workers=1\n", resume=True)
    assert "workers" not in str(caught.value)
    assert "blocks" not in str(caught.value)
    assert (tmp_path / "flags.txt").read_text().startswith("--q=0.5")


def test_run_of_several_machines_goes_on_with_one(tmp_path):
    open_run(tmp_path, "--q=0.5\n--strategy=multi_worker\n", resume=False)
    begin(tmp_path)
    open_run(tmp_path, "--q=0.5\n--strategy=none\n", resume=True)


def test_flag_that_is_younger_than_the_run_was_at_its_default(tmp_path):
    open_run(tmp_path, "--q=0.5\n", resume=False)
    begin(tmp_path)
    open_run(tmp_path, "--q=0.5\n--shrink=1.0\n", resume=True, defaults="--q=0.25\n--shrink=1.0\n")
    with pytest.raises(ValueError, match=r"--shrink was not given and is 2.0"):
        open_run(tmp_path, "--q=0.5\n--shrink=2.0\n", resume=True, defaults="--q=0.25\n--shrink=1.0\n")


def test_run_that_was_moved_goes_on_under_its_new_name(tmp_path):
    open_run(tmp_path / "old", "--q=0.5\n--run=old\n", resume=False)
    begin(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    open_run(tmp_path / "new", "--q=0.5\n--run=new\n", resume=True)
    with pytest.raises(ValueError, match=r"--q was 0.5 and is 2.0"):
        open_run(tmp_path / "new", "--q=2.0\n--run=new\n", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_run_that_made_nothing_yet_gives_way_to_another(resume, tmp_path):
    open_run(tmp_path, "--q=0.5\n", resume=False)
    (tmp_path / "data").mkdir()
    open_run(tmp_path, "--q=2.0\n", resume)
    assert (tmp_path / "flags.txt").read_text() == "--q=2.0\n"


@pytest.mark.parametrize("there", [["versions.json"], [".123.tmp.versions.json"],
                                   ["versions.json", ".123.tmp.flags.txt"]])
def test_run_killed_as_it_opened_is_opened_again(there, tmp_path):
    for name in there:
        (tmp_path / name).write_text("{")
    open_run(tmp_path, "--q=0.5\n", resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "flags.txt", "versions.json"]
    assert json.loads((tmp_path / "versions.json").read_text())["keras"] == keras.__version__


def test_open_run_refuses_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        open_run(tmp_path, "", resume=True)
    (tmp_path / "thesis.tex").rename(tmp_path / ".x.tmp.tex")
    with pytest.raises(ValueError, match="something else"):
        open_run(tmp_path, "", resume=True)
    assert (tmp_path / ".x.tmp.tex").read_text() == "mine"


def test_metrics_of_a_killed_epoch_are_written_over(tmp_path):
    record_metrics(tmp_path, "autoencoder", 1, {"loss": 3.0})
    record_metrics(tmp_path, "warmup", 1, {"loss": 1.0, "val_psnr": 20.0})
    record_metrics(tmp_path, "warmup", 2, {"loss": 0.5, "val_psnr": 21.0})
    record_metrics(tmp_path, "warmup", 2, {"loss": 0.4, "val_psnr": 22.0})
    rows = read_metrics(tmp_path)
    assert [(row["stage"], row["epoch"], row["loss"]) for row in rows] == [
        ("autoencoder", "1", "3"), ("warmup", "1", "1"), ("warmup", "2", "0.4")]
    assert rows[0]["val_psnr"] == ""


def test_second_start_on_a_run_says_who_trains_it_and_a_killed_run_leaves_it_free(tmp_path):
    code = ("import sys, pathlib; from sr_keras.training.run_folder import open_run; "
            "open_run(pathlib.Path(sys.argv[1]), '--q=1', resume=False); print('held', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          cwd=PROJECT.parent) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=rf"wait for process {other.pid} on {os.uname().nodename}, or stop it"):
            open_run(tmp_path / "run", "--q=1", resume=True)
        other.kill()
    open_run(tmp_path / "run", "--q=1", resume=True)
