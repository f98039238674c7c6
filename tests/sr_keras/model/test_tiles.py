# SPDX-License-Identifier: Apache-2.0
"""Tiled equals whole, for a callable whose reach is known."""
from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sr_keras.model.tiles import Limits, best_spans, box_of, computed, spans, super_resolve

SCALE = 3
REACH = 4


def blur_and_enlarge(images):
    """A stand-in for a network: reaches exactly REACH pixels, pads with zeros at the border as a convolution does."""
    blurred = ndimage.gaussian_filter1d(images, 2.0, axis=1, mode="constant", radius=REACH)
    blurred = ndimage.gaussian_filter1d(blurred, 2.0, axis=2, mode="constant", radius=REACH)
    return np.repeat(np.repeat(blurred, SCALE, axis=1), SCALE, axis=2)


def image_of(height, width, channels=3):
    return np.random.default_rng(height * 1000 + width).random((height, width, channels))


@pytest.mark.parametrize("sides", [(1, 1), (1, 40), (7, 5), (16, 16), (17, 16), (31, 53), (64, 33), (20, 97)])
@pytest.mark.parametrize("tile", [16, 9, 21])
def test_tiled_equals_whole_exactly(sides, tile):
    image = image_of(*sides)
    tiled = super_resolve(blur_and_enlarge, image, SCALE, halo=REACH, tile=tile)
    np.testing.assert_array_equal(tiled, blur_and_enlarge(image[np.newaxis])[0])


def test_halo_below_the_reach_shows_seams():
    image = image_of(40, 40)
    tiled = super_resolve(blur_and_enlarge, image, SCALE, halo=REACH - 1, tile=16)
    assert np.abs(tiled - blur_and_enlarge(image[np.newaxis])[0]).max() > 1e-4


def test_tiled_convolution_network_equals_whole_within_float_error(histology):
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    network = keras.Sequential([
        keras.Input([None, None, 3]), keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(12, 5, padding="same"), keras.layers.UpSampling2D(2, interpolation="nearest")])
    image = histology[:75, :101].astype(np.float32) / 255
    tiled = super_resolve(lambda x: network(x), image, 2, halo=3, tile=32)
    np.testing.assert_allclose(tiled, network(image[np.newaxis])[0], atol=1e-5)


@pytest.mark.parametrize("side", [1, 8, 9, 20, 21, 100])
@pytest.mark.parametrize(("tile", "halo"), [(8, 0), (8, 2), (9, 4)])
def test_spans_cover_each_pixel_once_and_keep_the_halo(side, tile, halo):
    found = spans(side, tile, halo)
    assert [p for s in found for p in range(s.core_start, s.core_stop)] == list(range(side))
    for s in found:
        assert s.window_stop - s.window_start == min(tile, side)
        assert s.window_start == 0 or s.core_start - s.window_start >= halo
        assert s.window_stop == side or s.window_stop - s.core_stop >= halo


def test_spans_are_those_of_the_module_docstring():
    assert spans(20, 8, 2) == [(0, 8, 0, 6), (4, 12, 6, 10), (8, 16, 10, 14), (12, 20, 14, 20)]


@pytest.mark.parametrize("side", [1, 8, 31, 32, 33, 100, 257])
@pytest.mark.parametrize(("tile", "halo", "step"), [(16, 0, 8), (20, 2, 8), (21, 2, 16), (60, 14, 32)])
def test_spans_with_a_step_begin_their_cores_at_multiples_of_it(side, tile, halo, step):
    found = spans(side, tile, halo, step)
    assert [p for s in found for p in range(s.core_start, s.core_stop)] == list(range(side))
    assert all(s.core_start % step == 0 and s.side == min(tile, side) for s in found)
    for s in found:
        assert s.window_start == 0 or s.core_start - s.window_start >= halo
        assert s.window_stop == side or s.window_stop - s.core_stop >= halo


def test_spans_whose_tile_holds_no_step_are_refused():
    with pytest.raises(ValueError, match="`tile` must be 20 or more: twice the halo of 2 and a tile of the output"):
        spans(100, 19, 2, 16)


@pytest.mark.parametrize("shape", [(1, 1), (5, 1000), (100, 130), (333, 1000)])
@pytest.mark.parametrize("most", [1, 700, 5000, 10**7])
def test_best_spans_keep_to_the_limit_and_compute_no_more_than_squares_would(shape, most):
    rows, columns = best_spans(shape, 3, 16, Limits(most))
    smallest = min(shape[0], 22) * min(shape[1], 22)
    assert rows[0].side * columns[0].side <= max(most, smallest)
    square = max(22, (int(most**0.5) - 6) // 16 * 16 + 6)
    assert computed(rows, columns) <= computed(*(spans(side, square, 3, 16) for side in shape))
    if most > shape[0] * shape[1]:
        assert len(rows) == len(columns) == 1


def test_boxes_of_cores_cover_each_output_pixel_once():
    written = np.zeros((SCALE * 37, SCALE * 50), int)
    for y in spans(37, 12, REACH):
        for x in spans(50, 12, REACH):
            box = box_of(y, x, SCALE)
            written[box.hr_y:box.hr_y + box.hr_height, box.hr_x:box.hr_x + box.hr_width] += 1
    assert (written == 1).all()


def test_dtype_and_channels_are_those_of_fn():
    image = (image_of(30, 30, 1) * 255).astype(np.uint8)
    tiled = super_resolve(lambda x: np.repeat(x, 2, axis=-1), image, 1, halo=0, tile=8)
    assert tiled.dtype == np.uint8
    np.testing.assert_array_equal(tiled, np.repeat(image, 2, axis=-1))


def test_fn_sees_one_shape():
    shapes = []
    super_resolve(lambda x: shapes.append(x.shape) or x, image_of(50, 33), 1, halo=2, tile=16)
    assert set(shapes) == {(1, 16, 16, 3)}


@pytest.mark.parametrize(("argument", "changes"), [
    ("tile", {"tile": 8}), ("tile", {"tile": 0}), ("halo", {"halo": -1}),
    ("scale", {"scale": 0}), ("image", {"image": np.zeros((5, 5))}), ("image", {"image": np.zeros((0, 5, 3))}),
    ("fn", {"scale": 2}),
])
def test_wrong_argument_is_named(argument, changes):
    arguments = {"image": image_of(30, 30), "scale": SCALE, "halo": REACH, "tile": 16} | changes
    with pytest.raises(ValueError, match=f"^`{argument}` must"):
        super_resolve(blur_and_enlarge, **arguments)
