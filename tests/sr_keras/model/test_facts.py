"""What a model says of itself: by its run's flags, by JSON there and back, and in words."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.config import DEGRADATIONS, DegradeOptions, degradation
from sr_keras.model.facts import FACTS_FILE, ModelFacts, from_json, in_words, of_flags, read_facts

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
    facts = of_flags(flags, HERE)
    assert facts.degradation == options
    assert facts.flags == flags


def test_resolution_is_that_of_the_patches_times_the_scale():
    assert of_flags("--scale=4\n--mpp=0.25\n", HERE).lr_mpp == (1.0, 1.0)
    assert of_flags("--scale=4\n--mpp=\n--level=0\n", HERE).lr_mpp is None


@pytest.mark.parametrize("flags", ["--blur_sigma=abc\n", "--degradation=fog\n", "--scale=4\n--mpp=abc\n",
                                   "--scale=5\n"])
def test_flags_that_are_damaged_name_the_file(flags):
    with pytest.raises(ValueError, match=r"`flags` of a run must be those.*Received: 'runs/mine/flags\.txt'"):
        of_flags(flags, HERE)


@pytest.mark.parametrize("facts", [
    ModelFacts(), ModelFacts(stain="H&E"), *(ModelFacts(degradation=options) for options in DEGRADATIONS.values()),
    ModelFacts((0.9, 2.1), "H&E", DegradeOptions(blur_sigma=0.8), "40 slides", (2.0, 3.5), "--q=0.5\n",
               {"keras": "3"})])
def test_facts_survive_json(facts):
    assert from_json(json.loads(json.dumps(facts.as_json())), HERE) == facts


def test_what_stands_in_json_wins_over_flags_and_what_is_unknown_is_left_out():
    said = {"flags": "--scale=4\n--blur_sigma=0.8\n--mpp=0.5\n", "stain": "H&E", "lr_mpp": [1, 3], "colour": "red"}
    assert from_json(said, HERE) == ModelFacts((1.0, 3.0), "H&E", DegradeOptions(blur_sigma=0.8), flags=said["flags"])


@pytest.mark.parametrize("said", [{"lr_mpp": [2.0, 1.0]}, {"lr_mpp": 5}, {"degradation": {"fog": 1}},
                                  {"degradation": {"scale": 5}}, {"usual_departure": ["a", "b"]},
                                  {"usual_departure": [1.0, 300.0]}])
def test_json_that_is_damaged_is_refused(said):
    with pytest.raises(ValueError, match=r"`(facts|lr_mpp|usual_departure)` must"):
        from_json(said, HERE)


def test_facts_of_a_folder_need_scale_and_halo(tmp_path):
    with pytest.raises(ValueError, match="its scale and halo are unknown"):
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
