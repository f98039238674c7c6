# SPDX-License-Identifier: Apache-2.0
"""The head's distribution is scipy's, it costs what it says, and it opens with its own generator alone."""
from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import gennorm

from sr_keras.config import SHIPPED_MODEL
from sr_keras.formats.saved_model import DEFAULT_MAX_PIXELS, export_saved_model
from sr_keras.formats.signatures import write_uncertainty
from sr_keras.model import uncertainty_head
from sr_keras.model.loading import load_generator, read_weights
from sr_keras.model.uncertainty_head import (
    FACTS_FILE,
    SCALES_LIMIT,
    SHAPES_LIMIT,
    Coverage,
    HeadFacts,
    Prediction,
    digest,
    folder_of,
    half_width,
    head,
    load_uncertainty,
    mean_error,
    multiply_adds,
    negative_log_likelihood,
    table,
)
from sr_keras.networks import generator

SCALES, SHAPES = (np.array(values) for values in zip(*(
    (a, b) for a in (*SCALES_LIMIT, 5.0) for b in (*SHAPES_LIMIT, 1.0, 2.0)), strict=True))


def logs_of(scales: np.ndarray, shapes: np.ndarray) -> tf.Tensor:
    """One distribution for each row, the same in three channels."""
    return tf.constant(np.log(np.repeat(np.stack([scales, shapes], -1), 3, -1)), tf.float32)


