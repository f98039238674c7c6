# SPDX-License-Identifier: Apache-2.0
"""manifold: how far a code moves, on encoders whose answer is known."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.pixels import to_float
from sr_keras.training.manifold import MOST_NOISE, code_movement, denoising, in_words


@pytest.fixture(scope="module")
def tissue(histology) -> np.ndarray:
    """Two crops of tissue, float32 [2, 64, 64, 3]."""
    return to_float(np.stack([histology[:64, :64], histology[200:264, 300:364]]))


def encoder(function) -> keras.Model:
    image = keras.Input((None, None, 3))
    return keras.Model(image, keras.layers.Lambda(function)(image))


@pytest.mark.parametrize("scale", [1.0, -7.0])
def test_code_that_is_the_image_moves_as_far_as_the_image_at_any_scale(tissue, scale):
    assert code_movement(encoder(lambda x: scale * x + 3), tissue) == pytest.approx(
        {"noise": 1, "blur": 1, "contrast": 1}, rel=1e-4)


def test_code_that_averages_hardly_moves_with_noise_and_moves_with_contrast(tissue):
    found = code_movement(encoder(lambda x: keras.ops.average_pool(x, 8)), tissue)
    assert found["noise"] < 0.3
    assert found["contrast"] > 0.9


def test_code_of_edges_moves_more_with_noise_than_with_contrast(tissue):
    found = code_movement(encoder(lambda x: x - keras.ops.average_pool(x, 3, strides=1, padding="same")), tissue)
    assert found["noise"] > 1.5 * found["contrast"]


def test_movement_follows_from_the_seed(tissue):
    pooled = encoder(lambda x: keras.ops.average_pool(x, 4))
    assert code_movement(pooled, tissue) == code_movement(pooled, tissue)
    assert code_movement(pooled, tissue, seed=1)["noise"] != code_movement(pooled, tissue)["noise"]


def test_image_of_one_colour_is_refused():
    with pytest.raises(ValueError, match="`hr` must be images of more than one colour; give tissue"):
        code_movement(encoder(lambda x: x), np.full((1, 16, 16, 3), 0.5, np.float32))


def noisy(seed: int, first: int = 0, size: int = 64) -> list[tuple[np.ndarray, np.ndarray]]:
    grey = tf.data.Dataset.from_tensors(np.full((size, 16, 16, 3), 0.5, np.float32)).repeat(3 - first)
    return list(denoising(grey, seed, first).as_numpy_iterator())


def test_noise_is_each_image_s_own_and_the_target_is_good():
    (images, target), *_ = noisy(seed=3)
    assert np.all(target == 0.5)
    assert images.min() >= 0
    assert images.max() <= 1
    deviations = np.std(images, axis=(1, 2, 3))
    assert np.mean(deviations) == pytest.approx(MOST_NOISE / 2, rel=0.2)
    assert deviations.min() < 0.1 * MOST_NOISE
    assert 0.9 * MOST_NOISE < deviations.max() < 1.1 * MOST_NOISE
    assert np.abs(images.mean((1, 2, 3)) - 0.5).max() < 0.05


def test_noise_follows_from_seed_and_place():
    whole, rest, other = noisy(3, size=2), noisy(3, first=1, size=2), noisy(4, size=2)
    for (ours, _), (golden, _) in zip(rest, whole[1:], strict=True):
        np.testing.assert_array_equal(ours, golden)
    assert not np.array_equal(whole[0][0], whole[1][0])
    assert not np.array_equal(whole[0][0], other[0][0])


def test_line_names_every_kind():
    assert in_words({"noise": 0.274, "blur": 0.33}) == (
        "the code moves, per unit of pixel error, 0.27 with noise, 0.33 with blur")
