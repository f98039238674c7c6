# SPDX-License-Identifier: Apache-2.0
"""Damaged files of every kind that is read: each is read, or refused by one of the errors that a program prints.

Each target has `SR_KERAS_FUZZ_SECONDS` (3; `make fuzz` gives it ten minutes), or a fifth of that for the small files of
runs and models, and starts with the same seed. A failure leaves its input in the test's folder; make a test of it.
"""
from __future__ import annotations

import io
import json
import os
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.config import DEGRADATIONS, PatchOptions
from pipelines.console import USER_ERRORS
from pipelines.files import Positive, read_json
from pipelines.patches import find_sources
from pipelines.pyramid import PyramidOptions, PyramidWriter
from pipelines.scan_pairs import check_cut, hr_corner, hr_mpp, places, read_registration, scan_paths
from pipelines.shards import open_shards, write_shards
from pipelines.slide import SlideError, open_slide
from sr_keras.evaluation.tables import read_scores
from sr_keras.export import _read_scores
from sr_keras.model.facts import ModelFacts, from_json, in_words, read_facts, run_facts
from sr_keras.model.loading import load_keras, load_weights
from sr_keras.networks import generator
from sr_keras.slides.reports import read_report, trust_line
from sr_keras.training.callbacks import State
from sr_keras.training.run_folder import record_metrics
from sr_keras.training.split import open_part
from study.results import COLUMNS, read_results

SECONDS = float(os.environ.get("SR_KERAS_FUZZ_SECONDS", "3"))
FEWEST = 6  # inputs, if each takes long
SLOW_SECONDS = 20.0  # for one input of a few kilobytes
SUFFIXES = {"ome": "ome.tif", "tiff": "tif"}
ODD_VALUES = [None, True, -1, 0, 2**70, 1e308, float("nan"), float("-inf"), "", "x" * 1000, "../../etc/passwd", "\0",
              [], [[]], {}, {"a": []}]


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
         expected: tuple[type[Exception], ...], seconds: float = SECONDS) -> None:
    """Write input after input to `path` and use it, until the time is over and some were tried."""
    rng, end, tried = np.random.default_rng(0), time.monotonic() + seconds, 0
    while time.monotonic() < end or tried < FEWEST:
        path.write_bytes(make(rng))
        began = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(*expected):
                use(path)
        assert time.monotonic() - began < SLOW_SECONDS, f"slow: {path}"
        tried += 1


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


@pytest.mark.parametrize(("kind", "quality", "file"), [
    ("dicom", None, "level0.dcm"), ("dicom", 90, "level0.dcm"), ("zarr", None, ".zattrs"), ("zarr", None, "0/.zarray"),
    ("zarr", None, "0/0/0/0")])
def test_damaged_slides_that_are_folders_are_read_or_refused(kind, quality, file, histology, tmp_path):
    pytest.importorskip({"dicom": "pydicom", "zarr": "zarr"}[kind], reason=f"pip install '.[{kind}]'")
    path = tmp_path / "x"
    with PyramidWriter(path, 128, 128, 0.25, PyramidOptions(64, quality, kind), description="x") as writer:
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


SCAN = {"path": "lr.tif", "name": "lr.tif", "bytes": 9, "width": 512, "height": 512, "mpp": 0.5}
FIT = {"x": 8, "y": 8, "shift": [0.5, 0], "correlation": 0.9, "weakest": 0.8, "residual": 0.1, "sharpness": 1.0,
       "detail": 0.3}
OF_JSON = {
    "state.json": {"epoch": 2, "score": 31.5, "best_epoch": 1, "best_score": float("nan")},
    "parts.json": {"test": {"folders": ["data/test", "/elsewhere"], "slides": ["a", "b"]}},
    "versions.json": {"python": "3.11", "commit": "abc"},
    "facts.json": {"scale": 4, "halo": 9, "max_pixels": 65536, **asdict(ModelFacts(
        (0.9, 2.1), "H&E", DEGRADATIONS["scanner"], "40 slides", (2.0, 3.5), "--q=0.5\n", {"keras": "3"}, 48,
        {"real pairs": {"psnr": 0.42}}))},
    "sr_keras.json": {"scale": 4, "halo": 9, "flags": "--scale=4\n--blur_sigma=0.8\n--mpp=0.5\n--filters=48\n"},
    "standard.json": {"lr": {"real pairs": {"gain": {"psnr": 0.42, "ms_ssim": None}}}},
    "pairs.json": {"format": 1, "lr": SCAN, "hr": SCAN, "transform": [[4, 0, 21.5], [0, 4, 31.5]], "scale": 4,
                   "patch_size": 32, "colours": [[1.0, 0.0]] * 3, "patches": [FIT], "rejected": [
                       {"x": 0, "y": 0, "reason": "blank"}]},
    "x.report.json": {"description": {"model": {}}, "bad": {"places": 0}, "trust": {
        "map": "t.tif", "median": 2.5, "usual": [2, 3.5], "unusual": False, "threshold": 9.0, "seconds": 3.0,
        "worst": [{"hr_box": [0, 0, 64, 64]}], "degradation": {"words": "a blur"}}},
    "seconds.json": {"tensorflow": 0.2, "litert": 0.1}}


