# SPDX-License-Identifier: Apache-2.0
"""Small generators, and the tissue they are compared on, for tests of benchmarks."""
from __future__ import annotations

import keras
import numpy as np
import pytest

from pipelines.config import DegradeOptions
from sr_keras.formats.run_data import Tissue, compared_tissue
from sr_keras.model.loading import LoadedGenerator, load_generator
from sr_keras.networks import SKIP_GAIN, generator


@pytest.fixture(scope="session")
def loaded(tmp_path_factory) -> LoadedGenerator:
    path = tmp_path_factory.mktemp("model") / "small" / "generator.keras"
    path.parent.mkdir()
    keras.utils.set_random_seed(0)
    generator(scale=4, blocks=1, filters=4).save(path)
    return load_generator(path)


@pytest.fixture(scope="session")
def modest() -> keras.Model:
    """A tiny generator x2 with random weights, and detail as loud as a trained one's."""
    network, rng = generator(scale=2, blocks=1, filters=8), np.random.default_rng(0)
    network.set_weights([rng.normal(0, 0.8 / np.sqrt(np.prod(w.shape[:-1])), w.shape) if w.ndim > 1 else w
                         for w in network.get_weights()])
    last = network.get_layer("last").kernel
    last.assign(last / (8 * SKIP_GAIN))
    return network


@pytest.fixture(scope="session")
def tissue() -> Tissue:
    return compared_tissue(None, DegradeOptions(2))
