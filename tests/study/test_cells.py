# SPDX-License-Identifier: Apache-2.0
"""Cells: trained on the other folds alone, scored on their own; a failure costs no other cell."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.sources import find_sources
from study.cells import Study, _plan, train_cells, write_tiles
from study.folds import Slide
from study.grid import Cell, Setting
from study.results import read_results

COMMON = "\n".join(["--degradation=textbook", "--blocks=1", "--filters=4", "--crop_size=32", "--batch_size=2",
                    "--steps_per_epoch=2", "--autoencoder_epochs=1", "--warmup_epochs=1", "--adversarial_epochs=1",
                    "--best_by=last", "--val_patches=2", "--eval_patch_size=168", "--patch_size=168"])


@pytest.fixture(scope="module")
def study(tmp_path_factory, histology) -> Study:
    """A study of three slides in three folds; one of them has scanned LR beside its tiles."""
    root = tmp_path_factory.mktemp("study")
    for i, slide in enumerate(("a", "b", "c")):
        (root / "tiles" / slide).mkdir(parents=True)
        for j in range(3):
            tile = Image.fromarray(histology[170 * i:170 * i + 168, 168 * j:168 * j + 168])
            tile.save(root / "tiles" / slide / f"t{j}.png")
            if slide == "c":
                tile.resize((42, 42), Image.Resampling.BOX).save(root / "tiles" / slide / f"t{j}_lr00.png")
    slides = {name: Slide(name, name, "40x", fold) for fold, name in enumerate("abc")}
    write_tiles(find_sources(root / "tiles"), root / "work", PatchOptions(patch_size=168, min_tissue=0), 2, 1)
    return Study(root / "work", root / "out", slides, "0" * 12, COMMON)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_no_tile_of_the_scored_fold_is_trained_on(study, fold, tmp_path):
    plan = _plan(Cell(Setting("srgan_sqe", 0.5, 0.5), fold), tmp_path, study)
    assert plan.val.slide_ids == ("abc"[fold],)
    assert set(plan.train.slide_ids) == {*"abc"} - {"abc"[fold]}
    assert plan.options.seed == fold


def test_slides_with_scanned_lr_give_hr_as_the_others_do(study, tmp_path):
    plan = _plan(Cell(Setting("srgan", 2), 0), tmp_path, study)
    assert not plan.train.pairs.shards
    assert {shard.patch_size for shard in (*plan.train.shards, *plan.val.shards)} == {168}


@pytest.mark.slow
def test_cells_are_scored_on_their_fold_and_a_failure_costs_no_other(study, capsys):
    bad = Setting("fidelity", 0.5, variant="warmup_learning_rate=1e30")
    real = Setting("srgan_e", 2.0, variant="degradation=scanner")
    cells = [Cell(bad, 0), Cell(Setting("srgan_sqe", 0.5, 0.5), 0), Cell(Setting("srgan_e", 2.0, 0.5), 0),
             Cell(real, 2)]
    failed, unscored = train_cells([*cells, Cell(real, 0)], study, at_once=1)
    assert failed.cell == "fidelity-q0.5-clean-warmup_learning_rate=1e30-fold0"
    assert "the term 'fidelity' is " in failed.reason
    assert (unscored.cell, unscored.reason) == (Cell(real, 0).name, "no slide of its fold has scanned LR")
    rows = read_results(study.output / "results.csv", study.folds)
    assert [(row["cell"], row["slide"]) for row in rows] == [
        ("bicubic-fold0", "a"), ("bicubic-fold2", "c"), ("bicubic-real-fold2", "c"),
        ("srgan_e-q2-0.5-mixed-hr-fold0", "a"), ("srgan_e-q2-clean-degradation=scanner-fold2", "c"),
        ("srgan_sqe-q0.5-0.5-mixed-hr-fold0", "a")]
    for row in rows:
        assert row["tiles"] == 2
        assert all(np.isfinite(row[name]) for name in ("psnr", "ms_ssim", "qilv", "rrmse"))
        assert 0 < row["rrmse_squared"] <= row["rrmse"]
        assert row["qilv"] < row["qilv_unit"] < 1
        assert row["method"] == "bicubic" or 0 < row["d_hr"] < 1
    shared = sorted(path.name for path in (study.work / "shared").iterdir())  # one for both methods
    assert shared == [f"{stage}-{what}.keras" for stage in ("autoencoder", "warmup")
                      for what in ("0.5-mixed-hr-fold0", "clean-degradation=scanner-fold0",
                                   "clean-degradation=scanner-fold2")]
    # A second call trains nothing, and other flags are refused.
    before = (study.output / "results.csv").read_bytes()
    assert train_cells(cells[1:], study, at_once=1) == []
    assert (study.output / "results.csv").read_bytes() == before
    (study.output / "results.csv").write_bytes(before.replace(b"--q=2 --corrupt_fraction=0.5", b"--q=2"))
    with pytest.raises(ValueError, match="`output` must contain no cell trained with other flags"):
        train_cells(cells[1:], study, at_once=1)
    (study.output / "results.csv").write_bytes(before)
