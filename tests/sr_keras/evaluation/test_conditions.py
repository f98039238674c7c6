# SPDX-License-Identifier: Apache-2.0
"""Each kind of LR is what its name says, and draws nothing but its noise."""
from __future__ import annotations

from dataclasses import fields

import pytest
import tensorflow as tf

from pipelines.config import DEGRADATIONS, DegradeOptions
from pipelines.degrade import degrade, degrade_example
from pipelines.pixels import quantise, to_float
from sr_keras.evaluation.conditions import (
    CURVES,
    REAL,
    STANDARD,
    condition_named,
    standard_conditions,
    trained_condition,
)

ALL = standard_conditions(4, real=True)
MADE = [condition for condition in ALL if not condition.is_real]


def test_names_and_labels_tell_conditions_apart():
    assert len({condition.name for condition in ALL}) == len({condition.label for condition in ALL}) == len(ALL) == 20
    assert [condition.name for condition in ALL[:len(STANDARD)]] == [condition.name for condition in STANDARD]


@pytest.mark.parametrize("condition", MADE, ids=lambda condition: condition.name)
def test_a_condition_draws_nothing_but_its_noise(condition):
    options = condition.degrade
    assert len(options.blurs) == len(options.resamplings) == len(options.jpeg_subsamplings) == 1
    assert max(options.jpeg_passes) == 1
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, tuple) and len(value) == 2:
            assert value[0] == value[1], field.name


def test_jpeg_80_is_the_textbook_compressed_once_with_chroma_at_half_resolution():
    assert condition_named("jpeg-80").degrade == DegradeOptions(
        blur_sigma=1.6, jpeg_passes=(0, 1, 0), jpeg_quality=(80, 80), jpeg_subsamplings=("420",))
    assert condition_named("jpeg-80").label == "textbook + JPEG 80 4:2:0"
    assert condition_named("jpeg-90-444").degrade.jpeg_subsamplings == ("444",)


def test_the_real_lr_is_no_degradation_and_left_out_where_there_is_none():
    assert REAL.is_real
    assert [condition.name for condition in ALL if condition.is_real] == ["pairs"]
    assert standard_conditions(4, real=False) == tuple(MADE)


def test_curves_rise_and_share_their_points_with_the_list():
    for points in CURVES.values():
        values = [value for value, _ in points]
        assert values == sorted(set(values))
        assert {condition.name for _, condition in points} <= {condition.name for condition in ALL}
    sigma, quality, noise = CURVES.values()
    assert [condition.degrade.blur_sigma for _, condition in sigma] == [0.8, 1.2, 1.6, 2.4, 3.2]
    assert [condition.degrade.jpeg_quality[0] for _, condition in quality] == [50, 60, 70, 80, 90, 98]
    assert [condition.degrade.read_noise[1] for _, condition in noise] == [0, 0.005, 0.01, 0.02, 0.03]


def test_a_condition_is_of_the_models_scale():
    assert {condition.degrade.scale for condition in standard_conditions(2, real=False)} == {2}
    assert REAL.at_scale(8) == REAL


@pytest.mark.parametrize("name", [name for name in DEGRADATIONS if name != "textbook"])
def test_presets_are_known_by_their_names(name):
    assert condition_named(name).degrade == DEGRADATIONS[name]


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"`lr` must be one of standard, pairs, textbook, .*scanner, pyramid;.*boxes"):
        condition_named("boxes")


def test_what_a_model_was_trained_on_has_words():
    assert trained_condition(DegradeOptions(2, blur_sigma=0.8)).label == "blur of 0.8 HR pixels"
    assert trained_condition(DEGRADATIONS["scanner"]).label == "drawn from the preset 'scanner'"
    assert trained_condition(DegradeOptions(blur_sigma=(0.5, 2.0))).label == "drawn as in training"


def test_lr_is_that_of_the_condition(histology):
    """The textbook's by its own function; noise as strong as its name says; and each kind another picture."""
    hr = tf.constant(to_float(histology[:128, :128]))
    lr = {condition.name: degrade_example(hr, condition.degrade, tf.constant([1, 2])).numpy() for condition in MADE}
    textbook = quantise(degrade(hr[tf.newaxis], 4, 1.6))[0].numpy()
    assert (lr["textbook"] == textbook).all()
    for name, deviation in (("noise-0.01", 0.01), ("noise-0.03", 0.03)):
        inside = (textbook > 0.15) & (textbook < 0.85)
        assert (lr[name] - textbook)[inside].std() == pytest.approx(deviation, rel=0.1)
    assert len({values.tobytes() for values in lr.values()}) == len(MADE)
    assert all(values.shape == (32, 32, 3) for values in lr.values())
