"""The three stages of a run: autoencoder, generator warm-up, adversarial.

Each stage starts from files of the one before, trains with `fit`, and ends by writing the best of its epochs as
STAGE.keras. That file is what says that the stage is done, so a resumed run skips it, and an uninterrupted run and a
resumed one go through the same files.
"""
from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipelines.config import CorruptOptions, DegradeOptions
from pipelines.dataset import evaluation_dataset, training_dataset
from pipelines.errors import UserError, require
from pipelines.files import atomic_path, write_text
from pipelines.pixels import to_uint8
from pipelines.shards import ShardSet
from pipelines.shards.record import damage_named
from sr_keras import networks
from sr_keras.config import BEST_BY, GeneratorOptions, Objective, StageOptions, TrainOptions
from sr_keras.gan import SuperResolutionGAN
from sr_keras.losses import QuasiNorm
from sr_keras.metrics import bicubic
from sr_keras.model.keras_file import PROBE_SIDE, eight_bit, in_float32, load_weights
from sr_keras.model.loading import load_generator, read_weights
from sr_keras.training.callbacks import Progress, Record, StopOnNonFinite, WatchDiscriminator
from sr_keras.training.checkpoints import State, load_checkpoint, restore_checkpoint
from sr_keras.training.manifold import code_movement, denoising, told

VALIDATION_BATCH = 4
PICTURED = 4
MEASURED = 16


@dataclass(frozen=True)
class Plan:
    """All that a stage needs to know."""

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
        """The blur by which every LR is made, None where LR is scanned or made in another way than the textbook's."""
        sigma, scanned = self.degrade.blur_sigma, self.train.pairs.shards and self.options.pair_share
        return None if isinstance(sigma, tuple) or scanned or not self.degrade.is_textbook else sigma


def train_stages(plan: Plan) -> Path:
    """Train what is not yet trained and return the path of the best generator of the last stage."""
    require(not plan.objective.lambda_c or plan.blur_sigma is not None, "lambda_c",
            "be 0 unless all LR is made by the textbook degradation",
            "give --degradation=textbook and no pairs or --pair_share=0, or leave it out", plan.objective.lambda_c)
    autoencoder, warmup, adversarial = plan.options.stages
    final = Path(plan.options.generator) if plan.options.generator else None
    if plan.objective.lambda_m:
        if not plan.options.autoencoder:
            _stage(plan, autoencoder, partial(_build_autoencoder, plan), _save_autoencoder)
        _measure_manifold(plan)
    # Before it meets a discriminator the generator learns without the costly features too, as SRGAN's did.
    calm = replace(plan.objective, lambda_d=0.0, lambda_v=0.0)
    for stage, objective in ((warmup, calm), (adversarial, plan.objective)):
        if stage.epochs:
            final = _stage(plan, stage, partial(_build_gan, plan, stage, objective, final), _save_generator)
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
    """Train one stage, or find it done; return the file of its best epoch."""
    done = plan.run / f"{stage.name}.keras"
    if done.exists():
        print(f"{stage.name}: done before, kept")
        return done
    keras.utils.set_random_seed(_seed(plan.options.seed, stage))
    with _scope(plan.options.strategy):
        model = build()
    state = restore_checkpoint(plan.run, stage.name, model)
    if state.epoch:
        print(f"{stage.name}: continues after epoch {state.epoch} of {stage.epochs}")
    if state.epoch < stage.epochs:
        with damage_named((*plan.train.paths, *plan.val.paths)), _memory_named(plan.options):
            _fit(plan, stage, model, state)
        state = restore_checkpoint(plan.run, stage.name, model)
    load_checkpoint(plan.run, stage.name, state.best_epoch, model)
    with atomic_path(done) as temporary:
        save(model, temporary)
    return done


def _seed(seed: int, stage: StageOptions) -> int:
    """Return a seed of the stage's own, in the 32 bits that NumPy takes."""
    return zlib.crc32(f"{seed} {stage.name}".encode())


@contextmanager
def _memory_named(options: TrainOptions) -> Iterator[None]:
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if "alloc" not in error.message:  # a full disk, say, is the same error
            raise
        raise UserError("`batch_size` must fit in memory; choose a smaller one, or a smaller crop_size. "
                        f"Received: batch_size={options.batch_size}") from error


