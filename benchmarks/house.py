# SPDX-License-Identifier: Apache-2.0
"""Measure the code itself: its size, structure, complexity and documentation.

    python -m benchmarks.house

One table: the value, the goal, and whether it is reached. The product is `pipelines` and `sr_keras`, without
`__init__.py`; `benchmarks` and `study` are outside the wheel. Exit status 1 if a goal is missed.
"""
from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PRODUCT = ("pipelines", "sr_keras")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Number(NamedTuple):
    """A row of the table; `most` is the largest value that is fine, None where there is no goal."""

    name: str
    value: int | float
    most: int | float | None = None
    where: str = ""


def main() -> int:
    """Print the table."""
    numbers = [*code(), *imports(), *functions(), *documents()]
    print(f"{'':48}{'value':>8}  {'goal':>10}")
    for name, value, most, where in numbers:
        goal = "" if most is None else f"<= {most}"
        mark = "" if most is None or value <= most else "  MISSED"
        print(f"{name:48}{value:>8}  {goal:>10}{mark}{f'  {where}' if where else ''}")
    return int(any(most is not None and value > most for _, value, most, _ in numbers))


def code() -> Iterator[Number]:
    """Yield lines and modules of the product, its file sizes, and how large everything else is."""
    product = {path: _lines(path) for path in _files(*PRODUCT) if path.name != "__init__.py"}
    longest = max(product, key=lambda path: product[path])
    yield Number("product: lines", sum(product.values()), 12_500)
    yield Number("product: modules", len(product), 75)
    yield Number("product: median lines of a module", median(product.values()), 150)
    yield Number("product: longest module", product[longest], 320, _shown(longest))
    rooms = Counter(path.stem for path in product if path.stem != "__main__")
    shared = sorted(name for name, count in rooms.items() if count > 1)
    yield Number("product: names that two modules have", len(shared), None, ", ".join(shared))
    for package in ("benchmarks", "study", "tests"):
        files = _files(package)
        yield Number(f"{package}: lines", sum(map(_lines, files)))
        yield Number(f"{package}: modules", len(files))
    yield Number("tests: lines for a line of the product",
                 round(sum(map(_lines, _files("tests"))) / sum(product.values()), 2))


def imports() -> Iterator[Number]:
    """Yield the floors of the contract and of the import graph, and the imports inside functions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    yield Number("floors: in the contract, below benchmarks and study", len(layers) - 1, 7)
    broken = subprocess.run(["lint-imports"], cwd=ROOT, env=_environment(), capture_output=True, check=False).returncode
    yield Number("floors: broken contracts (0 or 1)", broken, 0)
    heights = longest_chains(module_imports())
    yield Number("longest chain of imports, in modules", max(heights.values()))
    inside = [own for path in _files(*PRODUCT) for own in _imports_in_functions(path)]
    yield Number("imports inside functions", len(inside))
    yield Number("of these, imports of this project", sum(inside))


def functions() -> Iterator[Number]:
    """Yield how complex and how long functions are."""
    found = [(node, path) for path in _files(*PRODUCT, "benchmarks", "study") for node in ast.walk(_tree(path))
             if isinstance(node, FUNCTIONS)]
    complexity = complexities()
    worst = max(complexity, key=lambda place: complexity[place])
    yield Number("functions", len(found))
    yield Number("most complex function", complexity[worst], 12, worst)
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node, _ in found]
    yield Number("median lines of a function", median(lengths))
    yield Number("functions over 40 lines", sum(length > 40 for length in lengths))
    node, path = max(found, key=lambda item: _arguments(item[0]))
    yield Number("most arguments of a function", _arguments(node), None, f"{_shown(path)}:{node.name}")


def documents() -> Iterator[Number]:
    """Yield the size of the README and the width of all documents."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    yield Number("README: lines", len(readme), 119)
    yield Number("README: longest line", max(map(len, readme)), 99)
    pages = [path for path in ROOT.glob("docs/*.md")]
    texts = (*pages, *ROOT.glob("*.md"), ROOT / "saved_models" / "README.md")
    wide = [path for path in texts for line in path.read_text(encoding="utf-8").splitlines()
            if len(line) > 99 and not line.startswith(("|", "!["))]
    yield Number("docs: pages", len(pages))
    yield Number("documents: lines over 99 characters, no tables", len(wide), 0)


def complexities() -> dict[str, int]:
    """Return the cyclomatic complexity of every function that is not trivial, as ruff's rule C901 counts it."""
    told = subprocess.run([sys.executable, "-m", "ruff", "check", "--select=C901", "--no-cache", "--output-format=json",
                           "--config=lint.mccabe.max-complexity=1", *PRODUCT, "benchmarks", "study"],
                          cwd=ROOT, capture_output=True, text=True, check=False).stdout
    found = {}
    for item in json.loads(told):  # "`name` is too complex (5 > 1)"
        place = f"{_shown(Path(item['filename']))}:{item['location']['row']}"
        found[place] = int(re.findall(r"\((\d+) > ", item["message"])[0])
    return found


def module_imports() -> dict[str, set[str]]:
    """Return which modules of the product each of them imports at its top."""
    names = {_name(path): path for path in _files(*PRODUCT)}
    return {name: {found for node in _tree(path).body for found in _imported(node)} & set(names) - {name}
            for name, path in names.items()}


def longest_chains(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return for each module how many modules the longest chain of imports below it has, itself included."""
    heights: dict[str, int] = {}

    def height(name: str, above: tuple[str, ...] = ()) -> int:
        if name not in heights and name not in above:
            heights[name] = 1 + max((height(other, (*above, name)) for other in graph[name]), default=0)
        return heights.get(name, 0)

    for name in graph:
        height(name)
    return heights


def _imports_in_functions(path: Path) -> list[bool]:
    """Return for each import inside a function whether it is of this project."""
    tree = _tree(path)
    found = {node for function in ast.walk(tree) if isinstance(function, FUNCTIONS)
             for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)}
    return [any(name.startswith(PRODUCT) for name in _imported(node)) for node in found]


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)


def _files(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _environment() -> dict[str, str]:
    """Return an environment in which lint-imports is found beside this Python, and this checkout is imported."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT)}


if __name__ == "__main__":
    sys.exit(main())
