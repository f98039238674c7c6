"""What is refused before a campaign begins."""
from __future__ import annotations

import shutil

import pytest

from pipelines.options import DegradeOptions
from sr_keras.study.campaign import require_room, train_cells
from sr_keras.study.cells import Bench
from sr_keras.study.grid import Cell

MIB = 2**20
CELL = Cell("srgan_sqe", 0.5, "paper", 0.3, "mixed", "hr", 0)


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path, tmp_path / "out", None, DegradeOptions(), "random")


def disk_of(monkeypatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))


def test_too_little_disk_is_refused_before_anything_is_trained(bench, monkeypatch):
    disk_of(monkeypatch, free=10 * MIB)
    with pytest.raises(ValueError, match=r"`work` must have room for 1 more cells of 64 MiB; .* with 10 MiB free"):
        train_cells([CELL], bench, 1e-4, 1)
    assert not (bench.work / "cells").exists()


def test_room_is_measured_by_the_largest_run_that_is_there(bench, monkeypatch):
    (bench.work / "cells/one/run").mkdir(parents=True)
    (bench.work / "cells/one/run/weights").write_bytes(bytes(100 * MIB))
    disk_of(monkeypatch, free=250 * MIB)
    require_room(bench, 2)
    with pytest.raises(ValueError, match="3 more cells of 100 MiB"):
        require_room(bench, 3)


def test_what_is_finished_needs_no_room(bench, monkeypatch):
    disk_of(monkeypatch, free=0)
    require_room(bench, 0)
