"""A run folder keeps what was asked, refuses what contradicts it, and its checkpoints are whole or not there."""
from __future__ import annotations

import json
import math
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import pytest

from pipelines.sources import RUN_FILES
from sr_keras.training.run_folder import (
    FLAGS_FILE,
    VERSIONS_FILE,
    State,
    checkpoint,
    load_checkpoint,
    open_run,
    read_metrics,
    record_metrics,
    restore_checkpoint,
    save_checkpoint,
    versions,
)

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"


def begin(run: Path) -> None:
    """What the first thing that a run makes leaves behind."""
    (run / "parts.json").write_text("{}")


def test_a_run_is_known_by_two_of_its_files_where_slides_are_looked_for(tmp_path):
    open_run(tmp_path, "--q=1", resume=False)
    assert {path.name for path in tmp_path.iterdir()} == RUN_FILES == {FLAGS_FILE, VERSIONS_FILE}


def network(width: int = 3) -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(width)])
    model.compile(optimizer="adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_open_run_writes_flags_and_versions(tmp_path):
    open_run(tmp_path / "run", "--q=0.5\n", resume=False)
    assert (tmp_path / "run" / "flags.txt").read_text() == "--q=0.5\n"
    written = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert written["keras"] == keras.__version__ == versions()["keras"]


def test_versions_name_all_that_is_required_and_no_extra():
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and line[0] != "#"]
    names = {line.partition("==")[0] for line in lines}
    assert versions().keys() == names | {"python", "platform", "commit", "sr_keras"}
    assert all(versions()[name] == version(name) for name in names)


def test_open_run_refuses_a_run_that_is_there_unless_it_resumes(tmp_path):
    open_run(tmp_path, "--q=0.5\n", resume=True)
    begin(tmp_path)
    with pytest.raises(ValueError, match=r"`run` must be a new folder; add --resume"):
        open_run(tmp_path, "--q=0.5\n", resume=False)
    open_run(tmp_path, "--q=0.5\n", resume=True)


def test_open_run_refuses_contradicting_flags_and_names_them(tmp_path):
    open_run(tmp_path, "--q=0.5\n--blocks=8\n--workers=2\n", resume=False)
    begin(tmp_path)
    with pytest.raises(ValueError, match=r"--q was 0.5 and is 2.0") as caught:
        open_run(tmp_path, "--q=2.0\n--blocks=8\n--workers=1\n", resume=True)
    assert "workers" not in str(caught.value)
    assert "blocks" not in str(caught.value)
    assert (tmp_path / "flags.txt").read_text().startswith("--q=0.5")


def test_flag_that_is_younger_than_the_run_was_at_its_default(tmp_path):
    open_run(tmp_path, "--q=0.5\n", resume=False)
    begin(tmp_path)
    open_run(tmp_path, "--q=0.5\n--shrink=1.0\n", resume=True, defaults="--q=0.25\n--shrink=1.0\n")
    with pytest.raises(ValueError, match=r"--shrink was not given and is 2.0"):
        open_run(tmp_path, "--q=0.5\n--shrink=2.0\n", resume=True, defaults="--q=0.25\n--shrink=1.0\n")


def test_run_that_was_moved_goes_on_under_its_new_name(tmp_path):
    open_run(tmp_path / "old", "--q=0.5\n--run=old\n", resume=False)
    begin(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    open_run(tmp_path / "new", "--q=0.5\n--run=new\n", resume=True)
    with pytest.raises(ValueError, match=r"--q was 0.5 and is 2.0"):
        open_run(tmp_path / "new", "--q=2.0\n--run=new\n", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_run_that_made_nothing_yet_gives_way_to_another(resume, tmp_path):
    open_run(tmp_path, "--q=0.5\n", resume=False)
    (tmp_path / "data").mkdir()
    open_run(tmp_path, "--q=2.0\n", resume)
    assert (tmp_path / "flags.txt").read_text() == "--q=2.0\n"


@pytest.mark.parametrize("there", [["versions.json"], [".123.tmp.versions.json"],
                                   ["versions.json", ".123.tmp.flags.txt"]])
def test_run_killed_as_it_opened_is_opened_again(there, tmp_path):
    for name in there:
        (tmp_path / name).write_text("{")
    open_run(tmp_path, "--q=0.5\n", resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flags.txt", "versions.json"]
    assert json.loads((tmp_path / "versions.json").read_text())["keras"] == keras.__version__


def test_open_run_refuses_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        open_run(tmp_path, "", resume=True)
    (tmp_path / "thesis.tex").rename(tmp_path / ".x.tmp.tex")
    with pytest.raises(ValueError, match="something else"):
        open_run(tmp_path, "", resume=True)
    assert (tmp_path / ".x.tmp.tex").read_text() == "mine"


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


def test_metrics_of_a_killed_epoch_are_written_over(tmp_path):
    record_metrics(tmp_path, "autoencoder", 1, {"loss": 3.0})
    record_metrics(tmp_path, "warmup", 1, {"loss": 1.0, "val_psnr": 20.0})
    record_metrics(tmp_path, "warmup", 2, {"loss": 0.5, "val_psnr": 21.0})
    record_metrics(tmp_path, "warmup", 2, {"loss": 0.4, "val_psnr": 22.0})
    rows = read_metrics(tmp_path)
    assert [(row["stage"], row["epoch"], row["loss"]) for row in rows] == [
        ("autoencoder", "1", "3"), ("warmup", "1", "1"), ("warmup", "2", "0.4")]
    assert rows[0]["val_psnr"] == ""
