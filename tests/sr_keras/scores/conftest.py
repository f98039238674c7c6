"""Tissue as pairs and as tiles, for tests of what is scored on several kinds of LR."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIDE = 64


def write_pairs(folder: Path, picture: np.ndarray, tiles: int, scale: int = 4, side: int = SIDE, top: int = 0) -> Path:
    """Write HR tiles of one slide, and beside each the mean over scale x scale pixels as its real LR."""
    folder.mkdir(parents=True)
    for i in range(tiles):
        hr = picture[top:top + side, i * side:(i + 1) * side]
        lr = hr.reshape(side // scale, scale, side // scale, scale, 3).mean((1, 3))
        Image.fromarray(hr).save(folder / f"t{i}.png")
        Image.fromarray(np.rint(lr).astype(np.uint8)).save(folder / f"t{i}_lr00.png")
    return folder


@pytest.fixture
def pair_folder(histology, tmp_path) -> Path:
    """Pairs of two slides, shared (three pairs) and paired (two)."""
    write_pairs(tmp_path / "pairs" / "shared", histology, 3)
    write_pairs(tmp_path / "pairs" / "paired", histology, 2, top=128)
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
