# SPDX-License-Identifier: Apache-2.0
"""gan: what a step moves and what it must not, equal results by every route, and saving to the last bit."""
from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.dataset import training_dataset
from pipelines.degrade import degrade
from pipelines.patches import find_sources
from pipelines.pixels import quantise, to_float
from pipelines.shards import write_shards
from sr_keras import metrics, networks
from sr_keras.config import METHODS, Objective, TrainOptions
from sr_keras.gan import SuperResolutionGAN
from sr_keras.losses import quasi_norm
from sr_keras.training.plan import start_from

WHOLE = Objective()
FIDELITY = Objective(lambda_m=0.0, lambda_s=0.0, lambda_d=0.0)
ROOT = Path(__file__).parents[2]


def batch(size: int = 2, side: int = 8, seed: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(seed)
    hr = tf.image.resize(rng.random((size, side // 2, side // 2, 3)), (4 * side, 4 * side))
    return tf.image.resize(hr, (side, side), antialias=True), hr


def build(objective: Objective = WHOLE, ema_decay: float = 0.9, seed: int = 1, **route) -> SuperResolutionGAN:
    """Build the smallest whole model; its steps run eagerly, cheaper than tracing them, unless `route` says else."""
    keras.utils.set_random_seed(seed)
    model = SuperResolutionGAN(
        networks.generator(4, blocks=1, filters=4), networks.discriminator(4, halvings=2),
        networks.autoencoder(1, 4).get_layer("encoder"), networks.autoencoder(0, 4).get_layer("encoder"), ema_decay,
        blur_sigma=1.6)
    model.compile(keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3), objective,
                  **route or {"run_eagerly": True})
    return model


def fit(model: SuperResolutionGAN, steps: int = 1, seed: int = 0) -> dict[str, float]:
    """Train on one batch, over and over; return the logs of the last step."""
    logs = {}
    for _ in range(steps):
        logs = model.train_on_batch(*batch(seed=seed), return_dict=True)
    return logs


def values(variables: list) -> list[np.ndarray]:
    return [np.array(variable) for variable in variables]


def state(model: SuperResolutionGAN) -> list:
    return [*model.variables, *model.optimizer.variables, *model.discriminator_optimizer.variables]


def assert_same(ours: list, golden: list) -> None:
    for one, other in zip(ours, golden, strict=True):
        np.testing.assert_array_equal(one, other)


def changed(before: list[np.ndarray], variables: list) -> bool:
    return any(np.any(old != np.array(new)) for old, new in zip(before, variables, strict=True))


# The objective


def test_loss_is_the_weighted_sum_of_its_terms():
    objective = Objective(lambda_v=0.3, lambda_c=400.0)
    logs = fit(build(objective))
    weights = {"fidelity": 1.0, "manifold": 0.2, "structural": 2.0, "adversarial": 0.016, "feature": 0.3,
               "consistency": 400.0}
    for term, weight in weights.items():
        assert logs[f"weighted_{term}"] == pytest.approx(weight * logs[term], rel=1e-5)
    assert logs["loss"] == pytest.approx(sum(logs[f"weighted_{term}"] for term in weights), rel=1e-5)


def test_first_fidelity_is_that_of_bilinear_interpolation():
    lr, hr = batch()
    residual = tf.image.resize(lr, hr.shape[1:3]) - hr
    golden = np.mean((np.square(residual) + 1e-4) ** 0.25)
    assert fit(build())["fidelity"] == pytest.approx(golden, rel=1e-5)


def test_first_consistency_is_that_of_bilinear_interpolation():
    lr, hr = batch()
    model = build(Objective(lambda_c=1.0))
    golden = np.mean(np.square(degrade(tf.image.resize(lr, hr.shape[1:3]), 4, 1.6) - lr))
    assert model.train_on_batch(lr, hr, return_dict=True)["consistency"] == pytest.approx(golden, rel=1e-4)


def test_consistency_brings_sr_nearer_to_lr():
    model = build(replace(FIDELITY, lambda_c=1e5))
    assert fit(model, 20)["consistency"] < 0.9 * fit(build(Objective(lambda_c=1e5)))["consistency"]


@pytest.mark.parametrize(("method", "terms"), [
    ("srgan", {"fidelity", "adversarial", "feature"}), ("srgan_e", {"fidelity", "manifold", "adversarial"}),
    ("srgan_qe", {"fidelity", "manifold", "adversarial"}),
    ("srgan_sqe", {"fidelity", "manifold", "structural", "adversarial"})])
def test_method_computes_its_terms_and_no_other(method, terms):
    logs = fit(build(METHODS[method]))
    judged = {"discriminator_loss", "d_hr", "d_sr", "d_accuracy"}
    assert set(logs) == {"loss", *judged, *terms, *(f"weighted_{term}" for term in terms)}


def test_term_of_weight_zero_can_not_poison_the_sum():
    model = build(replace(FIDELITY, lambda_s=0.0))
    for network in (model.encoder, model.features, model.discriminator):
        network.set_weights([np.full(weight.shape, np.nan) for weight in network.get_weights()])
    fit(model)
    assert np.isfinite(fit(model)["loss"])
    assert all(np.isfinite(weight).all() for weight in model.generator.get_weights())


def test_warm_up_needs_no_discriminator():
    model = SuperResolutionGAN(networks.generator(4, 1, 4))
    model.compile(keras.optimizers.Adam(), objective=FIDELITY, run_eagerly=True)
    assert set(fit(model)) == {"loss", "fidelity", "weighted_fidelity"}


@pytest.mark.parametrize(("weight", "needed"), [
    ("lambda_m", "encoder"), ("lambda_d", "discriminator"), ("lambda_v", "features"), ("lambda_c", "blur_sigma")])
def test_weight_without_what_it_needs_is_refused(weight, needed):
    model = SuperResolutionGAN(networks.generator(4, 1, 4))
    with pytest.raises(ValueError, match=f"`{weight}` must be 0 without {needed}; .* Received: {weight}=0.5"):
        model.compile("adam", "adam", replace(FIDELITY, **{weight: 0.5}))


def test_discriminator_without_its_optimizer_is_refused():
    with pytest.raises(ValueError, match="`discriminator_optimizer` must be given"):
        build().compile("adam")


# What a step moves


class Counting(keras.layers.Layer):
    """Count how often it is called while a step is run eagerly."""

    calls = 0

    def call(self, inputs, training=None):
        self.calls += 1
        return inputs


def counted(network: keras.Model) -> tuple[keras.Model, Counting]:
    counting = Counting()
    return keras.Model(network.inputs, counting(network.outputs[0])), counting


def test_step_runs_generator_once_and_encoder_once_per_image():
    generator, passes = counted(networks.generator(4, 1, 4))
    encoder, codes = counted(networks.autoencoder(1, 4).get_layer("encoder"))
    model = SuperResolutionGAN(generator, encoder=encoder)
    model.compile(keras.optimizers.Adam(), objective=Objective(lambda_d=0.0), run_eagerly=True)
    passes.calls = codes.calls = 0
    model.train_step(batch())
    assert passes.calls == 1
    assert codes.calls == 2  # hr and sr


def test_batch_statistics_of_the_generator_move_once_a_step():
    model = build()
    first = model.generator.get_layer("first")(batch()[0])
    hidden = model.generator.get_layer("block1_conv1")(first)
    fit(model)
    expected = (1 - networks.BATCH_NORM_MOMENTUM) * np.mean(hidden, axis=(0, 1, 2))
    np.testing.assert_allclose(model.generator.get_layer("block1_norm1").moving_mean, expected, rtol=1e-4, atol=1e-7)


def test_with_frozen_statistics_the_generator_learns_what_inference_computes():
    model = build()
    fit(model, 5)  # statistics that are not those of a batch
    frozen = SuperResolutionGAN(model.generator, ema_decay=0.9, freeze_statistics=True)
    frozen.compile(keras.optimizers.Adam(1e-3), objective=FIDELITY)
    lr, hr = batch()
    expected = float(np.mean(quasi_norm(frozen.generator(lr, training=False) - hr, 0.5, 1e-4)))
    fixed, learned = frozen.generator.non_trainable_variables, frozen.generator.trainable_variables
    before, weights = values(fixed), values(learned)
    assert fit(frozen)["fidelity"] == pytest.approx(expected, rel=1e-5)
    assert_same(values(fixed), before)
    assert all(changed([old], [new]) for old, new in zip(weights, learned, strict=True))
    assert SuperResolutionGAN.from_config(frozen.get_config()).freeze_statistics


def test_batch_statistics_of_the_discriminator_move_once_a_step_by_hr_and_sr_as_one_batch():
    model = build()
    lr, hr = batch()
    both = tf.concat([hr, model.generator(lr, training=True)], 0)
    hidden = np.asarray(model.discriminator.get_layer("conv1")(both))
    norm, keep = model.discriminator.get_layer("conv1_norm"), networks.BATCH_NORM_MOMENTUM
    fit(model)
    np.testing.assert_allclose(norm.moving_mean, (1 - keep) * hidden.mean((0, 1, 2)), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(norm.moving_variance, keep + (1 - keep) * hidden.var((0, 1, 2)), rtol=1e-4)


def judged(discriminator: keras.Model, hr: tf.Tensor, sr: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of hr and sr, judged as one batch."""
    logits = keras.Model(discriminator.input, discriminator.get_layer("logits").output)
    found = np.asarray(logits(tf.concat([hr, sr], 0), training=True))
    return found[:len(hr)], found[len(hr):]


def test_generator_learns_against_the_discriminator_that_has_just_learned_and_sees_hr_beside_sr():
    model, twin = build(Objective(lambda_d=1.0)), build(Objective(lambda_d=1.0))
    lr, hr = batch()
    logs = fit(model)
    _, logits = judged(model.discriminator, hr, twin.generator(lr, training=True))
    assert logs["adversarial"] == pytest.approx(np.mean(np.log1p(np.exp(-logits))), rel=1e-4)


def test_accuracy_is_the_share_of_hr_and_sr_that_are_judged_right_before_the_step():
    model = build()
    lr, hr = batch(8)
    of_hr, of_sr = judged(model.discriminator, hr, model.generator(lr, training=True))
    shift = np.sort(np.concatenate([of_hr, of_sr]), axis=None)[-2:].mean()  # one is HR, which is not right for half
    model.discriminator.get_layer("logits").bias.assign([-shift])
    logs = model.train_on_batch(lr, hr, return_dict=True)
    right = np.concatenate([of_hr > shift, of_sr < shift])
    assert logs["d_accuracy"] == pytest.approx(right.mean())
    assert right.mean() != 0.5


def test_discriminator_gradient_does_not_reach_the_generator():
    model, without = build(replace(FIDELITY, lambda_d=1e-30)), build(FIDELITY)
    fit(model, 3)
    fit(without, 3)
    for ours, golden in zip(model.generator.variables, without.generator.variables, strict=True):
        np.testing.assert_allclose(ours, golden, rtol=1e-4, atol=1e-6)


def test_generator_gradient_does_not_reach_the_discriminator():
    model, heavy = build(Objective()), build(Objective(lambda_d=1e3))
    before = values(model.discriminator.trainable_variables)
    fit(model)
    fit(heavy)
    assert changed(before, model.discriminator.trainable_variables)
    for ours, golden in zip(heavy.discriminator.variables, model.discriminator.variables, strict=True):
        np.testing.assert_allclose(ours, golden, rtol=1e-5, atol=1e-7)


def test_encoder_and_features_stay_frozen():
    model = build(Objective(lambda_v=1.0))
    before = values([*model.encoder.variables, *model.features.variables])
    fit(model, 2)
    assert not changed(before, [*model.encoder.variables, *model.features.variables])


def test_average_of_weights_and_statistics_follows_its_rule():
    model = build(ema_decay=0.15)
    average = values(model.generator.variables)
    for step in range(1, 4):
        fit(model, seed=step)
        keep = min(0.15, (1 + step) / (10 + step))
        average = [keep * old + (1 - keep) * np.array(new)
                   for old, new in zip(average, model.generator.variables, strict=True)]
    for ours, golden in zip(model.ema_generator.variables, average, strict=True):
        np.testing.assert_allclose(ours, golden, rtol=1e-5, atol=1e-6)


def test_best_generator_is_the_average_where_there_is_one():
    model, plain = build(), build(ema_decay=0.0)
    assert model.best_generator is model.ema_generator
    assert plain.best_generator is plain.generator
    fit(model)
    lr = batch()[0]
    np.testing.assert_array_equal(model(lr, training=True), model.ema_generator(lr, training=False))


def test_warm_up_at_a_thousandth_soon_beats_interpolation(histology):
    """A last convolution without its gain overshoots here, kills the features and stays at the interpolation."""
    keras.utils.set_random_seed(0)
    corners = [(y, x) for y in range(0, 512, 128) for x in range(0, 512, 128)]
    hr = np.stack([histology[y:y + 64, x:x + 64] for y, x in corners]) / np.float32(255)
    lr = degrade(hr)
    model = SuperResolutionGAN(networks.generator(4, blocks=1, filters=16))
    model.compile(keras.optimizers.Adam(1e-3), objective=Objective(lambda_m=0.0, lambda_d=0.0), jit_compile=False)
    losses = [model.train_on_batch(lr, hr, return_dict=True)["loss"] for _ in range(40)]
    assert losses[-1] < losses[0] - 0.02
    assert max(losses) < losses[0] + 0.02  # and never was much worse


def test_adversarial_training_learns():
    model = build(Objective(lambda_d=1e-3), jit_compile=False)
    logs = [fit(model) for _ in range(40)]
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert logs[-1]["d_hr"] > 0.5 > logs[-1]["d_sr"]


@pytest.fixture(params=["sample", "slides"])
def tissue(request, histology) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images to train on and images held out: two parts of one slide, or tiles of other slides."""
    if request.param == "sample":
        return [histology[:, :320]], [histology[:, 320:]]
    tiles = request.getfixturevalue("shared_data") / "tiles"
    return tuple([np.asarray(Image.open(path).convert("RGB")) for slide in sorted((tiles / part).iterdir())
                  for path in sorted(slide.iterdir())[:8]] for part in ("train", "val"))


@pytest.mark.slow
def test_discriminator_soon_tells_held_out_tissue_from_what_a_fixed_generator_makes_of_it(tissue):
    """With HR and SR judged apart it is right of 0.55 of both after 300 steps, and at no look of more than 0.6."""
    fixed, rng = networks.generator(4, 8, 24, tail_filters=8), np.random.default_rng(0)
    start_from(fixed, ROOT / "saved_models" / "srgan_sqe_x4_light")
    keras.utils.set_random_seed(0)
    model = SuperResolutionGAN(fixed, networks.discriminator())
    rate = TrainOptions(run="").discriminator_learning_rate
    model.compile("adam", keras.optimizers.Adam(rate), Objective(lambda_m=0.0))
    learn, look = tf.function(model._train_discriminator), tf.function(lambda hr, sr: model._judge(hr, sr, False))
    enlarge = tf.function(lambda hr: fixed(quantise(degrade(hr)), training=False))

    def pair(images: list[np.ndarray], side: int = 64) -> tuple[tf.Tensor, tf.Tensor]:
        crops = []
        for image in (images[i] for i in rng.integers(0, len(images), 8)):
            y, x = rng.integers(0, np.array(image.shape[:2]) - side + 1)
            crops.append(image[y:y + side, x:x + side])
        hr = to_float(np.stack(crops))
        return hr, enlarge(hr)

    held_out = [pair(tissue[1]) for _ in range(8)]
    right = []
    for _ in range(12):
        for _ in range(25):
            learn(*pair(tissue[0]))
        judged = [look(hr, sr) for hr, sr in held_out]
        right.append((np.mean([hr > 0 for hr, _ in judged]), np.mean([sr < 0 for _, sr in judged])))
        if min(right[-1]) >= 0.9:
            return
    pytest.fail(f"right of HR and of SR, every 25 steps: {right}")


# Evaluation


def test_evaluation_scores_the_eight_bit_image_of_the_average():
    model = build()
    fit(model, 5)
    lr, hr = batch()
    sr = np.clip(np.rint(255 * np.asarray(model.ema_generator(lr))), 0, 255) / 255
    scores = model.test_on_batch(lr, hr, return_dict=True)
    assert set(scores) == {"psnr", "rrmse", "ssim", "qilv"}
    golden = np.sqrt(np.square(sr - hr).sum((1, 2, 3)) / np.square(hr).sum((1, 2, 3))).mean()
    assert scores["rrmse"] == pytest.approx(golden, rel=1e-4)


def test_ms_ssim_is_scored_from_161_pixels_a_side():
    lr, hr = batch(1, side=41)
    assert "ms_ssim" in build().test_on_batch(lr, hr, return_dict=True)
    lr, hr = batch(1, side=40)
    assert "ms_ssim" not in build().test_on_batch(lr, hr, return_dict=True)


def test_partial_last_batch_weighs_by_its_images():
    lr, hr = batch(3)
    model = build()
    halves = model.evaluate(tf.data.Dataset.from_tensor_slices((lr, hr)).batch(2), return_dict=True, verbose=0)
    whole = model.evaluate(tf.data.Dataset.from_tensor_slices((lr, hr)).batch(3), return_dict=True, verbose=0)
    assert halves == pytest.approx(whole, rel=1e-5)


# Equal by every route


def test_xla_and_graph_have_the_same_losses():
    objective = Objective(lambda_v=0.1)
    compiled, graph = build(objective, jit_compile=True), build(objective, jit_compile=False)
    assert compiled.jit_compile
    assert not graph.jit_compile
    for _ in range(3):
        assert fit(compiled) == pytest.approx(fit(graph), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_follows_float32(policy, precision):
    golden = build()
    precision(policy)
    model = build()
    for _ in range(2):
        assert fit(model)["loss"] == pytest.approx(fit(golden)["loss"], rel=0.02)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    scaled = [isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
              for optimizer in (model.optimizer, model.discriminator_optimizer)]
    assert scaled == [policy == "mixed_float16"] * 2


def test_overflow_in_float16_skips_the_step_and_lowers_the_scale(precision):
    precision("mixed_float16")
    model = build()
    for optimizer in (model.optimizer, model.discriminator_optimizer):
        optimizer.dynamic_scale.assign(1e38)
    before = values([*model.generator.trainable_variables, *model.discriminator.trainable_variables])
    fit(model)
    assert not changed(before, [*model.generator.trainable_variables, *model.discriminator.trainable_variables])
    assert model.optimizer.dynamic_scale < 1e38
    assert model.discriminator_optimizer.dynamic_scale < 1e38


MIRRORED = """
import tensorflow as tf
cpu, two = tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
import numpy as np
from tests.sr_keras.test_gan import batch, build

def train(strategy, jit_compile):
    with strategy.scope():
        model = build(jit_compile=jit_compile)
    data = tf.data.Dataset.from_tensors(batch(4)).unbatch().batch(4).repeat()
    return model, model.fit(data, steps_per_epoch=1, epochs=2, verbose=0, validation_data=data.take(1)).history

one, golden = train(tf.distribute.get_strategy(), False)
several, history = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), True)
assert golden.keys() == history.keys()
for name in golden:
    np.testing.assert_allclose(history[name], golden[name], rtol=1e-4, atol=1e-5, err_msg=name)
for ours, single in zip(several.variables, one.variables, strict=True):
    np.testing.assert_allclose(ours.numpy(), single.numpy(), rtol=1e-3, atol=1e-4, err_msg=ours.path)
"""


def run(code: str, *arguments: str) -> None:
    """Run in a process of its own: devices are fixed once TensorFlow starts."""
    ran = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                         timeout=240)
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.slow
def test_two_mirrored_devices_train_as_one():
    run(MIRRORED)


# As Keras' users know it


def dataset(batches: int = 3) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(batch(2 * batches)).batch(2)


def test_fit_of_a_finite_dataset_ends_by_itself():
    model = build(FIDELITY, jit_compile=False)
    history = model.fit(dataset(3), epochs=2, validation_data=dataset(1), verbose=0)
    assert int(model.optimizer.iterations) == 6
    assert len(history.history["loss"]) == len(history.history["val_psnr"]) == 2


def test_fit_of_an_endless_dataset_needs_steps_per_epoch():
    model = build(FIDELITY, jit_compile=False)
    with pytest.raises(ValueError, match="`steps_per_epoch` must be given for a dataset without end"):
        model.fit(dataset().repeat(), verbose=0)
    model.fit(dataset().repeat(), epochs=2, steps_per_epoch=4, verbose=0)
    assert int(model.optimizer.iterations) == 8


def test_metrics_of_compile_are_means_over_the_epoch_in_training_and_validation():
    model = build()
    model.compile("adam", objective=FIDELITY, run_eagerly=True, metrics=["mae"])
    model.compile(keras.optimizers.Adam(1e-3), objective=FIDELITY, run_eagerly=True,
                  metrics=[metrics.PSNR(), metrics.rrmse, "mse"])
    lr, hr = batch()
    for _ in range(2):  # the second epoch does not know the first
        sr = np.asarray(model.generator(lr, training=True))
        squared = np.square(sr - hr).mean((1, 2, 3))
        logs = model.fit(lr, hr, verbose=0, validation_data=(lr, hr)).history
        assert logs["psnr"] == pytest.approx([np.mean(-10 * np.log10(squared))], rel=1e-4)
        assert logs["mean_squared_error"] == pytest.approx([squared.mean()], rel=1e-4)
    sr = quantise(np.asarray(model.ema_generator(lr)))
    assert logs["val_psnr"] == pytest.approx([np.mean(-10 * np.log10(np.square(sr - hr).mean((1, 2, 3))))], rel=1e-4)
    assert logs["val_mean_squared_error"] == pytest.approx([np.square(sr - hr).mean()], rel=1e-4)
    assert {"rrmse", "val_rrmse"} <= set(logs)
    assert "mean_absolute_error" not in {metric.name for metric in model.metrics}


def test_one_metric_is_taken_without_a_list_and_is_the_same_in_a_graph():
    lr, hr = batch()
    graph, eager = build(FIDELITY), build(FIDELITY)
    graph.compile("adam", objective=FIDELITY, jit_compile=False, metrics=metrics.QILV(name="seen"))
    eager.compile("adam", objective=FIDELITY, run_eagerly=True, metrics=metrics.QILV(name="seen"))
    seen = [model.fit(tf.data.Dataset.from_tensor_slices((lr, hr)).batch(1), verbose=0, epochs=2).history["seen"]
            for model in (graph, eager)]
    assert seen[0] == pytest.approx(seen[1], rel=1e-3)


def test_sample_weights_and_batches_without_hr_are_refused_in_one_line():
    lr, hr = batch()
    weighted = tf.data.Dataset.from_tensors((lr, hr, np.ones(2)))
    for use in (lambda model: model.fit(weighted, verbose=0), lambda model: model.evaluate(weighted, verbose=0),
                lambda model: model.train_on_batch(lr, hr, sample_weight=np.ones(2))):
        with pytest.raises(ValueError, match=r"\A`sample_weight` must be left out; .*\Z"):
            use(build(FIDELITY, jit_compile=False))
    with pytest.raises(ValueError, match="`y` must be the HR images"):
        build(FIDELITY).fit(lr, verbose=0)


@pytest.mark.parametrize("argument", ["loss", "weighted_metrics", "loss_weights"])
def test_arguments_of_compile_that_would_do_nothing_are_refused(argument):
    with pytest.raises(TypeError, match=argument):
        build(FIDELITY).compile("adam", objective=FIDELITY, **{argument: ["mse"]})


@pytest.mark.parametrize("method", ["srgan_sqe", "srgan_qe", "srgan_e"])
def test_preset_has_the_objective_of_its_method_and_no_manifold_term_without_an_encoder(method):
    assert SuperResolutionGAN.from_preset(method, 2, blocks=1, filters=4).objective == replace(
        METHODS[method], lambda_m=0.0)
    encoder = networks.autoencoder(0, 4).get_layer("encoder")
    model = SuperResolutionGAN.from_preset(method, blocks=1, filters=4, encoder=encoder)
    assert model.objective == METHODS[method]


def test_preset_is_ready_for_fit():
    model = SuperResolutionGAN.from_preset("srgan_sqe", blocks=1, filters=4)
    model.run_eagerly = True  # faster than tracing
    history = model.fit(dataset(1).map(lambda lr, hr: (tf.image.resize(lr, (16, 16)), tf.image.resize(hr, (64, 64)))),
                        verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_notebook_of_five_lines_trains_on_shards_and_super_resolves(tile_folder, tmp_path):
    write_shards(find_sources(tile_folder), tmp_path, PatchOptions(patch_size=64), workers=1, progress=False)
    model = SuperResolutionGAN.from_preset("srgan_sqe", scale=4, blocks=1, filters=4)
    model.run_eagerly = True  # faster than tracing
    model.fit(training_dataset(tmp_path, batch_size=8, steps_per_epoch=1, epochs=2), verbose=0)
    assert int(model.optimizer.iterations) == 2
    assert model.predict(batch()[0], verbose=0).shape == (2, 32, 32, 3)


def test_preset_refuses_an_unknown_method_and_srgan_without_features():
    with pytest.raises(ValueError, match="`method` must be one of"):
        SuperResolutionGAN.from_preset("esrgan")
    with pytest.raises(ValueError, match="`lambda_v` must be 0 without features"):
        SuperResolutionGAN.from_preset("srgan", blocks=1, filters=4)


def test_no_model_is_built_inside_a_step(monkeypatch):
    model = build()
    monkeypatch.setattr(keras.Model, "__init__", lambda *args, **kwargs: pytest.fail("a model was built"))
    fit(model)


# Saving


def test_load_weights_restores_a_checkpoint_to_the_last_bit(tmp_path):
    trained = build()
    fit(trained, 3)
    trained.save(tmp_path / "checkpoint.keras")
    resumed = build(seed=9)
    resumed.load_weights(tmp_path / "checkpoint.keras")
    assert_same(state(resumed), values(state(trained)))
    assert int(resumed.optimizer.iterations) == int(resumed.discriminator_optimizer.iterations) == 3
    fit(trained, 2)
    fit(resumed, 2)
    assert_same(state(resumed), values(state(trained)))


def test_load_weights_restores_the_loss_scale(tmp_path, precision):
    precision("mixed_float16")
    trained = build()
    trained.optimizer.dynamic_scale.assign(64.0)
    fit(trained)
    trained.save(tmp_path / "checkpoint.keras")
    resumed = build(seed=9)
    resumed.load_weights(tmp_path / "checkpoint.keras")
    assert_same(state(resumed), values(state(trained)))


def test_load_weights_of_another_architecture_is_refused(tmp_path):
    build().save(tmp_path / "checkpoint.keras")
    other = SuperResolutionGAN(networks.generator(4, 2, 4))
    other.compile("adam", objective=FIDELITY)
    with pytest.raises(ValueError):
        other.load_weights(tmp_path / "checkpoint.keras")


RELOAD = """
import sys
import keras, numpy as np
from sr_keras.gan import SuperResolutionGAN
from tests.sr_keras.test_gan import fit, state
model = keras.models.load_model(sys.argv[1])
assert model.compiled and not model.jit_compile and model.objective.lambda_v == 0.5
assert not model.encoder.trainable and not model.ema_generator.trainable
fit(model, 2)
np.savez(sys.argv[2], *[np.array(value) for value in state(model)])
"""


def test_model_file_goes_on_in_a_fresh_process(tmp_path):
    model = build(Objective(lambda_v=0.5))
    fit(model, 2)
    model.save(tmp_path / "model.keras")
    run(RELOAD, str(tmp_path / "model.keras"), str(tmp_path / "state.npz"))
    fit(model, 2)
    with np.load(tmp_path / "state.npz") as saved:
        assert_same(state(model), [saved[name] for name in saved.files])


def test_learning_rate_schedule_survives_its_file(tmp_path):
    model = build()
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 10)
    model.compile(keras.optimizers.Adam(schedule), keras.optimizers.Adam(1e-3), run_eagerly=True)
    fit(model, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate) == pytest.approx(float(schedule(2)))


def test_arguments_of_compile_survive_their_file(tmp_path):
    model = build()
    model.compile("adam", "adam", steps_per_execution=3, jit_compile=False,
                  metrics=[metrics.QILV(name="mine"), metrics.psnr, "mae"])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.steps_per_execution == 3
    assert [metric.name for metric in loaded.added_metrics] == ["mine", "psnr", "mean_absolute_error"]
    assert isinstance(loaded.added_metrics[0], metrics.QILV)
    assert fit(loaded) == pytest.approx(fit(model), rel=1e-4)


def test_compile_config_of_older_files_has_the_defaults():
    model = build()
    config = model.get_compile_config()
    for newer in ("metrics", "steps_per_execution"):
        del config[newer]
    model.compile_from_config(config)
    assert model.steps_per_execution == 1
    assert not model.added_metrics
