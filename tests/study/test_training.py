# SPDX-License-Identifier: Apache-2.0
"""What is refused before training starts, and what is recorded when a cell fails."""
from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.config import DegradeOptions
from study import training
from study.grid import Cell, cell_flags
from study.results import Row, write_results
from study.training import Job, Study, require_disk_space, train_cells

MIB = 2**20
CELL = Cell("srgan_sqe", 0.5, "paper", 0.3, "mixed", "hr", 0)


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path / "work", tmp_path / "out", None, DegradeOptions(), "random")


def cells(count: int) -> list[Cell]:
    return [replace(CELL, seed=seed) for seed in range(count)]


def rows_of(cell: Cell) -> list[Row]:
    return [{**cell.columns, "slide": "s", "flags": Job(cell, tuple(cell_flags(cell))).command}]


@pytest.mark.parametrize(("full", "message"), [
    ("work", r"`work` must have space for 1 more cells of 64 MiB; .* with 10 MiB free"),
    ("out", r"`output` must have space for 16 MiB; .* with 10 MiB free"),
])
def test_too_little_disk_is_refused_by_the_folder_that_lies_on_it(tmp_path, monkeypatch, full, message):
    for name in ("work", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(
        free=10 * MIB if Path(path).name == full else 2**40))
    with pytest.raises(ValueError, match=message):
        require_disk_space([CELL], tmp_path / "work", tmp_path / "out/small")


def test_disk_space_is_that_of_the_nearest_existing_folder(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=2**40))
    require_disk_space([CELL], tmp_path / "a/b", tmp_path / "c")
    assert asked == [tmp_path, tmp_path]


def test_needed_space_is_estimated_by_the_largest_run(study, monkeypatch):
    (study.work / "cells/one/run").mkdir(parents=True)
    (study.work / "cells/one/run/weights").write_bytes(bytes(100 * MIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=250 * MIB))
    require_disk_space(cells(2), study.work, study.output)
    with pytest.raises(ValueError, match="3 more cells of 100 MiB"):
        require_disk_space(cells(3), study.work, study.output)


def test_finished_cells_need_no_space(study, monkeypatch):
    write_results(rows_of(CELL), study.output / "results.csv")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    require_disk_space([CELL], study.work, study.output)


@pytest.mark.parametrize(("text", "message"), [
    ("a,b\n1,2\n", r"`output` must contain the results of a study, .*results.csv with a, b"),
    ("", "with no header"),
])
def test_table_that_is_none_is_refused_and_kept(study, text, message):
    table = study.output / "results.csv"
    table.parent.mkdir(parents=True)
    table.write_text(text)
    for refused in (lambda: require_disk_space([CELL], study.work, study.output),
                    lambda: train_cells([CELL], study, 1e-4, 1)):
        with pytest.raises(ValueError, match=message):
            refused()
    assert table.read_text() == text
    assert not (study.work / "cells").exists()


def test_cell_that_was_made_with_other_flags_is_refused(study):
    write_results([{**row, "flags": "--q=1"} for row in rows_of(CELL)], study.output / "results.csv")
    with pytest.raises(ValueError, match=f"contain no cell trained with other flags.*{CELL.name}"):
        train_cells([CELL], study, 1e-4, 1)
    assert not (study.work / "cells").exists()


def test_what_stops_one_cell_is_recorded_and_stops_no_other(study, monkeypatch):
    first, second = cells(2)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "_run_command", full)
    failed = train_cells([first, second], study, 1e-4, 1)
    assert [one.cell for one in failed] == [first, second]
    with open(study.output / "failed.csv", newline="") as handle:
        recorded = list(csv.DictReader(handle))
    assert [row["cell"] for row in recorded] == [first.name, second.name]
    assert "No space left on device" in recorded[0]["reason"]
    write_results([row for cell in (first, second) for row in rows_of(cell)], study.output / "results.csv")
    assert train_cells([first, second], study, 1e-4, 1) == []
    assert not (study.output / "failed.csv").exists()
