"""The house has floors: a module imports only from lower ones, and every public name says what it does."""
from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A package counts as one room: its modules stand in the order in which they import each other.
FLOORS = {name: floor for floor, names in enumerate([
    ["pipelines.quiet"],
    ["pipelines", "pipelines.options", "pipelines.pixels", "pipelines.files", "pipelines.console"],
    ["pipelines.degrade.textbook"],
    ["pipelines.formats", "pipelines.pyramid.tiles", "pipelines.pyramid.store", "pipelines.degrade.kernels",
     "pipelines.degrade.camera", "pipelines.degrade.jpeg", "pipelines.workers"],
    ["pipelines.degrade.family"],
    ["pipelines.degrade"],
    ["pipelines.slide", "pipelines.pyramid.tiff", "pipelines.cluster"],
    ["pipelines.tissue", "pipelines.sample", "pipelines.pyramid.writer", "pipelines.register.planes",
     "pipelines.register.registration"],
    ["pipelines.register", "pipelines.register.coarse", "pipelines.register.fine", "pipelines.register.colours"],
    ["pipelines.register.locate", "pipelines.register.overlay", "pipelines.register.cut"],
    ["pipelines.register.examine"],
    ["pipelines.register.scans"],
    ["pipelines.sources", "pipelines.pyramid"],
    ["pipelines.correspondence", "pipelines.places"],
    ["pipelines.pairs", "pipelines.levels"],
    ["pipelines.patches"],
    ["pipelines.corrupt", "pipelines.shards.layout", "pipelines.shards.record"],
    ["pipelines.shards.reading", "pipelines.shards.writing"],
    ["pipelines.shards.streams"],
    ["pipelines.shards"],
    ["pipelines.dataset", "pipelines.flags"],
    ["pipelines.contenders"],
    ["pipelines.preview", "pipelines.preview.panels", "pipelines.preview.likeness"],
    ["pipelines.preview.corruptions", "pipelines.preview.degradations"],
    ["pipelines.extract", "pipelines.register.__main__", "pipelines.preview.__main__", "pipelines.benchmark"],
    ["sr_keras", "sr_keras.options", "sr_keras.windows", "sr_keras.layers"],
    ["sr_keras.losses", "sr_keras.metrics", "sr_keras.tiling", "sr_keras.runs", "sr_keras.facts"],
    ["sr_keras.networks", "sr_keras.manifold", "sr_keras.callbacks", "sr_keras.parts", "sr_keras.scores.conditions",
     "sr_keras.scores.measure"],
    ["sr_keras.gan", "sr_keras.models", "sr_keras.scores.summary"],
    ["sr_keras.scores.pictures", "sr_keras.export", "sr_keras.export.model_card", "sr_keras.export.tissue",
     "sr_keras.export.signatures"],
    ["sr_keras.export.parity", "sr_keras.export.purpose"],
    ["sr_keras.export.serving", "sr_keras.export.tensorrt"],
    ["sr_keras.export.saved_model", "sr_keras.export.litert", "sr_keras.export.onnx"],
    ["sr_keras.export.forms", "sr_keras.export.runtimes"],
    ["sr_keras.export.lookup"],
    ["sr_keras.export.rates"],
    ["sr_keras.strips"],
    ["sr_keras.engines"],
    ["sr_keras.scores.patches", "sr_keras.scores.gains"],
    ["sr_keras.scores.gain_curves"],
    ["sr_keras.scores.standard"],
    ["sr_keras.scores"],
    ["sr_keras.stages", "sr_keras.flags"],
    ["sr_keras.whole_slide.view", "sr_keras.whole_slide.windows", "sr_keras.whole_slide.sinks",
     "sr_keras.whole_slide.reports"],
    ["sr_keras.whole_slide.options", "sr_keras.whole_slide.loop", "sr_keras.whole_slide.fitting",
     "sr_keras.whole_slide.samples", "sr_keras.whole_slide.sharpness", "sr_keras.whole_slide.stain",
     "sr_keras.whole_slide.compression"],
    ["sr_keras.whole_slide.departure", "sr_keras.whole_slide.familiar"],
    ["sr_keras.whole_slide.regions", "sr_keras.whole_slide.usual"],
    ["sr_keras.whole_slide.overview"],
    ["sr_keras.whole_slide.trust"],
    ["sr_keras.whole_slide.targets"],
    ["sr_keras.whole_slide.enlarge"],
    ["sr_keras.whole_slide.spread", "sr_keras.whole_slide.rates"],
    ["sr_keras.whole_slide"],
    ["sr_keras.client.options", "sr_keras.client.errors"],
    ["sr_keras.client.answers", "sr_keras.client.retries"],
    ["sr_keras.client.wire"],
    ["sr_keras.client.grpc_transport", "sr_keras.client.rest_transport"],
    ["sr_keras.client.connection"],
    ["sr_keras.client"],
    ["sr_keras.study", "sr_keras.study.grid", "sr_keras.study.results", "sr_keras.study.page",
     "sr_keras.study.residuals"],
    ["sr_keras.study.statistics", "sr_keras.study.balance", "sr_keras.study.cells"],
    ["sr_keras.study.curves", "sr_keras.study.campaign"],
    ["sr_keras.study.tables", "sr_keras.study.figures", "sr_keras.study.panels"],
    ["sr_keras.study.report"],
    ["sr_keras.study.present"],
    ["sr_keras.study.__main__"],
    ["sr_keras.train", "sr_keras.evaluate", "sr_keras.super_resolve", "sr_keras.benchmark", "sr_keras.demo",
     "sr_keras.export.__main__", "sr_keras.client.__main__"],
]) for name in names}
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
