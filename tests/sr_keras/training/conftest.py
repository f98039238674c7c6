# SPDX-License-Identifier: Apache-2.0
"""What tests of training share: plans of tiny runs, and processes of several workers."""
from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.config import CorruptOptions, DegradeOptions, PatchOptions
from pipelines.patches import find_sources
from pipelines.shards import open_shards, write_shards
from sr_keras.config import GeneratorOptions, Objective, StageOptions, TrainOptions
from sr_keras.training.plan import Plan

ROOT = Path(__file__).parents[3]
STAGES = ("autoencoder", "warmup", "adversarial")
SIDE = 32
PLAIN = Objective(lambda_m=0.0, lambda_s=0.0, lambda_d=0.0)


def tiny(run: Path, shards: Path, objective: Objective, epochs: tuple[int, int, int], learning_rate: float = 1e-3,
         **options) -> Plan:
    """Return the plan of a tiny run whose three stages have so many epochs, of one step each."""
    parts = tuple(StageOptions(name, count, learning_rate) for name, count in zip(STAGES, epochs, strict=True))
    small = {"batch_size": 2, "steps_per_epoch": 1, "val_patches": 2, "jit_compile": False, **options}
    return Plan(run, TrainOptions(str(run), stages=parts, **small), objective, GeneratorOptions(blocks=1, filters=4),
                DegradeOptions(), CorruptOptions(), open_shards(shards / "slide-a"), open_shards(shards / "slide-b"))


def assert_same(ours: list, golden: list) -> None:
    for one, other in zip(ours, golden, strict=True):
        np.testing.assert_array_equal(one, other)


def free_addresses(count: int) -> list[str]:
    """Addresses of this machine that nobody listens on."""
    held = [socket.create_server(("", 0)) for _ in range(count)]
    addresses = [f"localhost:{one.getsockname()[1]}" for one in held]
    for one in held:
        one.close()
    return addresses


@pytest.fixture(scope="module")
def shards(tmp_path_factory, tile_folder) -> Path:
    """Two slides of 128 patches of 32x32 each: slide-a to train, slide-b to validate."""
    folder = tmp_path_factory.mktemp("shards")
    for slide in ("slide-a", "slide-b"):
        write_shards(find_sources(tile_folder / slide), folder / slide, PatchOptions(patch_size=SIDE, min_tissue=0.0),
                     workers=1, progress=False)
    return folder


@pytest.fixture
def plan(tmp_path, shards):
    """Make the plan of a tiny run in tmp_path/run."""
    return partial(tiny, tmp_path / "run", shards)


@pytest.fixture
def start_python() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start Python in a process of its own, and end it with the test."""
    started = []

    def begin(*arguments: str, **more: Any) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, **more))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()
