# SPDX-License-Identifier: Apache-2.0
"""Callbacks of a stage, and its checkpoints, runs/NAME/checkpoints/STAGE-0007/ with model.keras and state.json.

`Record` writes, in this order, the row of metrics.csv, TensorBoard, the picture and the checkpoint. The checkpoint is
last: an epoch counts only once it exists, and a killed run repeats the epoch.
"""
from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from pipelines.errors import UserError, require
from pipelines.files import Count, atomic_path, read_json, side_product
from pipelines.pixels import to_uint8
from sr_keras.metrics import bicubic
from sr_keras.model.loading import load_weights
from sr_keras.training.run_folder import record_metrics

REMOVE_CHECKPOINT = "remove its folder, and --resume continues from the epoch before"
# Limits of the discriminator's accuracy over an epoch; 0.5 is guessing. One that learns is above 0.9 after 150 steps.
UNDECIDED, WINS = 0.6, 0.99
PICTURED = 4  # validation patches in the picture of an epoch


@dataclass
class State:
    """Progress of a stage after `epoch` epochs. Epochs count from 1; 0 means that none is done."""

    epoch: Count = 0
    score: float | None = None
    best_epoch: Count = 0
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
    """Write `model` with its optimizers and `state`, then delete all but the last `keep` checkpoints and the best.

    The folder is written under a temporary name and then renamed, so it is complete or not there.
    """
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
    state = read_json(path, State, REMOVE_CHECKPOINT)
    sound = state.epoch == epochs[-1] and 1 <= state.best_epoch <= state.epoch \
        and None not in (state.score, state.best_score)
    require(sound, path.name, f"hold {', '.join(vars(state))} of epoch {epochs[-1]}", REMOVE_CHECKPOINT, str(path))
    return state


def load_checkpoint(run: Path, stage: str, epoch: int, model: keras.Model) -> None:
    """Load the weights, optimizers and averages of an epoch into `model`."""
    load_weights(model, checkpoint(run, stage, epoch) / "model.keras")


def _epochs(run: Path, stage: str) -> list[int]:
    names = (path.name for path in (run / "checkpoints").glob(f"{stage}-*"))
    return sorted(int(match[1]) for match in (re.fullmatch(rf"{stage}-(\d+)", name) for name in names) if match)


class Guard(keras.callbacks.Callback):
    """Stop at a loss or weight that is not finite, and print a line if the discriminator taught nothing in an epoch.

    Keras' TerminateOnNaN can't name the term.
    """

    def __init__(self, stage: str, run: Path, shown: bool = True) -> None:
        super().__init__()
        self._stage, self._run, self._shown, self._epoch = stage, run, shown, 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        values = logs or {}
        # The terms before their sums, which are not finite if a term is not.
        for name in sorted(values, key=lambda name: (name == "loss", name.startswith("weighted"), name)):
            self._check(values[name], f"the term '{name}' is {values[name]} in epoch {self._epoch + 1}, "
                                      f"step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        # The last update of an epoch comes after its last loss, and scores of 8-bit images are always finite.
        for weight in self.model.weights:
            self._check(keras.ops.convert_to_numpy(weight),
                        f"the weight '{weight.path}' is not finite after epoch {epoch + 1}")
        accuracy = (logs or {}).get("d_accuracy")
        if not self._shown or accuracy is None or UNDECIDED <= accuracy <= WINS:
            return
        found = ("is undecided: the adversarial term teaches little yet; train longer, or raise" if accuracy < UNDECIDED
                 else "is almost never wrong: the generator can't follow; use a larger generator, or lower")
        # `write` puts the line above the progress bar.
        tqdm.write(f"{self._stage}, epoch {epoch + 1}: the discriminator (accuracy {accuracy:.3f}) {found} "
                   "--discriminator_learning_rate", file=sys.stderr)

    def _check(self, values: np.ndarray, what: str) -> None:
        if not np.isfinite(values).all():
            raise UserError(f"{what} of the {self._stage} stage; the epochs before it are safe in "
                            f"{self._run / 'checkpoints'}; start another run with a lower learning rate, or a larger "
                            "epsilon")


class Progress(keras.callbacks.Callback):
    """One bar for the whole stage, with the time left, the last loss and the last score."""

    def __init__(self, stage: str, epochs: int, steps: int, first_epoch: int, score: str, shown: bool = True) -> None:
        """Open the bar at the first epoch; a terminal is updated every second, a log file every minute."""
        super().__init__()
        self._shown: dict[str, str] = {}
        self._score, self._epochs, self._last = score, epochs, 0.0
        self._bar = tqdm(total=epochs * steps, initial=first_epoch * steps, desc=f"{stage:<11}", unit="step",
                         dynamic_ncols=True, mininterval=1.0 if sys.stderr.isatty() else 60.0, smoothing=0.1,
                         disable=not shown)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        now = time.monotonic()
        if logs and "loss" in logs and now - self._last > 1.0:
            self._shown["loss"], self._last = f"{logs['loss']:.4f}", now
            self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs and self._score in logs:
            self._shown[self._score.removeprefix("val_")] = f"{logs[self._score]:.4f}"
        self._shown["epoch"] = f"{epoch + 1}/{self._epochs}"
        self._bar.set_postfix(self._shown)

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()


class Record(keras.callbacks.Callback):
    """Write the row, the TensorBoard scalars, the picture and the checkpoint of every epoch."""

    def __init__(self, run: Path, stage: str, state: State, score: str, higher_is_better: bool, keep: int,
                 picture: Callable[[], np.ndarray] | None = None) -> None:
        """Start after `state`; the epoch with the best `score` and the last `keep` keep their checkpoints."""
        super().__init__()
        self._run, self._stage, self._state, self._keep, self._picture = run, stage, state, keep, picture
        self._score, self._higher = score, higher_is_better
        self._board = tf.summary.create_file_writer(str(run / "tensorboard" / stage))
        self._began = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        values = {"epoch": epoch + 1, **(logs or {}), "seconds": time.monotonic() - self._began}
        self._state = self._state.advance(values[self._score], self._higher)
        record_metrics(self._run, self._stage, epoch + 1, values)
        panel = self._picture() if self._picture else None
        if panel is not None:
            picture = self._run / "pictures" / f"{self._stage}-{epoch + 1:04d}.png"
            with side_product(picture), atomic_path(picture) as temporary:
                temporary.write_bytes(tf.io.encode_png(panel).numpy())
        with self._board.as_default(step=epoch + 1):
            for name, value in values.items():
                tf.summary.scalar(name, value)
            if panel is not None:
                tf.summary.image("LR, bicubic, SR, HR", panel[None])
        self._board.flush()
        save_checkpoint(self._run, self._stage, self.model, self._state, self._keep)


def comparison(model: keras.Model, validation: tf.data.Dataset, scale: int) -> Callable[[], np.ndarray]:
    """Return a function that draws LR, bicubic, SR and HR of a few validation patches, uint8 [H, W, 3]."""
    examples = validation.unbatch().take(PICTURED).as_numpy_iterator()
    lr, hr = (np.stack(images) for images in zip(*examples, strict=True))
    nearest = np.repeat(np.repeat(lr, scale, axis=1), scale, axis=2)
    fixed = [nearest, np.asarray(bicubic(lr, scale))]

    def draw() -> np.ndarray:
        columns = [*fixed, np.asarray(model(lr, training=False)), hr]
        return to_uint8(np.concatenate([np.concatenate(list(images), axis=0) for images in columns], axis=1))

    return draw
