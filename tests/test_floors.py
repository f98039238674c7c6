"""The house has floors: a module imports only from lower ones, and every public name says what it does."""
from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "pipelines": 0,
    "pipelines.options": 0, "pipelines.pixels": 1, "pipelines.files": 0, "pipelines.console": 0,
    "pipelines.slide": 2, "pipelines.degrade": 2,
    "pipelines.corrupt": 3, "pipelines.tissue": 3, "pipelines.sample": 3,
    "pipelines.patches": 4, "pipelines.shards": 5, "pipelines.dataset": 6, "pipelines.flags": 6,
    "pipelines.extract": 7, "pipelines.preview": 7, "pipelines.benchmark": 7,
    "sr_keras": 8, "sr_keras.options": 8,
    "sr_keras.losses": 9, "sr_keras.metrics": 9, "sr_keras.tiling": 9, "sr_keras.runs": 9,
    "sr_keras.networks": 10, "sr_keras.callbacks": 10, "sr_keras.parts": 10,
    "sr_keras.gan": 11, "sr_keras.models": 11, "sr_keras.scores": 12,
    "sr_keras.export": 12, "sr_keras.export.model_card": 12, "sr_keras.export.saved_model": 13,
    "sr_keras.stages": 13, "sr_keras.flags": 13,
    "sr_keras.train": 14, "sr_keras.evaluate": 14, "sr_keras.super_resolve": 14, "sr_keras.benchmark": 14,
    "sr_keras.demo": 14, "sr_keras.export.__main__": 14,
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("pipelines", "sr_keras") for path in sorted((ROOT / package).rglob("*.py"))
}


def imported(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in names]
        found |= {name for name in names if name in FILES}
    return found


def test_every_module_has_a_floor():
    assert set(FILES) == set(FLOORS)


@pytest.mark.parametrize("module", sorted(FILES))
def test_module_imports_only_from_lower_floors(module):
    for other in imported(FILES[module]):
        assert FLOORS[other] < FLOORS[module] or other in ("pipelines", "sr_keras"), f"{module} imports {other}"


@pytest.mark.parametrize("module", sorted(name for name in FILES if name.startswith("pipelines")))
def test_pipelines_know_nothing_of_sr_keras(module):
    assert not any(other.startswith("sr_keras") for other in imported(FILES[module]))


@pytest.mark.parametrize("module", sorted(FILES))
def test_public_functions_and_classes_have_docstrings(module):
    tree = ast.parse(FILES[module].read_text())
    assert ast.get_docstring(tree), f"{module} has no docstring"
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public and node.name != "main":
            assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"


@pytest.mark.parametrize("module", sorted(FILES))
def test_modules_are_named_for_a_subject(module):
    assert not re.search(r"(^|\.)(utils?|helpers?|misc|common)$", module)
