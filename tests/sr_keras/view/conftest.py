# SPDX-License-Identifier: Apache-2.0
"""What tests of the viewer share: a scene, and what computes its tiles."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

from sr_keras.view.scene import Scene
from sr_keras.view.tile_queue import Tiles


@pytest.fixture
def scene(sample_slide, loaded) -> Iterator[Scene]:
    with Scene(sample_slide, [loaded]) as opened:
        yield opened


@pytest.fixture
def tiles() -> Iterator[Tiles]:
    running = Tiles(2**28)
    yield running
    running.close()
