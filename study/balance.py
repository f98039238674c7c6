# SPDX-License-Identifier: Apache-2.0
"""Weights of the loss terms that keep their balance when q changes (balance "equal").

The mean of L_F over typical residuals is about 0.003 at q = 2 and 0.25 at q = 0.5, so with the same lambdas the other
terms weigh a hundred times more at q = 2. What a term contributes to training is its gradient at the generator's
output. With g_T(q) the norm of the gradient of L_T in sr, the ratio

    lambda_T(q) * g_T(q) / g_F(q)

is kept for every q at its value for the paper's lambdas and the paper's q. g_F and g_M depend on q and are measured on
clean training patches, with a generator and an encoder trained at the paper's q. g_S, g_D and g_V do not depend on q
and cancel.
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
from sr_keras.model.loading import load_keras, load_weights
from study.grid import LAMBDAS

PATCHES = 44  # taken evenly from the slides


def measure_factors(generator: Path, autoencoder: Path, shards: ShardSet, degrade: DegradeOptions,
                    qs: Iterable[float], epsilon: float) -> dict[float, dict[str, float]]:
    """Return q -> term -> factor of its lambda; all factors are 1 at the paper's q.

    Args:
        generator: A trained .keras file.
        autoencoder: The autoencoder of the same run.
        shards: Training patches.
        degrade: How LR is made.
        qs: Values of q to return factors for.
        epsilon: Epsilon of the quasi-norms.
    """
    model, coder = load_keras(generator), networks.autoencoder()
    load_weights(coder, autoencoder)
    encoder, paper_q = coder.get_layer("encoder"), Objective().q
    wanted = sorted({*qs, paper_q})
    batches = evaluation_dataset(shards, batch_size=4, degrade=degrade, limit=PATCHES)
    norms = np.mean([_gradient_norms(model(batch["lr"], training=False), batch["hr"], encoder, wanted, epsilon)
                     for batch in batches], axis=0)
    fidelity_0, manifold_0 = norms[wanted.index(paper_q)]
    return {q: {**dict.fromkeys(LAMBDAS, float(fidelity / fidelity_0)),
                "m": float(fidelity / fidelity_0 * manifold_0 / manifold)}
            for q, (fidelity, manifold) in zip(wanted, norms, strict=True)}


def _gradient_norms(sr: tf.Tensor, hr: tf.Tensor, encoder: tf.keras.Model, qs: list[float], epsilon: float
                    ) -> np.ndarray:
    """Return the norms of the gradients of L_F and L_M in sr at each q, averaged over the images: [Q, 2]."""
    norms = []
    for q in qs:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(sr)
            terms = quasi_norm(sr - hr, q, epsilon), quasi_norm(encoder(sr) - encoder(hr), q, epsilon)
        norms.append([tf.reduce_mean(tf.norm(tf.reshape(tape.gradient(term, sr), [len(sr), -1]), axis=1))
                      for term in terms])
    return np.array(norms)
