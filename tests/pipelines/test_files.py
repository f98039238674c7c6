# SPDX-License-Identifier: Apache-2.0
"""Writing is whole or not there."""
from __future__ import annotations

import errno
import json
import os

import pytest

from pipelines.files import atomic_path, fitting_name, side_product, write_text


def test_atomic_path_puts_a_file_in_place(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "whole")
    assert (tmp_path / "deep" / "a.txt").read_text() == "whole"
    assert os.listdir(tmp_path / "deep") == ["a.txt"]


def test_atomic_path_keeps_the_old_file_when_writing_fails(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def write_half():
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("ha")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk"):
        write_half()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_path_puts_a_folder_in_place_and_removes_a_broken_one(tmp_path):
    with atomic_path(tmp_path / "whole", folder=True) as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "a").write_text("a")

    def make_half():
        with atomic_path(tmp_path / "half", folder=True) as temporary:
            (temporary / "a").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_half()
    assert os.listdir(tmp_path) == ["whole"]
    assert (tmp_path / "whole" / "inner" / "a").read_text() == "a"


def test_atomic_path_keeps_the_suffix_since_writers_choose_by_it(tmp_path):
    with atomic_path(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"")


@pytest.mark.parametrize("folder", [False, True])
def test_atomic_path_follows_no_link_that_was_placed_under_its_temporary_name(folder, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").write_text("precious")
    planted = tmp_path / f".{os.getpid()}.tmp.a"
    planted.symlink_to(tmp_path / "victim" / ("" if folder else "precious"))
    with atomic_path(tmp_path / "a", folder=folder) as temporary:
        (temporary / "inner" if folder else temporary).write_text("mine")
    assert (tmp_path / "victim" / "precious").read_text() == "precious"
    assert os.listdir(tmp_path / "victim") == ["precious"]
    assert not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("name", ["a" * 251 + ".txt", "\u6f22" * 83 + ".txt", "a.txt"])
def test_names_of_every_length_that_the_system_takes_can_be_written(name, tmp_path):
    write_text(tmp_path / name, "whole")
    report = fitting_name("", name, ".report.json")
    write_text(tmp_path / report, "{}")
    assert sorted(os.listdir(tmp_path)) == sorted([name, report])
    assert (report == f"{name}.report.json") == (name == "a.txt")
    assert fitting_name("", "b" + name[1:], ".report.json") != report


def test_full_disk_is_named_by_the_file_that_was_to_be_written(tmp_path):
    with pytest.raises(OSError, match="No space left") as raised, atomic_path(tmp_path / "a.png"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "a.png")


def test_name_that_is_not_utf8_comes_back_from_json(tmp_path):
    name = os.fsdecode(b"caf\xe9.svs")
    write_text(tmp_path / "a.json", json.dumps({"source": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"source": name}


def test_side_product_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "report.json"
    with side_product(path):
        write_text(path, "{}")
    assert capsys.readouterr().err.startswith(f"warning: {path} was not written: ")
