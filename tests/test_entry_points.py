# SPDX-License-Identifier: Apache-2.0
"""Every program says what it does, and how it is called."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sr_keras import cli

ROOT = Path(__file__).parents[1]
NO_FLAGS = {"sr_keras.cli", "benchmarks.house", *(
    f"benchmarks.peers.{name}" for name in ("bicubic", "dat_light", "esrgan_thick", "litert", "real_esrgan"))}


def programs() -> list[str]:
    """Return every module that is run as a command."""
    found = [path.relative_to(ROOT).with_suffix("") for package in ("pipelines", "sr_keras", "benchmarks", "study")
             for path in (ROOT / package).rglob("*.py") if '\nif __name__ == "__main__"' in path.read_text()]
    return sorted({".".join(path.parts).removesuffix(".__main__") for path in found} - NO_FLAGS)


def typed(module: str) -> str:
    """Return how a program is called."""
    names = {of: name for name, (of, _) in cli.COMMANDS.items()}
    return f"sr-keras {names[module]}" if module in names else f"python -m {module}"


@pytest.mark.parametrize("module", programs())
def test_help_shows_a_command_and_the_flags_without_any_given(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"    {typed(module)} --" in done.stdout
    assert "  --help: " in done.stdout


def test_flags_of_the_product_follow_from_options():
    """Only `pipelines.options` defines flags, and `pipelines.console` the three that every program has."""
    defining = [str(path.relative_to(ROOT)) for package in ("pipelines", "sr_keras")
                for path in sorted((ROOT / package).rglob("*.py")) if "flags.DEFINE" in path.read_text()]
    assert defining == ["pipelines/console.py", "pipelines/options.py"]


def test_programs_keep_their_names():
    names = {module for module, _ in cli.COMMANDS.values()}
    assert names | {"pipelines.sample", "benchmarks.pipeline", "benchmarks.model", "study"} <= set(programs())


@pytest.mark.parametrize(("module", "arguments", "message"), [
    ("sr_keras.evaluate", "--model=srgan --data=sample --output=scores", "`model` must exist; "),
    ("sr_keras.evaluate", "--lr=jpg --data=sample --output=scores", "`lr` must be one of standard, "),
    ("sr_keras.export", "--model=srgan --name=mine", "`model` must exist; "),
    ("sr_keras.super_resolve", "--model=srgan --input=docs/demo.png --output=x.png", "`model` must exist; "),
    ("sr_keras.uncertainty", "--model=srgan --train_data=sample --val_data=docs/demo.png", "`model` must exist; "),
    ("sr_keras.view", "--model=srgan --input=docs/demo.png", "`model` must exist; "),
])
def test_misspelt_name_is_an_error_before_tensorflow_starts(module, arguments, message, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('TensorFlow starts')\n")
    done = subprocess.run([sys.executable, "-m", module, *arguments.split()], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
