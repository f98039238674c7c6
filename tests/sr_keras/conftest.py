"""What tests of trained networks share."""
from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import keras
import numpy as np
import pytest

from sr_keras.networks import SKIP_GAIN


@pytest.fixture(scope="session")
def randomised() -> Callable[[keras.Model], keras.Model]:
    """Give every kernel random values: an untrained generator is plain interpolation, which hides most faults."""

    def fill(model: keras.Model) -> keras.Model:
        rng = np.random.default_rng(0)
        model.set_weights([rng.normal(0, 0.8 / np.sqrt(np.prod(w.shape[:-1])), w.shape) if w.ndim > 1 else w
                           for w in model.get_weights()])
        if any(layer.name == "detail" for layer in model.layers):  # under the global skip: as loud as the picture
            last = model.get_layer("last").kernel
            last.assign(last / SKIP_GAIN)
        return model

    return fill


@pytest.fixture(scope="session")
def open_once() -> Callable:
    """Return an `open_engine` that opens a model once: it takes a second, and a command opens one each time."""
    from sr_keras.engines import open_engine

    return lru_cache(open_engine)
