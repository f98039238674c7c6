# SPDX-License-Identifier: Apache-2.0
"""Run the three stages: autoencoder, generator warm-up, adversarial.

Each stage starts from the files of the one before, trains with `fit`, and writes the best of its epochs as STAGE.keras.
That file marks the stage as done. A resumed run skips it, and so uses the same files as an uninterrupted one.

The autoencoder learns to remove noise, so that noise hardly moves its code; `code_movement` measures how far it does.
"""
from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipelines.corrupt import blur, contrast, noise
from pipelines.errors import UserError, require
from pipelines.files import atomic_path, side_product, write_text
from pipelines.shards.records import batches_of, damage_named, fold
from sr_keras.config import BEST_BY, StageOptions, TrainOptions
from sr_keras.gan import SuperResolutionGAN
from sr_keras.training.callbacks import (
    Guard,
    Progress,
    Record,
    State,
    comparison,
    load_checkpoint,
    restore_checkpoint,
)
from sr_keras.training.plan import VALIDATION_BATCH, Plan, build_autoencoder, build_gan
from sr_keras.training.several import fit, strategy_of, wait_for_all

MEASURED = 16  # validation patches on which the movement of the code is measured
# Largest standard deviation, on [0, 1] images, of the noise that the autoencoder learns to remove. On H&E after 1,000
# steps the code moves 0.18 with noise, 0.36 with blur, 0.29 with contrast and 0.32 with the errors of SR; trained
# without noise 0.25, 0.34, 0.28 and 0.33. With 0.4 it moved a third less with the errors of SR.
MOST_NOISE = 0.2
_NOISE = 100  # purpose of a random number; pipelines.dataset uses smaller ones
MOVED_BY: dict[str, Callable[..., tf.Tensor]] = {"noise": noise, "blur": blur, "contrast": contrast}


def train_stages(plan: Plan) -> Path:
    """Train the stages that are not done and return the path of the best generator of the last stage.

    Raises:
        ValueError: The options of the stages contradict each other.
    """
    require(not plan.objective.lambda_c or plan.blur_sigma is not None, "lambda_c",
            "be 0 unless all LR is made by the textbook degradation",
            "give --degradation=textbook and no pairs or --pair_share=0, or leave it out", plan.objective.lambda_c)
    autoencoder, warmup, adversarial = plan.options.stages
    final = Path(plan.options.generator) if plan.options.generator else None
    if plan.objective.lambda_m:
        if not plan.options.autoencoder:
            _stage(plan, autoencoder, partial(build_autoencoder, plan))
        if plan.leads:
            _measure_manifold(plan)
    # The warm-up has neither discriminator nor, as in SRGAN, the costly features.
    calm = replace(plan.objective, lambda_d=0.0, lambda_v=0.0)
    for stage, objective in ((warmup, calm), (adversarial, plan.objective)):
        if stage.epochs:
            final = _stage(plan, stage, partial(build_gan, plan, stage, objective, final))
    done = plan.run / "generator.keras"
    if final and plan.leads and not done.exists():
        with atomic_path(done) as temporary:
            shutil.copyfile(final, temporary)
    return done


def _stage(plan: Plan, stage: StageOptions, build: Callable[[], keras.Model]) -> Path:
    """Train one stage unless it is done, and return the file of its best epoch."""
    done = plan.run / f"{stage.name}.keras"
    if done.exists():
        _say(plan, f"{stage.name}: already trained, skipped")
        return done
    keras.utils.set_random_seed(_seed(plan.options.seed, stage))
    strategy = strategy_of(plan.options.strategy)
    with strategy.scope():
        model = build()
    state = restore_checkpoint(plan.run, stage.name, model)
    if state.epoch:
        _say(plan, f"{stage.name}: continues after epoch {state.epoch} of {stage.epochs}")
    if state.epoch < stage.epochs:
        with damage_named((*plan.train.shards, *plan.val.shards)), _out_of_memory_named(plan.options):
            _fit(plan, stage, model, state)
    if plan.leads:
        state = restore_checkpoint(plan.run, stage.name, model)
        load_checkpoint(plan.run, stage.name, state.best_epoch, model)
        with atomic_path(done) as temporary:
            trained = model.best_generator if isinstance(model, SuperResolutionGAN) else model
            trained.save(temporary, include_optimizer=False)
    wait_for_all(strategy)  # before another worker reads what this one wrote
    return done


def _say(plan: Plan, text: str) -> None:
    if plan.leads:
        print(text)


