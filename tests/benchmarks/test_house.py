# SPDX-License-Identifier: Apache-2.0
"""The numbers of the code are counted right."""
from __future__ import annotations

import ast

from benchmarks import house


def test_chains_of_imports_are_counted_with_their_longest_branch():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": set()}
    assert house.longest_chains(graph) == {"a": 3, "b": 2, "c": 1, "d": 1}


def test_circle_of_imports_ends():
    assert set(house.longest_chains({"a": {"b"}, "b": {"a"}})) == {"a", "b"}


def test_imports_in_functions_are_counted_once_and_those_of_the_project_told_apart(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import os\ndef f():\n    import numpy\n    def g():\n        from sr_keras import gan\n")
    assert sorted(house._imports_in_functions(path)) == [False, True]


def test_imports_name_modules_and_their_members():
    module, = ast.parse("from sr_keras.model import loading").body
    assert house._imported(module) == ["sr_keras.model", "sr_keras.model.loading"]


def test_numbers_of_this_code_are_those_of_its_files():
    numbers = {number.name: number.value for number in house.documents()}
    assert numbers["README: lines"] == len((house.ROOT / "README.md").read_text().splitlines())
