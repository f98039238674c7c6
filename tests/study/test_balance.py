# SPDX-License-Identifier: Apache-2.0
"""Equal balance: with the measured factors, each term weighs as much beside L_F as at the paper's q."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pipelines.config import DegradeOptions, PatchOptions
from pipelines.dataset import evaluation_dataset
from pipelines.patches import find_sources
from pipelines.shards import open_shards, write_shards
from sr_keras import networks
from sr_keras.config import Objective
from sr_keras.losses import quasi_norm
from sr_keras.model.loading import load_keras
from study.balance import measure_factors

EPSILON = 1e-4


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample_slide, randomised):
    folder = tmp_path_factory.mktemp("balance")
    write_shards(find_sources([str(sample_slide)]), folder / "shards", PatchOptions(64, max_patches=4), workers=1,
                 progress=False)
    randomised(networks.generator(4, 1, 4)).save(folder / "warmup.keras")
    networks.autoencoder().save(folder / "autoencoder.keras")
    return folder


def weighted_gradients(trained, q: float, factors: dict[str, float]) -> np.ndarray:
    """Return the weighted gradient norms of L_M and L_S divided by that of L_F; the gradient of L_S cancels."""
    o = Objective(q=q)
    generator = load_keras(trained / "warmup.keras")
    autoencoder = networks.autoencoder()
    autoencoder.load_weights(trained / "autoencoder.keras")
    encoder = autoencoder.get_layer("encoder")
    norms = []
    for batch in evaluation_dataset(trained / "shards", batch_size=1):
        sr, hr = generator(batch["lr"]), batch["hr"]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(sr)
            fidelity = quasi_norm(sr - hr, q, EPSILON)
            manifold = quasi_norm(encoder(sr) - encoder(hr), q, EPSILON)
        norms.append([np.linalg.norm(tape.gradient(term, sr)) for term in (fidelity, manifold)])
    (g_f, g_m) = np.mean(norms, axis=0)
    return np.array([factors["m"] * o.lambda_m * g_m, factors["s"] * o.lambda_s]) / g_f


@pytest.mark.parametrize("q", [0.25, 2.0])
def test_terms_weigh_as_much_as_at_the_papers_q(trained, q):
    factors = measure_factors(trained / "warmup.keras", trained / "autoencoder.keras", open_shards(trained / "shards"),
                              DegradeOptions(), [q], EPSILON)
    assert factors[0.5] == dict.fromkeys("msdv", 1.0)
    np.testing.assert_allclose(weighted_gradients(trained, q, factors[q]),
                               weighted_gradients(trained, 0.5, factors[0.5]), rtol=1e-3)
    assert factors[q]["s"] == factors[q]["d"] == factors[q]["v"] != 1
