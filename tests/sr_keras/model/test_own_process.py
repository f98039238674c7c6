# SPDX-License-Identifier: Apache-2.0
"""A function runs in another process, and its outcome, its error or its death comes back."""
from __future__ import annotations

import os
import subprocess

import pytest

from pipelines.errors import UserError
from pipelines.files import read_json
from sr_keras.model import own_process
from sr_keras.model.own_process import call_apart


def test_outcome_comes_from_another_process():
    assert call_apart(os.getpid) not in (0, os.getpid())


def test_what_the_function_prints_is_not_its_outcome(capfd):
    assert call_apart(subprocess.check_call, ["echo", "words"]) == 0
    assert capfd.readouterr() == ("", "words\n")


def test_error_of_the_function_is_raised_here(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.json"):
        call_apart(read_json, tmp_path / "x.json", dict, "remove it")


def test_process_that_dies_is_one_line(monkeypatch):
    monkeypatch.setattr(own_process, "CODE", "import os; os._exit(3)")
    with pytest.raises(UserError, match=r"getcwd must end by itself; .* status 3"):
        call_apart(os.getcwd)
