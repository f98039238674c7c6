"""Every entry point says what it does, and how it is called."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = [
    *(f"pipelines.{name}" for name in ("benchmark", "extract", "preview", "register", "sample")),
    *(f"sr_keras.{name}" for name in ("benchmark", "client", "demo", "evaluate", "export", "study", "super_resolve",
                                        "train")),
]


@pytest.mark.parametrize("module", ENTRY_POINTS)
def test_help_shows_a_command_and_the_flags_without_any_given(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python -m {module}" in done.stdout
    assert "  --help: " in done.stdout


def test_every_entry_point_is_tested():
    mains = [path.relative_to(ROOT).with_suffix("") for package in ("pipelines", "sr_keras")
             for path in (ROOT / package).rglob("*.py") if '\nif __name__ == "__main__"' in path.read_text()]
    assert sorted(".".join(path.parts).removesuffix(".__main__") for path in mains) == ENTRY_POINTS
