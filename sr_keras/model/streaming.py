# SPDX-License-Identifier: Apache-2.0
"""Run a generator band after band of rows, and compute no row twice.

    stream = stream_of(model)                      # model from networks.generator
    sr = stream(lr)                                # uint8 [B, h, w, 3] -> uint8 [B, scale*h, scale*w, 3]

A band is some rows of LR in their full width. Each convolution keeps the last rows of its input for the next band, so
it computes every row once, from the same values as in the whole picture. The output falls behind the input by the reach
of the network, `delay` SR rows. The first band starts with the zeros that "same" padding has above a picture; the last
one ends with those below and makes up for the delay.

    LR rows      |0 . . . . . . . . 49|50 . . 65|66 . . 81|82 . . 85|      the first band is taller than the delay
    SR rows      |0 . . 73|74 . . 137|138 . . 201|202 . . . . . . 343|     scale 4, delay 126

A band of many pixels, as the first and last are in a wide window, is computed in pieces of some columns that overlap by
the reach. So memory hardly depends on the window. What is left to be computed twice are the columns between windows and
pieces, and the rows above a window.
"""
from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from pipelines.errors import require
from pipelines.pixels import to_float, to_uint8
from sr_keras import networks
from sr_keras.layers import Bilinear, FewChannelConv2D, SubPixel
from sr_keras.model.loading import LoadedGenerator, input_signature, load_keras, read_weights
from sr_keras.model.tiles import BAND_PIXELS, MIN_BAND

LAST_BAND = 4  # rows
KINDS = [(True, True), (True, False), (False, False), (False, True)]  # (top, bottom): whether a band is first, last

Band = Callable[..., Sequence[np.ndarray]]  # lr, kept rows -> sr, rows to keep
Delayed = tuple[tf.Tensor, int, Bilinear | None]  # a tensor, its delay in rows, and an interpolation still to be made


