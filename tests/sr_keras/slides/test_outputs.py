# SPDX-License-Identifier: Apache-2.0
"""Outputs take boxes of pixels and write what they lack."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide

from pipelines.pyramid import PyramidOptions, PyramidWriter
from sr_keras.model.tiles import Box
from sr_keras.slides.outputs import PyramidOutput


def level_0(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def test_box_is_put_as_whole_tiles_and_only_those_that_lack(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    options = PyramidOptions(tile=128, quality=None)
    with PyramidWriter(tmp_path / "a.tif", 300, 200, 0.5, options) as writer:
        writer.put(0, 1, pixels[:128, 128:256])
        output = PyramidOutput(writer)
        assert not output.needs(Box(128, 0, 128, 128))
        assert output.needs(Box(0, 0, 256, 128))
        output.write(Box(0, 0, 256, 128), pixels[:128, :256])
        output.write(Box(0, 128, 300, 72), pixels[128:])
        output.write(Box(256, 0, 44, 128), pixels[:128, 256:])
        writer.finish()
    np.testing.assert_array_equal(level_0(tmp_path / "a.tif"), pixels)
