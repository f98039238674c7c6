# SPDX-License-Identifier: Apache-2.0
"""Damaged files of every kind that is read: each is read, or refused by one of the errors that a program prints.

Each target has `SR_KERAS_FUZZ_SECONDS` (6; `make fuzz` gives it ten minutes), and starts with the same seed. A failure
leaves its input in the test's folder; make a test of it.
"""
from __future__ import annotations

import io
import json
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.console import USER_ERRORS
from pipelines.patches import find_sources
from pipelines.pyramid import PyramidOptions, PyramidWriter
from pipelines.shards import open_shards, write_shards
from pipelines.slide import SlideError, open_slide

SECONDS = float(os.environ.get("SR_KERAS_FUZZ_SECONDS", "6"))
SLOW_SECONDS = 20.0  # for one input of a few kilobytes
SUFFIXES = {"ome": "ome.tif", "tiff": "tif"}
ODD_VALUES = [None, True, -1, 0, 2**70, 1e308, float("nan"), "", "x" * 1000, "../../etc/passwd", [], [[]], {},
              {"a": []}]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes with some changed, cut out, repeated, or left out at the end."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        start = int(rng.integers(0, max(1, len(changed))))
        if rng.random() < 0.5:  # headers are at the beginning, and short files have little else
            start = int(rng.integers(0, min(512, max(1, len(changed)))))
        length = int(rng.integers(1, 9))
        kind = rng.integers(5)
        if kind == 0:
            changed[start:start + length] = rng.bytes(length)
        elif kind == 1:
            changed[start:start + 1] = bytes([rng.choice([0, 1, 2, 127, 128, 255])])
        elif kind == 2:
            del changed[start:start + length]
        elif kind == 3:
            changed[start:start] = changed[start:start + length]
        elif rng.random() < 0.3:
            del changed[start:]
    return bytes(changed)


def odd_json(content: object, rng: np.random.Generator) -> object:
    """Return JSON content with one value, anywhere in it, replaced by an odd one or left out."""
    if isinstance(content, dict) and content and rng.random() < 0.8:
        key = str(rng.choice(sorted(content)))
        rest = {name: value for name, value in content.items() if name != key}
        return rest if rng.random() < 0.1 else {**content, key: odd_json(content[key], rng)}
    if isinstance(content, list) and content and rng.random() < 0.8:
        place = int(rng.integers(len(content)))
        return [*content[:place], odd_json(content[place], rng), *content[place + 1:]]
    return ODD_VALUES[rng.integers(len(ODD_VALUES))]


def fuzz(make: Callable[[np.random.Generator], bytes], path: Path, use: Callable[[Path], object],
         expected: tuple[type[Exception], ...]) -> None:
    """Write input after input to `path` and use it, until the time is over."""
    rng, end, tried = np.random.default_rng(0), time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        path.write_bytes(make(rng))
        began = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(*expected):
                use(path)
        assert time.monotonic() - began < SLOW_SECONDS, f"slow: {path}"
        tried += 1
    assert tried > 5


def picture(kind: str, pixels: np.ndarray) -> bytes:
    """Return a small file of a kind."""
    file = io.BytesIO()
    if kind == "tiff":
        with tifffile.TiffWriter(file) as writer:
            options = {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg", "metadata": None}
            writer.write(pixels, resolution=(40000, 40000), resolutionunit="CENTIMETER", subifds=0, **options)
            writer.write(pixels[::2, ::2], subfiletype=1, **options)
    elif kind == "ome":
        tifffile.imwrite(file, pixels, ome=True, photometric="rgb", tile=(64, 64), compression="deflate",
                         metadata={"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25})
    else:
        Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def use_slide(path: Path) -> None:
    """Read a slide as the programs do, unless it claims to be large."""
    with open_slide(path) as slide:
        if max(slide.dimensions) < 4096:
            slide.thumbnail(64)
        for level, (width, height) in enumerate(slide.level_dimensions):
            pixels = slide.read_region(0, 0, level, min(width, 64), min(height, 64))
            assert pixels.shape == (min(height, 64), min(width, 64), 3)
            assert pixels.dtype == np.uint8


@pytest.mark.parametrize("kind", ["tiff", "ome", "png", "jpeg", "bmp"])
def test_damaged_pictures_are_read_or_refused(kind, histology, tmp_path):
    content = picture(kind, histology[:160, :128])
    path = tmp_path / f"x.{SUFFIXES.get(kind, kind)}"
    path.write_bytes(content)
    use_slide(path)  # undamaged
    fuzz(lambda rng: damaged(content, rng), path, use_slide, (SlideError,))


@pytest.mark.parametrize(("kind", "file"), [("dicom", "level0.dcm"), ("zarr", ".zattrs"), ("zarr", "0/.zarray"),
                                            ("zarr", "0/0/0/0")])
def test_damaged_slides_that_are_folders_are_read_or_refused(kind, file, histology, tmp_path):
    pytest.importorskip({"dicom": "pydicom", "zarr": "zarr"}[kind], reason=f"pip install '.[{kind}]'")
    path = tmp_path / "x"
    with PyramidWriter(path, 128, 128, 0.25, PyramidOptions(64, None, kind), description="x") as writer:
        for row, column in writer.missing():
            writer.put(row, column, histology[64 * row:64 * row + 64, 64 * column:64 * column + 64])
        writer.finish()
    use_slide(path)  # undamaged
    content = (path / file).read_bytes()

    def make(rng: np.random.Generator) -> bytes:
        is_json = file.startswith((".", "0/.")) and rng.random() < 0.8
        return json.dumps(odd_json(json.loads(content), rng)).encode() if is_json else damaged(content, rng)

    fuzz(make, path / file, lambda _: use_slide(path), (SlideError,))


def test_odd_pages_of_shards_are_refused(sample_slide, tmp_path):
    folder = tmp_path / "shards"
    write_shards(find_sources(sample_slide), folder, PatchOptions(patch_size=64, min_tissue=0.0), workers=1,
                 progress=False)
    (page,) = folder.glob("*.json")
    content = json.loads(page.read_text())
    fuzz(lambda rng: json.dumps(odd_json(content, rng)).encode(), page, lambda _: open_shards(folder), USER_ERRORS)
