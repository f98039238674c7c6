"""Weigh the terms alike for every q.

The mean of L_F over typical residuals is about 0.003 at q = 2 and 0.25 at q = 0.5, so the same lambdas weigh the other
terms a hundred times differently. What pulls at the generator is each term's gradient at its output, so that is made
equal: with g_T(q) the norm of the gradient of L_T in sr, the ratio

    lambda_T(q) * g_T(q) / g_F(q)

shall be for every q what the paper's lambdas make it at the paper's q. g_F and g_M depend on q and are measured, on
clean training patches, with a generator and an encoder that were trained at the paper's q; g_S, g_D and g_V do not
depend on q and cancel.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.config import DegradeOptions
from pipelines.dataset import evaluation_dataset
from pipelines.shards import ShardSet
from sr_keras import networks
from sr_keras.config import Objective
from sr_keras.losses import quasi_norm
from sr_keras.model.keras_file import load_keras, load_weights
from study.grid import LAMBDAS

PATCHES = 44  # some of each slide


def measure_factors(generator: Path, autoencoder: Path, shards: ShardSet, degrade: DegradeOptions,
                    qs: Iterable[float], epsilon: float) -> dict[float, dict[str, float]]:
    """Return q -> letter of a term -> by how much its lambda is multiplied; 1 at the paper's q.

    Args:
        generator: A trained .keras file.
        autoencoder: The one that belongs to it.
        shards: Training patches.
        degrade: How LR is made.
        qs: The q to weigh for.
        epsilon: Of the quasi-norms.
    """
    model, coder = load_keras(generator), networks.autoencoder()
    load_weights(coder, autoencoder)
    encoder, reference = coder.get_layer("encoder"), Objective().q
    wanted = sorted({*qs, reference})
    batches = evaluation_dataset(shards, batch_size=4, degrade=degrade, limit=PATCHES)
    norms = np.mean([_gradient_norms(model(batch["lr"], training=False), batch["hr"], encoder, wanted, epsilon)
                     for batch in batches], axis=0)
    return {q: _factors(norms[wanted.index(q)], norms[wanted.index(reference)]) for q in wanted}


def _factors(norms: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    (fidelity, manifold), (fidelity_0, manifold_0) = norms, reference
    factors = dict.fromkeys(LAMBDAS, float(fidelity / fidelity_0))
    return {**factors, "m": float(fidelity / fidelity_0 * manifold_0 / manifold)}


def _gradient_norms(sr: tf.Tensor, hr: tf.Tensor, encoder: tf.keras.Model, qs: list[float], epsilon: float
                    ) -> np.ndarray:
    """Return the mean norms, over the images, of the gradients in sr of L_F and of L_M at each q: [Q, 2]."""
    norms = []
    for q in qs:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(sr)
            terms = quasi_norm(sr - hr, q, epsilon), quasi_norm(encoder(sr) - encoder(hr), q, epsilon)
        norms.append([tf.reduce_mean(tf.norm(tf.reshape(tape.gradient(term, sr), [len(sr), -1]), axis=1))
                      for term in terms])
    return np.array(norms)
