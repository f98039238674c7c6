# SPDX-License-Identifier: Apache-2.0
"""SuperResolutionGAN: the objective of the paper as a Keras model that `fit` trains.

    min_G max_D  L_F + lambda_m L_M + lambda_s L_S + lambda_d L_D + lambda_v L_V + lambda_c L_C

    model = SuperResolutionGAN.from_preset("srgan_sqe", scale=4)
    model.fit(training_dataset("shards", epochs=10))  # or any dataset of (lr, hr), see `pipelines.dataset`
    sr = model.predict(lr)                            # [B, h, w, 3] -> [B, scale*h, scale*w, 3], float32 in [0, 1]

One step, in this order:

1. G super-resolves lr, once.
2. D learns to tell hr from sr, in one batch of both. In two batches, batch normalisation would give hr and sr the same
   mean and variance, and the global average after it would see almost nothing of what differs.
3. G learns against the D that has just learned, by the non-saturating loss. sr is judged beside hr again, so that it is
   normalised as in 2; D's moving statistics are not updated a second time.
4. The moving average of G is updated: weights and batch-norm statistics.

A term of weight zero is not computed, so it can't turn the sum into NaN.

Source: paper, section 2.2; alternation and non-saturating loss: Goodfellow et al. 2014, algorithm 1 and section 3.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from pipelines.errors import require
from pipelines.pixels import quantise
from sr_keras import losses, metrics, networks
from sr_keras.config import METHODS, Objective
from sr_keras.layers import FewChannelConv2D

TERMS = ("fidelity", "manifold", "structural", "adversarial", "feature", "consistency")
SCORES: dict[str, Callable[..., tf.Tensor]] = {
    score.__name__: score for score in (metrics.psnr, metrics.rrmse, metrics.ssim, metrics.qilv, metrics.ms_ssim)}
LOGS = ("loss", *TERMS, *(f"weighted_{term}" for term in TERMS), "discriminator_loss", "d_hr", "d_sr",
        "d_accuracy", *SCORES)


@keras.saving.register_keras_serializable("sr_keras")
class SuperResolutionGAN(keras.Model):
    """Train `generator` by the objective; without a discriminator, the generator's warm-up.

    Calling the model super-resolves with `best_generator`. Saving to .keras keeps every network, both optimizers and
    the average; so does `load_weights` into a model that was built and compiled alike.

    Args:
        generator: lr -> sr.
        discriminator: image -> probability, made by `networks.discriminator`; needed by lambda_d > 0.
        encoder: image -> code; needed by lambda_m > 0. It is frozen.
        features: image -> features; needed by lambda_v > 0. It is frozen.
        ema_decay: Decay of the generator's exponential moving average, in [0, 1); 0 for none.
        blur_sigma: Blur by which the textbook degradation made lr of hr; needed by lambda_c > 0.
        freeze_statistics: Whether G is normalised by its moving statistics during training, without updating them.
            It then learns what inference computes, whatever degradations a batch mixes.
    """

    def __init__(self, generator: keras.Model, discriminator: keras.Model | None = None,
                 encoder: keras.Model | None = None, features: keras.Model | None = None,
                 ema_decay: float = 0.0, blur_sigma: float | None = None, freeze_statistics: bool = False,
                 **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})
        require(0 <= ema_decay < 1, "ema_decay", "lie in [0, 1)", "0 turns the average off", ema_decay)
        self.generator, self.ema_decay = generator, ema_decay
        self.blur_sigma: Any = blur_sigma
        self.freeze_statistics = freeze_statistics
        for layer in generator.layers if freeze_statistics else ():
            if isinstance(layer, FewChannelConv2D):
                layer.trains = True
        self.discriminator: Any = discriminator
        # A partial function hides the logits from Keras, which would save the same layers twice.
        self._judge: Any = discriminator and partial(_judge, networks.logits_of(discriminator))
        self.encoder: Any = encoder
        self.features: Any = features
        self.ema_generator: Any = None
        if ema_decay:
            self.ema_generator = keras.models.clone_model(generator)
            self.ema_generator.set_weights(generator.get_weights())
        for frozen in (self.encoder, self.features, self.ema_generator):
            if frozen is not None:
                frozen.trainable = False
        self.trackers = {name: keras.metrics.Mean(name=name) for name in LOGS}
        self.added_metrics: list[keras.metrics.Metric] = []
        self.built = True  # all networks are

    @classmethod
    def from_preset(cls, method: str = "srgan_sqe", scale: int = 4, *, blocks: int = 16, filters: int = 64,
                    encoder: keras.Model | None = None, features: keras.Model | None = None,
                    ema_decay: float = 0.999, learning_rate: float = 1e-4) -> SuperResolutionGAN:
        """Build and compile a model of one of the paper's four methods.

        Args:
            method: A key of `sr_keras.config.METHODS`.
            scale: As in `networks.generator`, like `blocks` and `filters`.
            blocks: Residual blocks.
            filters: Channels of the inner convolutions.
            encoder: A trained encoder, the layer "encoder" of `networks.autoencoder`. Without one the manifold term is
                left out (lambda_m = 0).
            features: `features.vgg_features(...)`, needed by the method srgan.
            ema_decay: As in the class.
            learning_rate: Of both Adam optimizers.
        """
        require(method in METHODS, "method", f"be one of {tuple(METHODS)}", "srgan_sqe is the default", method)
        objective = METHODS[method] if encoder is not None else replace(METHODS[method], lambda_m=0.0)
        model = cls(networks.generator(scale, blocks, filters), networks.discriminator(),
                    encoder if objective.lambda_m else None, features, ema_decay)
        model.compile(keras.optimizers.Adam(learning_rate), keras.optimizers.Adam(learning_rate), objective)
        return model

    @property
    def best_generator(self) -> keras.Model:
        """The generator to evaluate and keep: the moving average if there is one."""
        return self.ema_generator or self.generator

    def call(self, lr: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Super-resolve: lr [B, h, w, 3] -> sr [B, scale*h, scale*w, 3], not clipped."""
        return self.best_generator(lr, training=False)

    def compile(self, generator_optimizer: keras.optimizers.Optimizer,
                discriminator_optimizer: keras.optimizers.Optimizer | None = None,
                objective: Objective | None = None, jit_compile: bool | str = "auto", run_eagerly: bool = False,
                steps_per_execution: int = 1, metrics: Any = ()) -> None:
        """Set the objective and the optimizers. Both optimizers are built here, so that their state can be loaded.

        Args:
            generator_optimizer: Optimizer of the generator.
            discriminator_optimizer: Optimizer of the discriminator; needed by lambda_d > 0.
            objective: Weights, q, epsilon and reduction; SRGAN_SQE's by default.
            jit_compile: Whether XLA compiles the steps. "auto" is Keras' choice: yes on a GPU, no on a CPU, where XLA
                is slower (`python -m benchmarks.model`). Never with several devices, whose variables XLA can't reach.
            run_eagerly: As in `keras.Model.compile`, like the next.
            steps_per_execution: Steps in one call of the graph.
            metrics: Keras metrics of (hr, sr), such as `sr_keras.metrics.PSNR()`: one or several, for the logs of
                training (sr as the learning network gives it) and of validation (the images of `test_step`).

        Raises:
            ValueError: A weight is positive and the network, optimizer or blur that it needs is missing.
        """
        objective = objective or Objective()
        for weight, needed in (("lambda_m", "encoder"), ("lambda_d", "discriminator"), ("lambda_v", "features"),
                               ("lambda_c", "blur_sigma")):
            require(not getattr(objective, weight) or getattr(self, needed) is not None, weight,
                    f"be 0 without {needed}", f"give SuperResolutionGAN its {needed}", getattr(objective, weight))
        require(not objective.lambda_d or discriminator_optimizer is not None, "discriminator_optimizer",
                "be given when lambda_d > 0", "give an optimizer, or lambda_d of 0", None)
        one_device = tf.distribute.get_strategy().num_replicas_in_sync == 1
        super().compile(optimizer=generator_optimizer, jit_compile=one_device and jit_compile,
                        run_eagerly=run_eagerly, steps_per_execution=steps_per_execution)
        self.objective = objective
        self.added_metrics.clear()  # Keras forgets those of an earlier call
        self.added_metrics.extend(map(_metric_of, keras.tree.flatten(metrics or ())))
        self.optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer: Any = None
        if objective.lambda_d:
            optimizer, scaled = keras.optimizers.get(discriminator_optimizer), keras.optimizers.LossScaleOptimizer
            if self.dtype_policy.name == "mixed_float16" and not isinstance(optimizer, scaled):
                optimizer = scaled(optimizer)  # as Keras does with that of the generator
            optimizer.build(self.discriminator.trainable_variables)
            self.discriminator_optimizer = optimizer

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does. A dataset without end needs `steps_per_epoch`."""
        endless = isinstance(x, tf.data.Dataset) and x.cardinality() == tf.data.INFINITE_CARDINALITY
        require(not endless or "steps_per_epoch" in kwargs, "steps_per_epoch",
                "be given for a dataset without end", "give it, or training_dataset(..., epochs=...)", None)
        return super().fit(x, *args, **kwargs)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Update D, then G, then the average of G, on one batch; return the means of the epoch so far."""
        lr, hr = _pair_of(data)
        with _watching(self.generator) as tape:
            sr = self.generator(lr, training=not self.freeze_statistics)
            judged = self._train_discriminator(hr, tf.stop_gradient(sr)) if self.objective.lambda_d else {}
            terms = self._terms(lr, hr, sr)
            weighted = {f"weighted_{name}": weight * value for name, (weight, value) in terms.items()}
            loss = tf.add_n(list(weighted.values()))
            scaled = _scaled(self.optimizer, loss)
        variables = self.generator.trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        if self.ema_generator is not None:
            self._update_average()
        logs = {"loss": loss, **{name: value for name, (_, value) in terms.items()}, **weighted, **judged}
        return self._track(logs, hr, sr)

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Score the 8-bit images that `best_generator` makes of one batch; return the means so far."""
        lr, hr = _pair_of(data)
        sr = quantise(self.best_generator(lr, training=False))
        sides = [side or 0 for side in hr.shape[1:3]]
        return self._track({name: score(hr, sr) for name, score in SCORES.items()
                            if name != "ms_ssim" or min(sides) >= metrics.MS_SSIM_SIDE}, hr, sr)

    def _terms(self, lr: tf.Tensor, hr: tf.Tensor, sr: tf.Tensor) -> dict[str, tuple[float, tf.Tensor]]:
        """Return (weight, value [B]) of the terms whose weight is not zero, the paper's first."""
        o = self.objective
        robust = partial(losses.quasi_norm, q=o.q, epsilon=o.epsilon, reduction=o.reduction)
        terms: dict[str, tuple[float, Callable[[], tf.Tensor]]] = {
            "fidelity": (1.0, lambda: robust(sr - hr)),
            "manifold": (o.lambda_m, lambda: robust(self.encoder(sr) - self.encoder(hr))),
            "structural": (o.lambda_s, lambda: losses.structural(hr, sr, o.reduction)),
            "adversarial": (o.lambda_d, lambda: losses.adversarial_generator(self._judge(hr, sr, False)[1])),
            "feature": (o.lambda_v, lambda: losses.feature(self.features(hr), self.features(sr))),
            "consistency": (o.lambda_c, lambda: losses.consistency(lr, sr, self.blur_sigma, o.reduction)),
        }
        return {name: (weight, value()) for name, (weight, value) in terms.items() if weight}

    def _train_discriminator(self, hr: tf.Tensor, sr: tf.Tensor) -> dict[str, tf.Tensor]:
        with _watching(self.discriminator) as tape:
            logits_hr, logits_sr = self._judge(hr, sr, True)
            loss = losses.adversarial_discriminator(logits_hr, logits_sr)
            scaled = _scaled(self.discriminator_optimizer, loss)
        variables = self.discriminator.trainable_variables
        self.discriminator_optimizer.apply(tape.gradient(scaled, variables), variables)
        right = tf.concat([logits_hr > 0, logits_sr < 0], axis=0)
        return {"discriminator_loss": loss, "d_hr": tf.sigmoid(logits_hr), "d_sr": tf.sigmoid(logits_sr),
                "d_accuracy": tf.cast(right, tf.float32)}

    def _update_average(self) -> None:
        # The ramp of tf.train.ExponentialMovingAverage, so that a short run does not average in its start.
        steps = tf.cast(self.optimizer.iterations, tf.float32)
        keep = tf.minimum(self.ema_decay, (1 + steps) / (10 + steps))
        for average, value in zip(self.ema_generator.variables, self.generator.variables, strict=True):
            average.assign(value + keep * (average - value))

    def _track(self, values: dict[str, tf.Tensor], hr: tf.Tensor, sr: tf.Tensor) -> dict[str, tf.Tensor]:
        for name, value in values.items():
            self.trackers[name].update_state(value)
        for metric in self.added_metrics:
            metric.update_state(hr, sr)
        return {metric.name: metric.result() for metric in (*map(self.trackers.get, values), *self.added_metrics)}

    def get_config(self) -> dict[str, Any]:
        parts = {"generator": self.generator, "discriminator": self.discriminator, "encoder": self.encoder,
                 "features": self.features, "dtype": self.dtype_policy}
        return {"name": self.name, "ema_decay": self.ema_decay, "blur_sigma": self.blur_sigma,
                "freeze_statistics": self.freeze_statistics,
                **{name: part and keras.saving.serialize_keras_object(part) for name, part in parts.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SuperResolutionGAN:
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})

    def get_compile_config(self) -> dict[str, Any]:
        serialize, judge_optimizer = keras.saving.serialize_keras_object, self.discriminator_optimizer
        return {"generator_optimizer": serialize(self.optimizer),
                "discriminator_optimizer": judge_optimizer and serialize(judge_optimizer),
                "objective": asdict(self.objective), "jit_compile": self.jit_compile, "run_eagerly": self.run_eagerly,
                "steps_per_execution": self.steps_per_execution,
                "metrics": [serialize(metric) for metric in self.added_metrics]}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        found = {**config, "objective": Objective(**config["objective"])}
        for name in {"generator_optimizer", "discriminator_optimizer", "metrics"} & set(config):
            found[name] = keras.saving.deserialize_keras_object(config[name])
        self.compile(**found)


