# SPDX-License-Identifier: Apache-2.0
"""Tissue as pairs and as tiles, for tests of what is scored on several kinds of LR."""
from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

SIDE = 64


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
            tile = histology[top:top + SIDE, i * SIDE:(i + 1) * SIDE]
            Image.fromarray(tile).save(tmp_path / "tiles" / slide / f"t{i}.png")
    return tmp_path / "tiles"
