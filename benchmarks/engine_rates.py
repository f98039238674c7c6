# SPDX-License-Identifier: Apache-2.0
"""How many SR pixels a second each engine makes of one window, beside a plain matrix product.

    for line in report(measure("saved_models/demo", rounds=3)):
        print(line)

All engines compute the same window in turn, round after round, so that other load on the machine affects all alike. The
arithmetic of a pixel is that of the network's convolutions, two operations for a multiply-add.

The first tile is the time to open an engine and run a tile of `TILE` pixels. The first command for a model converts it,
which is counted too; the second reads the cache.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks.training_step import count_operations, matrix_product
from pipelines.workers import cores
from sr_keras.model.engines import installed, open_engine
from sr_keras.model.loading import eight_bit, load_generator
from sr_keras.model.streaming import as_keras

HEIGHT, WIDTH = 128, 512  # LR pixels of the window
TILE = 128
COUNTED = 64  # side of the picture whose operations are counted


class Rates(NamedTuple):
    """Rates: operations a second of the matrix product, operations of an SR pixel, and SR pixels a second by engine.

    `first` is the seconds to the first tile, by engine.
    """

    product: float
    operations: float
    pixels: dict[str, float]
    first: dict[str, float]


def measure(model: str | Path, rounds: int) -> Rates:
    """Measure all engines that are installed; medians of the rounds.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: It is not a generator.
    """
    lr = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    engines, first = {}, {}
    for name in installed():
        began = time.perf_counter()
        engines[name] = open_engine(name, model)
        engines[name](lr[:, :TILE, :TILE])
        first[name] = time.perf_counter() - began
    loaded, product = load_generator(model), matrix_product()
    network = tf.function(eight_bit(as_keras(loaded)), autograph=False)
    graph = network.get_concrete_function(tf.TensorSpec([1, COUNTED, COUNTED, 3], tf.uint8)).graph
    calls = {"": product.call} | {name: lambda engine=engine: engine(lr) for name, engine in engines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    took = {name: median(times[1:]) for name, times in seconds.items()}
    pixels = HEIGHT * WIDTH * loaded.scale**2
    return Rates(product.operations / took.pop(""), count_operations(graph) / (COUNTED * loaded.scale)**2,
                 {name: pixels / duration for name, duration in took.items()}, first)


def report(rates: Rates) -> Iterator[str]:
    """Yield the lines of a Markdown table, the fastest engine first."""
    yield (f"A window of {WIDTH}x{HEIGHT} LR pixels, {rates.operations / 1e3:.1f} kFLOP for an SR pixel; {cores()} "
           f"cores, matrix product {rates.product / 1e9:.0f} GFLOP/s")
    yield ""
    yield "| engine | Mpixel/s | of the matrix product | first tile, s |"
    yield "| --- | ---: | ---: | ---: |"
    for name, rate in sorted(rates.pixels.items(), key=lambda item: -item[1]):
        yield f"| {name} | {rate / 1e6:.2f} | {rate * rates.operations / rates.product:.0%} | {rates.first[name]:.2f} |"
