# SPDX-License-Identifier: Apache-2.0
"""networks: shapes, values at the start, independent references, reach, precision, saving."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from sr_keras import networks
from sr_keras.model.uncertainty_head import multiply_adds

LR = np.random.default_rng(0).random((2, 12, 17, 3)).astype("float32")
IMAGE = np.random.default_rng(1).random((2, 32, 48, 3)).astype("float32")


def randomise(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give every weight a value that is not its initial one, positive as a variance must be."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.01, 0.1, weight.shape) for weight in model.get_weights()])
    return model


@pytest.mark.gpu
def test_generator_gives_the_same_on_a_gpu_as_on_the_cpu():
    """TensorFlow's 32-bit convolutions on a GPU round their inputs to 10 bits unless told otherwise."""
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow finds no GPU")
    model, sr = randomise(networks.generator(4, blocks=2, filters=8)), {}
    for device in ("CPU:0", "GPU:0"):
        with tf.device(device):
            sr[device] = model(LR).numpy()
    np.testing.assert_allclose(sr["GPU:0"], sr["CPU:0"], rtol=5e-3)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_untrained_generator_is_half_pixel_bilinear(scale):
    sr = networks.generator(scale, blocks=1, filters=4)(LR)
    np.testing.assert_allclose(sr, tf.image.resize(LR, (12 * scale, 17 * scale)), atol=1e-6)


def test_plain_generator_starts_elsewhere_than_interpolation():
    sr = networks.generator(4, blocks=1, filters=4, global_skip=False)(LR)
    assert sr.shape == (2, 48, 68, 3)
    assert np.abs(sr - tf.image.resize(LR, (48, 68))).max() > 0.1


def test_generator_of_the_paper_has_sixteen_blocks_of_sixty_four_filters():
    model = networks.generator()
    assert sum(layer.name.endswith("_skip") and layer.name.startswith("block") for layer in model.layers) == 16
    assert model.get_layer("block16_conv2").filters == 64
    assert model.get_layer("first").kernel.shape == (9, 9, 3, 64)
    assert model.get_layer("last").kernel.shape == (9, 9, 64, 3)


def test_narrow_tail_has_few_filters_in_every_step_and_computes_less():
    whole, narrow = networks.generator(8, 2, 6), networks.generator(8, 2, 6, tail_filters=2)
    assert [narrow.get_layer(f"up{step}_conv").kernel.shape for step in (1, 2, 3)] == [
        (3, 3, 6, 8), (3, 3, 2, 8), (3, 3, 2, 8)]
    assert narrow.get_layer("last").kernel.shape == (9, 9, 2, 3)
    assert narrow(LR).shape == whole(LR).shape
    cost = [multiply_adds({weight.path: weight.numpy() for weight in model.variables}, 8) for model in (whole, narrow)]
    trunk = 3 * 81 * 6 + 5 * 9 * 6 * 6
    assert cost == [trunk + 9 * 24 * 6 * (1 + 4 + 16) + 64 * 81 * 6 * 3,
                    trunk + 9 * 8 * (6 + 4 * 2 + 16 * 2) + 64 * 81 * 2 * 3]


def test_tail_wider_than_the_trunk_is_refused():
    with pytest.raises(ValueError, match=r"`tail_filters` must be filters=6 at most; .*tail_filters=7"):
        networks.generator(4, 1, 6, tail_filters=7)


