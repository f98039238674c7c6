"""Measure a training step: stages, executors, terms, the same generator in PyTorch. Or a slide. Or all exported forms.

    python -m benchmarks.model
    python -m benchmarks.model --blocks=8 --filters=32 --batch_size=8 --hr_size=96
    python -m benchmarks.model --slide=case.svs --model=saved_models/demo --engine=litert
    python -m benchmarks.model --slide_side=25000 --model=saved_models/demo --rounds=1
    python -m benchmarks.model --engines=all
    python -m benchmarks.model --engines=keras,litert:float16,onnx --model=runs/demo --rounds=3

Everything is run in turn, round after round, and medians are compared, so that whatever else the machine does falls
on all alike. Floating-point operations are those of the convolutions and products in the graph of the step, two for a
multiply-add; what a plain matrix product reaches in the same rounds is the bar. PyTorch runs where it is installed.

With --slide it is the run of sr_keras.super_resolve from file to file that is measured, beside the bare engine on the
same windows: `sr_keras.slides.progress` says how. --slide_side makes a slide of so many pixels a side, glass with
some tissue, to see that memory does not follow from the size.

With --engines it is the forms of a model, in every format and precision: latency and patches/s for batches of 1, 4 and
16 tiles of --hr_size / --scale LR pixels, time to load, file size and memory: see `benchmarks.format_speed`. Minutes
at the default --rounds.
"""
from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from pipelines import console
from pipelines.errors import require
from sr_keras.config import SHIPPED_MODEL, GeneratorOptions, Objective

if TYPE_CHECKING:
    import tensorflow as tf

PRODUCT_SIDE = 2048
ALONE = "generator alone"
EXECUTORS = {"XLA": True, "graph": False}

FLAGS = flags.FlagValues()
flags.DEFINE_multi_enum("executor", list(EXECUTORS), list(EXECUTORS), "What runs the steps; may be repeated.",
                        flag_values=FLAGS)