def _fit(plan: Plan, stage: StageOptions, model: keras.Model, state: State) -> None:
    generates = isinstance(model, SuperResolutionGAN)
    best_by = plan.options.best_by
    score, higher = (f"val_{best_by}", BEST_BY[best_by]) if generates else ("val_loss", False)
    if best_by == "last":
        score, higher = "epoch", True
    pairs = training_dataset(
        plan.train, batch_size=plan.options.batch_size, crop_size=plan.options.crop_size, steps_per_epoch=plan.steps,
        first_epoch=state.epoch, degrade=plan.degrade, corrupt=plan.corrupt, cache=plan.options.cache,
        shrink=plan.options.shrink, pair_share=plan.options.pair_share, recolour=plan.options.recolour,
        seed=plan.options.seed)
    validation = _validation(plan)
    if not generates:
        images, validation = pairs.map(lambda lr, hr: hr), validation.map(lambda lr, hr: (hr, hr))
        pairs = denoising(images, plan.options.seed, state.epoch * plan.steps)
    progress = Progress(stage.name, stage.epochs, plan.steps, state.epoch, score)
    picture = _panel(model, validation, plan.degrade.scale) if generates else None
    try:
        model.fit(pairs, steps_per_epoch=plan.steps, initial_epoch=state.epoch, epochs=stage.epochs, verbose=0,
                  shuffle=False, validation_data=validation, callbacks=[
                      StopOnNonFinite(stage.name, plan.run), progress, WatchDiscriminator(stage.name),
                      Record(plan.run, stage.name, state, score, higher, plan.options.keep_checkpoints, picture)])
    finally:
        progress.close()


def _validation(plan: Plan) -> tf.data.Dataset:
    examples = evaluation_dataset(plan.val, batch_size=VALIDATION_BATCH, degrade=plan.degrade,
                                  limit=plan.options.val_patches)
    batches = math.ceil(min(plan.options.val_patches, plan.val.count) / VALIDATION_BATCH)
    pairs = examples.map(lambda example: (example["lr"], example["hr"])).cache()
    return pairs.apply(tf.data.experimental.assert_cardinality(batches))  # Keras warns of what it has to count


def _build_autoencoder(plan: Plan) -> keras.Model:
    stage = plan.options.stages[0]
    if not stage.epochs:
        raise ValueError("the manifold term needs an autoencoder; give autoencoder_epochs, or --autoencoder=FILE, or "
                         "lambda_m=0. Received: autoencoder_epochs=0")
    model = networks.autoencoder()
    model.compile(optimizer=_adam(stage.learning_rate, plan, stage),
                  loss=QuasiNorm(plan.objective.q, plan.objective.epsilon), jit_compile=_jit_compile(plan.options))
    model.optimizer.build(model.trainable_variables)  # so that its state can be loaded; float16 has wrapped it
    return model


