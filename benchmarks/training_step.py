# SPDX-License-Identifier: Apache-2.0
"""Speed of a training step: its stages, executors and terms, next to a matrix product and to PyTorch.

Everything runs in turn, round after round, and medians are compared, so that other load on the machine affects all
alike. Floating-point operations are those of the convolutions and matrix products in the graph of the step, two for a
multiply-add. The speed of a plain matrix product in the same rounds is the reference.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from math import prod
from statistics import median
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sr_keras import losses, networks
from sr_keras.config import GeneratorOptions, Objective
from sr_keras.gan import SuperResolutionGAN

PRODUCT_SIDE = 2048
ALONE = "generator alone"
EXECUTORS = {"XLA": True, "graph": False}


class Work(NamedTuple):
    """Something to time: its name, what runs it, a call that waits for the result, floating-point operations."""

    part: str
    executor: str
    call: Callable[[], object]
    operations: int


def all_works(size: GeneratorOptions, batch_size: int, hr_size: int) -> list[Work]:
    """Return everything that can be timed: the matrix product first, then PyTorch if installed, stages and terms."""
    tf.random.set_seed(0)
    lr = tf.random.uniform([batch_size, hr_size // size.scale, hr_size // size.scale, 3])
    hr = tf.random.uniform([batch_size, hr_size, hr_size, 3])
    stages = stage_works(size, lr, hr)
    alone = next(work.operations for work in stages if work.part == ALONE)
    return [matrix_product(), *torch_works(size, lr, hr, alone), *stages, *term_works(size, lr, hr)]


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
    """Yield the lines of a Markdown table; the first work is the matrix product that the others are compared with."""
    best = works[0].operations / seconds[0]
    yield "| part | executor | s/patch | GFLOP/patch | GFLOP/s | of the matrix product |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield f"| {works[0].part} | {works[0].executor} | | | {best / 1e9:.0f} | 100% |"
    for work, duration in zip(works[1:], seconds[1:], strict=True):
        rate = work.operations / duration
        yield (f"| {work.part} | {work.executor} | {duration / batch_size:.4f} | "
               f"{work.operations / batch_size / 1e9:.2f} | {rate / 1e9:.0f} | {rate / best:.0%} |")


def count_operations(graph: tf.Graph) -> int:
    """Count the operations of the convolutions and products that a traced function needs; shapes must be known.

    A convolution and each of its gradients take 2 * output pixels * kernel * output channels.
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


def function_works(part: str, function: Callable[..., Any], *arguments: tf.Tensor) -> list[Work]:
    """Return a function of tensors as one work for each executor."""
    def waiting(step: Callable[..., Any]) -> Callable[[], object]:
        return lambda: [value.numpy() for value in tf.nest.flatten(step(*arguments))]

    steps = {name: tf.function(function, jit_compile=jit, autograph=False) for name, jit in EXECUTORS.items()}
    operations = count_operations(steps["graph"].get_concrete_function(*arguments).graph)
    return [Work(part, name, waiting(step), operations) for name, step in steps.items()]


def matrix_product() -> Work:
    """Return the product of two matrices of PRODUCT_SIDE x PRODUCT_SIDE."""
    matrix = tf.cast(tf.random.uniform([PRODUCT_SIDE, PRODUCT_SIDE]), keras.config.dtype_policy().compute_dtype)
    # The sum alone is copied: from a GPU the whole would take longer than the product.
    return Work("matrix product", "TensorFlow", lambda: tf.reduce_sum(matrix @ matrix).numpy(), 2 * PRODUCT_SIDE**3)


def stage_works(size: GeneratorOptions, lr: tf.Tensor, hr: tf.Tensor) -> list[Work]:
    """Return a step of each training stage, and of the generator alone: only L_F and no average, as in PyTorch."""
    autoencoder = networks.autoencoder()
    autoencoder.compile(keras.optimizers.Adam(1e-4), losses.QuasiNorm())
    autoencoder.optimizer.build(autoencoder.trainable_variables)
    alone = SuperResolutionGAN(networks.generator(size.scale, size.blocks, size.filters))
    alone.compile(keras.optimizers.Adam(1e-4), objective=Objective(lambda_m=0, lambda_s=0, lambda_d=0))
    models = {"autoencoder": (autoencoder, (hr, hr)), ALONE: (alone, (lr, hr)),
              "warm-up": (_gan(size, Objective(lambda_d=0.0)), (lr, hr)),
              "adversarial": (_gan(size, Objective()), (lr, hr))}
    return [work for name, (model, pair) in models.items()
            for work in function_works(name, lambda *data, model=model: model.train_step(data), *pair)]


def _gan(size: GeneratorOptions, objective: Objective) -> SuperResolutionGAN:
    model = SuperResolutionGAN(
        networks.generator(size.scale, size.blocks, size.filters), networks.discriminator(),
        networks.autoencoder().get_layer("encoder"), ema_decay=0.999)
    model.compile(keras.optimizers.Adam(1e-4), keras.optimizers.Adam(1e-4), objective)
    return model


def term_works(size: GeneratorOptions, lr: tf.Tensor, hr: tf.Tensor) -> list[Work]:
    """Return the parts of a step: the generator's forward pass, and each term with its gradient in sr."""
    generator = networks.generator(size.scale, size.blocks, size.filters)
    encoder = networks.autoencoder().get_layer("encoder")
    discriminator = networks.discriminator()
    logits = keras.Model(discriminator.input, discriminator.get_layer("logits").output)
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

    works = function_works("generator, forward", lambda lr: generator(lr, training=True), lr)
    for name, term in terms.items():
        works += function_works(f"term {name}", with_gradient(term), hr, tf.random.uniform(hr.shape))
    return works


def torch_works(size: GeneratorOptions, lr: tf.Tensor, hr: tf.Tensor, operations: int) -> list[Work]:
    """Return the step of the generator alone in PyTorch; nothing if PyTorch is not installed."""
    try:
        from benchmarks import torch_peer
    except ImportError:
        print("PyTorch is not installed: not compared\n")
        return []
    return [Work(ALONE, "PyTorch", torch_peer.training_step(size, lr.numpy(), hr.numpy()), operations)]
