"""The picture of corruptions: its labels tell the truth."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pipelines.config import DegradeOptions
from pipelines.pixels import to_float
from pipelines.preview.corruptions import VARIANTS, corrupted, draw_corruptions


@pytest.fixture(scope="module")
def hr(histology):
    return to_float(histology[:64, :64])


def sharpness(image):
    return np.abs(np.diff(image, axis=0)).mean()


def test_labels_say_what_the_seeds_do(hr):
    images = {name: corrupted(hr, name, 1.0).numpy() for name in VARIANTS}
    spread = {name: image.std() for name, image in images.items()}
    assert sharpness(images["noise"]) > 1.5 * sharpness(hr)
    assert sharpness(images["blur\ndefocus"]) < 0.5 * sharpness(hr)
    assert sharpness(images["blur\nGaussian"]) < 0.5 * sharpness(hr)
    np.testing.assert_allclose(images["contrast\nmore stain"], hr**2, atol=0.003)
    np.testing.assert_allclose(images["contrast\nless stain"], hr**0.5, atol=0.003)
    assert spread["contrast\nflat, bright"] < hr.std() < spread["contrast\nharsh, dark"]
    assert images["contrast\nharsh, dark"].mean() < hr.mean() < images["contrast\nflat, bright"].mean()


def test_a_point_shows_which_blur_is_the_disc():
    point = np.zeros((33, 33, 3), np.float32)
    point[16, 16] = 1
    peak = {name: float(tf.reduce_max(corrupted(point, name, 1.0))) for name in VARIANTS if "blur" in name}
    assert peak["blur\ndefocus"] < peak["blur\nGaussian"]


@pytest.mark.parametrize("scale", [2, 8])
def test_preview_has_a_panel_for_every_corruption_strength_and_side(hr, scale):
    figure = draw_corruptions(hr, DegradeOptions(scale=scale))
    above, below = figure.subfigs
    assert len(above.axes) == 3 * (1 + len(VARIANTS))
    assert len(below.axes) == 2 * (1 + 3 * 3)
    assert {axis.get_title() for axis in below.axes[:10]} >= {"clean", "noise\nside=lr", "contrast\nside=both"}
    lr, full = below.axes[0].images[0], below.axes[10].images[0]
    assert (full.get_array().shape[0], lr.get_array().shape[0]) == (64, 64 // scale)


def test_preview_shows_outliers_where_there_are_some(hr):
    above, below = draw_corruptions(hr, DegradeOptions(), tf.zeros([4, 64, 64, 3], tf.uint8)).subfigs
    assert len(above.axes) == 3 * (2 + len(VARIANTS))
    assert below.axes[12].get_title() == "outlier\nside=both"
