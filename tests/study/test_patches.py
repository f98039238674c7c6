# SPDX-License-Identifier: Apache-2.0
"""The shown patches are the same for every cell, do not depend on scores, and are labelled."""
from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from pipelines.config import DegradeOptions, PatchOptions
from pipelines.dataset import evaluation_dataset
from pipelines.patches import find_sources
from pipelines.shards import open_shards, write_shards
from sr_keras.evaluation import score, write_csv
from sr_keras.model.loading import load_generator
from sr_keras.networks import generator
from study.grid import Cell
from study.patches import chosen_cells, evenly_spaced, shown_patches, write_sheet
from study.results import curve_of
from study.training import Study

CELLS = [Cell("srgan", 2.0), Cell("srgan_sqe", 0.5), Cell("srgan_sqe", 0.5, fraction=0.5)]


def row(cell: Cell) -> dict:
    return {**cell.columns, "vgg_weights": "random" if cell.method == "srgan" else None, "slide": "slide-a"}


@pytest.fixture(scope="module")
def study(tmp_path_factory, tile_folder) -> Study:
    """Return a study in which all CELLS are finished, each with an untrained generator."""
    work = tmp_path_factory.mktemp("study")
    write_shards(find_sources(tile_folder), work / "shards/test", PatchOptions(patch_size=128, min_tissue=0), workers=1,
                 progress=False)
    keras.utils.set_random_seed(0)
    model, test = generator(4, 1, 4), open_shards(work / "shards/test")
    model.save(work / "generator.keras")
    scored = score(load_generator(work / "generator.keras"), evaluation_dataset(test, limit=8).as_numpy_iterator())
    for cell in CELLS:
        folder = work / "cells" / cell.name
        (folder / "run").mkdir(parents=True)
        shutil.copy(work / "generator.keras", folder / "run")
        write_csv(scored, folder / "scores/scores.csv")
    return Study(work, work / "out", None, DegradeOptions(), "random")


def test_patches_are_evenly_spaced_over_each_slide_whatever_their_scores():
    rows = [{"slide_id": slide, "example_id": f"{slide}/{i}", "method": method, "ms_ssim": str(i * factor)}
            for factor in (1, -1) for slide in "ab" for i in range(9) for method in ("bicubic", "sr")]
    first, second = rows[:len(rows) // 2], rows[len(rows) // 2:]
    assert evenly_spaced(first, 6) == ["a/1", "a/4", "a/7", "b/1", "b/4", "b/7"]
    assert evenly_spaced(second, 6) == evenly_spaced(first, 6)


def test_there_are_never_more_patches_than_scored():
    assert evenly_spaced([{"slide_id": "a", "example_id": "a/0"}], 4) == ["a/0"]


def test_chosen_cells_are_the_papers_with_the_usual_corruption_and_the_lowest_seed():
    wanted = [Cell("srgan_sqe", 0.5), Cell("srgan_sqe", 0.5, fraction=0.3), Cell("srgan_e", 2.0, fraction=0.3)]
    others = [Cell("srgan_sqe", 0.5, seed=1), Cell("srgan_sqe", 1.0, fraction=0.3), Cell("fidelity", 0.5),
              Cell("srgan_sqe", 0.5, fraction=0.3, kind="blur"), Cell("srgan_sqe", 0.5, variant="blocks=4"),
              Cell("srgan_sqe", 0.5, "equal"), Cell("srgan_sqe", 0.5, fraction=0.2)]
    chosen = chosen_cells([row(cell) for cell in (*others, *wanted)])
    assert list(chosen) == [("srgan_e", 0.3), ("srgan_sqe", 0.0), ("srgan_sqe", 0.3)]
    assert {one["cell"] for one in chosen.values()} == {cell.name for cell in wanted}


def test_srgan_with_random_vgg_weights_is_called_so():
    assert curve_of({"method": "srgan", "vgg_weights": "random"}).name == "SRGAN (random VGG)"
    assert curve_of({"method": "srgan", "vgg_weights": "imagenet"}).name == "SRGAN"
    assert curve_of({"method": "srgan_sqe", "vgg_weights": None}).name == "SRGAN_SQE"


def test_shown_patches_are_those_of_the_shards_with_their_own_scores(study, tile_folder):
    shown = shown_patches([row(cell) for cell in CELLS], study, patches=2)
    assert [patch.example_id for patch in shown] == ["slide-a/tile2", "slide-b/tile2"]
    first = shown[0]
    tile = np.asarray(Image.open(tile_folder / "slide-a" / "tile2.png"))
    np.testing.assert_array_equal(first.references["HR"].image, tile)
    assert first.references["LR"].image.shape == (32, 32, 3)
    assert set(first.cells) == {("srgan", 0.0), ("srgan_sqe", 0.0), ("srgan_sqe", 0.5)}
    assert first.labels == {"srgan": "SRGAN (random VGG)", "srgan_sqe": "SRGAN_SQE"}
    sr = first.cells["srgan_sqe", 0.5]
    assert sr.image.shape == (128, 128, 3)
    scores = study.scores(sr.cell).read_text().splitlines()
    values = next(dict(zip(scores[0].split(","), line.split(","), strict=True)) for line in scores
                  if line.startswith(f"{first.example_id},") and ",sr," in line)
    assert sr.caption == f"QILV {float(values['qilv']):.3f}  RRMSE {float(values['rrmse']):.4f}"


def test_cells_without_a_run_are_left_out(study):
    rows = [row(cell) for cell in (*CELLS, Cell("srgan_qe", 0.5))]
    assert ("srgan_qe", 0.0) not in shown_patches(rows, study, patches=1)[0].cells
    assert shown_patches([], study) == []


def test_sheet_shows_every_pixel_as_a_square(study, tmp_path):
    patches = shown_patches([row(cell) for cell in CELLS], study, patches=2)
    write_sheet(patches, tmp_path / "patches.png")
    sheet = np.asarray(Image.open(tmp_path / "patches.png"))
    # The first panel of the first method: one to the right of LR.
    panel = sheet[8 + 18:, 8 + 256 + 8:][:256, :256]
    np.testing.assert_array_equal(panel[::2, ::2], patches[0].cells["srgan", 0.0].image)
    np.testing.assert_array_equal(panel[1::2, 1::2], panel[::2, ::2])


def test_empty_sheet_is_refused(tmp_path):
    with pytest.raises(ValueError, match="patches"):
        write_sheet([], tmp_path / "patches.png")
