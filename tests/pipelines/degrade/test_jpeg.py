"""JPEG beside Pillow's: same quality, same chroma, same place in the grid of blocks."""
from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.degrade.jpeg import compress


def pillow(pixels, quality, halved):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2 if halved else 0)
    return np.asarray(Image.open(file))


def compressed(pixels, quality, halved, row=0, column=0, qualities=(50, 98)):
    return compress(tf.constant(pixels), tf.constant(quality), halved, qualities, tf.constant(row),
                    tf.constant(column)).numpy()


@pytest.mark.parametrize("halved", [True, False])
@pytest.mark.parametrize("quality", [50, 74, 98])
def test_pixels_are_those_of_pillow(quality, halved, histology):
    pixels = np.ascontiguousarray(histology[:63, :50])
    np.testing.assert_array_equal(compressed(pixels, quality, halved), pillow(pixels, quality, halved))


@pytest.mark.parametrize("halved", [True, False])
def test_blocks_begin_where_they_are_told_to(halved, histology):
    pixels = np.ascontiguousarray(histology[:48, :48])
    mirrored = np.pad(pixels, ((5, 0), (11, 0), (0, 0)), mode="symmetric")
    found = compressed(pixels, 50, halved, row=5, column=11)
    np.testing.assert_array_equal(found, pillow(mirrored, 50, halved)[5:, 11:])
    assert (found != compressed(pixels, 50, halved)).mean() > 0.3


def test_chroma_that_is_known_only_in_the_graph_is_obeyed(histology):
    pixels = np.ascontiguousarray(histology[:32, :32])
    for halved in (True, False):
        np.testing.assert_array_equal(compressed(pixels, 70, tf.constant(halved)), pillow(pixels, 70, halved))


def test_full_chroma_takes_the_nearest_quality_below_that_has_an_op(histology):
    pixels = np.ascontiguousarray(histology[:32, :32])
    np.testing.assert_array_equal(compressed(pixels, 76, False), pillow(pixels, 74, False))
