# SPDX-License-Identifier: Apache-2.0
"""Writing is whole or not there."""
from __future__ import annotations

import os

import pytest

from pipelines.files import atomic_path, write_text


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
    with atomic_path(tmp_path / "whole") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "a").write_text("a")

    def make_half():
        with atomic_path(tmp_path / "half") as temporary:
            temporary.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_half()
    assert os.listdir(tmp_path) == ["whole"]
    assert (tmp_path / "whole" / "inner" / "a").read_text() == "a"


def test_atomic_path_keeps_the_suffix_since_writers_choose_by_it(tmp_path):
    with atomic_path(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"")
