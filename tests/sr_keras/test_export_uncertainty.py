# SPDX-License-Identifier: Apache-2.0
"""`sr-keras export` takes the head beside a generator along, and refuses that of another one."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from sr_keras.formats.signatures import write_uncertainty
from sr_keras.model.loading import load_generator, read_weights
from sr_keras.model.uncertainty_head import (
    Coverage,
    HeadFacts,
    Prediction,
    digest,
    folder_of,
    head,
    load_uncertainty,
)
from sr_keras.networks import generator


@pytest.fixture(scope="module")
def written(randomised, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs")
    randomised(generator(scale=2, blocks=1, filters=4)).save(run / "generator.keras")
    network = head(np.random.default_rng(0).normal(size=(1, 8, 8, 7)), 2, 4)
    facts = HeadFacts(digest(read_weights(run)), 1.0, 0.1, Prediction(0.6, 0.8), Prediction(0.1, 0.5),
                      [Coverage("erosion", "real pairs", (0.4, 0.8, 0.9), (0.512, 0.9, 0.95))])
    folder_of(run).mkdir()
    write_uncertainty(load_generator(run), network, facts, folder_of(run), max_pixels=8000)
    return run


@pytest.fixture
def run(written, tmp_path) -> Path:
    return shutil.copytree(written, tmp_path / "run")


def test_head_is_exported_with_its_model_and_stands_in_the_card(run, export, tmp_path, histology):
    export(f"--model={run}", "--name=mine", f"--output={tmp_path / 'models'}")
    lr = histology[np.newaxis, :16, :24]
    sr, scale, _ = load_uncertainty(tmp_path / "models" / "mine")(lr)
    assert np.abs(sr.astype(int) - load_generator(tmp_path / "models" / "mine")(lr)).max() <= 1
    assert scale.shape == (1, 32, 48, 3)
    card = (tmp_path / "models" / "mine" / "1" / "README.md").read_text()
    assert "## Uncertainty" in card
    assert "| erosion | real pairs | 51.2% (40.0%) |" in card
    alone = tf.saved_model.load(str(tmp_path / "models" / "mine" / "1"))
    assert set(alone.signatures) == {"serving_default", "float", "encoded", "about"}  # as without a head


def test_head_of_another_generator_is_not_exported(run, randomised, export, tmp_path):
    other = randomised(generator(scale=2, blocks=1, filters=4))
    other.get_layer("first").bias.assign(other.get_layer("first").bias + 1)
    other.save(run / "generator.keras")
    with pytest.raises(ValueError, match="`uncertainty` must be of the generator beside it"):
        export(f"--model={run}", "--name=mine", f"--output={tmp_path / 'models'}")
    assert not (tmp_path / "models").exists()


def test_a_call_of_the_head_has_a_limit_of_pixels_as_the_model_has(written):
    loaded = tf.saved_model.load(str(folder_of(written)))
    signature = loaded.signatures["uncertainty"]
    assert signature(lr=tf.zeros([1, 80, 100, 3], tf.uint8))["scale"].shape == (1, 160, 200, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`lr` must have 1 to 8000 pixels"):
        signature(lr=tf.zeros([1, 80, 101, 3], tf.uint8))
    assert loaded.expected(tf.zeros([1, 90, 100, 3], tf.uint8)).shape == (1, 180, 200)  # for slides
