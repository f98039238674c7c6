# SPDX-License-Identifier: Apache-2.0
"""Writing is whole or not there, and what is read back is right or refused by name."""
from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from typing import TypedDict

import pytest

from pipelines import files
from pipelines.files import (
    Count,
    FileName,
    Finite,
    atomic_path,
    fitting_name,
    read_json,
    read_table,
    read_text,
    side_product,
    write_text,
)


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


@pytest.mark.parametrize("folder", ["/proc", "/sys"])
@pytest.mark.parametrize("kind", [False, True])
def test_error_of_a_folder_that_takes_no_file_names_the_file_that_was_to_be_written(folder, kind):
    with pytest.raises(OSError, match=folder) as raised, atomic_path(f"{folder}/a.png", folder=kind):
        pass
    assert raised.value.filename == f"{folder}/a.png"


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


@dataclass
class Kind:
    """A field of each sort; the last one is absent from old files."""

    name: FileName
    count: Count
    share: Finite
    new: list[int] = field(default_factory=list)


SOUND = {"name": "a.svs", "count": 3, "share": 1}


def place(path, content):
    """Put bytes, or what is no file, at a path."""
    if content is os.mkdir or content is os.mkfifo:
        content(path)
    elif content == "loop":
        path.symlink_to(path)
    else:
        path.write_bytes(content)
    return path


def test_json_is_read_back_as_its_kind_with_defaults_for_what_old_files_lack(tmp_path):
    path = place(tmp_path / "a.json", json.dumps({**SOUND, "unknown": 1}).encode())
    assert read_json(path, Kind, "write it again") == Kind("a.svs", 3, 1.0, [])


NOT_JSON = {"empty": b"", "binary": bytes(range(256)), "truncated": b'{"name": "a', "latin-1": b'{"name": "\xe9"}',
            "deep": b"[" * 10**6, "other": b"[1]", "digits": b"1" * 5000, "folder": os.mkdir, "fifo": os.mkfifo,
            "loop": "loop"}


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_file_that_is_no_json_is_refused_in_one_line_that_names_it(content, tmp_path):
    path = place(tmp_path / "a.json", content)
    with pytest.raises(ValueError, match=r"^`.*/a\.json` must be a JSON file .*; write it again\.") as raised:
        read_json(path, Kind, "write it again")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "value"), [
    ("count", "3"), ("count", -1), ("count", 2**70), ("count", 1.5), ("count", True), ("count", None),
    ("share", float("nan")), ("share", float("inf")), ("share", 10**400), ("share", [1]), ("name", "../../etc/passwd"),
    ("name", ".."), ("name", ""), ("name", 5), ("new", ["a"])])
def test_field_of_another_type_is_named(name, value, tmp_path):
    path = place(tmp_path / "a.json", json.dumps({**SOUND, name: value}).encode())
    with pytest.raises(ValueError, match=rf"/a\.json` must .* - at `\$\.{name}|Number out of range"):
        read_json(path, Kind, "write it again")


def test_field_that_is_missing_is_named(tmp_path):
    path = place(tmp_path / "a.json", b'{"name": "a", "share": 0.5}')
    with pytest.raises(ValueError, match=r"/a\.json` must .* missing required field `count`"):
        read_json(path, Kind, "write it again")


def test_number_that_overflows_is_not_finite(tmp_path):
    path = place(tmp_path / "a.json", b'{"name": "a", "count": 1, "share": 1e999}')
    with pytest.raises(ValueError, match=r"/a\.json` must .* - at `\$\.share`"):
        read_json(path, Kind, "write it again")


def test_file_that_may_not_be_read_is_refused_by_name(tmp_path, monkeypatch):
    def forbidden(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = place(tmp_path / "a.txt", b"")
    monkeypatch.setattr(type(path), "read_bytes", forbidden)  # by a stand-in: root may read everything
    with pytest.raises(ValueError, match=r"/a\.txt` must be a text file .*Received: Permission denied"):
        read_text(path, "write it again")


def test_file_that_would_fill_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_READ", 2**20)
    path = place(tmp_path / "a.json", b" " * (2**20 + 1))
    with pytest.raises(ValueError, match=r"/a\.json` must .*1048577 bytes, more than 1 MiB"):
        read_json(path, Kind, "write it again")


def test_missing_file_is_another_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json", Kind, "write it again")


def test_csv_has_numbers_of_six_digits_and_no_other_file_is_left(tmp_path):
    files.write_csv([{"name": "a,b", "count": 3, "share": 1 / 3}, {"name": "", "count": None, "share": 2.0}],
                    tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == b'name,count,share\n"a,b",3,0.333333\n,,2\n'
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_table_gives_its_fields_as_text(tmp_path):
    path = place(tmp_path / "a.csv", b'name,count,share,more\n"a,b",3,nan,x\n')
    assert read_table(path, Row, "write it again") == [{"name": "a,b", "count": "3", "share": "nan", "more": "x"}]


class Row(TypedDict):
    """The columns that a table must have."""

    name: str
    count: Count
    share: float


HEAD = b"name,count,share\n"
DAMAGED = {"long field": HEAD + b"x" * 140000 + b",1,1\n", "binary": bytes(range(256)), "nul": HEAD + b"a\0,1,1\n,,",
           "short row": HEAD + b"a,1\n", "long row": HEAD + b"a,1,1,1\n", "no number": HEAD + b"a,b,1\n",
           "negative": HEAD + b"a,-1,1\n", "other columns": b"name,share\na,1\n", "open quote": HEAD + b'"a,1,1\n',
           "folder": os.mkdir}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_table_is_refused_in_one_line_that_names_it(content, tmp_path):
    path = place(tmp_path / "a.csv", content)
    with pytest.raises(ValueError, match=r"^`.*/a\.csv` must be a CSV table .*; write it again\.") as raised:
        read_table(path, Row, "write it again")
    assert "\n" not in str(raised.value)
