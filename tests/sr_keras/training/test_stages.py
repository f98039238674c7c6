# SPDX-License-Identifier: Apache-2.0
"""Stages: what each option does to them, what they leave behind, and what stops one in a line."""
from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.summary.summary_iterator import summary_iterator

from pipelines.config import DegradeOptions, degradation
from pipelines.errors import UserError
from pipelines.pixels import to_float
from pipelines.shards import ShardSet, open_shards
from sr_keras import networks
from sr_keras.config import METHODS, GeneratorOptions, Objective, StageOptions, TrainOptions
from sr_keras.model.loading import load_generator, load_keras
from sr_keras.training import callbacks, stages
from sr_keras.training.callbacks import Record, State, checkpoint, restore_checkpoint, save_checkpoint
from sr_keras.training.plan import Plan, build_gan
from sr_keras.training.run_folder import read_metrics
from sr_keras.training.stages import MOST_NOISE, code_movement, denoising, in_words, train_stages

from .conftest import PLAIN, ROOT, SIDE, STAGES, assert_same, tiny


def weights(path: Path) -> list[np.ndarray]:
    return load_keras(path).get_weights()


def rows(run: Path) -> list[tuple[str, str]]:
    return [(row["stage"], row["epoch"]) for row in read_metrics(run)]


# What the options do


def test_warm_up_of_no_epochs_is_skipped(plan):
    asked = plan(PLAIN, (0, 0, 1))
    assert_same(weights(train_stages(asked)), weights(asked.run / "adversarial.keras"))
    assert rows(asked.run) == [("adversarial", "1")]
    assert not (asked.run / "warmup.keras").exists()


def test_given_networks_are_what_a_stage_starts_from(plan, randomised, tmp_path):
    generator, autoencoder = randomised(networks.generator(4, 1, 4)), randomised(networks.autoencoder())
    generator.save(tmp_path / "generator.keras")
    autoencoder.save(tmp_path / "autoencoder.keras")
    # At such a learning rate no weight moves that one could see.
    asked = plan(Objective(lambda_d=0.0), (5, 1, 0), 1e-12, ema_decay=0.0, generator=str(tmp_path / "generator.keras"),
                 autoencoder=str(tmp_path / "autoencoder.keras"))
    trained = load_keras(train_stages(asked))
    assert rows(asked.run) == [("warmup", "1")]  # no stage for the autoencoder
    for ours, given in zip(trained.trainable_variables, generator.trainable_variables, strict=True):
        np.testing.assert_allclose(ours, given, atol=1e-6)
    encoder = build_gan(asked, asked.options.stages[1], asked.objective, None).encoder
    assert_same(encoder.get_weights(), autoencoder.get_layer("encoder").get_weights())


@pytest.mark.parametrize(("degrade", "pair_scale", "pair_share", "blur"), [
    (DegradeOptions(), None, 0.5, 1.6), (DegradeOptions(blur_sigma=0.8), 4, 0.0, 0.8),
    (DegradeOptions(), 4, 0.5, None), (DegradeOptions(blur_sigma=(0.8, 1.6)), None, 0.5, None),
    (degradation("scanner"), None, 0.5, None), (degradation("pyramid"), None, 0.5, None)])
def test_lr_of_more_than_one_known_blur_is_refused_where_sr_is_to_agree_with_it(
        degrade, pair_scale, pair_share, blur, plan):
    asked = plan(replace(PLAIN, lambda_c=1.0), (0, 1, 0), pair_share=pair_share)
    held = replace(asked.train, shards=tuple(replace(shard, pair_scale=pair_scale) for shard in asked.train.shards))
    asked = replace(asked, train=held, degrade=degrade)
    assert asked.blur_sigma == blur
    if blur is None:
        with pytest.raises(ValueError, match=r"`lambda_c` must be 0 unless all LR is made by the textbook degradation"):
            train_stages(asked)


def test_generator_of_another_size_is_refused_by_name(plan, tmp_path):
    networks.generator(4, 2, 4).save(tmp_path / "larger.keras")
    with pytest.raises(ValueError, match=r"--tail_filters=4 --filters=4 --blocks=2, or more.*larger\.keras"):
        train_stages(plan(PLAIN, (0, 1, 0), generator=str(tmp_path / "larger.keras")))


def test_best_by_last_keeps_the_last_epoch(plan, monkeypatch):
    asked = plan(PLAIN, (0, 3, 0), best_by="last")
    falling = iter([30.0, 20.0, 10.0])  # by any score but this one the first would be kept
    before = Record.on_epoch_end
    monkeypatch.setattr(Record, "on_epoch_end", lambda self, epoch, logs: before(
        self, epoch, {**logs, "val_psnr": (value := next(falling)), "val_ssim": value}))
    found = weights(train_stages(asked))
    state = json.loads((checkpoint(asked.run, "warmup", 3) / "state.json").read_text())
    assert (state["epoch"], state["best_epoch"]) == (3, 3)
    last = keras.models.load_model(checkpoint(asked.run, "warmup", 3) / "model.keras")
    assert_same(found, last.ema_generator.get_weights())


