# SPDX-License-Identifier: Apache-2.0
"""An input that a model was not made for is recognised, and the windows that are looked at stand for the plane."""
from __future__ import annotations

import json

import pytest

from pipelines.config import DEGRADATIONS, DegradeOptions, degradation
from pipelines.slide import open_slide
from sr_keras.model.facts import ModelFacts
from sr_keras.slides.image_properties import DARK, HE, OTHER, Jpeg, Stain
from sr_keras.slides.inspection import InputProperties, find_mismatches, inspect_input, sample_windows
from sr_keras.slides.lr_plane import LRPlane, TissueMap

FACTS = ModelFacts(lr_mpp=(0.9, 2.1), stain="H&E", degradation=DEGRADATIONS["scanner"])
GOOD = InputProperties(1.0, Stain(HE, 0.0), 0.3, Jpeg(80, "4:2:0"))


# Warnings

def test_input_that_the_model_is_for_is_passed_in_silence():
    assert find_mismatches(GOOD, FACTS) == []
    assert find_mismatches(InputProperties(), FACTS) == []  # nothing can be told, nothing is said


@pytest.mark.parametrize(("seen", "says"), [
    ({"mpp": 0.5}, "it is read at 0.5 microns per pixel, and the model is for 0.9 to 2.1: read it with --mpp=1"),
    ({"mpp": 4.0}, "a finer scan is needed"),
    ({"stain": Stain(OTHER, 0.38)}, "does not look like H&E, which the model is for: 38% of its stain"),
    ({"stain": Stain(DARK, 0.0)}, "dark, as fluorescence is"),
    ({"blur": 1.5}, "a sigma of 1.5 of its pixels, and the model was trained on 0.9 at most"),
    ({"jpeg": Jpeg(30, None)}, "JPEG of quality 30, and the model was trained on 50 or better"),
])
def test_each_cause_is_a_line_of_its_own(seen, says):
    (line,) = find_mismatches(InputProperties(**{**vars(GOOD), **seen}), FACTS)
    assert says in line
    assert "\n" not in line
    assert len(find_mismatches(InputProperties(0.5, Stain(OTHER, 0.4), 1.5, Jpeg(30, None)), FACTS)) == 4


def test_resolution_that_no_whole_multiple_reaches_is_named_as_it_is():
    facts = ModelFacts(lr_mpp=(0.9, 0.95))
    assert "--mpp=0.9" in find_mismatches(InputProperties(0.4), facts)[0]
    assert "--mpp=0.92" in find_mismatches(InputProperties(0.23), facts)[0]


def test_little_beyond_the_limits_is_not_worth_a_line():
    assert find_mismatches(InputProperties(0.86, Stain(HE, 0.1), 0.9, Jpeg(46, None)), FACTS) == []


def test_model_of_another_stain_and_one_without_facts_do_not_judge_it():
    brown = InputProperties(1.0, Stain(OTHER, 0.9), 0.3, None)
    assert find_mismatches(brown, ModelFacts(lr_mpp=(0.9, 2.1), stain="IHC")) == []
    (line,) = find_mismatches(brown, ModelFacts())
    assert "no record of the input it is for" in line


def test_model_that_saw_no_jpeg_is_warned_of_it_unless_it_was_averaged_away():
    textbook = ModelFacts(degradation=DegradeOptions())
    (line,) = find_mismatches(InputProperties(jpeg=Jpeg(75, None)), textbook)
    assert "quality 75, and the model was trained on 90" in line
    assert find_mismatches(InputProperties(jpeg=Jpeg(75, None), resampled=4.0), textbook) == []


def test_input_sharper_than_any_that_the_model_saw_is_told():
    blurred_alone = ModelFacts(degradation=degradation("textbook", blur_sigma=(4.0, 6.0)))
    assert "sharper" in find_mismatches(InputProperties(blur=0.2), blurred_alone)[0]


# Real slides

@pytest.mark.parametrize(("name", "asked", "causes"), [
    ("CMU-1-Small-Region.svs", {"mpp": 1.0}, []), ("metaplasia-HE.tif", {"mpp": 1.0}, []),
    ("metaplasia-HE.tif", {"level": 2}, []), ("OS-1-detail.ome.tif", {"mpp": 0.9}, []),
    ("metaplasia-HE.tif", {"mpp": 0.5}, ["read it with --mpp=1.01"]),
    ("CMU-1-Small-Region.svs", {}, ["read it with --mpp=0.998", "JPEG of quality 30"]),
    ("fluorescence-DAPI.ndpi", {"mpp": 1.0}, ["as fluorescence is"]),
])
def test_real_slides_are_judged_rightly(name, asked, causes, shared_data):
    with open_slide(shared_data / "slides" / name) as slide:
        view = LRPlane(slide, **asked)
        seen = inspect_input(view, TissueMap(view).any_in)
    found = find_mismatches(seen, FACTS)
    assert len(found) == len(causes), found
    assert all(cause in line for cause, line in zip(causes, found, strict=True))
    assert json.loads(json.dumps(seen.as_json()))["mpp"] == view.mpp


# Sampling

@pytest.mark.parametrize("shape", [(1, 1), (40, 300), (96, 96), (100, 97), (5000, 3000), (100000, 80000)])
def test_windows_lie_in_the_plane_and_differ(shape):
    windows = sample_windows(shape, 8, 96)
    assert 1 <= len(windows) <= 8
    assert len({(rows.start, columns.start) for rows, columns in windows}) == len(windows)
    for rows, columns in windows:
        assert rows.stop - rows.start == min(96, shape[0])
        assert columns.stop - columns.start == min(96, shape[1])
        assert 0 <= rows.start < rows.stop <= shape[0]
        assert 0 <= columns.start < columns.stop <= shape[1]
    assert sample_windows(shape, 8, 96) == windows


def test_windows_are_of_tissue_where_there_is_some():
    def in_a_corner(rows, columns):
        return rows.stop > 700 and columns.stop > 500

    windows = sample_windows((1000, 1000), 8, 96, in_a_corner)
    assert len(windows) == 8
    assert all(in_a_corner(*window) for window in windows)
    assert sample_windows((1000, 1000), 8, 96, lambda *_: False) == sample_windows((1000, 1000), 8, 96)


def test_windows_are_spread_over_the_plane():
    windows = sample_windows((10000, 10000), 8, 96)
    assert max(rows.start for rows, _ in windows) - min(rows.start for rows, _ in windows) > 6000
    assert max(columns.start for _, columns in windows) - min(columns.start for _, columns in windows) > 6000
