# SPDX-License-Identifier: Apache-2.0
"""Cut a generator in two at the end of what it computes at LR size, for a head that sees the same features.

    trunk    lr uint8 [B, h, w, 3] -> float32 [B, h, w, C]: everything computed at LR size, and LR itself
    tail     that -> sr uint8 [B, scale*h, scale*w, 3]: the layers that enlarge
"""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from pipelines.pixels import to_float, to_uint8
from sr_keras.model.loading import input_signature
from sr_keras.model.runtimes import Function

CUT = re.compile(r"(^|/)long_skip(_\d+)?/[^/]+$")  # the last operation of `networks.generator` at LR size


def cut(run: Callable[[Any], Any]) -> tuple[Function, Function]:
    """Return trunk and tail of a generator as functions of tensors, with its weights as constants.

    Values equal those of the whole generator except for the order in which floats are summed.

    Args:
        run: lr uint8 [B, h, w, 3] -> sr uint8 [B, scale*h, scale*w, 3], with a graph made by `networks.generator`.

    Raises:
        ValueError: It has another graph.
    """
    signature = input_signature()
    whole = tf.function(run, input_signature=signature, autograph=False).get_concrete_function()
    constant = convert_variables_to_constants_v2(whole)
    places = [op.outputs[0].name for op in constant.graph.get_operations() if CUT.search(op.name) and op.outputs]
    if len(places) != 1:
        raise ValueError("`model` must be made by networks.generator, whose long_skip ends its trunk; train or export "
                         f"it again. Received: {len(places)} such layers")
    graph = constant.graph.as_graph_def()
    for node in graph.node:  # without the assert that limits the size of an image on a server
        node.input[:] = [name for name in node.input if not name.startswith("^")]
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    lr, middle, sr = (imported.graph.get_tensor_by_name(name) for name in
                      (constant.inputs[0].name, places[0], constant.outputs[0].name))
    to_middle, from_middle = imported.prune([lr], [middle]), imported.prune([middle, lr], [sr])
    channels = middle.shape[-1]

    # LR is passed on in the last channels, because every engine takes a model with one input.
    def trunk(lr: tf.Tensor) -> tf.Tensor:
        return tf.concat([to_middle(lr)[0], to_float(lr)], -1)

    def tail(middle: tf.Tensor) -> tf.Tensor:
        return from_middle(middle[..., :channels], to_uint8(middle[..., channels:]))[0]

    return (tf.function(trunk, input_signature=signature, autograph=False),
            tf.function(tail, input_signature=[tf.TensorSpec([None, None, None, channels + 3])], autograph=False))
