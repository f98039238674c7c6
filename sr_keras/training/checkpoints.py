# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training stage: runs/NAME/checkpoints/STAGE-0007/, with model.keras and state.json.

A checkpoint is written under a temporary name and then renamed, so it is complete or not there.
"""
from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from pipelines.errors import require
from pipelines.files import atomic_path
from sr_keras.model.keras_file import load_weights
from sr_keras.training.run_folder import read_json

REMOVE_CHECKPOINT = "remove its folder, and --resume continues from the epoch before"


@dataclass
class State:
    """Progress of a stage after `epoch` epochs. Epochs count from 1; 0 means that none is done."""

    epoch: int = 0
    score: float | None = None
    best_epoch: int = 0
    best_score: float | None = None

    def advance(self, score: float, higher_is_better: bool) -> State:
        """Return the state one epoch later. NaN is better than no score and worse than any number."""
        best = self.best_score
        if (best is None or (math.isnan(best) and not math.isnan(score))
                or (score > best if higher_is_better else score < best)):
            return State(self.epoch + 1, score, self.epoch + 1, score)
        return State(self.epoch + 1, score, self.best_epoch, best)


def checkpoint(run: Path, stage: str, epoch: int) -> Path:
    """Return the folder of a checkpoint."""
    return run / "checkpoints" / f"{stage}-{epoch:04d}"


def save_checkpoint(run: Path, stage: str, model: keras.Model, state: State, keep: int) -> Path:
    """Write `model` with its optimizers and `state`, then delete all but the last `keep` checkpoints and the best."""
    folder = checkpoint(run, stage, state.epoch)
    with atomic_path(folder, folder=True) as temporary:
        model.save(temporary / "model.keras")
        (temporary / "state.json").write_text(json.dumps(asdict(state), indent=2) + "\n")
    for epoch in _epochs(run, stage)[:-keep]:
        if epoch != state.best_epoch:
            shutil.rmtree(checkpoint(run, stage, epoch))
    return folder


def restore_checkpoint(run: Path, stage: str, model: keras.Model) -> State:
    """Load the newest checkpoint of `stage` into `model` and return its state; `State()` if there is none.

    Raises:
        ValueError: The checkpoint is damaged, or of another architecture.
    """
    epochs = _epochs(run, stage)
    if not epochs:
        return State()
    load_checkpoint(run, stage, epochs[-1], model)
    path = checkpoint(run, stage, epochs[-1]) / "state.json"
    found = read_json(path, REMOVE_CHECKPOINT)
    known = found.keys() == vars(State()).keys() and isinstance(found["epoch"], int)
    require(known, path.name, f"hold {', '.join(vars(State()))}", REMOVE_CHECKPOINT, str(path))
    return State(**found)


def load_checkpoint(run: Path, stage: str, epoch: int, model: keras.Model) -> None:
    """Load the weights, optimizers and averages of an epoch into `model`."""
    load_weights(model, checkpoint(run, stage, epoch) / "model.keras")


def _epochs(run: Path, stage: str) -> list[int]:
    names = (path.name for path in (run / "checkpoints").glob(f"{stage}-*"))
    return sorted(int(match[1]) for match in (re.fullmatch(rf"{stage}-(\d+)", name) for name in names) if match)
