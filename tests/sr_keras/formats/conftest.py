# SPDX-License-Identifier: Apache-2.0
"""What tests of exported forms share."""
from __future__ import annotations

import keras
import pytest

from pipelines.config import DegradeOptions
from sr_keras.formats.parity import Reference
from sr_keras.formats.run_data import Tissue, calibration_tissue, compared_tissue
from sr_keras.networks import generator


@pytest.fixture(scope="session")
def modest(randomised) -> keras.Model:
    """A tiny generator x2 with detail as loud as a trained one's, which int8 keeps within its gate."""
    network = randomised(generator(scale=2, blocks=1, filters=8))
    network.get_layer("last").kernel.assign(network.get_layer("last").kernel / 8)
    return network


@pytest.fixture(scope="session")
def tissue() -> Tissue:
    return compared_tissue(None, DegradeOptions(2))


@pytest.fixture(scope="session")
def samples() -> Tissue:
    return calibration_tissue(None, None, DegradeOptions(2))


@pytest.fixture(scope="session")
def reference(modest, tissue) -> Reference:
    return Reference(modest, tissue)
