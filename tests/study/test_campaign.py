"""What is refused before a campaign begins, and what is recorded of what failed."""
from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.config import DegradeOptions
from study import cells as study_cells
from study.campaign import require_room, train_cells
from study.cells import Bench, Job
from study.grid import Cell, cell_flags
from study.results import Row, write_results

MIB = 2**20
CELL = Cell("srgan_sqe", 0.5, "paper", 0.3, "mixed", "hr", 0)


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path / "work", tmp_path / "out", None, DegradeOptions(), "random")


def cells(count: int) -> list[Cell]:
    return [replace(CELL, seed=seed) for seed in range(count)]


def rows_of(cell: Cell) -> list[Row]:
    return [{**cell.columns, "slide": "s", "flags": Job(cell, tuple(cell_flags(cell))).command}]


@pytest.mark.parametrize(("full", "message"), [
    ("work", r"`work` must have room for 1 more cells of 64 MiB; .* with 10 MiB free"),
    ("out", r"`output` must have room for 16 MiB; .* with 10 MiB free"),
])
def test_too_little_disk_is_refused_by_the_folder_that_lies_on_it(tmp_path, monkeypatch, full, message):
    for name in ("work", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(
        free=10 * MIB if Path(path).name == full else 2**40))
    with pytest.raises(ValueError, match=message):
        require_room([CELL], tmp_path / "work", tmp_path / "out/small")


def test_room_is_looked_for_where_a_folder_would_be_made(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=2**40))
    require_room([CELL], tmp_path / "a/b", tmp_path / "c")
    assert asked == [tmp_path, tmp_path]


def test_room_is_measured_by_the_largest_run_that_is_there(bench, monkeypatch):
    (bench.work / "cells/one/run").mkdir(parents=True)
    (bench.work / "cells/one/run/weights").write_bytes(bytes(100 * MIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=250 * MIB))
    require_room(cells(2), bench.work, bench.output)
    with pytest.raises(ValueError, match="3 more cells of 100 MiB"):
        require_room(cells(3), bench.work, bench.output)


def test_what_is_finished_needs_no_room(bench, monkeypatch):
    write_results(rows_of(CELL), bench.output / "results.csv")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    require_room([CELL], bench.work, bench.output)


@pytest.mark.parametrize(("text", "message"), [
    ("a,b\n1,2\n", r"`output` must contain the results of a study, .*results.csv with a, b"),
    ("", "with no header"),
])
def test_table_that_is_none_is_refused_and_kept(bench, text, message):
    table = bench.output / "results.csv"
    table.parent.mkdir(parents=True)
    table.write_text(text)
    for refused in (lambda: require_room([CELL], bench.work, bench.output),
                    lambda: train_cells([CELL], bench, 1e-4, 1)):
        with pytest.raises(ValueError, match=message):
            refused()
    assert table.read_text() == text
    assert not (bench.work / "cells").exists()


def test_cell_that_was_made_with_other_flags_is_refused(bench):
    write_results([{**row, "flags": "--q=1"} for row in rows_of(CELL)], bench.output / "results.csv")
    with pytest.raises(ValueError, match=f"hold no cell that was made with other flags.*{CELL.name}"):
        train_cells([CELL], bench, 1e-4, 1)
    assert not (bench.work / "cells").exists()


def test_what_stops_one_cell_is_recorded_and_stops_no_other(bench, monkeypatch):
    first, second = cells(2)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study_cells, "_said_failure", full)
    failed = train_cells([first, second], bench, 1e-4, 1)
    assert [one.cell for one in failed] == [first, second]
    with open(bench.output / "failed.csv", newline="") as handle:
        recorded = list(csv.DictReader(handle))
    assert [row["cell"] for row in recorded] == [first.name, second.name]
    assert "No space left on device" in recorded[0]["reason"]
    write_results([row for cell in (first, second) for row in rows_of(cell)], bench.output / "results.csv")
    assert train_cells([first, second], bench, 1e-4, 1) == []
    assert not (bench.output / "failed.csv").exists()
