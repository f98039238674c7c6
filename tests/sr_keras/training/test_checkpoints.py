# SPDX-License-Identifier: Apache-2.0
"""A checkpoint restores a stage to the last bit; a damaged or incomplete one is refused or ignored."""
from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from sr_keras.training.checkpoints import State, checkpoint, load_checkpoint, restore_checkpoint, save_checkpoint
from sr_keras.training.run_folder import open_run


def network(width: int = 3) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(width)])
    model.compile(optimizer="adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


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


@pytest.mark.parametrize("held", ["{", "5", '{"epoch": 1}', '{"epoch": 1, "score": 0, "best_epoch": 1, "other": 0}'])
def test_damaged_state_is_one_line_that_names_the_file(held, tmp_path):
    save_checkpoint(tmp_path, "warmup", network(), State(1, 0.5, 1, 0.5), keep=1)
    (checkpoint(tmp_path, "warmup", 1) / "state.json").write_text(held)
    with pytest.raises(ValueError, match=r"`state\.json` must .*remove its folder.*warmup-0001/state\.json"):
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
