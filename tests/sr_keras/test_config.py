# SPDX-License-Identifier: Apache-2.0
"""The paper's methods are what it says, and an option that can't be is refused by its name."""
from __future__ import annotations

from dataclasses import replace

import pytest

from sr_keras.config import METHODS, DataOptions, GeneratorOptions, Objective, StageOptions, TrainOptions

# Paper, section 3: q, and which terms each method has. SRGAN is L_F with q = 2, L_D and VGG features.
PAPER = {"srgan": (2.0, set("dv")), "srgan_e": (2.0, set("md")), "srgan_qe": (0.5, set("md")),
         "srgan_sqe": (0.5, set("msd"))}


@pytest.mark.parametrize("method", PAPER)
def test_methods_have_the_terms_of_the_paper(method):
    objective, (q, terms) = METHODS[method], PAPER[method]
    assert objective.q == q
    assert {term for term in "msdvc" if getattr(objective, f"lambda_{term}")} == terms
    assert objective.epsilon == 1e-4
    assert set(METHODS) == set(PAPER)


def test_weights_are_those_of_the_paper():
    assert (Objective().lambda_m, Objective().lambda_s, Objective().lambda_d) == (0.2, 2.0, 0.016)


@pytest.mark.parametrize(("options", "changes", "name"), [
    (Objective(), {"q": 0.0}, "q"), (Objective(), {"q": 2.1}, "q"), (Objective(), {"q": float("nan")}, "q"),
    (Objective(), {"epsilon": 0.0}, "epsilon"), (Objective(), {"lambda_s": -1.0}, "lambda_s"),
    (Objective(), {"lambda_d": float("inf")}, "lambda_d"), (Objective(), {"reduction": "median"}, "loss_reduction"),
    (GeneratorOptions(), {"scale": 3}, "scale"), (GeneratorOptions(), {"blocks": 0}, "blocks"),
    (StageOptions("warmup"), {"epochs": -1}, "warmup_epochs"),
    (StageOptions("warmup"), {"learning_rate": 0.0}, "warmup_learning_rate"),
    (DataOptions(), {"train_data": ()}, "train_data"), (DataOptions(), {"max_skipped": 1.5}, "max_skipped"),
    (DataOptions(), {"val_fraction": 0.5, "test_fraction": 0.5}, "val_fraction + test_fraction"),
    (TrainOptions(), {"method": "srcnn"}, "method"), (TrainOptions(), {"best_by": "loss"}, "best_by"),
    (TrainOptions(), {"ema_decay": 1.0}, "ema_decay"), (TrainOptions(), {"rise_steps": -1}, "rise_steps"),
    (TrainOptions(), {"keep_checkpoints": 0}, "keep_checkpoints")])
def test_value_that_cannot_be_is_refused_by_the_name_of_its_flag(options, changes, name):
    with pytest.raises(ValueError, match=rf"^`{name.replace('+', '.')}` must "):
        replace(options, **changes)


def test_q_of_squared_error_and_a_weight_of_zero_are_allowed():
    assert replace(Objective(), q=2.0, lambda_d=0.0).lambda_d == 0
