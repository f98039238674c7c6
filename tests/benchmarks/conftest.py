"""A small generator for tests of benchmarks."""
from __future__ import annotations

import keras
import pytest

from sr_keras.model.loading import LoadedGenerator, load_generator
from sr_keras.networks import generator


@pytest.fixture(scope="session")
def loaded(tmp_path_factory) -> LoadedGenerator:
    path = tmp_path_factory.mktemp("model") / "small" / "generator.keras"
    path.parent.mkdir()
    keras.utils.set_random_seed(0)
    generator(scale=4, blocks=1, filters=4).save(path)
    return load_generator(path)
