# SPDX-License-Identifier: Apache-2.0
"""`--engine=auto` measures where it pays, and a run that is resumed keeps its engine."""
from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from sr_keras import super_resolve
from sr_keras.model import engines
from sr_keras.slides import enlarge, reports
from sr_keras.slides.enlarge import begun_by
from sr_keras.slides.loop import super_resolve_plane

REGION = "--region=0,0,160,160"


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """The engines that something faster was looked for."""
    asked: list[str] = []

    def fastest(engine):
        asked.append(engine.name)
        return replace(engine, why="measured")

    monkeypatch.setattr(engines, "fastest", fastest)
    return asked


@pytest.fixture
def litert(tmp_path, monkeypatch) -> None:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "call_apart", lambda function, *arguments: function(*arguments))


@pytest.mark.parametrize(("much", "more", "said"), [
    (40 * 56, [], ["tensorflow"]), (40 * 56 + 1, [], []), (0, ["--engine=tensorflow"], [])])
def test_auto_measures_for_much_work_alone(much, more, said, measured, picture, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(super_resolve, "MUCH", much)
    assert run(f"--input={picture}", f"--output={tmp_path / 'large.png'}", *more) == 0
    assert measured == said
    assert ("engine: measured" in capsys.readouterr().out) == bool(said)


def test_all_inputs_count_and_one_that_cannot_be_read_counts_nothing(measured, picture, run, tmp_path, monkeypatch):
    (picture.parent / "bad.png").write_bytes(b"\x89PNG nothing")
    (picture.parent / "b.png").write_bytes(picture.read_bytes())
    monkeypatch.setattr(super_resolve, "MUCH", 2 * 40 * 56)
    assert run(f"--input={picture.parent}", f"--output={tmp_path / 'out'}") == 1
    assert measured == ["tensorflow"]


def test_resumed_run_keeps_its_engine_and_ends_with_its_bytes(litert, measured, sample_slide, run, tmp_path,
                                                              monkeypatch, capsys):
    def interrupted(*arguments, **more):
        super_resolve_plane(*arguments, **more)
        raise KeyboardInterrupt

    whole, path = tmp_path / "whole.tif", tmp_path / "a.tif"
    assert run(f"--input={sample_slide}", f"--output={whole}", REGION, "--engine=litert") == 0
    with monkeypatch.context() as patch:
        patch.setattr(enlarge, "super_resolve_plane", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(f"--input={sample_slide}", f"--output={path}", REGION, "--engine=litert")
    assert (path.exists(), begun_by(path), begun_by(whole)) == (False, "litert", "litert")
    monkeypatch.setattr(super_resolve, "MUCH", 0)
    capsys.readouterr()
    assert run(f"--input={sample_slide}", f"--output={path}", REGION, "--resume") == 0
    assert "engine: litert (the output was begun with it)" in capsys.readouterr().out
    assert path.read_bytes() == whole.read_bytes()
    assert run(f"--input={sample_slide}", f"--output={path}", REGION, "--resume") == 0
    assert "kept, it existed before" in capsys.readouterr().out
    assert run(f"--input={sample_slide}", f"--output={path}", REGION, "--resume", "--engine=tensorflow") == 2
    assert "same source, model and options" in capsys.readouterr().err
    assert not measured


def test_engine_of_an_output_is_unknown_where_nothing_says_it(sample_slide, run, tmp_path):
    path, work = tmp_path / "a.tif", tmp_path / "a.tif.unfinished"
    assert begun_by(path) is None
    work.write_bytes(b"nothing of ours" * 99)
    assert begun_by(path) is None
    work.unlink()
    with closing(sqlite3.connect(work)) as empty:
        empty.execute("CREATE TABLE made (facts TEXT)")
    assert begun_by(path) is None
    work.unlink()
    assert run(f"--input={sample_slide}", f"--output={path}", REGION) == 0
    assert begun_by(path) == "tensorflow"
    reports.report_path(path).write_text('{"description": []}')  # damaged
    assert begun_by(path) is None
    reports.report_path(path).write_text('{"description": {"model": {"engine": 7}}}')
    assert begun_by(path) is None
