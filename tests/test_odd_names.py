# SPDX-License-Identifier: Apache-2.0
"""Odd names, and things that are no files, beside good slides: each is processed, or named and skipped."""
from __future__ import annotations

import csv
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.names import escaped, printable
from pipelines.patches import find_sources
from pipelines.shards import open_shards, write_shards
from pipelines.shards.reading import page_path, shard_path
from pipelines.slide import open_slide

ROOT = Path(__file__).parents[1]
NAMES = [os.fsdecode(b"M\xfcller_12"), "病" * 39, "Д" * 39, "n" * 250, "病" * 82, "a, b", "z_good"]
IDS = sorted([r"M\xfcller_12", *NAMES[1:]])
UNREADABLE = ["circle", "gone", os.fsdecode(b"kaputt_\xfc"), "pipe", "socket"]
PATCHES = PatchOptions(patch_size=64, min_tissue=0)


def add_what_cannot_be_read(folder, suffix):
    (folder / f"circle{suffix}").symlink_to(f"circle{suffix}")
    (folder / f"gone{suffix}").symlink_to(folder / "nowhere")
    os.mkfifo(folder / f"pipe{suffix}")
    os.mknod(folder / f"socket{suffix}", stat.S_IFSOCK | 0o600)
    (folder / "up").symlink_to(folder)
    (folder / f"{UNREADABLE[2]}{'.svs' if suffix == '.tif' else suffix}").write_bytes(b"\x89PNG\r\n\x1a\n broken")


@pytest.fixture(scope="module")
def slides(tmp_path_factory, histology) -> Path:
    """Slides of one colour pattern each, so that pixels tell which is which."""
    folder = tmp_path_factory.mktemp("slides")
    for i, name in enumerate(NAMES):
        tifffile.imwrite(folder / f"{name}.tif", np.roll(histology, 40 * i, 1)[:128, :256], photometric="rgb",
                         tile=(128, 128), resolution=(20000, 20000), resolutionunit="CENTIMETER", metadata=None)
    add_what_cannot_be_read(folder, ".tif")
    return folder


@pytest.fixture(scope="module")
def tiles(tmp_path_factory, histology) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    for i, name in enumerate(NAMES):
        Image.fromarray(np.roll(histology, 40 * i, 1)[:64, :64]).save(folder / f"{name}.png")
    add_what_cannot_be_read(folder, ".png")
    return folder


def program(name: str, *arguments: object) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, "-m", name, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
                          timeout=300, check=False)
    assert "Traceback" not in done.stderr
    return done


def assert_others_are_named(text: str) -> None:
    for name in UNREADABLE:
        assert f"/{escaped(name)}." in escaped(text), name


def test_slides_and_tiles_of_odd_names_are_found(slides, tiles):
    found = find_sources(slides)
    assert [source.slide_id for source in found] == sorted(IDS + [printable(name) for name in UNREADABLE])
    (source,) = find_sources(tiles)
    assert len(source.paths) == len(NAMES + UNREADABLE)


@pytest.mark.parametrize("kind", ["slides", "tiles"])
def test_extraction_reads_the_good_and_names_the_others(kind, slides, tiles, tmp_path):
    folder = tmp_path / os.fsdecode(b"shards-\xfc")
    done = program("pipelines.extract", f"--data={slides if kind == 'slides' else tiles}", "--patch_size=64",
                   "--min_tissue=0", f"--output={folder}")
    assert done.returncode == 0, done.stderr
    assert_others_are_named(done.stdout)
    assert done.stdout.count("skipped: ") == len(UNREADABLE)
    shards = open_shards(folder)
    assert shards.count == len(NAMES) * (8 if kind == "slides" else 1)
    assert shards.slide_ids == tuple(IDS if kind == "slides" else [tiles.name])


def test_records_hold_the_pixels_of_their_slide(slides, tmp_path):
    from pipelines.dataset import evaluation_dataset

    write_shards(find_sources(slides), tmp_path, PATCHES, workers=1, progress=False)
    seen = set()
    for batch in evaluation_dataset(open_shards(tmp_path)).as_numpy_iterator():
        for slide_id, example_id, hr in zip(batch["slide_id"], batch["example_id"], batch["hr"], strict=True):
            name = NAMES[[r"M\xfcller_12", *NAMES[1:]].index(slide_id.decode())]
            x, y = map(int, example_id.decode().rpartition("/")[2].split("_"))
            with open_slide(slides / f"{name}.tif") as slide:
                np.testing.assert_array_equal(np.rint(hr * 255), slide.read_region(x, y, 0, 64, 64))
            seen.add(name)
    assert seen == set(NAMES)


def test_slide_name_of_a_shard_that_fits_stays_as_it_was(tmp_path):
    """Shards of 0.1.0: percent-encoded, of up to 240 bytes."""
    assert page_path(tmp_path, "病人 1+b").name == "%E7%97%85%E4%BA%BA 1+b.json"
    assert shard_path(tmp_path, "n" * 240, 7).name == "n" * 240 + "-00007.tfrecord"
    for longer in ("n" * 241, "病" * 27, "病" * 26 + "x" * 7):
        name = shard_path(tmp_path, longer, 0).name
        assert len(name) < 220
        assert name.endswith("-00000.tfrecord")
        assert name.partition("-0")[0] == page_path(tmp_path, longer).stem
    assert page_path(tmp_path, "病" * 30) != page_path(tmp_path, "病" * 15 + "人" + "病" * 14)


