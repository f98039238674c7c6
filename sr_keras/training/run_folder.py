"""A run folder: what was asked, with what software, which epochs are safe, and how they scored.

    runs/NAME/
      flags.txt       every flag, resolved: `--flagfile` on it repeats the run
      versions.json   of everything the run stands on
      data/           shards of the train, val and test parts, where they were not given as shards
      parts.json      which slides are train, val and test, and where their shards are
      skipped.json    patches and slides that could not be read, with the reason
      checkpoints/    STAGE-0007/: model.keras and state.json, whole or not there
      metrics.csv     a row per stage and epoch
      manifold.json   how far the autoencoder's code moves with noise, blur and contrast
      tensorboard/, pictures/
      autoencoder.keras, warmup.keras, adversarial.keras   the best of each finished stage
      generator.keras the best generator of the last stage: what is evaluated, exported and used
"""
from __future__ import annotations

import csv
import io
import json
import math
import platform
import re
import shutil
import subprocess
import warnings
import zipfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import require
from pipelines.files import atomic_path, write_text

if TYPE_CHECKING:
    import keras

FLAGS_FILE, VERSIONS_FILE = "flags.txt", "versions.json"
# A run has begun once one of these is there: its data is read, or an epoch stands.
BEGUN = ("parts.json", "checkpoints")
# What `pipelines.files.atomic_path` leaves behind where it was killed.
LEFTOVER = re.compile(r"\.\d+\.tmp\..+")
# What may change when a run goes on: it alters no weight. A run that was moved has another name.
MAY_CHANGE = ("keep_checkpoints", "run", "strict", "workers")
REMOVE_CHECKPOINT = "remove its folder, and --resume goes on from the epoch before"


def open_run(folder: Path, flags: str, resume: bool, defaults: str = "") -> None:
    """Make `folder` a run folder, or check that the run in it is the one that `flags` ask for.

    A run that ended before it had its data is none yet: other flags may take its place. `defaults`, flags as text too,
    are what a flag was that the run does not know, since it is younger.

    Raises:
      ValueError: the folder holds a run and `resume` is false; it holds something else; or the flags contradict
        those the run was started with.
    """
    written = folder / FLAGS_FILE
    begun = written.exists() and any((folder / name).exists() for name in BEGUN)
    if begun:
        if not resume:
            raise ValueError(f"`run` must be a new folder; add --resume to go on with the run in it, or name another. "
                             f"Received: run={str(folder)!r}")
        _check_same(written.read_text(encoding="utf-8"), flags, written, defaults)
    elif not written.exists() and not all(_is_ours(path) for path in folder.glob("*")):
        raise ValueError(f"`run` must be a new folder or a run's; this one holds something else; name another. "
                         f"Received: run={str(folder)!r}")
    _remove_leftovers(folder)
    _remove_leftovers(folder / "checkpoints")
    if not begun:
        write_text(folder / VERSIONS_FILE, json.dumps(versions(), indent=2) + "\n")
        write_text(written, flags)


def _is_ours(path: Path) -> bool:
    return path.name == VERSIONS_FILE or bool(LEFTOVER.fullmatch(path.name))


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".*.tmp.*"):
        if not LEFTOVER.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_same(before: str, now: str, path: Path, defaults: str) -> None:
    old, new, default = (dict(line.lstrip("-").partition("=")[::2] for line in text.splitlines())
                         for text in (before, now, defaults))
    differing = [f"--{name} was {old.get(name, 'not given')} and is {new.get(name, 'not given')}"
                 for name in sorted(old.keys() | new.keys())
                 if name not in MAY_CHANGE and old.get(name, default.get(name)) != new.get(name)]
    if differing:
        raise ValueError(f"flags of a resumed run must be those it was started with; resume with "
                         f"--flagfile={path} --resume, or name another run: {'; '.join(differing)}")


