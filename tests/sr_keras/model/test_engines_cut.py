# SPDX-License-Identifier: Apache-2.0
"""Trunk and tail, one after the other, are the generator; a core needs no more of the window than it sees."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from sr_keras.formats.saved_model import export_saved_model
from sr_keras.model import tiles as strips
from sr_keras.model.engines import cut, parts_of
from sr_keras.model.loading import eight_bit, load_generator
from sr_keras.model.tiles import Parts
from sr_keras.networks import generator


@pytest.fixture(scope="module")
def lr(histology) -> np.ndarray:
    return histology[100:177, 40:131]


def difference(one: np.ndarray, two: np.ndarray) -> int:
    assert (one.dtype, one.shape) == (two.dtype, two.shape)
    return int(np.abs(one.astype(int) - two).max())


@pytest.mark.parametrize(("scale", "skip"), [(2, True), (4, True), (8, True), (4, False)])
def test_parts_tile_after_tile_are_the_generator_for_every_scale(scale, skip, randomised, lr, monkeypatch):
    monkeypatch.setattr(strips, "TAIL_SR", 24 * scale)  # a window is many tiles
    run = eight_bit(randomised(generator(scale, blocks=2, filters=6, global_skip=skip)))
    batch = np.stack([lr, lr[::-1]])
    assert difference(parts_of(run, scale)(batch), run(tf.constant(batch)).numpy()) <= 1


def test_tail_that_saw_less_would_make_seams(randomised, lr, monkeypatch):
    monkeypatch.setattr(strips, "TAIL_SR", 24 * 4)
    monkeypatch.setattr(strips, "TAIL_REACH", 1)
    run = eight_bit(randomised(generator(4, blocks=2, filters=6)))
    assert difference(parts_of(run, 4)(lr[np.newaxis])[0], run(tf.constant(lr[np.newaxis])).numpy()[0]) > 1


@pytest.mark.parametrize(("rows", "columns"), [((0, 77), (0, 91)), ((5, 40), (30, 91)), ((76, 77), (0, 1))])
@pytest.mark.parametrize("tile", [24, 512])
def test_core_is_that_of_the_whole_wherever_it_lies(rows, columns, tile, randomised, lr, monkeypatch):
    monkeypatch.setattr(strips, "TAIL_SR", 4 * tile)
    run = eight_bit(randomised(generator(4, blocks=1, filters=4)))
    whole = run(tf.constant(lr[np.newaxis])).numpy()[0]
    core = parts_of(run, 4).core(lr, slice(*rows), slice(*columns))
    assert difference(core, whole[4 * rows[0]:4 * rows[1], 4 * columns[0]:4 * columns[1]]) <= 1


def test_tail_sees_tiles_of_one_shape(randomised, histology, monkeypatch):
    monkeypatch.setattr(strips, "TAIL_SR", 4 * 40)
    trunk, tail = cut(eight_bit(randomised(generator(4, blocks=1, filters=4))))
    shapes = set()

    def seen(images):
        shapes.add(images.shape)
        return tail(tf.constant(images)).numpy()

    parts = Parts(lambda images: trunk(tf.constant(images)).numpy(), seen, 4)
    for rows, columns in (((0, 90), (0, 90)), ((20, 100), (3, 7)), ((99, 100), (99, 100))):
        parts.core(histology[:100, :100], slice(*rows), slice(*columns))
    assert len(shapes) == 1


def test_saved_model_is_cut_as_well_and_its_limit_for_servers_left_out(randomised, lr, tmp_path):
    network = randomised(generator(4, blocks=2, filters=6))
    loaded = load_generator(export_saved_model(network, tmp_path / "small"))
    trunk, tail = cut(loaded.run)
    nodes = {node.op for part in (trunk, tail)
             for function in part.get_concrete_function().graph.as_graph_def().library.function
             for node in function.node_def}
    assert "Conv2D" in nodes
    assert "Assert" not in nodes
    assert difference(parts_of(loaded.run, 4)(lr[np.newaxis]), eight_bit(network)(tf.constant(lr[np.newaxis])).numpy()
                      ) <= 1


def test_what_is_no_generator_of_ours_is_refused():
    with pytest.raises(ValueError, match=r"`model` must be made by networks\.generator"):
        cut(lambda lr: tf.repeat(tf.repeat(lr, 4, 1), 4, 2))
