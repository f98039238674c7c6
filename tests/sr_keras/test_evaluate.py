# SPDX-License-Identifier: Apache-2.0
"""Evaluation goes from a model and slides to a table, a CSV and a picture, and says a mistake in one line."""
from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import console
from pipelines.config import PatchOptions
from pipelines.dataset import evaluation_dataset
from sr_keras import evaluate
from sr_keras.evaluation.conditions import condition_named
from sr_keras.evaluation.scored_patches import find_sets, score
from sr_keras.formats.saved_model import export_saved_model
from sr_keras.metrics import bicubic
from sr_keras.model.facts import run_facts
from sr_keras.model.loading import load_keras

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trained(model, tmp_path) -> Path:
    """The same in the folder of a run with a blur of its own."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(model, folder / "generator.keras")
    (folder / "flags.txt").write_text("--blur_sigma=0.8\n--scale=4\n")
    return folder


@pytest.fixture
def run(run_program) -> Callable[..., int]:
    return partial(run_program, evaluate)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "scores.csv", newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_evaluate_writes_table_csv_and_sheet_of_folders_of_tiles(run, model, tile_folder, tmp_path, capsys):
    assert run(f"--model={model}", f"--data={tile_folder}", f"--output={tmp_path}", "--patch_size=128",
               "--min_tissue=0") == 0
    rows = rows_of(tmp_path)
    assert len(rows) == 2 * 16
    assert {row["slide_id"] for row in rows} == {"slide-a", "slide-b"}
    assert {row["method"] for row in rows} == {"bicubic", "sr"}
    table = (tmp_path / "scores.md").read_text(encoding="utf-8")
    assert "16 patches of 2 slides." in table
    assert "MS-SSIM is left out" in table
    assert "| slide-b | 8 |" in table
    assert table.split("\n\n")[1] in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 500
    assert not list(tmp_path.glob(".*"))


def test_scores_in_the_csv_are_those_of_the_tiles(run, model, tile_folder, tmp_path):
    """From the files alone, by another way: Pillow's bicubic and NumPy."""
    tiles = tile_folder / "slide-a"
    run(f"--model={model}", f"--data={tiles}", f"--output={tmp_path}", "--patch_size=128", "--min_tissue=0")
    found = {row["example_id"]: float(row["rrmse"]) for row in rows_of(tmp_path) if row["method"] == "bicubic"}
    assert set(found) == {f"slide-a/tile{i}" for i in range(8)}
    hr = np.asarray(Image.open(tiles / "tile3.png"), float) / 255
    taps = np.exp(-(np.arange(16) - 7.5) ** 2 / (2 * 1.6**2))
    padded = np.pad(hr, ((6, 6), (6, 6), (0, 0)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (16, 16), (0, 1))[::4, ::4]
    lr = np.einsum("ijcyx,y,x->ijc", windows, taps, taps) / taps.sum() ** 2
    sr = Image.fromarray(np.rint(lr * 255).astype(np.uint8)).resize((128, 128), Image.Resampling.BICUBIC)
    expected = np.linalg.norm(np.asarray(sr) / 255 - hr) / np.linalg.norm(hr)
    assert found["slide-a/tile3"] == pytest.approx(expected, rel=0.01)


def test_tile_of_one_colour_is_left_out_of_both_methods_and_named(run, model, tile_folder, tmp_path):
    """Bicubic is without error there, the model is not: one infinite PSNR must not make the difference wrong."""
    data = tmp_path / "data"
    shutil.copytree(tile_folder, data)
    Image.new("RGB", (128, 128), (220, 130, 170)).save(data / "slide-a" / "plain.png")
    assert run(f"--model={model}", f"--data={data}", f"--output={tmp_path / 'out'}", "--patch_size=128",
               "--min_tissue=0") == 0
    psnr: dict[str, dict[str, float]] = {"bicubic": {}, "sr": {}}
    for row in rows_of(tmp_path / "out"):
        if row["example_id"] != "slide-a/plain":
            psnr[row["method"]].setdefault(row["example_id"], float(row["psnr"]))
    assert len(psnr["bicubic"]) == len(psnr["sr"]) == 16
    slides = [[name for name in psnr["sr"] if name.startswith(slide)] for slide in ("slide-a", "slide-b")]
    means = {method: np.mean([np.mean([found[name] for name in names]) for names in slides])
             for method, found in psnr.items()}
    table = (tmp_path / "out" / "scores.md").read_text(encoding="utf-8")
    cells = {row.split(" | ")[0]: row.split(" | ")[1] for row in table.splitlines() if row.startswith("| ")}
    bicubic, sr, difference = (float(cells[f"| {name}"].strip("*").split()[0].strip("*"))
                               for name in ("bicubic", "SR", "SR − bicubic"))
    assert (bicubic, sr) == pytest.approx((means["bicubic"], means["sr"]), abs=0.006)
    assert difference == pytest.approx(means["sr"] - means["bicubic"], abs=0.006)
    assert "PSNR (dB): 1 patch is left out of all columns" in table
    assert "slide-a/plain" in table


def test_evaluate_takes_a_slide_and_then_its_shards_with_a_limit(run, model, sample_slide, tmp_path):
    run(f"--model={model}", f"--data={sample_slide}", f"--output={tmp_path}", "--patch_size=256", "--min_tissue=0")
    everything = rows_of(tmp_path)
    assert len(everything) == 2 * 4
    assert all(0 < float(row["ms_ssim"]) <= 1 for row in everything)
    assert "a single slide" in (tmp_path / "scores.md").read_text(encoding="utf-8")
    run(f"--model={model}", f"--data={tmp_path / 'data'}", f"--output={tmp_path / 'again'}", "--limit=2")
    assert rows_of(tmp_path / "again") == everything[:4]


@pytest.mark.parametrize("count", [1, 2])
def test_run_folders_are_no_slides(run, count, model, trained, tmp_path):
    """One run is named by its parts.json, which this one lacks; several are never data."""
    (trained / "versions.json").write_text("{}")
    Image.new("RGB", (64, 64)).save(trained / "panel.png")
    with pytest.raises(ValueError, match="`data` must hold slides and no training run"):
        run(f"--model={model}", f"--data={','.join([str(trained)] * count)}", f"--output={tmp_path / 'scores'}")


def test_slides_of_an_earlier_evaluation_are_left_out(run, model, tile_folder, tmp_path):
    for slide in ("slide-a", "slide-b"):
        shutil.copytree(tile_folder / slide, tmp_path / "slides" / slide)
        run(f"--model={model}", f"--data={tmp_path / 'slides'}", f"--output={tmp_path / 'scores'}", "--patch_size=64",
            "--limit=3")
        assert {row["slide_id"] for row in rows_of(tmp_path / "scores")} == {slide}
        shutil.rmtree(tmp_path / "slides")


def test_scores_of_another_model_or_other_data_are_not_replaced(run, model, trained, tile_folder, tmp_path):
    output = tmp_path / "scores"
    given = {"--model": str(model), "--data": str(tile_folder / "slide-a"), "--output": str(output), "--limit": "1",
             "--patch_size": "64"}
    for limit in ("1", "2"):  # the same again is done again
        assert run(*(f"{name}={value}" for name, value in {**given, "--limit": limit}.items())) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    assert len(before) == 3
    for changed in ({"--model": str(trained)}, {"--data": str(tile_folder / "slide-b")}):
        with pytest.raises(ValueError, match=r"`output` must contain no scores of another model.*name another folder"):
            run(*(f"{name}={value}" for name, value in {**given, **changed}.items()))
    assert {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()} == before
    (output / "scores.md").unlink()  # whose they are, nothing says
    with pytest.raises(ValueError, match=r"remove scores\.csv, sheet\.png there"):
        run(*(f"{name}={value}" for name, value in given.items()))


@pytest.mark.parametrize("inside", [".", "slide-a/scores"])
def test_output_among_the_tiles_that_are_scored_is_refused(run, inside, model, tile_folder, tmp_path):
    tiles = shutil.copytree(tile_folder, tmp_path / "tiles")
    before = set(tiles.rglob("*"))
    with pytest.raises(ValueError, match="`output` must be outside of the data"):
        run(f"--model={model}", f"--data={tiles}", f"--output={tiles / inside}", "--patch_size=64")
    assert set(tiles.rglob("*")) == before


def test_blur_is_the_one_the_model_was_trained_with(run, model, trained, tile_folder, tmp_path, capsys):
    def evaluated(name, *arguments):
        assert run(*arguments, f"--data={tile_folder}", f"--output={tmp_path / name}", "--patch_size=128", "--limit=2",
                   "--min_tissue=0") == 0
        return rows_of(tmp_path / name)

    by_itself = evaluated("a", f"--model={trained}")
    assert "blur of 0.8 HR pixels" in (tmp_path / "a" / "scores.md").read_text(encoding="utf-8")
    assert "no record of its blur" not in capsys.readouterr().out
    assert by_itself == evaluated("b", f"--model={trained}", "--blur_sigma=0.8")
    assert by_itself == evaluated("c", f"--model={model}", "--blur_sigma=0.8")
    assert by_itself != evaluated("d", f"--model={model}")
    assert "generator.keras has no record of its blur: 1.6 HR pixels are assumed" in capsys.readouterr().out


def test_blur_of_an_exported_model_is_that_of_its_run(run, trained, tile_folder, tmp_path):
    export_saved_model(load_keras(trained / "generator.keras"), tmp_path / "mine",
                       facts=run_facts(trained))
    with pytest.raises(ValueError, match=r"`blur_sigma` must be 0\.8, which .*mine/1 was trained with; leave it out"):
        run(f"--model={tmp_path / 'mine'}", f"--data={tile_folder}", f"--output={tmp_path / 'scores'}",
            "--blur_sigma=1.6")
    assert not (tmp_path / "scores").exists()


def test_shard_damaged_inside_is_one_line_that_names_it(run, model, tile_folder, tmp_path):
    run(f"--model={model}", f"--data={tile_folder}", f"--output={tmp_path}", "--patch_size=128", "--limit=1",
        "--min_tissue=0")
    path = tmp_path / "data" / "slide-b-00000.tfrecord"
    held = bytearray(path.read_bytes())
    held[5000] ^= 0xFF
    path.write_bytes(held)
    done = subprocess.run([sys.executable, "-m", "sr_keras.evaluate", f"--model={model}", f"--data={tmp_path / 'data'}",
                           f"--output={tmp_path}/scores"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "`shards` must be undamaged" in line
    assert str(path) in line


def test_lr_is_the_one_that_is_asked_for_and_the_table_names_it(run, model, tile_folder, tmp_path):
    def evaluated(name, *arguments):
        run(f"--model={model}", f"--data={tile_folder}", f"--output={tmp_path / name}", "--patch_size=128", "--limit=2",
            "--min_tissue=0", *arguments)
        return rows_of(tmp_path / name), (tmp_path / name / "scores.md").read_text(encoding="utf-8").splitlines()[0]

    plain, title = evaluated("plain")
    assert title.endswith(": x4, blur of 1.6 HR pixels, patches of 128 pixels.")
    textbook, title = evaluated("textbook", "--lr=textbook")
    assert textbook == plain
    assert title.endswith(", LR textbook: x4, textbook (sigma 1.6), patches of 128 pixels.")
    box, title = evaluated("box", "--lr=box")
    assert title.endswith(", LR box: x4, box average, patches of 128 pixels.")
    assert [row["psnr"] for row in box] != [row["psnr"] for row in plain]
    assert "lr_consistency" in plain[0]
    assert "lr_consistency" not in box[0]  # it is the textbook's alone
    with pytest.raises(ValueError, match="`output` must contain no scores of another model or other data"):
        evaluated("box", "--lr=jpeg-80")


def test_real_lr_of_pairs_is_scored(run, model, write_pairs, tmp_path, capsys):
    """The mean of 4x4 as real LR gives bicubic the scores of --lr=box."""
    write_pairs(tmp_path / "pairs" / "slide", 2)
    given = (f"--model={model}", f"--data={tmp_path / 'pairs'}")
    run(*given, f"--output={tmp_path / 'real'}", "--lr=pairs")
    assert ", LR pairs: x4, real pairs, patches of 64 pixels." in capsys.readouterr().out
    run(*given, f"--output={tmp_path / 'box'}", "--lr=box")
    real, box = rows_of(tmp_path / "real"), rows_of(tmp_path / "box")
    assert len(real) == len(box) == 4
    for one, other in zip(real, box, strict=True):
        assert float(one["psnr"]) == pytest.approx(float(other["psnr"]), abs=0.02)


def test_tiles_without_pairs_have_no_real_lr(run, model, tile_folder, tmp_path):
    with pytest.raises(ValueError, match=r"`data` must contain pairs, .*name such data"):
        run(f"--model={model}", f"--data={tile_folder}", f"--output={tmp_path / 'scores'}", "--lr=pairs",
            "--patch_size=64", "--min_tissue=0")
    assert not list((tmp_path / "scores").glob("s*"))


@pytest.mark.slow
def test_engines_agree_on_the_scores(run, model, tile_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for engine in ("tensorflow", "litert"):
        run(f"--model={model}", f"--data={tile_folder}", f"--output={tmp_path / engine}", "--patch_size=64",
            "--min_tissue=0", "--limit=2", f"--engine={engine}")
    for one, other in zip(rows_of(tmp_path / "tensorflow"), rows_of(tmp_path / "litert"), strict=True):
        assert float(one["psnr"]) == pytest.approx(float(other["psnr"]), abs=0.02)


@pytest.mark.slow
def test_standard_list_is_scored_on_tiles_and_pairs(run, model, tile_folder, write_pairs, tmp_path, capsys):
    write_pairs(tmp_path / "pairs" / "slide-a", 2)
    given = (f"--model={model}", f"--data={tile_folder},{tmp_path / 'pairs'}", "--lr=standard", "--patch_size=64",
             "--min_tissue=0", f"--output={tmp_path / 'scores'}")
    assert run(*given, "--limit=1") == 0
    page = (tmp_path / "scores" / "standard.md").read_text(encoding="utf-8")
    assert ", LR standard: x4, 2 slides, 1 patches a slide, seed 0." in page
    assert page.splitlines()[2] in capsys.readouterr().out
    told = json.loads((tmp_path / "scores" / "standard.json").read_text())
    assert len(told["lr"]) == 20
    assert told["lr"]["pairs"]["slides"].keys() == {"slide-a"}
    assert told["lr"]["jpeg-80"]["slides"].keys() == {"slide-a", "slide-b"}
    with Image.open(tmp_path / "scores" / "standard.png") as picture:
        assert picture.size[0] == 3 * 420
    before = (tmp_path / "scores" / "standard.csv").read_bytes()
    assert run(*given, "--limit=1") == 0
    assert (tmp_path / "scores" / "standard.csv").read_bytes() == before


# The standard list

FEW = ("pairs", "textbook", "noise-0.03")


def sharpened(lr):
    """A model that is not bicubic: its contrast is raised."""
    return np.clip(1.2 * np.asarray(bicubic(lr, 4)) - 0.1, 0, 1)


def by_name(gains):
    return {gain.condition.name: gain for gain in gains}


@pytest.fixture
def few(monkeypatch):
    """Three kinds of LR of the twenty: that is enough to see how they are scored."""
    monkeypatch.setattr(evaluate, "standard_conditions", lambda scale, real: tuple(
        condition_named(name).at_scale(scale) for name in FEW if real or name != "pairs"))


@pytest.fixture
def sets(plain_folder, pair_folder, tmp_path, few):
    return find_sets([str(plain_folder), str(pair_folder)], tmp_path / "data",
                     PatchOptions(patch_size=64, min_tissue=0), 4)


def test_made_lr_takes_every_slide_and_real_lr_those_of_pairs(sets):
    gains = evaluate.score_standard(sharpened, sets, 4, per_slide=2)
    found = by_name(gains)
    assert tuple(found) == FEW
    assert {name: slide.patches for name, slide in found["pairs"].slides.items()} == {"paired": 2, "shared": 2}
    for name in FEW[1:]:
        assert {name: slide.patches for name, slide in found[name].slides.items()} == {
            "paired": 2, "plain": 1, "shared": 2}


def test_files_of_the_standard_list_tell_of_every_kind_of_lr(run, few, model, plain_folder, pair_folder, tmp_path,
                                                             capsys):
    assert run(f"--model={model}", f"--data={plain_folder},{pair_folder}", "--lr=standard", "--patch_size=64",
               "--min_tissue=0", f"--output={tmp_path / 'scores'}", "--limit=2") == 0
    paths = [tmp_path / "scores" / f"standard.{suffix}" for suffix in ("md", "csv", "json", "png")]
    page = paths[0].read_text(encoding="utf-8")
    assert ", LR standard: x4, 3 slides, 2 patches a slide, seed 0." in page
    assert "**Gain in PSNR by slide**" in page
    assert page.partition("\n\n**Gain")[0] in capsys.readouterr().out
    assert "| real pairs |" in page
    assert json.loads(paths[2].read_text())["lr"].keys() == set(FEW)
    assert len(paths[1].read_text().splitlines()) == 1 + 2 + 2 * 3
    assert paths[3].stat().st_size > 10_000


def test_gains_are_those_of_the_patches_scored_one_by_one(sets):
    gain = by_name(evaluate.score_standard(sharpened, sets[:1], 4, per_slide=None))["textbook"]
    rows = score(sharpened, evaluation_dataset(sets[0], lr="made", batch_size=1))
    found = {method: np.mean([row["psnr"] for row in rows if row["slide_id"] == "shared" and row["method"] == method])
             for method in ("bicubic", "sr")}
    assert gain.slides["shared"].means["sr"]["psnr"] == pytest.approx(found["sr"], rel=1e-5)
    assert gain.of_slides("psnr")["shared"] == pytest.approx(found["sr"] - found["bicubic"], abs=1e-4)


def test_bicubic_gains_nothing_over_itself(sets):
    gains = evaluate.score_standard(partial(bicubic, scale=4), sets[:1], 4, per_slide=1)
    assert tuple(by_name(gains)) == FEW[1:]  # there are no pairs in this data
    for gain in gains:
        assert gain.mean("psnr") == gain.mean("rrmse") == gain.below == 0


def test_the_seed_decides_what_is_random_and_nothing_else_does(sets):
    first, again, other = (by_name(evaluate.score_standard(sharpened, sets[:1], 4, 1, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first["textbook"] == other["textbook"]
    assert first["noise-0.03"] != other["noise-0.03"]


def test_pairs_of_another_scale_than_the_model_are_refused(sets):
    with pytest.raises(ValueError, match="pairs of paired"):
        evaluate.score_standard(partial(bicubic, scale=2), sets, 2, per_slide=1)


# Mistakes

@pytest.mark.parametrize(("changed", "says"), [
    ({"--model": ""}, "`model` must be given"),
    ({"--model": "/no/such/model"}, "/no/such/model"),
    ({"--data": "/no/such/slides", "--model": "/no/such/model"}, "`data` must exist.*data='/no/such/slides'"),
    ({"--output": str(ROOT / "setup.py")}, "`output` must be a folder"),
    ({"--limit": "-1"}, "`limit` must be 0 or more; by default 25"),
    ({"--lr": "boxes"}, r"`lr` must be one of standard, pairs, textbook, .*lr='boxes'"),
    ({"--lr": "box", "--blur_sigma": "1.6"}, "`blur_sigma` must be left out with --lr"),
    ({"--seed": "-1"}, "`seed` must be 0 or more"),
    ({"--blur_sigma": "-1"}, "`blur_sigma` must lie in 0 to 12"),
    ({"--patch_size": "8"}, "`patch_size` must be 11 or more"),
    ({"--patch_size": "130"}, "`patch_size` must be divisible by scale=4"),
    ({"--colour": "red"}, "colour"),
])
def test_a_mistake_is_an_error_that_names_it_and_leaves_nothing(run, changed, says, model, tile_folder, tmp_path):
    given = {"--model": str(model), "--data": str(tile_folder), "--output": str(tmp_path / "scores"), **changed}
    with pytest.raises(console.USER_ERRORS, match=says):
        run(*(f"{name}={value}" for name, value in given.items()))
    assert not (tmp_path / "scores").exists()


def test_a_mistake_is_one_line_on_the_command_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "sr_keras.evaluate", f"--model={tmp_path}", "--data=sample",
                           f"--output={tmp_path}/scores"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "`model` must be a .keras file, a run folder or a SavedModel folder" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