def versions() -> dict[str, str]:
    """Return the versions of Python, the required packages, the platform and, in a checkout, the commit."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _packages():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["commit"] = _commit()
    return found


def _packages() -> list[str]:
    """Return `sr_keras` and what it requires, extras left out; the two that matter most where it is not installed."""
    try:
        required = requires("sr_keras") or []
    except PackageNotFoundError:
        required = ["tensorflow", "keras"]
    return ["sr_keras", *(re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line)]


def _commit() -> str:
    try:
        ran = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=Path(__file__).parent,
                             capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return ran.stdout.strip() or "unknown"


@dataclass
class State:
    """Where a stage stands after `epoch` epochs; epochs count from 1, 0 is none yet."""

    epoch: int = 0
    score: float | None = None
    best_epoch: int = 0
    best_score: float | None = None

    def advance(self, score: float, higher_is_better: bool) -> State:
        """Return the state one epoch later. A score that is NaN is better than none yet, and never than a number."""
        best = self.best_score
        if (best is None or (math.isnan(best) and not math.isnan(score))
                or (score > best if higher_is_better else score < best)):
            return State(self.epoch + 1, score, self.epoch + 1, score)
        return State(self.epoch + 1, score, self.best_epoch, best)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Return what one of a run's .json files holds.

    Raises:
      ValueError: it is damaged; says what to do: `remedy`.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"`{path.name}` must be as it was written, this one is damaged; {remedy}. "
                         f"Received: {str(path)!r}")
    return found


def checkpoint(run: Path, stage: str, epoch: int) -> Path:
    """Return the folder of a checkpoint."""
    return run / "checkpoints" / f"{stage}-{epoch:04d}"


def save_checkpoint(run: Path, stage: str, model: keras.Model, state: State, keep: int) -> Path:
    """Write `model` with its optimizers and `state` as one folder, then drop all but the last `keep` and the best."""
    folder = checkpoint(run, stage, state.epoch)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        model.save(temporary / "model.keras")
        (temporary / "state.json").write_text(json.dumps(asdict(state), indent=2) + "\n")
    for epoch in _epochs(run, stage)[:-keep]:
        if epoch != state.best_epoch:
            shutil.rmtree(checkpoint(run, stage, epoch))
    return folder


def restore_checkpoint(run: Path, stage: str, model: keras.Model) -> State:
    """Load the newest checkpoint of `stage` into `model` and return its state; a fresh state where there is none.

    Raises:
      ValueError: the checkpoint is damaged, or of another architecture.
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
    """Load the weights, optimizers and averages of one epoch into `model`."""
    load_weights(model, checkpoint(run, stage, epoch) / "model.keras")


def load_weights(model: keras.Model, path: Path) -> None:
    """Load all that a .keras file holds into a model that was built and compiled alike.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or of another architecture. Keras 3.15 by itself reads on past a wrong checksum, and
        leaves a layer that the file does not have as it was, with a warning.
    """
    if not path.exists():
        raise FileNotFoundError(f"weights must be a .keras file; this one is not there. Received: {path}")
    if not zipfile.is_zipfile(path) or zipfile.ZipFile(path).testzip():
        raise ValueError(f"weights must be a whole .keras file; this one is damaged: copy or train it again. "
                         f"Received: {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except (ValueError, UserWarning) as error:
        raise ValueError(f"weights must be of the network that is trained; give the flags they were trained with, or "
                         f"name another run. Received: {path}") from error


def _epochs(run: Path, stage: str) -> list[int]:
    names = (path.name for path in (run / "checkpoints").glob(f"{stage}-*"))
    return sorted(int(match[1]) for match in (re.fullmatch(rf"{stage}-(\d+)", name) for name in names) if match)


def read_metrics(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv; none where there is no file yet."""
    path = run / "metrics.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def record_metrics(run: Path, stage: str, epoch: int, values: dict[str, float]) -> None:
    """Put one epoch's row into metrics.csv, in place of rows of this stage that a killed run left behind."""
    rows = [row for row in read_metrics(run) if row["stage"] != stage or int(row["epoch"]) < epoch]
    rows.append({"stage": stage, **{name: f"{value:.6g}" for name, value in values.items()}, "epoch": str(epoch)})
    columns = list(dict.fromkeys(name for row in rows for name, value in row.items() if value))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(run / "metrics.csv", text.getvalue())
