# SPDX-License-Identifier: Apache-2.0
"""What tests of the viewer share: a small network, and a scene."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

from sr_keras.model.loading import LoadedGenerator, load_generator
from sr_keras.networks import generator
from sr_keras.view.scene import Scene
from sr_keras.view.tiles import Tiles


@pytest.fixture(scope="session")
def small(randomised, tmp_path_factory) -> LoadedGenerator:
    """A network with random weights."""
    path = tmp_path_factory.mktemp("model") / "small" / "generator.keras"
    path.parent.mkdir()
    randomised(generator(scale=4, blocks=1, filters=4)).save(path)
    return load_generator(path)


@pytest.fixture
def scene(sample_slide, small) -> Iterator[Scene]:
    with Scene(sample_slide, [small]) as opened:
        yield opened


@pytest.fixture
def tiles() -> Iterator[Tiles]:
    running = Tiles(2**28)
    yield running
    running.close()