def _measure_manifold(plan: Plan) -> None:
    """Say, and leave in the run folder, what of the validation patches' faults the frozen code shows."""
    path = plan.run / "manifold.json"
    if not path.exists():
        batches = _validation(plan).take(MEASURED // VALIDATION_BATCH).as_numpy_iterator()
        movement = code_movement(_encoder(plan), np.concatenate([hr for _, hr in batches]))
        write_text(path, json.dumps(movement, indent=2) + "\n")
        print(f"autoencoder: {told(movement)}")


def _save_autoencoder(model: keras.Model, path: Path) -> None:
    model.save(path, include_optimizer=False)


def _build_gan(plan: Plan, stage: StageOptions, objective: Objective, start: Path | None) -> SuperResolutionGAN:
    size = plan.generator
    generator = networks.generator(size.scale, size.blocks, size.filters, size.global_skip)
    encoder = _encoder(plan) if objective.lambda_m else None
    discriminator = networks.discriminator() if objective.lambda_d else None
    features = networks.vgg19_features(plan.options.vgg_weights) if objective.lambda_v else None
    if start:  # after all that draws its weights: the same seed draws the same, from whatever file the generator comes
        start_from(generator, start)
    model = SuperResolutionGAN(
        generator, discriminator, encoder, features, ema_decay=plan.options.ema_decay,
        blur_sigma=plan.blur_sigma, freeze_statistics=plan.options.freeze_statistics)
    judge_rate = plan.options.discriminator_learning_rate
    model.compile(
        generator_optimizer=_adam(stage.learning_rate, plan, stage),
        discriminator_optimizer=_adam(judge_rate, plan, stage) if objective.lambda_d else None,
        objective=objective, jit_compile=_jit_compile(plan.options))
    return model


def start_from(generator: keras.Model, start: Path) -> None:
    """Give a generator the weights of a trained one, anything that `sr_keras.model.loading` loads.

    Residual blocks that `start` lacks begin as the identity: a network that is deepened so computes at first what
    `start` does, and nothing that was learned is lost.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: It is no generator, or not of this size or of fewer blocks.
    """
    found = load_generator(start, argument="generator")
    weights = read_weights(start)
    _check_fit(generator, weights, found.scale, start)
    for weight in generator.variables:
        if weight.path in weights:
            weight.assign(weights[weight.path])
        elif weight.path.endswith("_norm2/gamma"):
            weight.assign(keras.ops.zeros_like(weight))
    lr = np.random.default_rng(0).integers(0, 256, (1, PROBE_SIDE, PROBE_SIDE, 3), np.uint8)
    departs = np.abs(found(lr) - np.int32(eight_bit(in_float32(generator))(lr))).max()
    require(departs <= 1, "generator", "compute here what it did", "give --noglobal_skip where it was trained so",
            str(start))


def _check_fit(generator: keras.Model, weights: dict[str, np.ndarray], scale: int, start: Path) -> None:
    ours = {weight.path: weight.shape for weight in generator.variables}
    missing = [name for name in ours if name not in weights and not name.startswith("block")]
    if missing or any(ours.get(name) != weight.shape for name, weight in weights.items()):
        blocks = sum(name.endswith("_conv1/kernel") for name in weights)
        filters = weights["first/kernel"].shape[-1] if "first/kernel" in weights else "FILTERS"
        raise ValueError(f"`generator` must fit the network that is trained; give --scale={scale} "
                         f"--filters={filters} --blocks={blocks} or more, or name another. "
                         f"Received: generator={str(start)!r}")


def _save_generator(model: keras.Model, path: Path) -> None:
    model.best_generator.save(path)


def _encoder(plan: Plan) -> keras.Model:
    autoencoder = networks.autoencoder()
    load_weights(autoencoder, Path(plan.options.autoencoder or plan.run / "autoencoder.keras"))
    return autoencoder.get_layer("encoder")


def _adam(learning_rate: float, plan: Plan, stage: StageOptions) -> keras.optimizers.Optimizer:
    """Return Adam whose rate rises along a line, then falls to a hundredth along a cosine.

    Without the rise Adam's first steps are as long as any, in directions that a batch or two decided. On H&E with 30%
    of the targets corrupted, squared error then kills 99% of the features before the last convolution and stays at
    interpolation for a thousand steps: 23.1 dB after 400, against 25.2 with a rise over 100.
    """
    steps = plan.steps * stage.epochs
    rise = min(plan.options.rise_steps, steps // 10)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(
        0.0, steps - rise, alpha=0.01, warmup_target=learning_rate, warmup_steps=rise) if rise else
        keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=0.01))


def _jit_compile(options: TrainOptions) -> bool | str:
    """Return Keras' own word for it: "auto" is XLA on a GPU and the graph on a CPU. Replicas can't be compiled."""
    if options.strategy == "mirrored":
        return False
    return "auto" if options.jit_compile is None else options.jit_compile


def _scope(strategy: str):
    return (tf.distribute.MirroredStrategy() if strategy == "mirrored" else tf.distribute.get_strategy()).scope()


def _panel(model: SuperResolutionGAN, validation: tf.data.Dataset, scale: int) -> Callable[[], np.ndarray]:
    """Return what draws LR, bicubic, SR and HR of a few validation patches side by side, uint8 [H, W, 3]."""
    batches = validation.take(math.ceil(PICTURED / VALIDATION_BATCH))
    lr, hr = (np.concatenate(images)[:PICTURED] for images in zip(*batches.as_numpy_iterator(), strict=True))
    nearest = np.repeat(np.repeat(lr, scale, axis=1), scale, axis=2)
    fixed = [nearest, np.asarray(bicubic(lr, scale))]

    def draw() -> np.ndarray:
        columns = [*fixed, np.asarray(model(lr, training=False)), hr]
        return to_uint8(np.concatenate([np.concatenate(list(images), axis=0) for images in columns], axis=1))

    return draw
