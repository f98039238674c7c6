# SPDX-License-Identifier: Apache-2.0
"""Run the three stages: autoencoder, generator warm-up, adversarial.

Each stage starts from the files of the one before, trains with `fit`, and writes the best of its epochs as STAGE.keras.
That file marks the stage as done. A resumed run skips it, and so uses the same files as an uninterrupted one.
"""
from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipelines.errors import UserError, require
from pipelines.files import atomic_path, write_text
from pipelines.shards.records import damage_named
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
from sr_keras.training.manifold import code_movement, denoising, in_words
from sr_keras.training.plan import VALIDATION_BATCH, Plan
from sr_keras.training.stage_models import build_autoencoder, build_gan

MEASURED = 16  # validation patches on which the movement of the code is measured


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
            _stage(plan, autoencoder, partial(build_autoencoder, plan), _save_autoencoder)
        _measure_manifold(plan)
    # The warm-up has neither discriminator nor, as in SRGAN, the costly features.
    calm = replace(plan.objective, lambda_d=0.0, lambda_v=0.0)
    for stage, objective in ((warmup, calm), (adversarial, plan.objective)):
        if stage.epochs:
            final = _stage(plan, stage, partial(build_gan, plan, stage, objective, final), _save_generator)
    if final is None:
        raise ValueError("at least one stage must train or be given a generator; set warmup_epochs or "
                         "adversarial_epochs. Received: warmup_epochs=0, adversarial_epochs=0")
    done = plan.run / "generator.keras"
    if not done.exists():
        with atomic_path(done) as temporary:
            temporary.write_bytes(final.read_bytes())
    return done


def _stage(plan: Plan, stage: StageOptions, build: Callable[[], keras.Model],
           save: Callable[[keras.Model, Path], None]) -> Path:
    """Train one stage unless it is done, and return the file of its best epoch."""
    done = plan.run / f"{stage.name}.keras"
    if done.exists():
        print(f"{stage.name}: already trained, skipped")
        return done
    keras.utils.set_random_seed(_seed(plan.options.seed, stage))
    with _strategy(plan.options).scope():
        model = build()
    state = restore_checkpoint(plan.run, stage.name, model)
    if state.epoch:
        print(f"{stage.name}: continues after epoch {state.epoch} of {stage.epochs}")
    if state.epoch < stage.epochs:
        with damage_named((*plan.train.paths, *plan.val.paths)), _out_of_memory_named(plan.options):
            _fit(plan, stage, model, state)
        state = restore_checkpoint(plan.run, stage.name, model)
    load_checkpoint(plan.run, stage.name, state.best_epoch, model)
    with atomic_path(done) as temporary:
        save(model, temporary)
    return done


def _fit(plan: Plan, stage: StageOptions, model: keras.Model, state: State) -> None:
    generates = isinstance(model, SuperResolutionGAN)
    best_by = plan.options.best_by
    score, higher = (f"val_{best_by}", BEST_BY[best_by]) if generates else ("val_loss", False)
    if best_by == "last":
        score, higher = "epoch", True
    pairs, validation = plan.training_pairs(state.epoch), plan.validation_pairs()
    picture = comparison(model, validation, plan.degrade.scale) if generates else None
    if not generates:
        images, validation = pairs.map(lambda lr, hr: hr), validation.map(lambda lr, hr: (hr, hr))
        pairs = denoising(images, plan.options.seed, state.epoch * plan.steps)
    progress = Progress(stage.name, stage.epochs, plan.steps, state.epoch, score)
    try:
        model.fit(pairs, steps_per_epoch=plan.steps, initial_epoch=state.epoch, epochs=stage.epochs, verbose=0,
                  shuffle=False, validation_data=validation, callbacks=[
                      Guard(stage.name, plan.run), progress,
                      Record(plan.run, stage.name, state, score, higher, plan.options.keep_checkpoints, picture)])
    finally:
        progress.close()


def _measure_manifold(plan: Plan) -> None:
    """Print and write to the run folder how far the code moves with corruptions of validation patches."""
    path = plan.run / "manifold.json"
    if not path.exists():
        batches = plan.validation_pairs().take(MEASURED // VALIDATION_BATCH).as_numpy_iterator()
        movement = code_movement(plan.encoder(), np.concatenate([hr for _, hr in batches]))
        write_text(path, json.dumps(movement, indent=2) + "\n")
        print(f"autoencoder: {in_words(movement)}")


def _save_autoencoder(model: keras.Model, path: Path) -> None:
    model.save(path, include_optimizer=False)


def _save_generator(model: keras.Model, path: Path) -> None:
    model.best_generator.save(path)


def _seed(seed: int, stage: StageOptions) -> int:
    """Return a seed of its own for each stage, in the 32 bits that NumPy takes."""
    return zlib.crc32(f"{seed} {stage.name}".encode())


def _strategy(options: TrainOptions) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy() if options.strategy == "mirrored" else tf.distribute.get_strategy()


@contextmanager
def _out_of_memory_named(options: TrainOptions) -> Iterator[None]:
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if "alloc" not in error.message:  # a full disk gives the same error
            raise
        raise UserError("`batch_size` must fit in memory; choose a smaller one, or a smaller crop_size. "
                        f"Received: batch_size={options.batch_size}") from error
