# SPDX-License-Identifier: Apache-2.0
"""Around the steps: a loss that is not finite stops by name; an epoch leaves row, scalars, picture, checkpoint.

A checkpoint restores a stage to the last bit; a damaged or incomplete one is refused or ignored.
"""
from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.errors import UserError
from sr_keras.training.callbacks import (
    Guard,
    Progress,
    Record,
    State,
    checkpoint,
    load_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from sr_keras.training.run_folder import open_run, read_metrics


def network(width: int = 3) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(width)])
    model.compile(optimizer="adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_stop_names_the_term_and_not_the_sum(value, tmp_path):
    guard = Guard("warmup", tmp_path)
    guard.on_epoch_begin(6)
    logs = {"loss": value, "fidelity": 0.2, "manifold": value, "weighted_manifold": value}
    with pytest.raises(UserError, match=r"the term 'manifold' .* epoch 7, step 3 of the warmup stage"):
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
                  callbacks=[Guard("warmup", tmp_path), *more, finite, record])
    fit(1, 0)
    huge = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: setattr(model.optimizer, "learning_rate", float("inf")))
    with pytest.raises(UserError, match=r"the weight 'network/sum/kernel' is not finite after epoch 2 of the warm"):
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
def test_a_discriminator_that_guesses_or_is_never_wrong_is_told_of_in_a_line(accuracy, told, capsys, tmp_path):
    guard = Guard("adversarial", tmp_path)
    guard.set_model(network())
    guard.on_epoch_end(4, {"loss": 1.0} if accuracy is None else {"d_accuracy": accuracy})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (told is not None)
    if told:
        assert lines[0].startswith(f"adversarial, epoch 5: the discriminator (accuracy {accuracy:.3f}) {told}")
        assert lines[0].endswith("--discriminator_learning_rate")


# Checkpoints


@pytest.mark.parametrize(("higher", "scores", "best"), [(True, [1.0, 3.0, 2.0], 2), (False, [1.0, 3.0, 2.0], 1)])
def test_state_remembers_the_best_epoch(higher, scores, best):
    state = State()
    for score in scores:
        state = state.advance(score, higher)
    assert (state.epoch, state.best_epoch, state.best_score) == (3, best, scores[best - 1])


@pytest.mark.parametrize("higher", [True, False])
def test_score_that_is_nan_is_never_better_than_a_number(higher):
    state = State()
    for score, best in [(math.nan, 1), (math.nan, 1), (0.5, 3), (math.nan, 3)]:
        state = state.advance(score, higher)
        assert state.best_epoch == best
    assert state.best_score == 0.5


def test_checkpoints_keep_the_last_and_the_best(tmp_path):
    model, state = network(), State()
    for score in [0.1, 0.9, 0.2, 0.3, 0.4]:
        state = state.advance(score, higher_is_better=True)
        save_checkpoint(tmp_path, "warmup", model, state, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "warmup-0002", "warmup-0004", "warmup-0005"]


def test_checkpoint_restores_weights_and_optimizer_exactly(tmp_path):
    model = network()
    model.fit(np.ones((8, 2)), np.ones((8, 3)), epochs=2, verbose=0)
    save_checkpoint(tmp_path, "warmup", model, State(1, 0.5, 1, 0.5), keep=1)
    other = network()
    assert restore_checkpoint(tmp_path, "warmup", other) == State(1, 0.5, 1, 0.5)
    saved, loaded = ([*m.variables, *m.optimizer.variables] for m in (model, other))
    assert all(np.array_equal(one, two) for one, two in zip(saved, loaded, strict=True))
    assert int(other.optimizer.iterations) > 0


def test_restore_starts_afresh_where_there_is_no_checkpoint(tmp_path):
    assert restore_checkpoint(tmp_path, "warmup", network()) == State()


def test_half_a_checkpoint_is_never_seen(tmp_path):
    model = network()
    save_checkpoint(tmp_path, "warmup", model, State(1, 0.5, 1, 0.5), keep=3)
    half = tmp_path / "checkpoints" / ".123.tmp.warmup-0002"
    half.mkdir()
    (half / "model.keras").write_bytes(b"half")
    assert restore_checkpoint(tmp_path, "warmup", network()).epoch == 1
    (tmp_path / "flags.txt").write_text("")
    open_run(tmp_path, "", resume=True)
    assert not half.exists()


def test_checkpoint_of_another_architecture_is_refused_by_name(tmp_path):
    save_checkpoint(tmp_path, "warmup", network(3), State(1, 0.5, 1, 0.5), keep=1)
    with pytest.raises(ValueError, match=r"must be of the network that is trained.*warmup-0001"):
        load_checkpoint(tmp_path, "warmup", 1, network(4))


def test_damaged_checkpoint_is_refused_by_name(tmp_path):
    save_checkpoint(tmp_path, "warmup", network(), State(1, 0.5, 1, 0.5), keep=1)
    path = checkpoint(tmp_path, "warmup", 1) / "model.keras"
    held = bytearray(path.read_bytes())
    held[held.index(b"HDF") + 2000] ^= 0xFF
    for damaged in (bytes(held), bytes(held[:500])):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged.*warmup-0001"):
            restore_checkpoint(tmp_path, "warmup", network())


@pytest.mark.parametrize("held", [
    "{", "5", '{"epoch": 1}', '{"epoch": 1, "score": 0, "best_epoch": 1, "other": 0}',
    '{"epoch": 1, "score": "good", "best_epoch": 1, "best_score": 0.5}',
    '{"epoch": 2, "score": 0.5, "best_epoch": 1, "best_score": 0.5}',
    '{"epoch": 1, "score": 0.5, "best_epoch": 2, "best_score": 0.5}'])
def test_damaged_state_is_one_line_that_names_the_file(held, tmp_path):
    save_checkpoint(tmp_path, "warmup", network(), State(1, 0.5, 1, 0.5), keep=1)
    (checkpoint(tmp_path, "warmup", 1) / "state.json").write_text(held)
    with pytest.raises(ValueError, match=r"warmup-0001/state\.json` must |`state\.json` must .*warmup-0001/"):
        restore_checkpoint(tmp_path, "warmup", network())


def test_full_disk_leaves_the_last_checkpoint_as_it_was(tmp_path, monkeypatch):
    model = network()
    save_checkpoint(tmp_path, "warmup", model, State(1, 0.5, 1, 0.5), keep=1)

    def full(path):
        path.write_bytes(b"some")
        raise OSError(28, "No space left on device", str(path))
    monkeypatch.setattr(model, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, "warmup", model, State(2, 0.6, 2, 0.6), keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["warmup-0001"]
    assert checkpoint(tmp_path, "warmup", 1).is_dir()
