# SPDX-License-Identifier: Apache-2.0
"""What follows from a plan: steps, pairs, and networks that start where they should."""
from __future__ import annotations

from dataclasses import astuple, replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from sr_keras import networks
from sr_keras.config import GeneratorOptions, Objective, StageOptions
from sr_keras.model.loading import eight_bit, load_generator, load_keras
from sr_keras.training.plan import adam, build_gan, start_from
from sr_keras.training.stages import train_stages

from .conftest import PLAIN, ROOT, assert_same


@pytest.mark.parametrize(("given", "steps"), [(None, 64), (5, 5)])
def test_an_epoch_is_one_pass_over_the_patches_unless_its_steps_are_given(given, steps, plan):
    assert plan(PLAIN, (0, 1, 0), steps_per_epoch=given).steps == steps  # 128 patches, two a batch


def test_validation_pairs_are_as_many_as_asked_for_and_known_beforehand(plan):
    batches = plan(PLAIN, (0, 1, 0), val_patches=6).validation_pairs()
    assert int(batches.cardinality()) == 2
    assert [(lr.shape, hr.shape) for lr, hr in batches] == [((n, 8, 8, 3), (n, 32, 32, 3)) for n in (4, 2)]


def test_process_that_does_not_lead_writes_to_a_folder_that_is_gone_afterwards(plan):
    asked = plan(PLAIN, (0, 1, 0))
    with asked.written() as folder:
        assert folder == asked.run
    with replace(asked, leads=False).written() as folder:
        assert folder.is_dir()
        assert folder != asked.run
    assert not folder.exists()


@pytest.mark.parametrize("size", [(4, 2, 4), (4, 3, 5), (4, 3, 3), (2, 3, 4)])
def test_generator_of_another_scale_or_tail_or_with_more_blocks_or_filters_is_refused(size, tmp_path):
    networks.generator(4, 3, 4).save(tmp_path / "generator.keras")
    with pytest.raises(ValueError, match=r"give --scale=4 --tail_filters=4 --filters=4 --blocks=3, or more"):
        start_from(networks.generator(*size), tmp_path / "generator.keras")


def test_generator_with_a_narrow_tail_is_continued_and_named_where_it_does_not_fit(plan, randomised, tmp_path):
    narrow = randomised(networks.generator(4, 1, 4, tail_filters=2))
    narrow.save(tmp_path / "narrow.keras")
    with pytest.raises(ValueError, match=r"give --scale=4 --tail_filters=2 --filters=4 --blocks=1, or more"):
        start_from(networks.generator(4, 1, 4), tmp_path / "narrow.keras")
    size = GeneratorOptions(blocks=1, filters=4, tail_filters=2)
    ours = networks.generator(*astuple(size))
    start_from(ours, tmp_path / "narrow.keras")
    assert_same(ours.get_weights(), narrow.get_weights())
    asked = plan(PLAIN, (0, 1, 0), generator=str(tmp_path / "narrow.keras"), ema_decay=0.0)
    learned = load_keras(train_stages(replace(asked, generator=size)))
    assert learned.get_layer("last").kernel.shape == (9, 9, 2, 3)
    assert np.abs(learned.get_layer("up2_conv").kernel - narrow.get_layer("up2_conv").kernel).max() > 0


def test_a_generator_trained_without_the_skip_is_refused_with_it(randomised, tmp_path):
    randomised(networks.generator(4, 1, 4, global_skip=False)).save(tmp_path / "plain.keras")
    with pytest.raises(ValueError, match=r"`generator` must give the same output as before; set --noglobal_skip"):
        start_from(networks.generator(4, 1, 4), tmp_path / "plain.keras")


def test_a_deepened_generator_starts_where_the_trained_one_ended_and_its_new_blocks_learn(plan, randomised, tmp_path):
    trained, deeper = randomised(networks.generator(4, 1, 4)), networks.generator(4, 3, 4)
    trained.save(tmp_path / "generator.keras")
    start_from(deeper, tmp_path / "generator.keras")
    lr = np.random.default_rng(1).random((2, 9, 12, 3), np.float32)
    np.testing.assert_allclose(deeper(lr, training=False), trained(lr, training=False), atol=1e-6)
    asked = plan(PLAIN, (0, 2, 0), generator=str(tmp_path / "generator.keras"), ema_decay=0.0)
    learned = load_keras(train_stages(replace(asked, generator=GeneratorOptions(blocks=3, filters=4))))
    for name in ("block2_norm2", "block3_norm2"):
        assert np.abs(learned.get_layer(name).gamma).min() > 0 == np.abs(deeper.get_layer(name).gamma).max()


def test_a_widened_generator_starts_where_the_trained_one_ended_and_its_new_filters_learn(plan, randomised, tmp_path):
    trained, wider = randomised(networks.generator(4, 1, 4)), networks.generator(4, 2, 6, tail_filters=4)
    trained.save(tmp_path / "generator.keras")
    start_from(wider, tmp_path / "generator.keras")
    lr = np.random.default_rng(1).random((2, 9, 12, 3), np.float32)
    np.testing.assert_allclose(wider(lr, training=False), trained(lr, training=False), atol=1e-6)
    asked = plan(PLAIN, (0, 2, 0), generator=str(tmp_path / "generator.keras"), ema_decay=0.0)
    learned = load_keras(train_stages(replace(asked, generator=GeneratorOptions(blocks=2, filters=6, tail_filters=4))))
    unread = wider.get_layer("up1_conv").kernel.numpy()[:, :, 4:]
    assert not unread.any()
    assert np.abs(learned.get_layer("up1_conv").kernel.numpy()[:, :, 4:]).min() > 0


def test_seed_draws_the_same_discriminator_wherever_the_generator_comes_from(plan, tmp_path):
    networks.generator(4, 1, 4).save(tmp_path / "generator.keras")
    asked, drawn = plan(Objective(lambda_m=0.0), (0, 0, 1)), []
    for start in (None, tmp_path / "generator.keras"):
        keras.utils.set_random_seed(1)
        gan = build_gan(asked, asked.options.stages[2], asked.objective, start)
        drawn.append(gan.discriminator.get_weights())
    assert_same(*drawn)


def test_training_goes_on_from_a_shipped_saved_model():
    shipped = ROOT / "saved_models" / "srgan_sqe_x4_light"
    ours = networks.generator(4, 8, 24, tail_filters=8)
    start_from(ours, shipped)
    lr = np.random.default_rng(2).integers(0, 256, (1, 16, 24, 3), np.uint8)
    np.testing.assert_allclose(eight_bit(ours)(lr), load_generator(shipped)(lr), atol=1)


@pytest.mark.parametrize(("rise_steps", "first", "highest_at"), [(100, 0.0, 100), (0, 1e-3, 0), (5000, 0.0, 200)])
def test_learning_rate_rises_then_falls_to_a_hundredth(tmp_path, rise_steps, first, highest_at):
    plan = SimpleNamespace(steps=200, options=SimpleNamespace(rise_steps=rise_steps))
    stage = StageOptions("warmup", 10, 1e-3)
    rate = adam(stage.learning_rate, plan, stage)._learning_rate
    rates = [float(rate(step)) for step in range(2001)]
    assert rates[0] == pytest.approx(first)
    assert int(np.argmax(rates)) == highest_at
    assert max(rates) == pytest.approx(1e-3)
    assert rates[2000] == pytest.approx(1e-5)
