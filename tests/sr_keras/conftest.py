# SPDX-License-Identifier: Apache-2.0
"""What tests of trained networks and of their scores share."""
from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.pixels import to_float, to_uint8


def pixels(*shape: int) -> np.ndarray:
    """LR of noise, uint8."""
    return np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)


def by_keras(network: Any, lr: np.ndarray) -> np.ndarray:
    """SR as Keras computes it, uint8."""
    return to_uint8(np.asarray(network(to_float(lr), training=False)))


def difference(one: np.ndarray, two: np.ndarray) -> int:
    """The largest difference of two pictures."""
    assert (one.dtype, one.shape) == (two.dtype, two.shape)
    return int(np.abs(one.astype(int) - two).max())


@pytest.fixture(scope="module")
def network(randomised):
    """A generator with random weights."""
    from sr_keras.networks import generator

    return randomised(generator(scale=4, blocks=2, filters=8))


@pytest.fixture(scope="session")
def open_once() -> Callable:
    """Return an `open_engine` that opens a model once: it takes a second, and a command opens one each time.

    The default engine is TensorFlow here: a conversion takes seconds, and no test but that of the engines needs one.
    """
    from sr_keras.model.engines import open_engine

    opened = lru_cache(open_engine)
    return lambda name, *rest, **more: opened("tensorflow" if name == "auto" else name, *rest, **more)


@pytest.fixture(scope="session")
def loaded(randomised, tmp_path_factory):
    """A small generator with random weights, named small."""
    from sr_keras.model.loading import load_generator
    from sr_keras.networks import generator

    path = tmp_path_factory.mktemp("model") / "small" / "generator.keras"
    path.parent.mkdir()
    randomised(generator(scale=4, blocks=1, filters=4)).save(path)
    return load_generator(path)


@pytest.fixture
def run(loaded, open_once, run_program, monkeypatch) -> Callable[..., int]:
    """Run `super_resolve` with `loaded` as its model, which is opened once."""
    from sr_keras import super_resolve

    monkeypatch.setattr("sr_keras.model.engines.open_engine", open_once)
    return partial(run_program, super_resolve, f"--model={loaded.path}")


@pytest.fixture
def picture(histology, tmp_path) -> Path:
    Image.fromarray(histology[:40, :56]).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def precision():
    """Set a precision policy for one test."""
    import keras

    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def export(run_program) -> Callable[..., int]:
    """Run `export`."""
    from sr_keras import export

    return partial(run_program, export)


@pytest.fixture(scope="session")
def write_pairs(histology) -> Callable[..., Path]:
    """Write HR tiles of one slide, and beside each the mean over scale x scale pixels as its real LR."""

    def write(folder: Path, tiles: int, scale: int = 4, side: int = 64, top: int = 0) -> Path:
        folder.mkdir(parents=True)
        for i in range(tiles):
            hr = histology[top:top + side, i * side:(i + 1) * side]
            lr = hr.reshape(side // scale, scale, side // scale, scale, 3).mean((1, 3))
            Image.fromarray(hr).save(folder / f"t{i}.png")
            Image.fromarray(np.rint(lr).astype(np.uint8)).save(folder / f"t{i}_lr00.png")
        return folder

    return write


@pytest.fixture
def pair_folder(write_pairs, tmp_path) -> Path:
    """Pairs of two slides, shared (three pairs) and paired (two)."""
    write_pairs(tmp_path / "pairs" / "shared", 3)
    write_pairs(tmp_path / "pairs" / "paired", 2, top=128)
    return tmp_path / "pairs"


@pytest.fixture
def plain_folder(histology, tmp_path) -> Path:
    """Tiles without LR of two slides, shared (four) and plain (one)."""
    for slide, count, top in (("shared", 4, 256), ("plain", 1, 384)):
        (tmp_path / "tiles" / slide).mkdir(parents=True)
        for i in range(count):
            tile = histology[top:top + 64, i * 64:(i + 1) * 64]
            Image.fromarray(tile).save(tmp_path / "tiles" / slide / f"t{i}.png")
    return tmp_path / "tiles"
