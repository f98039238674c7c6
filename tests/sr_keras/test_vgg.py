# SPDX-License-Identifier: Apache-2.0
"""VGG19 features: the preprocessing of Keras, weights of a file, and what is said where there are none."""
from __future__ import annotations

import socket

import keras
import numpy as np
import pytest

from sr_keras.vgg import vgg19_features

IMAGE = np.random.default_rng(1).random((2, 32, 48, 3)).astype("float32")


def test_vgg19_features_see_what_keras_preprocessing_makes():
    features = vgg19_features("random")
    vgg = features.get_layer("vgg19")
    golden = vgg(keras.applications.vgg19.preprocess_input(255 * IMAGE))
    assert golden.shape == (2, 2, 3, 512)
    np.testing.assert_allclose(features(IMAGE), golden, rtol=1e-4, atol=1e-4 * np.abs(golden).max())


def test_vgg19_weights_come_from_a_file(tmp_path):
    model = vgg19_features("random")
    model.get_layer("vgg19").save_weights(tmp_path / "vgg19.weights.h5")
    loaded = vgg19_features(str(tmp_path / "vgg19.weights.h5"))
    np.testing.assert_array_equal(loaded(IMAGE), model(IMAGE))


def test_missing_vgg19_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"`vgg_weights` must .*no_such\.h5"):
        vgg19_features("no_such.h5")


def test_imagenet_weights_without_a_network_say_how_to_supply_them(monkeypatch, tmp_path):
    def refuse(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(keras.config, "keras_home", lambda: str(tmp_path), raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"notop\.h5 of Keras and give its path"):
        vgg19_features("imagenet")