def test_mirrored_strategy_runs_on_one_device(plan):
    asked = plan(PLAIN, (0, 1, 0), strategy="mirrored")
    assert load_generator(train_stages(asked)).scale == 4
    assert rows(asked.run) == [("warmup", "1")]


def test_run_in_bfloat16_leaves_a_generator_that_computes_in_float32(plan, precision):
    precision("mixed_bfloat16")
    path = train_stages(plan(Objective(lambda_m=0.0), (0, 0, 1)))
    precision("float32")  # as in the process that loads it
    assert {layer.compute_dtype for layer in load_keras(path).layers} == {"float32"}
    assert np.isfinite(load_generator(path)(np.zeros((1, 8, 8, 3), np.float32))).all()


def test_stages_and_seeds_have_seeds_of_their_own_in_32_bits():
    found = {stages._seed(seed, StageOptions(name, 1, 1e-3)) for seed in (-1, 0, 1, 2**40) for name in STAGES}
    assert len(found) == 4 * len(STAGES)
    assert all(0 <= seed < 2**32 for seed in found)


# Going on


def stopped_after_one_epoch(asked: Plan, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        before = Record.on_epoch_end

        def stop(self, epoch, logs=None):
            before(self, epoch, logs)
            raise KeyboardInterrupt
        patch.setattr(Record, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train_stages(asked)


def test_autoencoder_in_float16_goes_on_where_it_stopped(plan, precision, monkeypatch, capsys):
    precision("mixed_float16")
    asked, places = plan(Objective(lambda_d=0.0), (2, 1, 0)), []
    monkeypatch.setattr(stages, "denoising", lambda images, seed, first, share: places.append(first) or denoising(
        images, seed, first, share))
    stopped_after_one_epoch(asked, monkeypatch)
    train_stages(asked)
    out = capsys.readouterr().out
    assert "autoencoder: continues after epoch 1 of 2" in out
    assert places == [0, 1]  # of the first batch: the noise goes on too
    movement = json.loads((asked.run / "manifold.json").read_text())
    assert set(movement) == {"noise", "blur", "contrast"}
    assert all(value > 0 for value in movement.values())
    assert f"autoencoder: {in_words(movement)}\n" in out
    assert rows(asked.run) == [("autoencoder", "1"), ("autoencoder", "2"), ("warmup", "1")]


def test_checkpoint_of_the_whole_model_is_restored_to_the_last_bit_or_refused(plan, tmp_path):
    networks.autoencoder().save(tmp_path / "autoencoder.keras")
    asked = plan(Objective(), (0, 0, 1), autoencoder=str(tmp_path / "autoencoder.keras"))
    stage = asked.options.stages[2]
    model = build_gan(asked, stage, asked.objective, None)
    model.optimizer.iterations.assign(7)
    save_checkpoint(asked.run, "adversarial", model, State(1, 0.5, 1, 0.5), keep=1)
    again = build_gan(asked, stage, asked.objective, None)
    assert restore_checkpoint(asked.run, "adversarial", again) == State(1, 0.5, 1, 0.5)
    for part in ("generator", "discriminator", "encoder", "ema_generator", "optimizer", "discriminator_optimizer"):
        assert_same(*([np.array(value) for value in getattr(one, part).variables] for one in (again, model)))
    larger = replace(asked, generator=GeneratorOptions(blocks=2, filters=4))
    other = build_gan(larger, stage, asked.objective, None)
    with pytest.raises(ValueError, match=r"must be of the network that is trained.*adversarial-0001"):
        restore_checkpoint(asked.run, "adversarial", other)


# What an epoch leaves behind


@pytest.fixture(scope="module")
def srgan(tmp_path_factory, shards) -> Path:
    """The run folder of SRGAN with the features of VGG16: a warm-up and an adversarial stage."""
    run = tmp_path_factory.mktemp("srgan") / "run"
    train_stages(tiny(run, shards, METHODS["srgan"], (0, 1, 1), vgg_weights="hed"))
    return run


@pytest.mark.slow
def test_srgan_meets_features_and_discriminator_in_the_adversarial_stage_alone(srgan):
    with open(srgan / "metrics.csv", newline="") as handle:
        warmup, adversarial = csv.DictReader(handle)
    for name in ("feature", "weighted_feature", "adversarial", "weighted_adversarial", "discriminator_loss"):
        assert warmup[name] == ""
        assert float(adversarial[name]) > 0
    assert warmup["d_accuracy"] == ""
    assert float(adversarial["d_accuracy"]) in (0, 0.25, 0.5, 0.75, 1)  # of two HR and two SR
    assert float(adversarial["weighted_feature"]) == pytest.approx(0.006 * float(adversarial["feature"]), rel=1e-3)
    assert not (srgan / "autoencoder.keras").exists()  # SRGAN has no manifold


def test_discriminator_is_watched(plan, monkeypatch, capsys):
    monkeypatch.setattr(callbacks, "UNDECIDED", 1.1)
    train_stages(plan(Objective(lambda_m=0.0), (0, 0, 1)))
    assert "adversarial, epoch 1: the discriminator (accuracy" in capsys.readouterr().err


@pytest.mark.slow
def test_tensorboard_holds_weighted_terms_both_judgements_and_a_picture(srgan):
    (path,) = (srgan / "tensorboard" / "adversarial").iterdir()
    found = {value.tag: value for event in summary_iterator(str(path)) for value in event.summary.value}
    terms = ("fidelity", "adversarial", "feature")
    assert {"loss", "val_ssim", *terms, *(f"weighted_{term}" for term in terms)} <= set(found)
    assert all(0 < float(tf.make_ndarray(found[name].tensor)) < 1 for name in ("d_hr", "d_sr"))
    assert "d_accuracy" in found
    width, height, png = tf.make_ndarray(found["LR, bicubic, SR, HR"].tensor)
    assert (int(width), int(height)) == (4 * SIDE, 2 * SIDE)
    assert tf.io.decode_png(png).shape == (2 * SIDE, 4 * SIDE, 3)


# What stops it


def damaged(shards: Path, folder: Path) -> ShardSet:
    """Copy shards with one byte of a record changed."""
    shutil.copytree(shards, folder)
    (path,) = folder.glob("*.tfrecord")
    held = bytearray(path.read_bytes())
    held[5000] ^= 0xFF
    path.write_bytes(held)
    return open_shards(folder)  # nothing is seen from outside


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("cache", ["none", "memory"])
def test_shard_damaged_inside_is_named(part, cache, plan, shards, tmp_path):
    asked = replace(plan(PLAIN, (0, 1, 0), cache=cache, batch_size=16, steps_per_epoch=8),  # all that there is
                    **{part: damaged(shards / "slide-a", tmp_path / "bad")})
    with pytest.raises(ValueError, match=r"`shards` must be undamaged.*bad/slide-a-00000\.tfrecord"):
        train_stages(asked)


def test_shard_damaged_inside_is_one_line_on_the_command_line(shards, tmp_path):
    damaged(shards / "slide-a", tmp_path / "bad")
    done = subprocess.run(
        [sys.executable, "-m", "sr_keras.train", f"--train_data={tmp_path / 'bad'}", f"--val_data={shards / 'slide-b'}",
         f"--run={tmp_path / 'run'}", "--patch_size=32", "--eval_patch_size=32", "--blocks=1", "--filters=4",
         "--batch_size=2", "--lambda_m=0", "--autoencoder_epochs=0", "--warmup_epochs=1", "--adversarial_epochs=0"],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "bad/slide-a-00000.tfrecord" in line


def test_batch_that_does_not_fit_in_memory_is_a_user_error_that_names_it():
    large = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[2,999999,999999,64]")
    with (pytest.raises(UserError, match=r"`batch_size` must fit in memory; .* Received: batch_size=16"),
          stages._out_of_memory_named(TrainOptions(""))):
        raise large


def test_full_disk_is_not_taken_for_a_batch():
    full = tf.errors.ResourceExhaustedError(None, None, "events.out; No space left on device")
    with (pytest.raises(tf.errors.ResourceExhaustedError, match="No space left"),
          stages._out_of_memory_named(TrainOptions(""))):
        raise full


# The manifold: how far a code moves, on encoders whose answer is known


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


def test_noise_of_the_shares_of_a_batch_is_that_of_the_whole():
    good = np.random.default_rng(1).random((4, 8, 8, 3), np.float32)
    (whole, _), = denoising(tf.data.Dataset.from_tensors(good), 3).as_numpy_iterator()
    parts = [next(denoising(tf.data.Dataset.from_tensors(good[2 * i:2 * i + 2]), 3, share=(i, 2)).as_numpy_iterator())
             for i in range(2)]
    np.testing.assert_array_equal(np.concatenate([noisy for noisy, _ in parts]), whole)


def test_line_names_every_kind():
    assert in_words({"noise": 0.274, "blur": 0.33}) == (
        "the code moves, per unit of pixel error, 0.27 with noise, 0.33 with blur")
