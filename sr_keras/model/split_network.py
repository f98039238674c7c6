"""A generator in two parts, so that a large window takes little memory.

    trunk    lr uint8 [1, h, w, 3] -> float32 [1, h, w, C]: all that is computed at the size of LR, and LR itself
    tail     that -> sr uint8 [1, scale*h, scale*w, 3]: what enlarges it

The trunk sees far and takes little, the tail sees `TAIL_REACH` LR pixels and takes nearly all: with 48 filters, x4 and
TensorFlow 640 bytes to an SR pixel, of which the trunk's share is 50. So the trunk computes a window at once and the
tail tile after tile of its core. A window of the same memory is ten times as large, and less is computed twice.

    parts = Parts(*cut(generator.run), scale=4)
    sr = parts(lr)                                 # uint8 [B, h, w, 3] -> [B, scale*h, scale*w, 3], as generator.run
    sr = parts.core(lr[0], slice(32, 96), slice(32, 96))    # uint8 [64*scale, 64*scale, 3]: no more of the tail

Values are those of the whole generator but for the order in which floats are summed.
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

CUT = re.compile(r"(^|/)long_skip(_\d+)?/[^/]+$")  # where `networks.generator` leaves the size of LR
# LR pixels that the tail looks around itself, at most: 1, 1/2, 1/4 of the sub-pixel steps and 4/scale of the last
# convolution are 3, 2.5 and 2.25 for scales 2, 4 and 8.
TAIL_REACH = 3
TAIL_SR = 512  # pixels of SR that the tail makes at once, a side


@dataclass(frozen=True)
class Parts:
    """Trunk and tail, as functions of arrays, and `scale`, SR side over LR side."""

    trunk: Pixels
    tail: Pixels
    scale: int

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """Super-resolve lr uint8 [B, h, w, 3] -> [B, scale*h, scale*w, 3]."""
        return np.stack([self.core(image, slice(0, lr.shape[1]), slice(0, lr.shape[2])) for image in lr])

    def core(self, lr: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Super-resolve rows and columns of lr uint8 [h, w, 3], seeing all of it."""
        tile = max(1, TAIL_SR // self.scale) + 2 * TAIL_REACH
        y, x = (_seen(part, side, tile) for part, side in zip((rows, columns), lr.shape[:2], strict=True))
        middle = self.trunk(lr[np.newaxis])[0, y.window, x.window]
        sr = super_resolve(self.tail, middle, self.scale, halo=TAIL_REACH, tile=tile)
        return core_of(sr, y, x, self.scale)[1]


def cut(run: Callable[[Any], Any]) -> tuple[Function, Function]:
    """Return trunk and tail of a generator, as functions of tensors that hold its weights as constants.

    Args:
        run: lr uint8 [B, h, w, 3] -> sr uint8 [B, scale*h, scale*w, 3], with a graph made by `networks.generator`.

    Raises:
        ValueError: It has no such graph.
    """
    import tensorflow as tf  # here: plans of windows need this module, and who asks for help does not wait for it
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
    for node in graph.node:  # without the assert by which a SavedModel refuses what is too large for a server
        node.input[:] = [name for name in node.input if not name.startswith("^")]
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    lr, middle, sr = (imported.graph.get_tensor_by_name(name) for name in
                      (constant.inputs[0].name, places[0], constant.outputs[0].name))
    to_middle, from_middle = imported.prune([lr], [middle]), imported.prune([middle, lr], [sr])
    channels = middle.shape[-1]

    # LR goes along in the last channels: one tensor is what every engine's format can be told of in one way.
    def trunk(lr: tf.Tensor) -> tf.Tensor:
        return tf.concat([to_middle(lr)[0], to_float(lr)], -1)

    def tail(middle: tf.Tensor) -> tf.Tensor:
        return from_middle(middle[..., :channels], to_uint8(middle[..., channels:]))[0]

    return (tf.function(trunk, input_signature=signature, autograph=False),
            tf.function(tail, input_signature=[tf.TensorSpec([None, None, None, channels + 3])], autograph=False))


def _seen(part: slice, side: int, tile: int) -> Span:
    """Return what the tail sees of a stretch of the window; at least a tile, so that all it sees has one shape."""
    start = max(0, min(part.start - TAIL_REACH, side - tile))
    return Span(start, min(side, max(part.stop + TAIL_REACH, start + tile)), part.start, part.stop)
