# SPDX-License-Identifier: Apache-2.0
"""Documents and configuration agree with the code."""
from __future__ import annotations

import ast
import functools
import importlib
import json
import re
import runpy
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from sr_keras import __version__, cli
from sr_keras.slides.window_plan import FIXED_GIB

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "saved_models" / "README.md",
         *sorted(ROOT.glob("docs/*.md"))]
GENERATED = {"flags.md", "tutorial.md", "models.md", "contributing.md", "changelog.md",
             "security.md", "licences.md"}  # by docs/hooks.py


def test_every_module_stands_on_a_floor():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    floors = {name for layer in contract["layers"] for name in re.split(r" [|:] ", layer)}
    modules = {f"{package}.{path.stem}" for package in ("pipelines", "sr_keras") for path in (ROOT / package).iterdir()
               if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert modules - {"pipelines.__init__", "sr_keras.__init__"} == floors - {"benchmarks", "study"}


def test_tests_mirror_the_tree():
    """A file test_b.py or test_b_SUBJECT.py tests the module or package b; tests of the whole lie in tests/ itself."""
    for path in (ROOT / "tests").glob("*/**/test_*.py"):
        folder, name = ROOT / path.relative_to(ROOT / "tests").parent, path.stem.removeprefix("test_")
        modules = {module.stem.strip("_") for module in folder.glob("*.py")}
        modules |= {package.parent.name for package in folder.glob("*/__init__.py")}
        assert any(f"{name}_".startswith(f"{module}_") for module in modules), f"{path}: there is no such module"


def test_every_program_file_states_its_licence():
    files = [path for folder in ("pipelines", "sr_keras", "benchmarks", "study", "docs", "tests")
             for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / "setup.py", ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    assert not [path for path in files if "# SPDX-License-Identifier: Apache-2.0\n" not in path.read_text()[:80]]


def test_fast_files_exist():
    conftest = runpy.run_path(str(ROOT / "tests" / "conftest.py"))
    assert not [name for name in conftest["FAST"] if not (ROOT / "tests" / name).is_file()]


def test_readme_is_short_and_narrow():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 120
    assert max(map(len, lines)) < 100


def test_documents_are_narrow_outside_of_tables():
    for page in [*PAGES, *ROOT.glob("*.md")]:
        wide = [line for line in page.read_text(encoding="utf-8").splitlines()
                if len(line) > 99 and not line.startswith(("|", "!["))]
        assert not wide, f"{page.name}: {wide}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_documents_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    for link in filter(None, (first or second for first, second in links)):
        if "://" not in link and link not in GENERATED:
            assert (page.parent / link).exists(), link


def test_code_of_documents_uses_names_that_exist():
    for page in PAGES:
        for module in re.findall(r"(?:from|python -m) ((?:sr_keras|pipelines|benchmarks|study)[\w.]*)",
                                 page.read_text(encoding="utf-8")):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or path.is_dir(), f"{page.name}: {module}"


def test_memory_of_documents_is_enough():
    for page in PAGES:
        for memory in re.findall(r"--memory=([\d.]*\d)", page.read_text(encoding="utf-8")):
            assert float(memory) > FIXED_GIB, f"{page.name}: {memory}"


def test_promises_name_tests_and_targets_that_exist():
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!promise|---).*\| (.*) \|$", page, re.MULTILINE)
    assert len(rows) > 20
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for shown in rows:
        shown_by = re.findall(r"`([^`]+)`", shown)
        assert shown_by, shown
        for one in shown_by:
            path, _, name = one.partition("::")
            if one.startswith("make "):
                assert one.removeprefix("make ") in targets, one
            else:
                assert (f"\ndef {name}(" if name else "\ndef test_") in (ROOT / path).read_text(encoding="utf-8"), one


def test_tables_of_nuclei_are_those_of_their_csv_files():
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for table in runpy.run_path(str(ROOT / "docs" / "nuclei_table.py"))["TABLES"]:
        assert table in page


def test_citation_has_the_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_tutorial_is_stored_without_outputs():
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])


def test_every_package_that_the_code_imports_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    declared = {_normal(re.split(r"[\[<>=,~ ]", text)[0]) for text in [*project["dependencies"], *extras]}
    owners = packages_distributions()
    for path in [*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("sr_keras/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                     [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else [])
            for name in (name.partition(".")[0] for name in names):
                if name not in {"pipelines", "sr_keras"} | sys.stdlib_module_names and name in owners:
                    assert declared & set(map(_normal, owners[name])), f"{path.relative_to(ROOT)}: {name}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def flags_of() -> Callable[[str], set[str]]:
    """Return the names of the flags of a program."""
    def names(program: str) -> set[str]:
        module = dict(cli.COMMANDS).get(program, (program,))[0]
        package = (ROOT / module.replace(".", "/")).is_dir()
        return {*importlib.import_module(f"{module}.__main__" if package else module).FLAGS, "flagfile", "help"}
    return functools.cache(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_documents_use_flags_that_exist(page, flags_of):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^    (?:sr-keras|python -m) ([a-z][\w.-]+) (.*)$", text, re.MULTILINE)
    for program, arguments in commands:
        if program not in ("venv", "benchmarks.house"):
            unknown = set(re.findall(r"--(\w+)", arguments.partition("#")[0])) - flags_of(program)
            assert not unknown, f"{program}: {unknown}"
