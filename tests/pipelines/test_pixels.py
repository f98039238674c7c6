# SPDX-License-Identifier: Apache-2.0
"""Pixels: 8 bit <-> float on arrays and tensors, and whatever a file held as RGB."""
from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.pixels import as_rgb, quantise, to_float, to_uint8

ALL = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
FLOATS = np.linspace(-0.2, 1.2, 4001, dtype=np.float32)


def test_to_float_spans_zero_to_one_exactly():
    floats = to_float(ALL)
    assert floats.dtype == np.float32
    assert floats.min() == 0
    assert floats.max() == 1
    np.testing.assert_allclose(floats, ALL / 255, rtol=1e-6)


def test_to_uint8_undoes_to_float_for_every_value():
    np.testing.assert_array_equal(to_uint8(to_float(ALL)), ALL)


def test_to_uint8_clips_and_rounds_to_nearest():
    np.testing.assert_array_equal(to_uint8(np.float32([-1, 0.4 / 255, 0.6 / 255, 2])), [0, 0, 1, 255])


def test_to_uint8_rounds_halves_to_even():
    halves = np.float32([0.5, 1.5, 2.5, 3.5]) / np.float32(255)
    exact = halves[halves * np.float32(255) * 2 % 1 == 0]
    np.testing.assert_array_equal(to_uint8(exact), np.round(exact * np.float32(255)))


@pytest.mark.parametrize("function", [to_uint8, quantise])
def test_tensors_give_the_bits_of_arrays_eagerly_and_in_map(function):
    expected = function(FLOATS)
    eager = function(tf.constant(FLOATS))
    mapped = next(iter(tf.data.Dataset.from_tensors(FLOATS).map(function)))
    assert tf.is_tensor(eager)
    np.testing.assert_array_equal(eager, expected)
    np.testing.assert_array_equal(mapped, expected)


def test_to_float_of_tensors_gives_the_bits_of_arrays_under_xla():
    compiled = tf.function(to_float, jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(ALL)), to_float(ALL))


def test_quantise_is_idempotent_and_within_half_a_step():
    once = quantise(FLOATS)
    np.testing.assert_array_equal(quantise(once), once)
    assert np.abs(once - np.clip(FLOATS, 0, 1)).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_as_rgb_repeats_grey(shape):
    grey = np.arange(20, dtype=np.uint8).reshape(shape)
    rgb = as_rgb(grey, "grey.png")
    assert rgb.shape == (4, 5, 3)
    assert rgb.dtype == np.uint8
    assert (rgb == grey.reshape(4, 5, 1)).all()


def test_as_rgb_composites_alpha_over_white_as_pil_does():
    rgba = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    white = Image.new("RGBA", (32, 32), "white")
    expected = np.asarray(Image.alpha_composite(white, Image.fromarray(rgba)))[..., :3]
    assert np.abs(as_rgb(rgba, "a.png").astype(int) - expected).max() <= 1


def test_as_rgb_turns_transparent_black_white_also_for_grey_with_alpha():
    assert (as_rgb(np.zeros((2, 2, 4), np.uint8), "a.png") == 255).all()
    assert (as_rgb(np.zeros((2, 2, 2), np.uint8), "a.png") == 255).all()


def test_as_rgb_scales_sixteen_bit_and_one_bit_to_eight():
    assert as_rgb(np.uint16([[0, 257, 65535]]), "a.tif")[0, :, 0].tolist() == [0, 1, 255]
    assert as_rgb(np.array([[False, True]]), "a.tif")[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 5), np.uint8), np.zeros(4, np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_as_rgb_refuses_what_is_no_image_and_names_it(bad):
    with pytest.raises(ValueError, match=r"bad\.tif"):
        as_rgb(bad, "bad.tif")


def test_pixels_do_not_import_tensorflow_for_arrays():
    code = ("import sys, numpy as np; from pipelines.pixels import quantise; quantise(np.zeros(3, np.float32));"
            "assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
