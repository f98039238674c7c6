"""What happens around the steps of a stage: guards, progress bar, records, pictures, checkpoint.

One `Record` does all that an epoch leaves behind, in this order: metrics.csv, TensorBoard, picture, checkpoint.
The checkpoint is last: an epoch counts only once it stands, and a killed run does the epoch again.
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
from pipelines.files import atomic_path
from sr_keras.training.checkpoints import State, save_checkpoint
from sr_keras.training.run_folder import record_metrics

# Of the discriminator's accuracy over an epoch, where 0.5 is guessing. One that learns is above 0.9 after 150 steps.
UNDECIDED, WINS = 0.6, 0.99


class NonFiniteLoss(UserError):
    """A term of the loss, or a weight of a network, became NaN or infinite."""

    def __init__(self, what: str, stage: str, run: Path) -> None:
        super().__init__(f"{what} of the {stage} stage; the epochs before it are safe in {run / 'checkpoints'}; "
                         "start another run with a lower learning rate, or a larger epsilon")


class StopOnNonFinite(keras.callbacks.Callback):
    """Raise `NonFiniteLoss`, naming the term, at the first step whose loss is not finite."""

    def __init__(self, stage: str, run: Path):
        super().__init__()
        self._stage, self._run, self._epoch = stage, run, 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # Sums come last: they are not finite because a term is not.
        names = sorted(logs or {}, key=lambda name: (name == "loss", name.startswith("weighted"), name))
        for name in names:
            value = logs[name]  # type: ignore[index]
            if not math.isfinite(value):
                raise NonFiniteLoss(f"the term '{name}' is {value} in epoch {self._epoch + 1}, step {batch + 1}",
                                    self._stage, self._run)


class WatchDiscriminator(keras.callbacks.Callback):
    """Say in a line that the discriminator taught the generator nothing for an epoch: undecided, or never wrong."""

    def __init__(self, stage: str):
        super().__init__()
        self._stage = stage

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        accuracy = (logs or {}).get("d_accuracy")
        if accuracy is None or UNDECIDED <= accuracy <= WINS:
            return
        found = ("is undecided: the adversarial term teaches little yet; train longer, or raise" if accuracy < UNDECIDED
                 else "wins outright: the generator has no answer to it; give a larger generator, or lower")
        # On a line of its own beside the bar.
        tqdm.write(f"{self._stage}, epoch {epoch + 1}: the discriminator (accuracy {accuracy:.3f}) {found} "
                   "--discriminator_learning_rate", file=sys.stderr)


class Progress(keras.callbacks.Callback):
    """One bar for the whole stage, with its time left and the last loss and score."""

    def __init__(self, stage: str, epochs: int, steps: int, first_epoch: int, score: str):
        super().__init__()
        self._shown: dict[str, str] = {}
        self._score, self._epochs, self._steps, self._last = score, epochs, steps, 0.0
        # On a screen a line that moves; in a log file a line a minute.
        self._bar = tqdm(total=epochs * steps, initial=first_epoch * steps, desc=f"{stage:<11}", unit="step",
                         dynamic_ncols=True, mininterval=1.0 if sys.stderr.isatty() else 60.0, smoothing=0.1)

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

    def on_train_end(self, logs: dict | None = None) -> None:
        self._bar.close()

    def close(self) -> None:
        """Close the bar, also where the stage broke off."""
        self._bar.close()


class Record(keras.callbacks.Callback):
    """Leave behind what an epoch was: its row, its scalars, its picture and its checkpoint."""

    def __init__(self, run: Path, stage: str, state: State, score: str, higher_is_better: bool, keep: int,
                 picture: Callable[[], np.ndarray] | None = None):
        super().__init__()
        self._run, self._stage, self._state, self._keep, self._picture = run, stage, state, keep, picture
        self._score, self._higher = score, higher_is_better
        self._board = tf.summary.create_file_writer(str(run / "tensorboard" / stage))
        self._began = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._check_weights(epoch)
        values = {"epoch": epoch + 1, **(logs or {}), "seconds": time.monotonic() - self._began}
        self._state = self._state.advance(values[self._score], self._higher)
        record_metrics(self._run, self._stage, epoch + 1, values)
        panel = self._picture() if self._picture else None
        if panel is not None:
            _write_png(self._run / "pictures" / f"{self._stage}-{epoch + 1:04d}.png", panel)
        with self._board.as_default(step=epoch + 1):
            for name, value in values.items():
                tf.summary.scalar(name, value)
            if panel is not None:
                tf.summary.image("LR, bicubic, SR, HR", panel[None])
        self._board.flush()
        save_checkpoint(self._run, self._stage, self.model, self._state, self._keep)

    def _check_weights(self, epoch: int) -> None:
        # The last update of an epoch comes after its last loss, and the scores of 8-bit images are finite whatever it
        # did: nothing else would tell.
        for weight in self.model.weights:
            if not np.isfinite(keras.ops.convert_to_numpy(weight)).all():
                raise NonFiniteLoss(f"the weight '{weight.path}' is not finite after epoch {epoch + 1}", self._stage,
                                    self._run)


def _write_png(path: Path, image: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(tf.io.encode_png(image).numpy())