@pytest.fixture(scope="module")
def model(randomised, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "generator.keras"
    randomised(generator(scale=4, blocks=1, filters=4)).save(path)
    return path


@pytest.fixture(scope="module")
def facts(model) -> HeadFacts:
    return HeadFacts(digest(read_weights(model)), 1.5, 0.1, Prediction(0.6, 0.8), Prediction(0.1, 0.55),
                     [Coverage("case", "real pairs", (0.4, 0.8, 0.9), (0.5, 0.9, 0.95))])


@pytest.fixture(scope="module")
def written(model, facts, tmp_path_factory) -> Path:
    """The model with an untrained head."""
    run = tmp_path_factory.mktemp("with_head")
    shutil.copy(model, run)
    folder_of(run).mkdir()
    network = head(np.random.default_rng(0).normal(size=(2, 8, 8, 7)), 4, 4)
    write_uncertainty(load_generator(run), network, facts, folder_of(run), max_pixels=DEFAULT_MAX_PIXELS)
    return run


@pytest.fixture
def with_head(written, tmp_path) -> Path:
    """The same in a folder of its own."""
    return shutil.copytree(written, tmp_path / "run")


@pytest.mark.parametrize("residual", [0.0, 1e-3, 1.0, -40.0, 255.0])
def test_loss_is_that_of_scipy(residual):
    found = negative_log_likelihood(tf.fill([len(SCALES), 3], np.float32(residual)), logs_of(SCALES, SHAPES))
    expected = -gennorm.logpdf(residual, SHAPES, scale=SCALES)
    assert found.numpy() == pytest.approx(np.repeat(expected[:, np.newaxis], 3, 1), rel=2e-4, abs=2e-4)


def test_loss_has_a_finite_gradient_where_the_residual_is_0():
    logs = logs_of(SCALES, SHAPES)
    with tf.GradientTape() as tape:
        tape.watch(logs)
        loss = negative_log_likelihood(tf.zeros([len(SCALES), 3]), logs)
    assert np.isfinite(tape.gradient(loss, logs)).all()


def test_loss_is_least_at_the_parameters_that_made_the_residuals():
    residual = gennorm.rvs(0.8, scale=7, size=(100_000, 3), random_state=0).astype(np.float32)
    losses = {(a, b): float(tf.reduce_mean(negative_log_likelihood(residual, logs_of(np.array([a]), np.array([b])))))
              for a in (6, 7, 8) for b in (0.7, 0.8, 0.9)}
    assert min(losses, key=losses.__getitem__) == (7, 0.8)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_interval_is_that_of_scipy(level):
    expected = gennorm.interval(level, SHAPES, scale=SCALES)[1]
    assert half_width(SCALES, SHAPES, level) == pytest.approx(expected, rel=1e-6)


def test_mean_error_is_that_of_samples():
    found = mean_error(logs_of(SCALES, SHAPES)).numpy()[:, 0]
    expected = [np.abs(gennorm.rvs(b, scale=a, size=200_000, random_state=0)).mean()
                for a, b in zip(SCALES, SHAPES, strict=True)]
    assert found == pytest.approx(np.array(expected), rel=0.02)


def test_values_of_a_head_stay_in_their_limits():
    network = head(np.zeros((1, 4, 4, 5)), 2, 4)
    network.set_weights([np.full(weight.shape, 100.0) for weight in network.get_weights()])
    for extreme in (1e3, -1e3):
        logs = network(np.full((1, 4, 4, 5), extreme, np.float32)).numpy()
        assert logs.shape == (1, 8, 8, 6)
        for values, (low, high) in ((logs[..., :3], SCALES_LIMIT), (logs[..., 3:], SHAPES_LIMIT)):
            assert low * 0.999 <= np.exp(values).min() <= np.exp(values).max() <= high * 1.001


@pytest.mark.parametrize("scale", [2, 4])
def test_multiply_adds_are_those_that_tensorflow_counts(scale):
    """Its profiler counts two operations for a multiply-add of a convolution, and adds those of the other layers."""
    network = generator(scale=scale, blocks=2, filters=8)
    lr = tf.TensorSpec([1, 16, 16, 3])
    graph = tf.function(lambda lr: network(lr, training=False)).get_concrete_function(lr).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    profiled = tf.compat.v1.profiler.profile(graph, options=options)
    convolutions = sum(node.total_float_ops for node in _leaves(profiled)
                       if "conv" in node.name.rpartition("/")[2].lower())
    weights = {weight.path: weight.numpy() for weight in network.variables}
    assert multiply_adds(weights, scale) == convolutions / 2 / 256


def _leaves(node):
    if not node.children:
        yield node
    for child in node.children:
        yield from _leaves(child)


def test_head_gives_the_generators_sr_and_its_scale_times_the_factor(with_head, histology):
    found, lr = load_uncertainty(with_head), histology[np.newaxis, :24, :40]
    sr, scale, shape = found(lr)
    assert np.abs(sr.astype(int) - load_generator(with_head)(lr)).max() <= 1
    middle = [np.sqrt(low * high) for low, high in (SCALES_LIMIT, SHAPES_LIMIT)]  # of an untrained head
    assert scale == pytest.approx(np.full((1, 96, 160, 3), 1.5 * middle[0]), rel=1e-5)
    assert shape == pytest.approx(np.full((1, 96, 160, 3), middle[1]), rel=1e-5)
    expected = gennorm.expect(abs, (middle[1],), scale=1.5 * middle[0])
    assert found.expected(tf.constant(lr)).numpy() == pytest.approx(np.full((1, 96, 160), expected), rel=1e-4)


def test_model_without_a_head_has_no_uncertainty(model):
    assert load_uncertainty(model) is None


def test_head_of_another_generator_is_refused_by_one_line(with_head, randomised):
    other = generator(scale=4, blocks=1, filters=4)
    randomised(other)
    other.get_layer("first").bias.assign(other.get_layer("first").bias + 1e-3)
    other.save(with_head / "generator.keras")
    with pytest.raises(ValueError, match="`uncertainty` must be of the generator beside it, ") as caught:
        load_uncertainty(with_head)
    assert "\n" not in str(caught.value)


def test_generator_has_one_digest_in_all_its_files(model, tmp_path):
    network = keras.saving.load_model(model)
    export_saved_model(network, tmp_path / "name")
    assert digest(read_weights(tmp_path / "name")) == digest(read_weights(model))


@pytest.mark.parametrize("damage", ["[]", '{"generator": 1}', "no JSON"])
def test_damaged_facts_are_refused(with_head, damage):
    (folder_of(with_head) / FACTS_FILE).write_text(damage)
    with pytest.raises(ValueError, match=r"uncertainty\.json.*sr-keras uncertainty"):
        load_uncertainty(with_head)


def test_damaged_graph_is_refused(with_head):
    (folder_of(with_head) / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="can't be loaded as an uncertainty head"):
        load_uncertainty(with_head)


@pytest.mark.parametrize("model", [SHIPPED_MODEL, Path(f"{SHIPPED_MODEL}_light")])
def test_page_has_the_tables_of_the_shipped_heads(model):
    page = (Path(__file__).parents[3] / "docs" / "uncertainty.md").read_text(encoding="utf-8")
    told = f"### {model.name}\n{table(uncertainty_head.check_owner(folder_of(model), model))}\n"
    assert " ".join(told.split()) in " ".join(page.split())


def test_facts_come_back_as_they_were_written(with_head, facts):
    assert uncertainty_head.check_owner(folder_of(with_head), with_head) == facts
    assert json.loads((folder_of(with_head) / FACTS_FILE).read_text())["coverage"][0]["slide"] == "case"
    assert facts.is_better
    assert not replace(facts, departure=Prediction(0.9, 0.9)).is_better
