# SPDX-License-Identifier: Apache-2.0
"""Facts survive JSON, older runs and exports give theirs by their flags, and degradations are put into words."""
from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipelines.config import DEGRADATIONS, DegradeOptions, degradation
from sr_keras import shipped_model
from sr_keras.model.facts import (
    FACTS_FILE,
    ModelFacts,
    facts_of_flags,
    find_generator,
    from_json,
    in_words,
    read_facts,
    run_facts,
    without_paths,
    write_run_facts,
)

HERE = Path("runs/mine/flags.txt")


@pytest.mark.parametrize(("flags", "options"), [
    ("--scale=4\n--blur_sigma=0.8\n", DegradeOptions(blur_sigma=0.8)),  # older than --degradation: the textbook
    ("--scale=2\n", DegradeOptions(scale=2)),
    ("--scale=4\n--degradation=textbook\n", DegradeOptions()),
    ("--scale=4\n--degradation=scanner\n--q=0.5\n", DEGRADATIONS["scanner"]),
    ("--scale=8\n--degradation=pyramid\n--jpeg_quality=60,80\n",
     degradation("pyramid", scale=8, jpeg_quality=(60.0, 80.0))),
    ("--q=0.5\n", None), ("", None), (None, None)])
def test_degradation_is_that_of_the_flags(flags, options):
    facts = facts_of_flags(flags, HERE)
    assert facts.degradation == options
    assert facts.flags == flags


def test_resolution_is_that_of_the_patches_times_the_scale():
    assert facts_of_flags("--scale=4\n--mpp=0.25\n", HERE).lr_mpp == (1.0, 1.0)
    assert facts_of_flags("--scale=4\n--mpp=\n--level=0\n", HERE).lr_mpp is None


@pytest.mark.parametrize("flags", ["--blur_sigma=abc\n", "--degradation=fog\n", "--scale=4\n--mpp=abc\n",
                                   "--scale=5\n"])
def test_flags_that_are_damaged_name_the_file(flags):
    with pytest.raises(ValueError, match=r"`flags` of a run must be those.*Received: 'runs/mine/flags\.txt'"):
        facts_of_flags(flags, HERE)


@pytest.mark.parametrize("facts", [
    ModelFacts(), ModelFacts(stain="H&E"), *(ModelFacts(degradation=options) for options in DEGRADATIONS.values()),
    ModelFacts((0.9, 2.1), "H&E", DegradeOptions(blur_sigma=0.8), "40 slides", (2.0, 3.5), "--q=0.5\n",
               {"keras": "3"}, 48, {"real pairs": {"psnr": 0.42}})])
def test_facts_survive_json(facts):
    assert from_json(json.loads(json.dumps(asdict(facts))), HERE) == facts


def test_exports_older_than_a_field_are_read_by_their_flags():
    said = {"flags": "--scale=4\n--blur_sigma=0.8\n--mpp=0.5\n--filters=48\n", "stain": "H&E", "lr_mpp": [1, 3],
            "colour": "red"}
    assert from_json(said, HERE) == ModelFacts((1.0, 3.0), "H&E", DegradeOptions(blur_sigma=0.8), flags=said["flags"],
                                               filters=48)


def test_flags_of_an_export_say_nothing_about_its_model():
    said = {"flags": "--scale=4\n--blur_sigma=abc\n--filters=48\n", "degradation": None, "filters": None}
    assert from_json(said, HERE) == ModelFacts(flags=said["flags"])


def test_facts_of_a_run_are_its_file_else_its_flags_else_unknown(tmp_path):
    assert run_facts(tmp_path) == ModelFacts()
    (tmp_path / "flags.txt").write_text("--scale=4\n--blur_sigma=0.8\n")
    assert run_facts(tmp_path).degradation == DegradeOptions(blur_sigma=0.8)
    facts = ModelFacts(degradation=DEGRADATIONS["scanner"], filters=48)
    write_run_facts(tmp_path, facts)
    assert run_facts(tmp_path) == facts
    (tmp_path / FACTS_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"/facts\.json` must be a JSON file"):
        run_facts(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"--scale=4\n--filters=0\n", b"--scale=4\n--mpp=nan\n",
                                     b"--scale=4\n--mpp=1e999\n", b"--scale=4\n--blur_sigma=" + b"9" * 5000])
