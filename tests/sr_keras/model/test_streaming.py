# SPDX-License-Identifier: Apache-2.0
"""Bands, one after the other, are the generator; no row is computed twice, and a core needs no more than it sees."""
from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from sr_keras.formats.saved_model import export_saved_model
from sr_keras.model.loading import LoadedGenerator, eight_bit, load_generator
from sr_keras.model.streaming import LAST_BAND, Stream, as_keras, bands, stream_of
from sr_keras.model.tiles import MIN_BAND
from sr_keras.networks import generator

from ..conftest import difference


@pytest.fixture(scope="module")
def lr(histology) -> np.ndarray:
    return histology[100:177, 40:131]


@pytest.fixture(scope="module")
def stream(network) -> Stream:
    return replace(stream_of(network), band_pixels=1)  # the lowest bands


def whole(network: keras.Model, lr: np.ndarray) -> np.ndarray:
    return eight_bit(network)(tf.constant(lr[np.newaxis])).numpy()[0]


@pytest.mark.parametrize(("scale", "skip"), [(2, True), (8, True), (4, False)])
def test_bands_are_the_generator_for_every_scale(scale, skip, randomised, lr):
    network = randomised(generator(scale, blocks=1, filters=4, global_skip=skip))
    stream = replace(stream_of(network), band_pixels=1)
    assert stream.scale == scale
    assert difference(stream(lr[np.newaxis])[0], whole(network, lr)) <= 1


@pytest.mark.parametrize("tail", [1, 3])
def test_bands_are_the_generator_with_a_narrow_tail(tail, randomised, lr, tmp_path):
    network = randomised(generator(4, blocks=1, filters=4, tail_filters=tail))
    assert difference(replace(stream_of(network), band_pixels=1)(lr[np.newaxis])[0], whole(network, lr)) <= 1
    rebuilt = as_keras(load_generator(export_saved_model(network, tmp_path / "narrow")))
    for one, two in zip(rebuilt.variables, network.variables, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("height", [1, 2, 16, 17, 18, 19, 24, 25, 26, 27, 77])
def test_bands_are_the_generator_at_every_height(height, network, stream, lr):
    assert difference(stream(lr[np.newaxis, :height])[0], whole(network, lr[:height])) <= 1


@pytest.mark.parametrize(("rows", "columns"), [((0, 77), (0, 91)), ((5, 40), (30, 91)), ((76, 77), (0, 1)),
                                               ((0, 1), (0, 2)), ((40, 65), (0, 91)), ((40, 66), (0, 91))])
def test_core_is_that_of_the_whole_wherever_it_lies(rows, columns, network, stream, lr):
    core = stream.core(lr, slice(*rows), slice(*columns))
    assert difference(core, whole(network, lr)[4 * rows[0]:4 * rows[1], 4 * columns[0]:4 * columns[1]]) <= 1


def test_high_bands_are_computed_in_pieces_of_few_columns(stream, lr):
    widths = []

    def band(top, bottom):
        def run(rows, *kept):
            widths.append((top or bottom, rows.shape[2]))
            return stream.band(top, bottom)(rows, *kept)
        return run

    replace(stream, band=band)(lr[np.newaxis])
    reach = -(-stream.delay // 4)
    assert max(width for high, width in widths if high) == 4 * reach < lr.shape[1]
    assert {width for high, width in widths if not high} == {lr.shape[1]}


def test_every_row_is_read_and_made_once(stream, lr):
    read, made = [], []

    def band(top, bottom):
        def run(rows, *kept):
            sr, *after = stream.band(top, bottom)(rows, *kept)
            read.append(rows.shape[1])
            made.append(sr.shape[1])
            return sr, *after
        return run

    counted = replace(stream, band=band, band_pixels=10**4)  # in whole columns
    counted(lr[np.newaxis])
    assert (sum(read), sum(made)) == (77, 4 * 77)
    read.clear()
    counted.core(lr, slice(0, 20), slice(0, 91))
    assert sum(read) == 20 + -(-stream.delay // 4)  # and no row below


def test_kept_rows_matter(stream, network, lr):
    def forgetful(top, bottom):
        def run(rows, *kept):
            sr, *after = stream.band(top, bottom)(rows, *kept)
            return sr, *map(np.zeros_like, after)
        return run

    assert difference(replace(stream, band=forgetful)(lr[np.newaxis])[0], whole(network, lr)) > 1


@pytest.mark.parametrize("bottom", [True, False])
@pytest.mark.parametrize("height", [1, 30, 34, 35, 50, 333])
def test_bands_cover_the_rows_once_and_have_one_shape(height, bottom):
    cut = list(bands(height, first=30, usual=1, bottom=bottom))
    assert [row for band in cut for row in range(band.start, band.stop)] == list(range(height))
    first, *middle = [band.stop - band.start for band in cut]
    assert first >= min(height, 30)
    if middle and bottom:
        assert middle.pop() == LAST_BAND
    assert set(middle) <= {MIN_BAND}


def test_heights_are_chosen_so_that_the_first_band_is_low():
    assert [band.stop - band.start for band in bands(192, first=34, usual=85, bottom=False)] == [34, 79, 79]


def test_saved_model_becomes_the_same_keras_model(network, lr, tmp_path):
    loaded = load_generator(export_saved_model(network, tmp_path / "small"))
    rebuilt = as_keras(loaded)
    assert [layer.name for layer in rebuilt.layers] == [layer.name for layer in network.layers]
    for one, two in zip(rebuilt.variables, network.variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_saved_model_without_global_skip_is_known_as_such(randomised, tmp_path):
    network = randomised(generator(2, blocks=1, filters=4, global_skip=False))
    rebuilt = as_keras(load_generator(export_saved_model(network, tmp_path / "plain")))
    assert [layer.name for layer in rebuilt.layers] == [layer.name for layer in network.layers]


def test_saved_model_of_another_network_is_refused(tmp_path):
    class Other(tf.Module):
        def __init__(self):
            self.weight = tf.Variable(1.0, name="weight")

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="lr")])
        def serve(self, lr):
            return {"sr": tf.repeat(tf.repeat(lr, 4, 1), 4, 2) * tf.cast(self.weight, tf.uint8)}

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "1"), signatures={"serving_default": other.serve})
    with pytest.raises(ValueError, match=r"`model` must be made by networks\.generator"):
        as_keras(LoadedGenerator(tmp_path / "1", 4, 1, None, other.serve))