@pytest.mark.parametrize(("name", "value"), [("scale", 3), ("blocks", 0), ("filters", -1)])
def test_generator_refuses(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .* Received: {name}={value}"):
        networks.generator(**{name: value})


@pytest.mark.parametrize(("scale", "blocks"), [(4, 2), (2, 1), (8, 1)])
def test_no_output_depends_on_lr_beyond_the_receptive_field(scale, blocks):
    model = randomise(networks.generator(scale, blocks, filters=4))
    halo = networks.receptive_field(model)
    side, middle = 2 * halo + 5, halo + 2
    impulse = np.zeros((1, side, side, 3), "float32")
    impulse[0, middle, middle] = 1
    change = np.abs(model(impulse) - model(np.zeros_like(impulse)))[0].max(axis=(1, 2))
    touched = np.nonzero(change)[0] // scale
    assert middle - touched.min() == touched.max() - middle == halo  # as far as it says, and no further


def test_receptive_field_of_the_paper_is_forty():
    assert networks.receptive_field(networks.generator()) == 40


def test_tile_with_the_receptive_field_as_halo_equals_whole():
    model = randomise(networks.generator(4, blocks=2, filters=4))
    halo = networks.receptive_field(model)
    lr = np.random.default_rng(4).random((1, 2 * halo + 9, 2 * halo + 9, 3)).astype("float32")
    whole = model(lr)
    tile = model(lr[:, :halo + 9 + halo, 4:])  # its last `halo` rows and first `halo` columns are the halo
    kept = slice(0, 4 * (halo + 9)), slice(4 * (halo + 4), None)
    np.testing.assert_allclose(tile[:, kept[0], 4 * halo:], whole[:, kept[0], kept[1]], rtol=1e-5)


def test_receptive_field_refuses_another_network():
    with pytest.raises(ValueError, match="`generator` must have only layers"):
        networks.receptive_field(networks.discriminator(4))


def test_code_is_smaller_than_the_image_and_decodes_to_its_size():
    model = networks.autoencoder(blocks=1, filters=4)
    code = model.get_layer("encoder")(IMAGE)
    assert code.shape == (2, 8, 12, 16)
    assert np.size(code) == np.size(IMAGE) / 3
    assert model.get_layer("decoder")(code).shape == model(IMAGE).shape == IMAGE.shape


def test_code_of_forty_eight_channels_is_refused():
    with pytest.raises(ValueError, match="`code_channels` must"):
        networks.autoencoder(code_channels=48)


def test_autoencoder_learns_to_reproduce():
    keras.utils.set_random_seed(0)
    model = networks.autoencoder(blocks=1, filters=8)
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    smooth = np.asarray(tf.image.resize(np.random.default_rng(5).random((4, 4, 4, 3)), (32, 32)))
    losses = model.fit(smooth, smooth, batch_size=4, epochs=60, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 5


@pytest.mark.parametrize("side", [32, 47, 96])
def test_discriminator_takes_any_size_and_gives_the_sigmoid_of_its_logits(side):
    model = networks.discriminator(filters=4)
    image = np.random.default_rng(6).random((2, side, side, 3))
    logits = networks.logits_of(model)(image)
    assert model(image).shape == (2, 1)
    np.testing.assert_allclose(model(image), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_every_discriminator_convolution_halves_the_side_and_is_normalised():
    model = networks.discriminator(filters=4)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 5
    for convolution in convolutions:
        assert convolution.strides == (2, 2)
        assert isinstance(model.get_layer(f"{convolution.name}_norm"), keras.layers.BatchNormalization)


BUILDERS = {
    "generator": lambda: networks.generator(2, 1, 4), "plain generator": lambda: networks.generator(2, 1, 4, False),
    "autoencoder": lambda: networks.autoencoder(1, 4), "discriminator": lambda: networks.discriminator(4)}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())
def test_network_comes_back_from_its_file(build, tmp_path):
    model = randomise(build())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGE), model(IMAGE))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())
def test_output_is_float32_under_mixed_precision(build, policy, precision):
    precision(policy)
    model = build()
    assert model(IMAGE).dtype == tf.float32
    assert all(weight.dtype == "float32" for weight in model.weights)


def test_interpolated_lr_keeps_full_precision_under_mixed_precision(precision):
    precision("mixed_bfloat16")
    sr = networks.generator(4, blocks=1, filters=4)(LR)
    np.testing.assert_allclose(sr, tf.image.resize(LR, (48, 68)), atol=1e-6)


def test_generator_exports_with_open_height_and_width(tmp_path):
    model = randomise(networks.generator(4, blocks=1, filters=4))
    model.export(tmp_path / "model", format="tf_saved_model", verbose=0)
    served = tf.saved_model.load(tmp_path / "model")
    for image in (LR, IMAGE):
        np.testing.assert_allclose(served.serve(image), model(image), rtol=1e-5)
