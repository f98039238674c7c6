"""The gate: what it lets through, and what it says of a package that is missing."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pipelines.console import UserError
from sr_keras.export.parity import ParityError, check_parity, import_optional


def test_difference_of_one_passes_and_of_two_does_not():
    grey = tf.constant(100, tf.uint8)
    check_parity(lambda lr: grey, lambda lr: np.full_like(lr, 101))
    with pytest.raises(ParityError, match="2/255"):
        check_parity(lambda lr: grey, lambda lr: np.full_like(lr, 98))


def test_missing_package_names_its_extra():
    with pytest.raises(UserError, match=r"`no_such_package` must be installed; run pip install '\.\[onnx\]'"):
        import_optional("no_such_package", "onnx")