def test_killed_extraction_of_a_long_name_leaves_nothing(tmp_path, histology):
    """Its temporary file is found by its name."""
    (tmp_path / "data").mkdir()
    Image.fromarray(histology[:64, :64]).save(tmp_path / "data" / ("病" * 60 + ".png"))
    sources = find_sources(tmp_path / "data" / ("病" * 60 + ".png"))
    write_shards(sources, tmp_path / "out", PATCHES, workers=1, progress=False)
    shard = shard_path(tmp_path / "out", "病" * 60, 0)
    shard.rename(shard.with_name(f".4194304.tmp.{shard.name}"))
    write_shards(sources, tmp_path / "out", PATCHES, workers=1, progress=False)
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".tfrecord"]


@pytest.mark.parametrize("kind", ["slides", "tiles"])
def test_super_resolution_writes_the_good_and_names_the_others(kind, slides, tiles, model, tmp_path):
    source, suffix = (slides, "_x4.tif") if kind == "slides" else (tiles, ".png")
    done = program("sr_keras.super_resolve", "--engine=tensorflow",
                   f"--model={model}", f"--input={source}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 1, done.stderr
    assert f"{len(NAMES)} of {len(NAMES + UNREADABLE)} written" in done.stdout
    assert_others_are_named(done.stderr)
    written = {path.name for path in (tmp_path / "out").iterdir() if path.name.endswith(suffix)}
    assert {name + suffix for name in NAMES if len(os.fsencode(name + suffix)) <= 255} <= written
    assert len(written) == len(NAMES)
    with open_slide(tmp_path / "out" / f"{NAMES[0]}{suffix}") as slide:
        assert slide.dimensions == ((1024, 512) if kind == "slides" else (256, 256))
    reports = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.report.json")]
    assert sorted(report["status"] for report in reports) == ["done"] * len(NAMES) + ["failed"] * len(UNREADABLE)
    assert str(source / f"{NAMES[0]}{'.tif' if kind == 'slides' else '.png'}") in {r["source"] for r in reports}


@pytest.mark.slow
def test_scans_of_odd_names_are_registered_and_extracted(tmp_path, histology):
    hr = Image.fromarray(histology).resize((1536, 1536), Image.Resampling.LANCZOS)
    for name, image, mpp in ((NAMES[0], hr, 0.25), ("病, x", hr.reduce(4), 1.0)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.asarray(image), photometric="rgb", tile=(256, 256), metadata=None,
                         resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER")
    pages = tmp_path / "a, b.json"
    done = program("pipelines.register", f"--hr={tmp_path / NAMES[0]}.tif", f"--lr={tmp_path / '病, x.tif'}",
                   f"--output={pages}", "--patch_size=48", "--max_patches=50")
    assert done.returncode == 0, done.stderr
    assert pages.with_suffix(".png").is_file()
    done = program("pipelines.extract", f"--pairs={pages}", f"--output={tmp_path / 'out'}", "--patch_size=64",
                   "--max_patches=4")
    assert done.returncode == 0, done.stderr
    assert open_shards(tmp_path / "out").slide_ids == (r"M\xfcller_12",)


def test_trust_map_of_a_name_that_is_not_utf_8(slides, model, tmp_path):
    done = program("sr_keras.super_resolve", "--engine=tensorflow",
                   f"--model={model}", f"--input={slides / f'{NAMES[0]}.tif'}",
                   f"--output={tmp_path / 'out'}", f"--trust_map={tmp_path / 'trust'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "trust" / f"{NAMES[0]}_trust.overview.png").is_file()


def test_evaluation_scores_the_good_and_names_the_others(slides, model, tmp_path):
    done = program("sr_keras.evaluate", f"--model={model}", f"--data={slides}", f"--output={tmp_path / 'scores'}",
                   "--patch_size=64", "--min_tissue=0", "--max_patches=1")
    assert done.returncode == 0, done.stderr
    assert_others_are_named(done.stdout)
    with open(tmp_path / "scores" / "scores.csv", newline="", encoding="utf-8") as handle:
        assert sorted({row["slide_id"] for row in csv.DictReader(handle)}) == IDS
    assert (tmp_path / "scores" / "sheet.png").is_file()


def test_training_uses_the_good_and_lists_the_others(slides, tiles, tmp_path):
    run = tmp_path / "run"
    arguments = (f"--run={run}", "--patch_size=64", "--eval_patch_size=64", "--min_tissue=0", "--blocks=1",
                 "--filters=4", "--batch_size=2", "--steps_per_epoch=1", "--lambda_m=0", "--autoencoder_epochs=0",
                 "--warmup_epochs=1", "--adversarial_epochs=0", "--val_patches=1", "--nojit_compile",
                 "--test_fraction=0", "--seed=1")
    done = program("sr_keras.train", f"--train_data={slides},{tiles}", *arguments)
    assert done.returncode == 0, done.stderr
    assert_others_are_named("\n".join(item["reason"] for item in json.loads((run / "skipped.json").read_text())))
    parts = json.loads((run / "parts.json").read_text())
    assert sorted(parts["train"]["slides"] + parts["val"]["slides"]) == sorted([*IDS, tiles.name])


@pytest.mark.parametrize("show", ["degradations", "corruptions"])
def test_preview_draws_the_good_and_names_the_others(show, slides, tiles, tmp_path):
    done = program("pipelines.preview", f"--data={slides if show == 'degradations' else tiles}", "--patch_size=64",
                   f"--output={tmp_path / 'p.png'}", f"--show={show}", "--min_tissue=0", "--degradation=textbook")
    assert done.returncode == 0, done.stderr
    assert "/gone." in done.stdout
    assert (tmp_path / "p.png").is_file()