def read_back(path: Path) -> object:
    """Read a file of OF_JSON as its program does, and use what was read."""
    if path.name == "state.json":
        return read_json(path, State, "remove it")
    if path.name == "parts.json":
        return open_part(path.parent)
    if path.name == "versions.json":
        return read_json(path, dict[str, str], "remove it")
    if path.name in ("facts.json", "sr_keras.json"):
        folder = path.parent if path.name == "facts.json" else path.parent.parent
        facts = from_json(read_facts(folder), path)
        return facts.degradation and in_words(facts.degradation)
    if path.name == "standard.json":
        return _read_scores(str(path.parent))
    if path.name == "pairs.json":
        found = read_registration(path)
        check_cut(found, PatchOptions(patch_size=64))
        for place in places(found, PatchOptions(patch_size=64)):
            hr_corner(found, place)
        with suppress(FileNotFoundError):
            scan_paths(found, path)
        return hr_mpp(found)
    if path.name == "x.report.json":
        report = read_report(path.with_name("x"))
        return trust_line(report["trust"]) if "trust" in report else report
    return read_json(path, dict[str, Positive], "remove it")


def named(read: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return the reading of a file that must succeed, or say in one line which file is wrong."""
    def use(path: Path) -> None:
        try:
            read(path)
        except (ValueError, FileNotFoundError) as error:
            text = str(error)
            assert any(name in text for name in (path.name, str(path.parent), "`patch_size`")), text
            assert "\n" not in text, text

    return use


@pytest.mark.parametrize("name", OF_JSON)
def test_odd_and_damaged_json_is_read_or_refused_by_name(name, tmp_path):
    folder = tmp_path / "assets.extra" if name == "sr_keras.json" else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / "data" / "test").mkdir(parents=True)
    (folder / "standard.md").write_text("scores")
    path = folder / name
    path.write_text(json.dumps(OF_JSON[name]))
    if name != "parts.json":  # which names folders without shards
        read_back(path)  # undamaged

    def make(rng: np.random.Generator) -> bytes:
        return json.dumps(odd_json(OF_JSON[name], rng)).encode() if rng.random() < 0.7 else \
            damaged(json.dumps(OF_JSON[name]).encode(), rng)

    fuzz(make, path, named(read_back), (), SECONDS / 5)


OF_TEXT = {
    "metrics.csv": ("stage,epoch,loss,seconds\nwarmup,1,0.5,3\n", lambda path: record_metrics(
        path.parent, "warmup", 2, {"loss": 0.1})),
    "scores.csv": ("example_id,slide_id,method,psnr\na/1,a,bicubic,inf\na/1,a,sr,31.5\n", read_scores),
    "results.csv": (f"{','.join(COLUMNS)}\na,a,srgan,0.5,0,none,none,,0,s,40x,8{',' * (len(COLUMNS) - 13)}f,\n",
                    lambda path: read_results(path, "f")),
    "flags.txt": ("--scale=4\n--degradation=scanner\n--mpp=0.5\n--filters=48\n", lambda path: run_facts(path.parent))}


@pytest.mark.parametrize("name", OF_TEXT)
def test_damaged_tables_and_flags_are_read_or_refused_by_name(name, tmp_path):
    text, read = OF_TEXT[name]
    path = tmp_path / name
    path.write_text(text)
    read(path)  # undamaged
    fuzz(lambda rng: damaged(text.encode(), rng), path, named(read), (), SECONDS / 5)


@pytest.mark.parametrize("part", ["", "config.json", "model.weights.h5"])
def test_damaged_keras_files_are_read_or_refused(part, tmp_path):
    """Changed are the bytes of the whole, or one member, whose checksum is then right."""
    network, path = generator(2, blocks=1, filters=2), tmp_path / "x.keras"
    network.save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def make(rng: np.random.Generator) -> bytes:
        file, bad = io.BytesIO(), dict(members)
        if part == "config.json":
            bad[part] = json.dumps(odd_json(json.loads(members[part]), rng)).encode()
        elif part:
            bad[part] = damaged(members[part], rng)
        with zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
            for name, content in bad.items():
                archive.writestr(name, content)
        return file.getvalue() if part else damaged([whole, file.getvalue()][rng.integers(2)], rng)

    def use(path: Path) -> None:
        load_keras(path) if part == "config.json" else load_weights(network, path)

    use(path)  # undamaged
    fuzz(make, path, use, (ValueError,))