def test_flags_of_a_run_that_are_damaged_name_their_file(content, tmp_path):
    (tmp_path / "flags.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/flags.txt"):
        run_facts(tmp_path)


def test_folder_in_place_of_the_facts_is_refused(tmp_path):
    (tmp_path / FACTS_FILE).mkdir()
    with pytest.raises(ValueError, match=rf"{FACTS_FILE}` must be a JSON file .*Received: a folder"):
        run_facts(tmp_path)


def test_paths_are_left_out_of_flags():
    flags = "--blocks=12\n--train_data=tiles\n--run=mine\n--vgg_weights=/home/me/vgg.h5\n--vgg=imagenet\n--nostrict\n"
    assert without_paths(flags) == "--blocks=12\n--vgg=imagenet\n--nostrict\n"


def test_shipped_models_have_their_facts():
    versions = list(Path("saved_models").glob("*/[0-9]*"))
    assert versions
    for folder in versions:
        facts = from_json(read_facts(folder), folder)
        assert (facts.stain, facts.lr_mpp) == ("H&E", (0.9, 2.1))
        blur = {"blurs": facts.degradation.blurs, "blur_sigma": facts.degradation.blur_sigma}  # wider than the preset
        assert facts.degradation == replace(DEGRADATIONS["scanner"], **blur)
        assert facts.filters in (12, 16, 24, 32, 48)


@pytest.mark.parametrize("said", [{"lr_mpp": [2.0, 1.0]}, {"lr_mpp": 5}, {"degradation": {"fog": 1}},
                                  {"degradation": {"scale": 5}}, {"usual_departure": ["a", "b"]},
                                  {"usual_departure": [1.0, 300.0]}, {"flags": 5}, {"filters": 0},
                                  {"lr_mpp": [1.0, float("nan")]}, {"scores": {"pairs": {"psnr": float("inf")}}},
                                  {"versions": {"keras": 3}}])
def test_json_that_is_damaged_is_refused(said):
    with pytest.raises(ValueError, match=f"{HERE}.*{next(iter(said))}|`degradation` must have .*{HERE}.*fog"):
        from_json(said, HERE)


def test_facts_of_a_folder_need_scale_and_halo(tmp_path):
    with pytest.raises(ValueError, match=r"`facts\.json` must exist"):
        read_facts(tmp_path)
    (tmp_path / FACTS_FILE).write_text('{"scale": 4}')
    with pytest.raises(ValueError, match=r"/facts\.json` must .*field `halo`"):
        read_facts(tmp_path)
    (tmp_path / FACTS_FILE).write_text('{"scale": 4, "halo": 9}')
    assert read_facts(tmp_path) == {"scale": 4, "halo": 9}


def test_degradations_are_told_in_words():
    assert in_words(DegradeOptions(blur_sigma=1.2)) == "a Gaussian blur of 1.2 HR pixels, every 4th pixel"
    assert in_words(DegradeOptions(blurs=("none",), resamplings=("box",))) == "the mean of 4x4 HR pixels"
    assert in_words(DEGRADATIONS["pyramid"]) == "blur: none; resampling: cascade; JPEG quality 70 to 92 in 90% of them"
    for said in ("Gaussian of 0.4 to 3.2 HR pixels", "disc of radius 0.5 to 3", "noise up to 0.03",
                 "sharpening up to 0.6", "JPEG quality 50 to 98 in 65% of them"):
        assert said in in_words(DEGRADATIONS["scanner"]), said


def test_name_of_a_shipped_model_that_is_not_here_is_told_with_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(str(shipped_model("srgan_sqe_x4_light")))):
        find_generator("srgan_sqe_x4_light")
    with pytest.raises(FileNotFoundError, match="check the spelling"):
        find_generator("srgan_sqe_x8")
