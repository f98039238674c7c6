"""SuperResolutionGAN: the objective of the paper as a Keras model that `fit` trains.

    min_G max_D  L_F + lambda_m L_M + lambda_s L_S + lambda_d L_D + lambda_v L_V + lambda_c L_C

Batches are (lr [B, h, w, 3], hr [B, scale*h, scale*w, 3]), float32 in [0, 1]. A step, in order:

1. G super-resolves lr, once.
2. D learns to tell hr from sr, in one batch of both. Apart, each batch normalisation would give every channel of both
   the same mean and variance, and the global average behind it would see next to nothing of what differs.
3. G learns against the D that has just learned (alternating updates), by the non-saturating loss. sr is judged beside
   hr again, so that it is normalised as in 2; D's moving statistics are left alone: both have been counted in 2.
4. The average of G moves: weights and batch-norm statistics.

A term of weight zero is not computed, so it can't turn the sum into NaN either.

Source: paper, section 2.2; alternation and non-saturating loss: Goodfellow et al. 2014, algorithm 1 and section 3.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import keras
import tensorflow as tf

from pipelines.errors import require
from pipelines.pixels import quantise
from sr_keras import metrics
from sr_keras.config import Objective
from sr_keras.layers import FewChannelConv2D
from sr_keras.losses import (
    adversarial_discriminator,
    adversarial_generator,
    consistency,
    feature,
    quasi_norm,
    structural,
)

TERMS = ("fidelity", "manifold", "structural", "adversarial", "feature", "consistency")
SCORES: dict[str, Callable[..., tf.Tensor]] = {
    "psnr": metrics.psnr, "rrmse": metrics.rrmse, "ssim": metrics.ssim, "qilv": metrics.qilv,
    "ms_ssim": metrics.ms_ssim}

LOGS = ("loss", *TERMS, *(f"weighted_{term}" for term in TERMS), "discriminator_loss", "d_hr", "d_sr",
        "d_accuracy", *SCORES)
Judge = Callable[[tf.Tensor, tf.Tensor, bool], tuple[tf.Tensor, tf.Tensor]]


@keras.saving.register_keras_serializable("sr_keras")
class SuperResolutionGAN(keras.Model):
    """Train `generator` by the objective; without a discriminator, the generator's warm-up.

    Calling the model super-resolves with `best_generator`. Saving to .keras keeps every network, both optimizers and
    the average; so does `load_weights` into a model that was built and compiled alike.

    Args:
        generator: lr -> sr.
        discriminator: image -> probability, with a layer "logits"; needed by lambda_d > 0.
        encoder: image -> code; needed by lambda_m > 0. It is frozen.
        features: image -> features, needed by lambda_v > 0. It is frozen.
        ema_decay: of the generator's exponential moving average, in [0, 1); 0 for none.
        blur_sigma: by which the textbook's `degrade` made lr of hr; lambda_c > 0 makes lr of sr alike, and needs it.
            None where lr was made in another way.
        freeze_statistics: whether G is normalised by its moving statistics in training too, which stay as they are.
            What is learned is then what inference computes, whatever LR a batch holds: an image's degradation shifts
            its statistics, and a batch's are those of no image.
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
        self._judge: Any = discriminator and _judge_of(discriminator)
        self.encoder: Any = encoder
        self.features: Any = features
        self.ema_generator: Any = _copy(generator) if ema_decay else None
        for frozen in (self.encoder, self.features, self.ema_generator):
            if frozen is not None:
                frozen.trainable = False
        self.trackers = {name: keras.metrics.Mean(name=name) for name in LOGS}
        self.built = True  # every part is

    @property
    def best_generator(self) -> keras.Model:
        """The generator to evaluate and keep: its average where there is one."""
        return self.ema_generator or self.generator

    def call(self, lr: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Super-resolve: lr [B, h, w, 3] -> sr [B, scale*h, scale*w, 3], not clipped."""
        return self.best_generator(lr, training=False)

    def compile(self, generator_optimizer: keras.optimizers.Optimizer,
                discriminator_optimizer: keras.optimizers.Optimizer | None = None,
                objective: Objective | None = None, jit_compile: bool | str = "auto", **kwargs: Any) -> None:
        """Say what is minimised and how. Both optimizers are built here, so that their state can be loaded.

        Args:
            generator_optimizer: of the generator.
            discriminator_optimizer: of the discriminator; needed by lambda_d > 0.
            objective: weights, q, epsilon and reduction; SRGAN_SQE's by default.
            jit_compile: whether steps are compiled by XLA. "auto" is Keras' choice, on a GPU yes and on a CPU no; on a
                CPU the graph executor was measured to be faster (`python -m benchmarks.model`). Never under a
                strategy of several devices: XLA can't reach the variables of more than one (TensorFlow 2.21).
            **kwargs: of `keras.Model.compile`.

        Raises:
            ValueError: A weight is positive and the network, optimizer or blur that it needs is missing.
        """
        objective = objective or Objective()
        for weight, needed in (("lambda_m", "encoder"), ("lambda_d", "discriminator"), ("lambda_v", "features"),
                               ("lambda_c", "blur_sigma")):
            require(not getattr(objective, weight) or getattr(self, needed) is not None, weight,
                    f"be 0 without {needed}", f"give SuperResolutionGAN its {needed}", getattr(objective, weight))
        require(not objective.lambda_d or discriminator_optimizer is not None, "discriminator_optimizer",
                "be given when lambda_d > 0", "give an optimizer, or lambda_d of 0", discriminator_optimizer)
        one_device = tf.distribute.get_strategy().num_replicas_in_sync == 1
        super().compile(optimizer=generator_optimizer, jit_compile=one_device and jit_compile, **kwargs)
        self.objective = objective
        self.optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer = self._prepared(discriminator_optimizer) if objective.lambda_d else None

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Update D, then G, then the average of G, on one batch; return the means of the epoch so far."""
        lr, hr, _ = keras.utils.unpack_x_y_sample_weight(data)
        with _watching(self.generator) as tape:
            sr = self.generator(lr, training=not self.freeze_statistics)
            judged = self._train_discriminator(hr, tf.stop_gradient(sr)) if self.objective.lambda_d else {}
            terms = self._terms(lr, hr, sr)
            weighted = {f"weighted_{name}": weight * value for name, (weight, value) in terms.items()}
            loss = tf.add_n(list(weighted.values()))
            scaled = _scaled(self.optimizer, loss)
        _descend(self.optimizer, tape, scaled, self.generator.trainable_variables)
        if self.ema_generator is not None:
            self._update_average()
        return self._track({"loss": loss, **{name: value for name, (_, value) in terms.items()}, **weighted, **judged})

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Score what `best_generator` makes of one batch, as 8-bit images; return the means so far."""
        lr, hr, _ = keras.utils.unpack_x_y_sample_weight(data)
        sr = quantise(self.best_generator(lr, training=False))
        sides = [side or 0 for side in hr.shape[1:3]]
        return self._track({name: score(hr, sr) for name, score in SCORES.items()
                            if name != "ms_ssim" or min(sides) >= metrics.MS_SSIM_SIDE})

    def _terms(self, lr: tf.Tensor, hr: tf.Tensor, sr: tf.Tensor) -> dict[str, tuple[float, tf.Tensor]]:
        """Return (weight, value [B]) of the terms whose weight is not zero, the paper's first."""
        o = self.objective

        def robust(residual: tf.Tensor) -> tf.Tensor:
            return quasi_norm(residual, o.q, o.epsilon, o.reduction)

        terms: dict[str, tuple[float, Callable[[], tf.Tensor]]] = {
            "fidelity": (1.0, lambda: robust(sr - hr)),
            "manifold": (o.lambda_m, lambda: robust(self.encoder(sr) - self.encoder(hr))),
            "structural": (o.lambda_s, lambda: structural(hr, sr, o.reduction)),
            "adversarial": (o.lambda_d, lambda: adversarial_generator(self._judge(hr, sr, False)[1])),
            "feature": (o.lambda_v, lambda: feature(self.features(hr), self.features(sr))),
            "consistency": (o.lambda_c, lambda: consistency(lr, sr, self.blur_sigma, o.reduction)),
        }
        return {name: (weight, value()) for name, (weight, value) in terms.items() if weight}

    def _train_discriminator(self, hr: tf.Tensor, sr: tf.Tensor) -> dict[str, tf.Tensor]:
        with _watching(self.discriminator) as tape:
            logits_hr, logits_sr = self._judge(hr, sr, True)
            loss = adversarial_discriminator(logits_hr, logits_sr)
            scaled = _scaled(self.discriminator_optimizer, loss)
        _descend(self.discriminator_optimizer, tape, scaled, self.discriminator.trainable_variables)
        right = tf.concat([logits_hr > 0, logits_sr < 0], axis=0)
        return {"discriminator_loss": loss, "d_hr": tf.sigmoid(logits_hr), "d_sr": tf.sigmoid(logits_sr),
                "d_accuracy": tf.cast(right, tf.float32)}

    def _update_average(self) -> None:
        # The ramp (that of tf.train.ExponentialMovingAverage) keeps a short run from averaging in its own start.
        steps = tf.cast(self.optimizer.iterations, tf.float32)
        keep = tf.minimum(self.ema_decay, (1 + steps) / (10 + steps))
        for average, value in zip(self.ema_generator.variables, self.generator.variables, strict=True):
            average.assign(value + keep * (average - value))

    def _track(self, values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        for name, value in values.items():
            self.trackers[name].update_state(value)
        return {name: self.trackers[name].result() for name in values}

    def _prepared(self, optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
        if self.dtype_policy.name == "mixed_float16" and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(self.discriminator.trainable_variables)
        return optimizer

    def get_config(self) -> dict[str, Any]:
        """Return the networks as configurations."""
        parts = {name: getattr(self, name) for name in ("generator", "discriminator", "encoder", "features")}
        return {"name": self.name, "ema_decay": self.ema_decay, "blur_sigma": self.blur_sigma,
                "freeze_statistics": self.freeze_statistics,
                **{name: part and keras.saving.serialize_keras_object(part)
                   for name, part in {**parts, "dtype": self.dtype_policy}.items()}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SuperResolutionGAN:
        """Build from what `get_config` returned."""
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})

    def get_compile_config(self) -> dict[str, Any]:
        """Return what `compile` was given."""
        optimizers = {"generator_optimizer": self.optimizer, "discriminator_optimizer": self.discriminator_optimizer}
        return {**{name: value and keras.saving.serialize_keras_object(value) for name, value in optimizers.items()},
                "objective": asdict(self.objective), "jit_compile": self.jit_compile, "run_eagerly": self.run_eagerly}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as `get_compile_config` says."""
        optimizers = {name: keras.saving.deserialize_keras_object(config[name])
                      for name in ("generator_optimizer", "discriminator_optimizer")}
        self.compile(**{**config, **optimizers, "objective": Objective(**config["objective"])})


def _copy(model: keras.Model) -> keras.Model:
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    return copied


def _judge_of(discriminator: keras.Model) -> Judge:
    """Return what takes (hr, sr, whether the moving statistics move) to the logits of both, normalised as one batch.

    Made once, since each trace of a step would build another model; a function, since Keras would save a model twice.
    """
    model = keras.Model(discriminator.inputs, discriminator.get_layer("logits").output)

    def judge(hr: tf.Tensor, sr: tf.Tensor, moves: bool) -> tuple[tf.Tensor, tf.Tensor]:
        both = tf.concat([hr, sr], axis=0)
        logits = model(both, training=True) if moves else model.stateless_call(
            model.trainable_variables, model.non_trainable_variables, both, training=True)[0]
        logits_hr, logits_sr = tf.split(logits, 2)
        return logits_hr, logits_sr

    return judge


@contextmanager
def _watching(network: keras.Model) -> Iterator[tf.GradientTape]:
    """Record what depends on this network's weights, and no other's: neither frozen nor opposing networks."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([variable.value for variable in network.trainable_variables])
        yield tape


def _scaled(optimizer: keras.optimizers.Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """Return the scalar to differentiate: replicas' gradients are summed, and float16 needs the optimizer's scale."""
    return optimizer.scale_loss(tf.reduce_mean(loss) / tf.distribute.get_strategy().num_replicas_in_sync)


def _descend(optimizer: keras.optimizers.Optimizer, tape: tf.GradientTape, loss: tf.Tensor,
             variables: list[Any]) -> None:
    optimizer.apply(tape.gradient(loss, variables), variables)
