# SPDX-License-Identifier: Apache-2.0
"""Around the steps: a loss that is not finite stops by name; an epoch leaves row, scalars, picture, checkpoint."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from sr_keras.training.callbacks import NonFiniteLoss, Progress, Record, StopOnNonFinite, WatchDiscriminator
from sr_keras.training.checkpoints import State, restore_checkpoint
from sr_keras.training.run_folder import read_metrics


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_stop_names_the_term_and_not_the_sum(value, tmp_path):
    guard = StopOnNonFinite("warmup", tmp_path)
    guard.on_epoch_begin(6)
    logs = {"loss": value, "fidelity": 0.2, "manifold": value, "weighted_manifold": value}
    with pytest.raises(NonFiniteLoss, match=r"the term 'manifold' .* epoch 7, step 3 of the warmup stage"):
        guard.on_train_batch_end(2, logs)
    guard.on_train_batch_end(3, {"loss": 1.0, "fidelity": 0.2})


def test_weight_that_is_not_finite_stops_by_name_and_leaves_no_checkpoint(tmp_path):
    """The last update of an epoch has no loss after it that could tell."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="sum")], name="network")
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    record = Record(tmp_path, "warmup", State(), "score", higher_is_better=True, keep=2)
    finite = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(score=0.5))  # 8-bit images are

    def fit(epochs, first, *more):
        model.fit(np.ones((4, 2)), np.ones((4, 1)), initial_epoch=first, epochs=epochs, verbose=0,
                  callbacks=[StopOnNonFinite("warmup", tmp_path), *more, finite, record])
    fit(1, 0)
    huge = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: setattr(model.optimizer, "learning_rate", float("inf")))
    with pytest.raises(NonFiniteLoss, match=r"the weight 'network/sum/kernel' is not finite after epoch 2 of the warm"):
        fit(2, 1, huge)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["warmup-0001"]
    assert len(read_metrics(tmp_path)) == 1


def test_epoch_leaves_row_scalars_picture_and_checkpoint(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse")
    picture = np.full((8, 8, 3), 200, np.uint8)
    record = Record(tmp_path, "warmup", State(), "val_loss", higher_is_better=False, keep=2, picture=lambda: picture)
    data = np.ones((4, 2)), np.ones((4, 1))
    model.fit(*data, validation_data=data, epochs=3, verbose=0, callbacks=[record])
    assert [(row["stage"], row["epoch"]) for row in read_metrics(tmp_path)] == [("warmup", str(k)) for k in (1, 2, 3)]
    drawn = tf.io.decode_png((tmp_path / "pictures" / "warmup-0003.png").read_bytes())
    assert np.array_equal(drawn, picture)
    assert list((tmp_path / "tensorboard" / "warmup").iterdir())
    state = restore_checkpoint(tmp_path, "warmup", model)
    assert (state.epoch, state.best_epoch) == (3, 3)


def test_progress_shows_where_a_resumed_stage_stands(capsys):
    bar = Progress("warmup", epochs=4, steps=5, first_epoch=2, score="val_ssim")
    for batch in range(5):
        bar.on_train_batch_end(batch, {"loss": 0.25})
    bar.on_epoch_end(2, {"val_ssim": 0.75})
    bar.close()
    shown = capsys.readouterr().err
    assert "15/20" in shown
    assert "loss=0.2500" in shown
    assert "ssim=0.7500" in shown


@pytest.mark.parametrize(("accuracy", "told"), [
    (0.52, "is undecided"), (0.999, "is almost never wrong"), (0.75, None), (0.97, None), (None, None)])
def test_a_discriminator_that_guesses_or_is_never_wrong_is_told_of_in_a_line(accuracy, told, capsys):
    WatchDiscriminator("adversarial").on_epoch_end(4, {"loss": 1.0} if accuracy is None else {"d_accuracy": accuracy})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (told is not None)
    if told:
        assert lines[0].startswith(f"adversarial, epoch 5: the discriminator (accuracy {accuracy:.3f}) {told}")
        assert lines[0].endswith("--discriminator_learning_rate")
