# SPDX-License-Identifier: Apache-2.0
"""The models that lie in this repository: whole, small, and better than bicubic on slides that are new to them."""
from __future__ import annotations

import json
from itertools import dropwhile, islice, takewhile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.degrade import degrade
from pipelines.patches import find_sources, read_patches
from pipelines.pixels import to_float, to_uint8
from sr_keras.config import SHIPPED_MODEL
from sr_keras.evaluation.detail import read_detail
from sr_keras.metrics import bicubic, ms_ssim, psnr, qilv, rrmse
from sr_keras.model.loading import load_generator
from sr_keras.model.uncertainty_head import half_width, load_uncertainty, table

ROOT = Path(__file__).parents[1]
NAMES = ("srgan_sqe_x4", "srgan_sqe_x4_light")
VERSIONS = {"srgan_sqe_x4": "5", "srgan_sqe_x4_light": "6"}
MIB = 2**20


@pytest.mark.parametrize("name", NAMES)
def test_shipped_model_loses_less_than_a_decibel_on_a_stain_that_it_was_not_made_for(name, histology):
    """The sample is DAB, the models know H&E: contrast comes back, and colours shift by up to 5 grey levels."""
    hr, sr, interpolated = super_resolved(name, histology[np.newaxis])
    assert np.mean(qilv(hr, sr)) > np.mean(qilv(hr, interpolated))
    assert np.mean(psnr(hr, sr)) > np.mean(psnr(hr, interpolated)) - 1
    assert load_generator(SHIPPED_MODEL.with_name(name)).facts.stain == "H&E"


@pytest.mark.parametrize("slide", ["erosion", "keloid-scar"])
@pytest.mark.parametrize("name", NAMES)
def test_shipped_model_is_better_than_bicubic_on_slides_it_was_not_trained_on(name, slide, shared_data):
    tiles = sorted((shared_data / "tiles" / "val" / slide).iterdir())[::25]
    assert_better_than_bicubic(name, np.stack([np.asarray(Image.open(tile).convert("RGB")) for tile in tiles]))


@pytest.mark.parametrize("slide", [
    "acute-appendicitis", "arachnoid-cyst", "erosion", "granular-cell-tumor", "keloid-scar"])
@pytest.mark.parametrize("name", NAMES)
def test_shipped_model_is_better_than_bicubic_on_lr_that_a_slide_really_holds(name, slide, shared_data):
    (source,) = find_sources(shared_data / "pairs" / "val" / slide)
    patches = list(islice(read_patches(source, PatchOptions()), 0, 60, 6))
    hr, lr = (np.stack(images) for images in zip(*((patch.pixels, patch.lr) for patch in patches), strict=True))
    hr, sr = to_float(hr), to_float(load_generator(SHIPPED_MODEL.with_name(name))(lr))
    interpolated = bicubic(to_float(lr), 4)
    for metric in (psnr, ms_ssim, qilv):
        assert np.mean(metric(hr, sr)) > np.mean(metric(hr, interpolated))


def assert_better_than_bicubic(name, pixels):
    """Compare the means over uint8 [B, H, W, 3]."""
    hr, sr, interpolated = super_resolved(name, pixels)
    for metric in (psnr, ms_ssim, qilv):
        assert np.mean(metric(hr, sr)) > np.mean(metric(hr, interpolated))
    assert np.mean(rrmse(hr, sr)) < np.mean(rrmse(hr, interpolated))


def super_resolved(name, pixels):
    """Return hr, sr and bicubic of the textbook's LR of uint8 [B, H, W, 3]."""
    hr = to_float(pixels)
    lr = to_uint8(degrade(hr)).numpy()
    return hr, to_float(load_generator(SHIPPED_MODEL.with_name(name))(lr)), bicubic(to_float(lr), 4)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_model_knows_what_it_is_for_and_its_usual_departure_which_its_card_tells(name):
    facts = load_generator(SHIPPED_MODEL.with_name(name)).facts
    assert None not in (facts.lr_mpp, facts.degradation, facts.trained_on, facts.usual_departure, facts.scores)
    low, high = facts.usual_departure
    card = (SHIPPED_MODEL.with_name(name) / VERSIONS[name] / "README.md").read_text(encoding="utf-8")
    assert 1 < low < high < 10
    assert f"from the input: {low:.1f} to {high:.1f} of 255 at a slide's median" in card


