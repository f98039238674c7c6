# SPDX-License-Identifier: Apache-2.0
"""Runtimes open model files without TensorFlow, keep few interpreters, and are compared with the original."""
from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Event

import numpy as np
import pytest
import tensorflow as tf

from pipelines.errors import UserError
from sr_keras.formats.litert import convert_litert
from sr_keras.model import runtimes
from sr_keras.model.runtimes import KEPT_SHAPES, LiteRTRunner, ParityError, check_parity, open_onnx
from sr_keras.networks import generator

from ..conftest import pixels

needs_litert = pytest.mark.skipif(not find_spec("ai_edge_litert"),
                                  reason="LiteRT is not installed: pip install '.[litert]'")


def test_difference_of_one_passes_and_of_two_does_not():
    grey = tf.constant(100, tf.uint8)
    check_parity(lambda lr: grey, lambda lr: np.full_like(lr, 101))
    with pytest.raises(ParityError, match="2/255"):
        check_parity(lambda lr: grey, lambda lr: np.full_like(lr, 98))


@pytest.fixture(scope="module")
def written(randomised) -> bytes:
    return convert_litert(randomised(generator(scale=4, blocks=1, filters=4)))


@needs_litert
def test_last_shapes_are_kept_and_no_more(written):
    run = LiteRTRunner(written, threads=1)
    run(pixels(1, 4, 4))
    first = run._kept[((1, 4, 4, 3),)]
    run(pixels(1, 5, 4))
    run(pixels(1, 4, 4))
    assert run._kept[((1, 4, 4, 3),)] is first
    for side in range(6, 10):
        run(pixels(1, 4, 4))
        run(pixels(1, side, 4))
        assert len(run._kept) == KEPT_SHAPES
        assert run._kept[((1, 4, 4, 3),)] is first


@needs_litert
def test_result_outlives_the_next_call(written):
    run = LiteRTRunner(written, threads=1)
    first = run(pixels(1, 6, 6))
    before = first.copy()
    run(255 - pixels(1, 6, 6))
    np.testing.assert_array_equal(first, before)


@needs_litert
def test_threads_share_one_runner(written):
    run = LiteRTRunner(written, threads=1)
    images = [pixels(1, 5 + i % 4, 6) for i in range(12)]
    expected = [run(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for sr, alone in zip(pool.map(run, images), expected, strict=True):
            np.testing.assert_array_equal(sr, alone)


def test_what_others_say_meanwhile_is_let_through(capfd):
    with runtimes.without_chatter():
        os.write(2, b"fully_quantize: 0, inference_type: 6\na warning of somebody else\n")
    assert capfd.readouterr().err == "a warning of somebody else\n"


def test_stderr_is_the_same_after_threads_that_hold_it_back(capfd):
    begun, go_on = Event(), Event()

    def hold():
        with runtimes.without_chatter():
            begun.set()
            assert go_on.wait(60)

    def hold_longer():
        assert begun.wait(60)
        with runtimes.without_chatter():
            time.sleep(0.3)

    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(one) for one in (hold, hold_longer)]
        assert begun.wait(60)
        time.sleep(0.1)  # the other comes in, if it can
        go_on.set()
        for one in held:
            one.result(60)
    os.write(2, b"said afterwards\n")
    assert capfd.readouterr().err == "said afterwards\n"


@pytest.mark.parametrize(("package", "extra", "open_bytes"), [("ai_edge_litert", "litert", LiteRTRunner),
                                                              ("onnxruntime", "onnx", open_onnx)])
def test_missing_package_is_one_line_with_the_extra(package, extra, open_bytes, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"`{package}` must be installed; run pip install '\.\[{extra}\]'\.") as caught:
        open_bytes(b"", 1)
    assert "\n" not in str(caught.value)
