# SPDX-License-Identifier: Apache-2.0
"""Split a generator in two, so that a large window needs little memory.

    trunk    lr uint8 [1, h, w, 3] -> float32 [1, h, w, C]: everything computed at LR size, and LR itself
    tail     that -> sr uint8 [1, scale*h, scale*w, 3]: the layers that enlarge

The trunk has a wide receptive field and needs little memory; the tail sees `TAIL_REACH` LR pixels and needs almost all
(48 filters, x4, TensorFlow: 590 of 640 bytes per SR pixel). So the trunk computes a window at once and the tail tile
after tile of its core. In the same memory a window is ten times as large, and less is computed twice.

    parts = Parts(*cut(generator.run), scale=4)
    sr = parts(lr)                                 # uint8 [B, h, w, 3] -> [B, scale*h, scale*w, 3], as generator.run
    sr = parts.core(lr[0], slice(32, 96), slice(32, 96))    # uint8 [64*scale, 64*scale, 3], for which the tail runs

Values equal those of the whole generator except for the order in which floats are summed.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.pixels import to_float, to_uint8
from sr_keras.model.tiles import Span, core_of, super_resolve

Pixels = Callable[[np.ndarray], np.ndarray]
Function = Any  # a tf.function of one tensor, with its signature

CUT = re.compile(r"(^|/)long_skip(_\d+)?/[^/]+$")  # the last operation of `networks.generator` at LR size
# Receptive field of the tail in LR pixels: 1, 1/2, 1/4 for the sub-pixel steps and 4/scale for the last convolution
# give 3, 2.5 and 2.25 for scales 2, 4 and 8.
TAIL_REACH = 3
TAIL_SR = 512  # side of the tail's tiles in SR pixels


@dataclass(frozen=True)
class Parts:
    """Trunk and tail as functions of arrays; `scale` is SR side / LR side."""

    trunk: Pixels
    tail: Pixels
    scale: int

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """Super-resolve lr uint8 [B, h, w, 3] -> [B, scale*h, scale*w, 3]."""
        return np.stack([self.core(image, slice(0, lr.shape[1]), slice(0, lr.shape[2])) for image in lr])

    def core(self, lr: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Super-resolve rows and columns of lr uint8 [h, w, 3]; the trunk sees all of it."""
        tile = max(1, TAIL_SR // self.scale) + 2 * TAIL_REACH
        y, x = (_seen(part, side, tile) for part, side in zip((rows, columns), lr.shape[:2], strict=True))
        middle = self.trunk(lr[np.newaxis])[0, y.window, x.window]
        sr = super_resolve(self.tail, middle, self.scale, halo=TAIL_REACH, tile=tile)
        return core_of(sr, y, x, self.scale)[1]


def cut(run: Callable[[Any], Any]) -> tuple[Function, Function]:
    """Return trunk and tail of a generator as functions of tensors, with its weights as constants.

    Args:
        run: lr uint8 [B, h, w, 3] -> sr uint8 [B, scale*h, scale*w, 3], with a graph made by `networks.generator`.

    Raises:
        ValueError: It has another graph.
    """
    import tensorflow as tf  # slow to import, and this module is also used to plan windows
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from sr_keras.model.keras_file import input_signature

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


def _seen(part: slice, side: int, tile: int) -> Span:
    """Return the pixels of the window that the tail sees; at least a tile, so that its input has one shape."""
    start = max(0, min(part.start - TAIL_REACH, side - tile))
    return Span(start, min(side, max(part.stop + TAIL_REACH, start + tile)), part.start, part.stop)
