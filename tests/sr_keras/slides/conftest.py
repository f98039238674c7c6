# SPDX-License-Identifier: Apache-2.0
"""What tests of whole slides share."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.config import DegradeOptions
from pipelines.degrade import degrade
from pipelines.pixels import to_float, to_uint8
from sr_keras.slides.trust_map import TrustMap, measure

OPTIONS = DegradeOptions()


@pytest.fixture(scope="session")
def lr_of() -> Callable:
    """Return a function that degrades SR to the 8-bit LR of it."""
    def make(sr: np.ndarray, options: DegradeOptions = OPTIONS) -> np.ndarray:
        return to_uint8(degrade(to_float(sr)[np.newaxis], options.scale, options.blur_sigma).numpy()[0])

    return make


@pytest.fixture(scope="session")
def with_blob() -> Callable:
    """Return a function that paints a disc."""
    def make(sr: np.ndarray, x: int, y: int, radius: int) -> np.ndarray:
        down, right = np.mgrid[:sr.shape[0], :sr.shape[1]]
        return np.where(((down - y)**2 + (right - x)**2 < radius**2)[..., np.newaxis], np.uint8([90, 50, 130]), sr)

    return make


@pytest.fixture(scope="session")
def a_map() -> Callable:
    """Return a function that makes a map of tissue."""
    def make(departure: np.ndarray, square: int = 16, **sides: int) -> TrustMap:
        rows, columns = departure.shape
        return TrustMap(departure.astype(np.float32), np.full((rows, columns, 3), (200, 120, 180), np.uint8), square,
                        sides.get("width", square * columns), sides.get("height", square * rows))

    return make


@pytest.fixture(scope="session")
def invented(histology, lr_of, with_blob):
    """SR that agrees with its LR but for a blob of radius 30 around (300, 200)."""
    return measure(lr_of(histology), with_blob(histology, 300, 200, 30), OPTIONS, mpp=0.25)
