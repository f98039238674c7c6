# SPDX-License-Identifier: Apache-2.0
"""Trunk and tail, one after the other, are the generator, of a network and of a SavedModel."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from sr_keras.formats.saved_model import export_saved_model
from sr_keras.model.loading import eight_bit, load_generator
from sr_keras.model.trunk import cut
from sr_keras.networks import generator


def test_saved_model_is_cut_in_two_and_its_limit_for_servers_left_out(randomised, histology, tmp_path):
    network, lr = randomised(generator(4, blocks=2, filters=6)), tf.constant(histology[np.newaxis, 100:177, 40:131])
    trunk, tail = cut(load_generator(export_saved_model(network, tmp_path / "small")).run)
    nodes = {node.op for part in (trunk, tail)
             for function in part.get_concrete_function().graph.as_graph_def().library.function
             for node in function.node_def}
    assert "Conv2D" in nodes
    assert "Assert" not in nodes
    middle = trunk(lr)
    assert middle.shape == (1, 77, 91, 6 + 3)
    assert np.abs(tail(middle).numpy().astype(int) - eight_bit(network)(lr).numpy()).max() <= 1


def test_what_is_no_generator_of_ours_is_refused():
    with pytest.raises(ValueError, match=r"`model` must be made by networks\.generator"):
        cut(lambda lr: tf.repeat(tf.repeat(lr, 4, 1), 4, 2))