def _metric_of(metric: Any) -> keras.metrics.Metric:
    found = keras.metrics.get(metric)
    if isinstance(found, keras.metrics.Metric):
        return found
    return keras.metrics.MeanMetricWrapper(found, getattr(found, "__name__", type(found).__name__))


def _pair_of(data: Any) -> tuple[tf.Tensor, tf.Tensor]:
    lr, hr, weight = keras.utils.unpack_x_y_sample_weight(data)
    require(hr is not None, "y", "be the HR images", "give batches of (lr, hr)", None)
    require(weight is None, "sample_weight", "be left out", "every image has the same weight: repeat those that should "
            "count more", getattr(weight, "shape", None))
    return lr, hr


def _judge(logits_of: keras.Model, hr: tf.Tensor, sr: tf.Tensor, update: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the logits of hr and sr, normalised as one batch; `update` says whether moving statistics are updated."""
    both = tf.concat([hr, sr], axis=0)
    logits = logits_of(both, training=True) if update else logits_of.stateless_call(
        logits_of.trainable_variables, logits_of.non_trainable_variables, both, training=True)[0]
    logits_hr, logits_sr = tf.split(logits, 2)
    return logits_hr, logits_sr


@contextmanager
def _watching(network: keras.Model) -> Iterator[tf.GradientTape]:
    """Record gradients of this network's weights alone, not of frozen or opposing networks."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([variable.value for variable in network.trainable_variables])
        yield tape


def _scaled(optimizer: keras.optimizers.Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """Return the scalar to differentiate: gradients of replicas are summed, and float16 needs the optimizer's scale."""
    return optimizer.scale_loss(tf.reduce_mean(loss) / tf.distribute.get_strategy().num_replicas_in_sync)
