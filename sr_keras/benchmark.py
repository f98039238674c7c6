"""Measure a training step: stages, executors, terms, and the same generator in PyTorch, side by side.

    python -m sr_keras.benchmark
    python -m sr_keras.benchmark --blocks=8 --filters=32 --batch_size=8 --hr_size=96

Everything is run in turn, round after round, and the medians are compared, so that what else the machine does falls
on all alike. The floating-point operations are those of the convolutions and products in the graph of the step
(2 a multiply-add); what a plain matrix product reaches on the same machine in the same rounds is the bar.
PyTorch is measured where it is installed.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

from absl import flags

from pipelines import console
from sr_keras.options import GeneratorOptions, Objective

if TYPE_CHECKING:
    import tensorflow as tf

PRODUCT_SIDE = 2048
EXECUTORS = {"XLA": True, "graph": False}

FLAGS = flags.FlagValues()
flags.DEFINE_integer("scale", 4, "HR size / LR size.", flag_values=FLAGS)
flags.DEFINE_integer("blocks", 16, "Residual blocks of the generator.", flag_values=FLAGS)
flags.DEFINE_integer("filters", 64, "Filters of the generator.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 1, "Patches a step.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("hr_size", 256, "Side of an HR patch.", lower_bound=32, flag_values=FLAGS)
flags.DEFINE_integer("rounds", 7, "Rounds to take the median of.", lower_bound=1, flag_values=FLAGS)


def main() -> int:
    size = GeneratorOptions(FLAGS.scale, FLAGS.blocks, FLAGS.filters)
    console.load_tensorflow()
    images = _images(FLAGS.batch_size, FLAGS.hr_size, size.scale)
    print(f"{FLAGS.batch_size} patch(es) of {FLAGS.hr_size}x{FLAGS.hr_size}, scale {size.scale}, {size.blocks} blocks of "
          f"{size.filters} filters; medians of {FLAGS.rounds} rounds\n")
    work = {"matrix product": _product(), **_steps(size, images), **_terms(size, images), **_torch(size, images)}
    times = measure({name: call for name, (call, _) in work.items()}, FLAGS.rounds)
    _report(times, {name: operations for name, (_, operations) in work.items()}, FLAGS.batch_size)
    return 0


def measure(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run each in turn for some rounds, after one to warm up; return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, call in work.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: median(values[1:]) for name, values in seconds.items()}


def operations(graph: tf.Graph) -> int:
    """Count the floating-point operations of the convolutions and matrix products of a graph with known shapes."""
    return sum(_operations(op) for op in graph.get_operations())
