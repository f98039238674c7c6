# SPDX-License-Identifier: Apache-2.0
"""Callbacks of a stage: guards against failed training, the progress bar, and the record of every epoch.

`Record` writes, in this order, the row of metrics.csv, TensorBoard, the picture and the checkpoint. The checkpoint is
last: an epoch counts only once it exists, and a killed run repeats the epoch.
"""
from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from pipelines.errors import UserError
from pipelines.files import atomic_path, side_product
from pipelines.pixels import to_uint8
from sr_keras.metrics import bicubic
from sr_keras.training.checkpoints import State, save_checkpoint
from sr_keras.training.run_folder import record_metrics

# Limits of the discriminator's accuracy over an epoch; 0.5 is guessing. One that learns is above 0.9 after 150 steps.
UNDECIDED, WINS = 0.6, 0.99
PICTURED = 4  # validation patches in the picture of an epoch


class NonFiniteLoss(UserError):
    """A term of the loss, or a weight of a network, became NaN or infinite."""

    def __init__(self, what: str, stage: str, run: Path) -> None:
        """Say what is not finite, of which stage, and what to do."""
        super().__init__(f"{what} of the {stage} stage; the epochs before it are safe in {run / 'checkpoints'}; "
                         "start another run with a lower learning rate, or a larger epsilon")


class StopOnNonFinite(keras.callbacks.Callback):
    """Raise `NonFiniteLoss` at the first step whose loss is not finite. Keras' TerminateOnNaN can't name the term."""

    def __init__(self, stage: str, run: Path) -> None:
        """Take the stage and the run folder for the message."""
        super().__init__()
        self._stage, self._run, self._epoch = stage, run, 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Remember the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Check the terms, then their sums, which are not finite if a term is not."""
        values = logs or {}
        for name in sorted(values, key=lambda name: (name == "loss", name.startswith("weighted"), name)):
            if not math.isfinite(values[name]):
                raise NonFiniteLoss(f"the term '{name}' is {values[name]} in epoch {self._epoch + 1}, step {batch + 1}",
                                    self._stage, self._run)


class WatchDiscriminator(keras.callbacks.Callback):
    """Print a line after an epoch in which the discriminator taught the generator nothing."""

    def __init__(self, stage: str) -> None:
        """Take the stage for the message."""
        super().__init__()
        self._stage = stage

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Look at the accuracy: undecided, or almost never wrong."""
        accuracy = (logs or {}).get("d_accuracy")
        if accuracy is None or UNDECIDED <= accuracy <= WINS:
            return
        found = ("is undecided: the adversarial term teaches little yet; train longer, or raise" if accuracy < UNDECIDED
                 else "is almost never wrong: the generator can't follow; use a larger generator, or lower")
        # `write` puts the line above the progress bar.
        tqdm.write(f"{self._stage}, epoch {epoch + 1}: the discriminator (accuracy {accuracy:.3f}) {found} "
                   "--discriminator_learning_rate", file=sys.stderr)


class Progress(keras.callbacks.Callback):
    """One bar for the whole stage, with the time left, the last loss and the last score."""

    def __init__(self, stage: str, epochs: int, steps: int, first_epoch: int, score: str) -> None:
        """Open the bar at the first epoch; a terminal is updated every second, a log file every minute."""
        super().__init__()
        self._shown: dict[str, str] = {}
        self._score, self._epochs, self._last = score, epochs, 0.0
        self._bar = tqdm(total=epochs * steps, initial=first_epoch * steps, desc=f"{stage:<11}", unit="step",
                         dynamic_ncols=True, mininterval=1.0 if sys.stderr.isatty() else 60.0, smoothing=0.1)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Advance by a step."""
        now = time.monotonic()
        if logs and "loss" in logs and now - self._last > 1.0:
            self._shown["loss"], self._last = f"{logs['loss']:.4f}", now
            self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Show the epoch's score."""
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
        """Start the clock."""
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Write everything, the checkpoint last."""
        self._check_weights(epoch)
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

    def _check_weights(self, epoch: int) -> None:
        # The last update of an epoch comes after its last loss, and scores of 8-bit images are always finite.
        for weight in self.model.weights:
            if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
                raise NonFiniteLoss(f"the weight '{weight.path}' is not finite after epoch {epoch + 1}", self._stage,
                                    self._run)


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