@pytest.mark.parametrize("name", NAMES)
def test_card_of_shipped_model_tells_of_its_nuclei_what_its_facts_and_the_documents_hold(name):
    facts = load_generator(SHIPPED_MODEL.with_name(name)).facts
    card = (SHIPPED_MODEL.with_name(name) / VERSIONS[name] / "README.md").read_text(encoding="utf-8")
    rows = [row for row in read_detail(ROOT / "docs" / "nuclei.csv") if (row["model"], row["method"]) == (name, "sr")]
    assert facts.nuclei.keys() == {"pairs", "textbook"}
    for lr, told in facts.nuclei.items():
        mine = [row for row in rows if row["lr"] == lr]
        assert len(mine) == 5
        for score in ("f1", "invented", "lost", "lpips_like", "frechet"):
            assert told[score] == pytest.approx(np.mean([row[score] for row in mine]), rel=1e-3)
        assert f"| {lr} | {name} | " in card
        assert f" | {told['f1']:.3f} | " in card


@pytest.mark.parametrize("name", NAMES)
def test_goals_are_compared_with_what_the_card_says_and_the_missed_ones_are_bold(name):
    page = (ROOT / "saved_models" / "README.md").read_text(encoding="utf-8")
    card = (SHIPPED_MODEL.with_name(name) / VERSIONS[name] / "README.md").read_text(encoding="utf-8")
    scores = {row[0]: row for row in _rows(card, "## Scores")}
    goals = _rows(page, "## What was aimed at")
    assert len(goals) == 14
    for lr, *cells in goals[2:-1]:
        goal, reached = cells[2 * NAMES.index(name):][:2]
        if goal:
            column = next((i for i, word in ((2, "MS-SSIM"), (3, "QILV"), (6, "below")) if word in lr + goal), 1)
            told = scores[lr.partition(",")[0]][column].split()[0]
            assert reached.strip("*").split()[0] == told, lr
            if goal.startswith("0"):
                missed = int(told) > 0
            else:
                missed = float(told) < float(goal) if goal.startswith("+") else float(told) <= 0
            assert reached.startswith("**") == missed, lr


def _rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    lines = iter(text.partition(f"\n{heading}")[2].splitlines())
    table = takewhile(lambda line: line.startswith("|"), dropwhile(lambda line: not line.startswith("|"), lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_model_is_small_and_every_form_of_it_passed_its_gate(name):
    version = SHIPPED_MODEL.with_name(name) / VERSIONS[name]
    files = [path for path in version.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16 * MIB
    forms = json.loads((version / "parity.json").read_text())["forms"]
    assert {form["file"] for form in forms} == {"saved_model.pb", "onnx/model.onnx", *(
        f"litert/{precision}.tflite" for precision in ("float32", "float16", "int8_dynamic", "int8"))}
    assert all((version / form["file"]).is_file() for form in forms)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_model_has_its_own_head_whose_coverage_stands_in_the_card(name):
    facts = load_uncertainty(SHIPPED_MODEL.with_name(name)).facts
    assert facts.cost < 0.15
    assert facts.is_better
    card = (SHIPPED_MODEL.with_name(name) / VERSIONS[name] / "README.md").read_text(encoding="utf-8")
    assert table(facts) in card


@pytest.mark.parametrize("slide", ["erosion", "keloid-scar"])
@pytest.mark.parametrize("name", NAMES)
def test_intervals_of_a_shipped_head_hold_what_they_say_on_slides_that_are_new_to_it(name, slide, shared_data):
    (source,) = find_sources(shared_data / "pairs" / "val" / slide)
    patches = list(islice(read_patches(source, PatchOptions()), 0, 60, 10))
    hr, lr = (np.stack(images) for images in zip(*((patch.pixels, patch.lr) for patch in patches), strict=True))
    sr, scale, shape = load_uncertainty(SHIPPED_MODEL.with_name(name))(lr)
    error = np.abs(hr.astype(float) - sr)
    for level, room in ((0.5, 0.1), (0.9, 0.07), (0.95, 0.05)):
        assert (error <= half_width(scale, shape, level)).mean() == pytest.approx(level, abs=room)


def test_light_model_is_at_least_five_times_cheaper():
    full, light = (_multiply_adds(SHIPPED_MODEL.with_name(name) / VERSIONS[name] / "README.md") for name in NAMES)
    assert full > 5 * light


def _multiply_adds(card: Path) -> int:
    """Count the multiply-adds for an LR pixel of the network that a card's flags describe."""
    flags = dict(line[2:].split("=") for line in card.read_text().splitlines() if line.startswith("--") and "=" in line)
    blocks, filters = int(flags["blocks"]), int(flags["filters"])
    tail = int(flags["tail_filters"]) or filters
    trunk = 243 * filters + (2 * blocks + 1) * 9 * filters**2
    return trunk + 36 * filters * tail + 4 * 36 * tail**2 + 16 * 243 * tail