@dataclass(frozen=True)
class Stream:
    """A generator that runs in bands.

    Attributes:
        band: What computes a band that is the first (top) or the last (bottom).
        scale: SR side / LR side.
        delay: SR rows by which the output falls behind.
        band_pixels: About how many LR pixels a band has.
    """

    band: Callable[[bool, bool], Band]
    scale: int
    delay: int
    band_pixels: int = BAND_PIXELS

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """Super-resolve lr uint8 [B, h, w, 3] -> [B, scale*h, scale*w, 3]."""
        return np.stack([self.core(image, slice(0, lr.shape[1]), slice(0, lr.shape[2])) for image in lr])

    def core(self, lr: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Super-resolve rows and columns of lr uint8 [h, w, 3], which is read no further than they depend on."""
        scale, behind = self.scale, -(-self.delay // self.scale)
        bottom = rows.stop + behind > lr.shape[0]
        stop = lr.shape[0] if bottom else rows.stop + behind
        sr = np.empty((scale * (rows.stop - rows.start), scale * (columns.stop - columns.start), 3), np.uint8)
        done, kept = -scale * rows.start, list[np.ndarray]()  # `done` is the row of `sr` that comes next
        for band in bands(stop, behind + 2, self.band_pixels // lr.shape[1], bottom):
            made, *kept = self._in_pieces(band.start == 0, bottom and band.stop == stop, behind, lr[np.newaxis, band],
                                          *kept)
            inside = made[0, max(0, -done):len(sr) - done, scale * columns.start:scale * columns.stop]
            sr[max(0, done):max(0, done) + len(inside)] = inside
            done += made.shape[1]
        return sr

    def _in_pieces(self, top: bool, bottom: bool, reach: int, *arrays: np.ndarray) -> Sequence[np.ndarray]:
        """Compute a band, of few columns at a time if it is high. Arrays are one or some times as wide as lr."""
        run, (height, width) = self.band(top, bottom), arrays[0].shape[1:3]
        useful = max(self.band_pixels // (height + reach * bottom) - 2 * reach, 2 * reach)
        if not (top or bottom) or width <= useful + 2 * reach:
            return run(*arrays)
        pieces = []
        for start in range(0, width, useful):
            left, stop = max(0, start - reach), min(width, start + useful)
            seen = slice(left, min(width, stop + reach))
            made = run(*(_columns(array, seen, width) for array in arrays))
            pieces.append([_columns(array, slice(start - left, stop - left), seen.stop - left) for array in made])
        return [np.concatenate(parts, axis=2) for parts in zip(*pieces, strict=True)]


def _columns(array: np.ndarray, columns: slice, width: int) -> np.ndarray:
    """Return columns of a picture of `width` LR pixels, of an array [1, rows, factor * width, C]."""
    factor = array.shape[2] // width
    return np.ascontiguousarray(array[:, :, factor * columns.start:factor * columns.stop])


def bands(height: int, first: int, usual: int, bottom: bool) -> Iterator[slice]:
    """Cut rows into bands: the first has `first` or more, the last LAST_BAND if it ends at the `bottom`.

    All others have one height: of `usual` to half of it, but MIN_BAND at least, that which leaves the first lowest.
    """
    last = LAST_BAND if bottom else 0
    if height <= first + last:
        yield slice(0, height)
        return
    rest = height - first - last
    heights = range(max(MIN_BAND, usual // 2), max(MIN_BAND, usual) + 1)
    usual = min(heights, key=lambda rows: (rest % rows, -rows))
    start = first + rest % usual
    yield slice(0, start)
    for row in range(start, height - last, usual):
        yield slice(row, row + usual)
    if last:
        yield slice(height - last, height)


def stream_of(model: keras.Model) -> Stream:
    """Return a generator that TensorFlow runs in bands."""
    specs, delay, scale = kept_by(model)

    @functools.cache
    def band(top: bool, bottom: bool) -> Band:
        run = frozen(banded(model, top, bottom, specs))
        return lambda *arrays: [value.numpy() for value in run(*map(tf.constant, arrays)).values()]

    return Stream(band, scale, delay)


def banded(model: keras.Model, top: bool, bottom: bool, specs: list[tf.TensorSpec]) -> Any:
    """Return a band of a generator as a tf.function: lr, kept rows -> {"sr": ..., "kept_00": ...}, in that order.

    Args:
        model: Made by `networks.generator`.
        top: Whether it is the first band, which has no kept rows.
        bottom: Whether it is the last band, which keeps none.
        specs: From `kept_by`.
    """
    def run(lr: tf.Tensor, *before: tf.Tensor) -> dict[str, tf.Tensor]:
        walk = _Walk(None if top else before, bottom)
        sr, _ = walk.compute(model, lr)
        return {"sr": to_uint8(sr)} | {f"kept_{i:02}": rows for i, rows in enumerate(walk.kept)}

    return tf.function(run, input_signature=[*input_signature(), *([] if top else specs)], autograph=False)


def frozen(function: Any) -> Any:
    """Return a tf.function with its weights as constants, which TensorFlow and converters fold into convolutions."""
    names = list(function.get_concrete_function().structured_outputs)
    constant = convert_variables_to_constants_v2(function.get_concrete_function())
    # The order of structured outputs is that of sorted names.
    order = sorted(names)
    signature = [tf.TensorSpec(tensor.shape, tensor.dtype, name=tensor.name.partition(":")[0])
                 for tensor in constant.inputs]

    def run(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        found = dict(zip(order, constant(*inputs), strict=True))
        return {name: found[name] for name in names}

    return tf.function(run, input_signature=signature, autograph=False)


def kept_by(model: keras.Model) -> tuple[list[tf.TensorSpec], int, int]:
    """Return what rows a generator keeps between bands, its delay in SR rows, and its scale.

    Raises:
        ValueError: It has a layer of another kind than `networks.generator` makes.
    """
    found: list[Any] = []

    def run(lr: tf.Tensor) -> tf.Tensor:
        walk = _Walk(None, False)
        sr, delay = walk.compute(model, lr)
        found[:] = [[(rows.shape[1], rows.shape[3]) for rows in walk.kept], delay]
        return sr

    tf.function(run, input_signature=input_signature(), autograph=False).get_concrete_function()
    scale = 1
    for layer in model.layers:
        scale *= layer.scale if isinstance(layer, SubPixel) else 1
    shapes, delay = found
    return [tf.TensorSpec([1, rows, None, channels], tf.float32, name=f"before_{i:02}")
            for i, (rows, channels) in enumerate(shapes)], delay, scale


def as_keras(loaded: LoadedGenerator) -> keras.Model:
    """Return a loaded generator as a Keras model, which a SavedModel is not.

    Raises:
        ValueError: It was not made by `networks.generator`.
    """
    if loaded.path.is_file():
        return load_keras(loaded.path)
    weights = read_weights(loaded.path)
    blocks = [name for name in weights if re.fullmatch(r"block\d+_conv1/kernel", name)]
    require(bool(blocks) and {"first/kernel", "last/kernel"} <= weights.keys(), "model",
            "be made by networks.generator", "train or export it again", str(loaded.path))
    graph = tf.function(loaded.run, input_signature=input_signature(), autograph=False).get_concrete_function().graph
    names = [node.name for function in graph.as_graph_def().library.function for node in function.node_def]
    model = networks.generator(loaded.scale, len(blocks), weights["first/kernel"].shape[-1],
                               any("interpolated" in name for name in names), weights["last/kernel"].shape[2])
    require({variable.path for variable in model.variables} == set(weights), "model",
            "be made by networks.generator", "train or export it again", str(loaded.path))
    for variable in model.variables:
        variable.assign(weights[variable.path])
    return model


class _Walk:
    """The computation of a band. Every tensor comes with its delay, in rows of its own size.

    Attributes:
        kept: The rows to keep, so far.
    """

    def __init__(self, before: Sequence[tf.Tensor] | None, bottom: bool) -> None:
        self._top, self._bottom, self._before = before is None, bottom, iter(before or ())
        self._taken: dict[tuple[int, int], tf.Tensor] = {}
        self.kept: list[tf.Tensor] = []

    def compute(self, model: keras.Model, lr: tf.Tensor) -> tuple[tf.Tensor, int]:
        """Return SR, and its delay."""
        found: dict[str, Delayed] = {model.inputs[0].name: (to_float(lr), 0, None)}
        for layer in model.layers:
            if not isinstance(layer, layers.InputLayer):
                inputs = layer.input if isinstance(layer.input, list) else [layer.input]
                found[layer.output.name] = self._after(layer, [found[tensor.name] for tensor in inputs])
        return found[model.outputs[0].name][:2]

    def _after(self, layer: Any, inputs: list[Delayed]) -> Delayed:
        x, delay, _ = inputs[0]
        if isinstance(layer, (layers.Conv2D, FewChannelConv2D)):
            return self._convolved(layer, x), delay + layer.kernel.shape[0] // 2, None
        if isinstance(layer, layers.Add):
            until = max(delay for _, delay, _ in inputs)
            return layer([self._delayed(*one, until) for one in inputs]), until, None
        if isinstance(layer, Bilinear):
            return x, delay, layer  # when it is added, since a delay at LR size keeps fewer pixels
        if isinstance(layer, SubPixel):
            return layer(x), layer.scale * delay, None
        return layer(x, training=False) if isinstance(layer, layers.BatchNormalization) else layer(x), delay, None

    def _take(self, x: tf.Tensor, count: int) -> tf.Tensor:
        """Return x below the last `count` rows of the band before."""
        if (id(x), count) not in self._taken:
            self._taken[id(x), count] = whole = x if self._top else tf.concat([next(self._before), x], 1)
            if not self._bottom:
                rows = whole[:, -count:]
                rows.set_shape([1, count, None, x.shape[3]])
                self.kept.append(rows)
        return self._taken[id(x), count]

    def _cropped(self, x: tf.Tensor, above: int, below: int) -> tf.Tensor:
        """Return x without rows that lack a neighbour; at the ends of the picture none do."""
        return x[:, 0 if self._top else above:None if self._bottom else -below]

    def _delayed(self, x: tf.Tensor, delay: int, bilinear: Bilinear | None, until: int) -> tf.Tensor:
        if bilinear is None:
            return x if delay == until else self._cropped(self._take(x, until - delay), 0, until - delay)
        rows = -(-until // bilinear.scale) + 1  # one more, for the interpolation
        return self._cropped(bilinear(self._take(x, rows)), bilinear.scale * rows - until, until)

    def _convolved(self, layer: Any, x: tf.Tensor) -> tf.Tensor:
        size = layer.kernel.shape[0]
        half, x = size // 2, self._take(x, size - 1)
        if isinstance(layer, FewChannelConv2D):
            return self._cropped(layer(x, training=False), half, half)
        x = tf.nn.conv2d(x, layer.kernel, 1, [[0, 0], [half * self._top, half * self._bottom], [half, half], [0, 0]])
        return layer.activation(x + layer.bias if layer.use_bias else x)
