# SPDX-License-Identifier: Apache-2.0
"""Operations are counted by the formula, and everything is timed in turn."""
from __future__ import annotations

import pytest
import tensorflow as tf

from benchmarks import training_step
from sr_keras import networks


def traced(function, *arguments):
    return tf.function(function, autograph=False).get_concrete_function(*arguments).graph


def test_operations_of_a_convolution_and_its_gradients_are_the_formula():
    image, kernel = tf.zeros([2, 16, 16, 3]), tf.Variable(tf.zeros([5, 5, 3, 8]))

    def step(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            loss = tf.reduce_sum(tf.nn.conv2d(image, kernel, 2, "SAME") ** 2)
        return tape.gradient(loss, [image, kernel])

    forward = 2 * (2 * 8 * 8) * (5 * 5 * 3) * 8
    assert training_step.count_operations(traced(step, image)) == 3 * forward
    assert training_step.count_operations(traced(lambda x: step(x)[1], image)) == 2 * forward  # the other is not needed


def test_operations_of_a_product_are_the_formula():
    plain = traced(tf.matmul, tf.zeros([7, 5]), tf.zeros([5, 3]))
    transposed = traced(lambda a, b: tf.matmul(a, b, True, True), tf.zeros([5, 7]), tf.zeros([3, 5]))
    assert training_step.count_operations(plain) == training_step.count_operations(transposed) == 2 * 7 * 5 * 3


def test_generator_of_the_paper_takes_the_operations_that_are_known():
    generator = networks.generator()
    graph = traced(lambda lr: generator(lr, training=True), tf.zeros([1, 64, 64, 3]))
    assert training_step.count_operations(graph) / 1e9 == pytest.approx(18.1, abs=0.1)


def test_all_are_run_in_turn_and_the_first_round_is_not_counted(monkeypatch):
    ran, clock = [], iter(range(1000))
    monkeypatch.setattr(training_step.time, "perf_counter", lambda: float(next(clock)))
    works = [training_step.Work(name, "", lambda name=name: ran.append(name), 1) for name in "ab"]
    assert training_step.measure(works, 3) == [1.0, 1.0]
    assert "".join(ran) == "abababab"


def test_rates_are_held_against_the_matrix_product():
    works = [training_step.Work("matrix product", "TensorFlow", lambda: None, 4 * 10**9),
             training_step.Work("step", "XLA", lambda: None, 10**9)]
    lines = list(training_step.report(works, [1.0, 0.5], batch_size=2))
    assert lines[-1] == "| step | XLA | 0.2500 | 0.50 | 2 | 50% |"
