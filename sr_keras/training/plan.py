# SPDX-License-Identifier: Apache-2.0
"""The plan of a run: everything a stage needs to know, and the data that follows from it."""
from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from pipelines.config import CorruptOptions, DegradeOptions
from pipelines.dataset import evaluation_dataset, training_dataset
from pipelines.shards import ShardSet
from sr_keras import networks
from sr_keras.config import GeneratorOptions, Objective, TrainOptions
from sr_keras.model.loading import load_weights

VALIDATION_BATCH = 4


@dataclass(frozen=True)
class Plan:
    """The options of a run and its shards."""

    run: Path
    options: TrainOptions
    objective: Objective
    generator: GeneratorOptions
    degrade: DegradeOptions
    corrupt: CorruptOptions
    train: ShardSet
    val: ShardSet

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return self.options.steps_per_epoch or max(1, self.train.count // self.options.batch_size)

    @property
    def blur_sigma(self) -> float | None:
        """The blur of the textbook degradation; None if some LR is real or made in another way."""
        sigma, real = self.degrade.blur_sigma, self.train.pairs.shards and self.options.pair_share
        return None if isinstance(sigma, tuple) or real or not self.degrade.is_textbook else sigma

    def training_pairs(self, first_epoch: int) -> tf.data.Dataset:
        """Return endless batches of (lr, hr) that begin with an epoch."""
        options = self.options
        return training_dataset(
            self.train, batch_size=options.batch_size, crop_size=options.crop_size, steps_per_epoch=self.steps,
            first_epoch=first_epoch, degrade=self.degrade, corrupt=self.corrupt, cache=options.cache,
            shrink=options.shrink, pair_share=options.pair_share, recolour=options.recolour, seed=options.seed)

    def validation_pairs(self) -> tf.data.Dataset:
        """Return the batches of (lr, hr) on which every epoch is scored."""
        limit = self.options.val_patches
        examples = evaluation_dataset(self.val, batch_size=VALIDATION_BATCH, degrade=self.degrade, limit=limit)
        batches = math.ceil(min(limit, self.val.count) / VALIDATION_BATCH)
        pairs = examples.map(lambda example: (example["lr"], example["hr"])).cache()
        return pairs.apply(tf.data.experimental.assert_cardinality(batches))  # Keras warns if it has to count

    def encoder(self) -> keras.Model:
        """Return the trained encoder of the manifold term."""
        autoencoder = networks.autoencoder()
        load_weights(autoencoder, Path(self.options.autoencoder or self.run / "autoencoder.keras"))
        return autoencoder.get_layer("encoder")