flags.DEFINE_integer("scale", 4, "HR size / LR size.", flag_values=FLAGS)
flags.DEFINE_integer("blocks", 16, "Residual blocks of the generator.", flag_values=FLAGS)
flags.DEFINE_integer("filters", 64, "Filters of the generator.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 1, "Patches a step.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("hr_size", 256, "Side of an HR patch.", lower_bound=32, flag_values=FLAGS)
flags.DEFINE_integer("rounds", 7, "Rounds to take the median of.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("slide", None, "A slide to super-resolve; measures that and no training step.", flag_values=FLAGS)
flags.DEFINE_integer("slide_side", None, "Of a slide that is made for it, in pixels.", lower_bound=512,
                     flag_values=FLAGS)
flags.DEFINE_string("model", str(SHIPPED_MODEL), "What a slide and --engines are measured with.", flag_values=FLAGS)
flags.DEFINE_list("engines", None, "Forms of a model to measure: all, or some of keras, saved_model, litert, onnx and "
                  "tensorrt, one precision of them as in litert:int8. Measures these and no training step.",
                  flag_values=FLAGS)
flags.DEFINE_enum("engine", "tensorflow", ["tensorflow", "litert", "onnx", "auto"], "What runs the model.",
                  flag_values=FLAGS)
flags.DEFINE_float("mpp", None, "Microns per pixel to read the slide at.", flag_values=FLAGS)


class Work(NamedTuple):
    """Something to time: what it is, what runs it, a call that waits for its result, floating-point operations."""

    part: str
    executor: str
    call: Callable[[], object]
    operations: int


def main() -> int:
    """Measure what the flags ask for, and print its table."""
    if FLAGS.engines is not None:
        return _engines()
    if FLAGS.slide or FLAGS.slide_side:
        return _slide()
    size = GeneratorOptions(FLAGS.scale, FLAGS.blocks, FLAGS.filters)
    require(FLAGS.hr_size % size.scale == 0 and FLAGS.hr_size % 4 == 0, "hr_size",
            f"be divisible by scale={size.scale} and by 4", "choose a multiple; the autoencoder halves it twice",
            FLAGS.hr_size)
    lr, hr = _images(FLAGS.batch_size, FLAGS.hr_size, size.scale)
    print(f"{FLAGS.batch_size} patch(es) of {FLAGS.hr_size}x{FLAGS.hr_size}, scale {size.scale}, "
          f"{size.blocks} blocks of {size.filters} filters; median of {FLAGS.rounds} rounds\n")
    stages = _stages(size, lr, hr)
    alone = next(work.operations for work in stages if work.part == ALONE)
    works = [_product(), *_torch_step(size, lr, hr, alone), *stages, *_terms(size, lr, hr)]
    works = [work for work in works if work.executor not in EXECUTORS or work.executor in FLAGS.executor]
    for line in report(works, measure(works, FLAGS.rounds), FLAGS.batch_size):
        print(line)
    return 0


def _slide() -> int:
    require(not (FLAGS.slide and FLAGS.slide_side), "slide_side", "be left out with --slide", "choose one of the two",
            FLAGS.slide_side)
    require(not FLAGS.slide or Path(FLAGS.slide).exists(), "slide", "exist", "check the spelling", FLAGS.slide)

    from sr_keras.model.engines import open_engine
    from sr_keras.slides import EnlargeOptions
    from sr_keras.slides import progress as rates

    with tempfile.TemporaryDirectory() as folder:
        slide = Path(FLAGS.slide) if FLAGS.slide else rates.make_slide(Path(folder) / "made.tif", FLAGS.slide_side)
        generator = open_engine(FLAGS.engine, FLAGS.model)
        options = EnlargeOptions(mpp=FLAGS.mpp)
        rounds = [rates.measure_round(generator, slide, options) for _ in range(FLAGS.rounds)]
    for line in rates.report(rounds):
        print(line)
    return 0


def _engines() -> int:
    from benchmarks import format_speed as rates

    require(not (FLAGS.slide or FLAGS.slide_side), "engines", "be left out with a slide", "run one after the other",
            ",".join(FLAGS.engines))
    found = rates.measure(Path(FLAGS.model), rates.parse_kinds(FLAGS.engines),
                          FLAGS.hr_size // GeneratorOptions(FLAGS.scale).scale, FLAGS.rounds)
    for line in rates.report(found):
        print(line)
    return 0


def measure(works: list[Work], rounds: int) -> list[float]:
    """Run all in turn for some rounds, after one to warm up; return the median seconds of each."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds + 1):
        for work, times in zip(works, seconds, strict=True):
            began = time.perf_counter()
            work.call()
            times.append(time.perf_counter() - began)
    return [median(times[1:]) for times in seconds]


def report(works: list[Work], seconds: list[float], batch_size: int) -> Iterable[str]:
    """Yield the lines of a Markdown table; the first work is the matrix product that the others are held against."""
    best = works[0].operations / seconds[0]
    yield "| part | executor | s/patch | GFLOP/patch | GFLOP/s | of the matrix product |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield f"| {works[0].part} | {works[0].executor} | | | {best / 1e9:.0f} | 100% |"
    for work, taken in zip(works[1:], seconds[1:], strict=True):
        rate = work.operations / taken
        yield (f"| {work.part} | {work.executor} | {taken / batch_size:.4f} | "
               f"{work.operations / batch_size / 1e9:.2f} | {rate / 1e9:.0f} | {rate / best:.0%} |")


def count_operations(graph: tf.Graph) -> int:
    """Count the operations of the convolutions and products that a traced function needs, shapes being known.

    A convolution and both its gradients take as many: 2 * output pixels * kernel * output channels.
    """
    todo, needed = [*(tensor.op for tensor in graph.outputs), *graph.control_outputs], set()
    while todo:
        op = todo.pop()
        if op not in needed:
            needed.add(op)
            todo += [*(tensor.op for tensor in op.inputs), *op.control_inputs]
    return sum(_operations(op) for op in needed)


def _operations(op: tf.Operation) -> int:
    shapes = {  # (of the output of the convolution, of its kernel)
        "Conv2D": lambda: (op.outputs[0].shape, op.inputs[1].shape),
        "Conv2DBackpropInput": lambda: (op.inputs[2].shape, op.inputs[1].shape),
        "Conv2DBackpropFilter": lambda: (op.inputs[2].shape, op.outputs[0].shape),
    }
    if op.type in shapes:
        output, kernel = shapes[op.type]()
        return 2 * prod(output[:3]) * prod(kernel)
    if op.type == "MatMul":
        inner = op.inputs[0].shape[0 if op.get_attr("transpose_a") else 1]
        return 2 * prod(op.outputs[0].shape) * inner
    return 0


def _works(part: str, function: Callable[..., Any], *arguments: tf.Tensor) -> list[Work]:
    """Return a function of tensors as work for each executor."""
    import tensorflow as tf

    def waiting(step: Callable[..., Any]) -> Callable[[], object]:
        return lambda: [value.numpy() for value in tf.nest.flatten(step(*arguments))]

    steps = {name: tf.function(function, jit_compile=jit, autograph=False) for name, jit in EXECUTORS.items()}
    operations = count_operations(steps["graph"].get_concrete_function(*arguments).graph)
    return [Work(part, name, waiting(step), operations) for name, step in steps.items()]


def _images(batch_size: int, hr_size: int, scale: int) -> tuple[tf.Tensor, tf.Tensor]:
    import tensorflow as tf

    tf.random.set_seed(0)
    lr = tf.random.uniform([batch_size, hr_size // scale, hr_size // scale, 3])
    return lr, tf.random.uniform([batch_size, hr_size, hr_size, 3])


def _product() -> Work:
    import tensorflow as tf

    matrix = tf.random.uniform([PRODUCT_SIDE, PRODUCT_SIDE])
    return Work("matrix product", "TensorFlow", lambda: (matrix @ matrix).numpy(), 2 * PRODUCT_SIDE**3)


def _gan(size: GeneratorOptions, objective: Objective) -> Any:
    import keras

    from sr_keras import networks
    from sr_keras.gan import SuperResolutionGAN

    model = SuperResolutionGAN(
        networks.generator(size.scale, size.blocks, size.filters), networks.discriminator(),
        networks.autoencoder().get_layer("encoder"), ema_decay=0.999)
    model.compile(keras.optimizers.Adam(1e-4), keras.optimizers.Adam(1e-4), objective)
    return model


def _stages(size: GeneratorOptions, lr: tf.Tensor, hr: tf.Tensor) -> list[Work]:
    """Return a step of each stage, and of the generator alone: the pixels' term, no average, as PyTorch runs it."""
    import keras

    from sr_keras import networks
    from sr_keras.gan import SuperResolutionGAN
    from sr_keras.losses import QuasiNorm

    autoencoder = networks.autoencoder()
    autoencoder.compile(keras.optimizers.Adam(1e-4), QuasiNorm())
    autoencoder.optimizer.build(autoencoder.trainable_variables)
    alone = SuperResolutionGAN(networks.generator(size.scale, size.blocks, size.filters))
    alone.compile(keras.optimizers.Adam(1e-4), objective=Objective(lambda_m=0, lambda_s=0, lambda_d=0))
    models = {"autoencoder": (autoencoder, (hr, hr)), ALONE: (alone, (lr, hr)),
              "warm-up": (_gan(size, Objective(lambda_d=0.0)), (lr, hr)),
              "adversarial": (_gan(size, Objective()), (lr, hr))}
    return [work for name, (model, pair) in models.items()
            for work in _works(name, lambda *data, model=model: model.train_step(data), *pair)]


def _terms(size: GeneratorOptions, lr: tf.Tensor, hr: tf.Tensor) -> list[Work]:
    """Return what a step is made of: the generator's forward pass, and each term with its gradient in sr."""
    import keras
    import tensorflow as tf

    from sr_keras import losses, networks

    generator = networks.generator(size.scale, size.blocks, size.filters)
    encoder = networks.autoencoder().get_layer("encoder")
    judge = networks.discriminator()
    logits = keras.Model(judge.input, judge.get_layer("logits").output)
    terms = {
        "fidelity": lambda hr, sr: losses.quasi_norm(sr - hr),
        "manifold": lambda hr, sr: losses.quasi_norm(encoder(sr) - encoder(hr)),
        "structural": losses.structural,
        "adversarial": lambda hr, sr: losses.adversarial_generator(logits(sr, training=True)),
    }

    def with_gradient(term: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
        def run(hr: tf.Tensor, sr: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sr)
                loss = tf.reduce_mean(term(hr, sr))
            return tape.gradient(loss, sr)
        return run

    works = _works("generator, forward", lambda lr: generator(lr, training=True), lr)
    for name, term in terms.items():
        works += _works(f"term {name}", with_gradient(term), hr, tf.random.uniform(hr.shape))
    return works


def _torch_step(size: GeneratorOptions, lr: tf.Tensor, hr: tf.Tensor, operations: int) -> list[Work]:
    """Return the step of the generator alone in PyTorch; nothing where it is not installed."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: not compared\n")
        return []
    from torch import nn

    def block() -> nn.Sequential:
        first, second = ((nn.Conv2d(size.filters, size.filters, 3, padding=1, bias=False),
                          nn.BatchNorm2d(size.filters)) for _ in range(2))
        return nn.Sequential(*first, nn.ReLU(), *second)

    class Generator(nn.Module):
        """networks.generator, layer by layer."""

        def __init__(self) -> None:
            super().__init__()
            steps = size.scale.bit_length() - 1
            self.first = nn.Sequential(nn.Conv2d(3, size.filters, 9, padding=4), nn.ReLU())
            self.blocks = nn.ModuleList(block() for _ in range(size.blocks))
            self.trunk = block()[:2]
            self.up = nn.Sequential(*(layer for _ in range(steps) for layer in (
                nn.Conv2d(size.filters, 4 * size.filters, 3, padding=1), nn.PixelShuffle(2), nn.ReLU())))
            self.last = nn.Conv2d(size.filters, 3, 9, padding=4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = start = self.first(images)
            for one in self.blocks:
                x = x + one(x)
            interpolated = nn.functional.interpolate(images, scale_factor=size.scale, mode="bilinear")
            return interpolated + self.last(self.up(start + self.trunk(x)))

    low, high = (torch.from_numpy(images.numpy().transpose(0, 3, 1, 2).copy()) for images in (lr, hr))
    model = Generator()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def step() -> float:
        optimizer.zero_grad()
        loss = ((model(low) - high).square() + 1e-4).pow(0.25).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return [Work(ALONE, "PyTorch", step, operations)]


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