def _fit(plan: Plan, stage: StageOptions, model: keras.Model, state: State) -> None:
    generates = isinstance(model, SuperResolutionGAN)
    best_by = plan.options.best_by
    score, higher = (f"val_{best_by}", BEST_BY[best_by]) if generates else ("val_loss", False)
    if best_by == "last":
        score, higher = "epoch", True
    validation = plan.validation_pairs()
    picture = comparison(model, validation, plan.degrade.scale) if generates else None
    if not generates:
        validation = validation.map(lambda lr, hr: (hr, hr))

    def pairs_of(share: tuple[int, int]) -> tf.data.Dataset:
        pairs = plan.training_pairs(state.epoch, share)
        return pairs if generates else denoising(pairs.map(lambda lr, hr: hr), plan.options.seed,
                                                 state.epoch * plan.steps, share)

    progress = Progress(stage.name, stage.epochs, plan.steps, state.epoch, score, shown=plan.leads)
    with closing(progress), plan.written() as run:
        callbacks = [Guard(stage.name, plan.run, plan.leads), progress,
                     Record(run, stage.name, state, score, higher, plan.options.keep_checkpoints, picture)]
        if plan.options.strategy == "none":
            model.fit(pairs_of((0, 1)), steps_per_epoch=plan.steps, initial_epoch=state.epoch, epochs=stage.epochs,
                      verbose=0, shuffle=False, validation_data=validation, callbacks=callbacks)
        else:
            fit(model, strategy_of(plan.options.strategy), pairs_of, validation, batch_size=plan.options.batch_size,
                steps=plan.steps, first_epoch=state.epoch, epochs=stage.epochs, callbacks=callbacks)


def _measure_manifold(plan: Plan) -> None:
    """Print and write to the run folder how far the code moves with corruptions of validation patches."""
    path = plan.run / "manifold.json"
    if not path.exists():
        batches = batches_of(plan.validation_pairs().take(MEASURED // VALIDATION_BATCH), plan.val)
        movement = code_movement(plan.encoder(), np.concatenate([hr for _, hr in batches]))
        with side_product(path):
            write_text(path, json.dumps(movement, indent=2) + "\n")
        print(f"autoencoder: {in_words(movement)}")


def _seed(seed: int, stage: StageOptions) -> int:
    """Return a seed of its own for each stage, in the 32 bits that NumPy takes."""
    return zlib.crc32(f"{seed} {stage.name}".encode())


@contextmanager
def _out_of_memory_named(options: TrainOptions) -> Iterator[None]:
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if "alloc" not in error.message:  # a full disk gives the same error
            raise
        raise UserError("`batch_size` must fit in memory; choose a smaller one, or a smaller crop_size. "
                        f"Received: batch_size={options.batch_size}") from error


def denoising(images: tf.data.Dataset, seed: int, first: int = 0, share: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """Return (noisy, good) of batches of good images, the autoencoder's training data.

    The noise is Gaussian, its standard deviation drawn for each image from 0 to MOST_NOISE. It follows from the seed
    and the position of the batch alone.

    Args:
        images: Batches, float32 [B, H, W, 3] in [0, 1].
        seed: Seed of the run.
        first: Position of the first batch; not 0 if the run is resumed.
        share: (i, n) if `images` are the i-th of n equal parts of each batch.

    Returns:
        Batches (noisy, good), both float32 [B, H, W, 3] in [0, 1].

    Source: Vincent et al. 2008, "Extracting and composing robust features with denoising autoencoders".
    """
    part, parts = share

    def pair_of(good: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        strengths, values = tf.unstack(tf.random.split(fold([seed, _NOISE], place), 2))
        count, sides = tf.shape(good)[0], tf.shape(good)[1:]
        own = slice(part * count, (part + 1) * count)  # of the noise of the whole batch
        strength = tf.random.stateless_uniform([count * parts, 1, 1, 1], strengths, 0.0, MOST_NOISE)[own]
        noise = tf.random.stateless_normal(tf.concat([[count * parts], sides], 0), values)[own]
        return tf.clip_by_value(good + strength * noise, 0.0, 1.0), good

    return tf.data.Dataset.zip(images, tf.data.Dataset.counter(first)).map(pair_of)


def code_movement(encoder: keras.Model, hr: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Measure how far the code moves with noise, blur and contrast of strength 1.

        movement = (rms(code(bad) - code(hr)) / std(code(hr))) / (rms(bad - hr) / std(hr))

    Both errors are relative to a spread, so codes of any scale can be compared. The manifold term is useful if noise,
    which hardly disturbs a reader, moves the code less than blur or false contrast of the same size.

    Args:
        encoder: image -> code, [B, H, W, 3] -> [B, h, w, C].
        hr: Good images, float32 [B, H, W, 3] in [0, 1]; a few are enough.
        seed: Seed of the corruptions.

    Returns:
        Movement for each corruption, 0 or more; 1 is as far as the pixels moved.

    Raises:
        ValueError: `hr` has one colour only.

    Source: paper, section 2.2, "Robust Manifold-Based Loss".
    """
    spread = float(np.std(hr))
    require(spread > 0, "hr", "be images of more than one colour", "give tissue", spread)
    code = np.asarray(encoder(hr, training=False))

    def movement(corrupt: Callable[..., tf.Tensor]) -> float:
        bad = np.stack([np.asarray(corrupt(tf.constant(image), 1.0, tf.constant([seed, i])))
                        for i, image in enumerate(hr)])
        moved = np.asarray(encoder(bad, training=False)) - code
        return float(_rms(moved) / np.std(code) / (_rms(bad - hr) / spread))

    return {kind: movement(corrupt) for kind, corrupt in MOVED_BY.items()}


def in_words(movement: dict[str, float]) -> str:
    """Return a movement as a line."""
    return ("the code moves, per unit of pixel error, "
            + ", ".join(f"{value:.2f} with {kind}" for kind, value in movement.items()))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
