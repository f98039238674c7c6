# SPDX-License-Identifier: Apache-2.0
"""Training on several devices, of one machine (`mirrored`) or of several (`multi_worker`), with the losses of one.

Every replica trains on its part of each batch. Gradients are summed and batch normalisation is synchronised, so a step
is that of one device within float error. `fit` does what `keras.Model.fit` does: Keras' own, in version 3.15, fails
under MultiWorkerMirroredStrategy, where it reduces tuples and scalars along an axis that they don't have.

All workers run the same program in the same order, since reading a metric of Keras sums it over the workers. Worker 0
writes the run folder; the others read it, and write what they must to a temporary folder.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import tensorflow as tf

from pipelines.errors import require


@cache
def strategy_of(name: str) -> tf.distribute.Strategy:
    """Return the strategy of this process. That of several workers must be made before TensorFlow computes anything."""
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy() if name == "mirrored" else tf.distribute.get_strategy()


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Return when every worker has come to this point."""
    if strategy.num_replicas_in_sync > 1:
        strategy.run(tf.function(lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.constant(1.0))))


def replica_batch(batch_size: int, strategy: tf.distribute.Strategy) -> int:
    """Return the size of each replica's part of a batch.

    Raises:
        ValueError: The batch can't be divided evenly.
    """
    replicas = strategy.num_replicas_in_sync
    require(batch_size % replicas == 0, "batch_size", f"be divisible by the {replicas} devices", "choose a multiple",
            batch_size)
    return batch_size // replicas


def fit(model: keras.Model, strategy: tf.distribute.Strategy, pairs: Callable[[tuple[int, int]], tf.data.Dataset],
        validation: tf.data.Dataset, *, batch_size: int, steps: int, first_epoch: int, epochs: int,
        callbacks: list[keras.callbacks.Callback]) -> None:
    """Train as `model.fit` does, with the same logs and callbacks, from epoch `first_epoch` on.

    The model was made and compiled in the scope of `strategy`, a MirroredStrategy or MultiWorkerMirroredStrategy.
    `pairs` maps (worker, workers) to endless batches of a worker's part of each batch; every replica scores all of
    `validation`; `batch_size` is that of all replicas together.

    Raises:
        ValueError: The batch can't be divided.
    """
    size = replica_batch(batch_size, strategy)

    def part_of(context: tf.distribute.InputContext) -> tf.data.Dataset:
        workers = context.num_input_pipelines
        part = pairs((context.input_pipeline_id, workers))
        return part if size * workers == batch_size else part.rebatch(size)

    batches = iter(strategy.distribute_datasets_from_function(part_of))
    train, test = _mean_logs(strategy, model.train_step), _mean_logs(strategy, model.test_step)
    listeners = keras.callbacks.CallbackList(callbacks, model=model, epochs=epochs, steps=steps)
    listeners.on_train_begin()
    for epoch in range(first_epoch, epochs):
        model.reset_metrics()
        listeners.on_epoch_begin(epoch)
        logs: dict[str, float] = {}
        for step in range(steps):
            listeners.on_train_batch_begin(step)
            logs = train(next(batches))
            listeners.on_train_batch_end(step, logs)
        model.reset_metrics()
        scores: dict[str, float] = {}
        for batch in validation:
            scores = test(batch)
        listeners.on_epoch_end(epoch, {**logs, **{f"val_{name}": value for name, value in scores.items()}})
    listeners.on_train_end()


def _mean_logs(strategy: tf.distribute.Strategy, step: Callable[[Any], dict[str, tf.Tensor]]
               ) -> Callable[[Any], dict[str, float]]:
    """Return a function that runs a step on every replica and returns the means of their logs."""
    names: list[str] = []

    def on_replica(batch: Any) -> tf.Tensor:
        logs = step(batch)
        names[:] = logs
        values = tf.stack([tf.cast(value, tf.float32) for value in logs.values()])
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, values)

    on_all = tf.function(lambda batch: strategy.run(on_replica, args=(batch,)), reduce_retracing=True)

    def run(batch: Any) -> dict[str, float]:
        values = strategy.experimental_local_results(on_all(batch))[0].numpy()
        return dict(zip(names, map(float, values), strict=True))

    return run
