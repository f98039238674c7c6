# SPDX-License-Identifier: Apache-2.0
"""The gates: what they let through, what they measure, and what is said of a package that is missing."""
from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest

from pipelines.console import import_optional
from pipelines.errors import UserError
from pipelines.pixels import to_float, to_uint8
from sr_keras.formats.format import FLOAT16, FLOAT32, INT8
from sr_keras.formats.parity import Parity, parity_table
from sr_keras.model.runtimes import ParityError

LEVEL = 1 / 255


def floats(network: keras.Model, lr: np.ndarray) -> np.ndarray:
    return np.asarray(network(to_float(lr), training=False))


def off_by(network: keras.Model, difference: float):
    """Return a form whose values before rounding are off by so much."""
    return lambda lr: to_uint8(floats(network, lr) + difference)


def test_form_that_rounds_what_keras_computes_differs_in_nothing(modest, reference):
    parity = reference.check("x", "float32", FLOAT32, off_by(modest, 0.0))
    assert parity.max_difference < 1e-6
    assert (parity.mean_difference, parity.psnr_db) == (0.0, math.inf)
    assert (parity.psnr_change, parity.ms_ssim_change, parity.qilv_change) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("difference", [2e-4, 1e-3, 5e-3, 3e-2])
def test_eight_bits_show_differences_far_below_a_grey_level(difference, modest, reference):
    parity = reference.measure("x", "float32", FLOAT32, off_by(modest, difference))
    assert parity.max_difference == pytest.approx(difference, rel=0.1)
    assert parity.mean_difference == pytest.approx(difference, rel=0.1)
    assert not parity.passed


@pytest.mark.parametrize(("precision", "tolerance", "passing", "failing"),
                         [("float32", FLOAT32, 5e-5, 2e-4), ("float16", FLOAT16, 8e-3, 1.5e-2)])
def test_floats_are_held_to_a_largest_difference(precision, tolerance, passing, failing, modest, reference):
    reference.check("x", precision, tolerance, off_by(modest, passing))
    with pytest.raises(ParityError, match=r"`x` must agree with Keras, max difference <= .*Received: max difference"):
        reference.check("x", precision, tolerance, off_by(modest, failing))


def test_int8_is_held_to_40_db(modest, reference):
    reference.check("x", "int8", INT8, off_by(modest, 2 * LEVEL))  # 42.1 dB
    with pytest.raises(ParityError, match=r"PSNR >= 40 dB; nothing was kept.*--calibration_data.*PSNR=38.\d dB"):
        reference.check("x", "int8", INT8, off_by(modest, 3 * LEVEL))


def test_psnr_against_keras_is_that_of_the_8_bit_pictures(modest, reference):
    one_level = reference.measure("x", "int8", INT8, lambda lr: np.clip(off_by(modest, 0.0)(lr), 0, 254) + np.uint8(1))
    assert one_level.psnr_db == pytest.approx(20 * np.log10(255), abs=0.05)
    assert one_level.mean_difference == pytest.approx(LEVEL, rel=0.01)


def test_changes_are_scores_against_the_truth_less_those_of_keras(modest, reference, tissue):
    def nearer(lr: np.ndarray) -> np.ndarray:
        sr = floats(modest, lr)
        return to_uint8((sr + to_float(tissue.hr)) / 2 if len(lr) == len(tissue.hr) else sr)

    better = reference.measure("x", "int8", INT8, nearer)
    assert better.psnr_change > 4
    assert better.ms_ssim_change > 0.001
    assert better.qilv_change > 0.001
    assert reference.measure("x", "int8", INT8, off_by(modest, 0.1)).psnr_change < -1


@pytest.mark.parametrize("form", [lambda lr: lr, lambda lr: np.zeros((*lr.shape[:1], 1, 1, 3), np.uint8),
                                  lambda lr: np.repeat(np.repeat(lr, 2, 1), 2, 2).astype(np.float32)])
def test_other_shapes_and_types_are_refused(form, reference):
    with pytest.raises(ParityError, match="`x` must return uint8"):
        reference.check("x", "float32", FLOAT32, form)


def test_reference_asks_for_two_shapes(modest, reference):
    asked = []

    def form(lr: np.ndarray) -> np.ndarray:
        asked.append(lr.shape)
        return off_by(modest, 0.0)(lr)

    reference.check("x", "float32", FLOAT32, form)
    assert len({shape[0] for shape in asked}) == len({shape[1] for shape in asked}) == 2
    assert any(shape[1] % 2 and shape[2] % 2 for shape in asked)


def test_equal_pictures_are_valid_json_and_a_word_in_the_table():
    parity = Parity("x", "float32", FLOAT32, 0.0, 0.0, math.inf, 0.0, 0.0, 0.0)
    assert json.loads(json.dumps(parity.as_json(), allow_nan=False))["psnr_db"] is None
    head, line, row = parity_table([parity]).splitlines()
    assert head.count("|") == line.count("|") == row.count("|")
    assert "| equal |" in row


def test_missing_package_names_its_extra():
    with pytest.raises(UserError, match=r"`no_such_package` must be installed; run pip install '\.\[onnx\]'"):
        import_optional("no_such_package", "onnx")
