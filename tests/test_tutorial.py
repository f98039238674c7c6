# SPDX-License-Identifier: Apache-2.0
"""The tutorial notebook does what its text says. Its cells are run as one program: no Jupyter is needed."""
from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


@pytest.mark.slow
def test_tutorial_runs_and_training_beats_interpolation():
    matplotlib.use("Agg")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), names)
    assert names["sr"].shape == (256, 256, 3)
    assert names["after"]["psnr"] > names["before"]["psnr"] + 0.3
    assert names["after"]["qilv"] > names["before"]["qilv"]
    assert {"weighted_fidelity", "weighted_manifold", "weighted_structural", "weighted_adversarial"} <= set(
        names["history"])
