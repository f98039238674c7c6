# SPDX-License-Identifier: Apache-2.0
"""Train and score the cells of a study, several at a time. Running the same study again resumes it.

    WORK/train, WORK/test           HR tiles of every slide, to train on and to score
    WORK/pairs                      tiles with their scanned LR, to score cells that are not the textbook degradation's
    WORK/shared                     for each fold and corruption an autoencoder, trained with q = 0.5, and a generator
                                    to start from, trained by L_F alone with q = 1 for as long as the warm-up: all
                                    methods have the same manifold and start
    WORK/cells/NAME                 run of a cell: metrics.csv, generator.keras, and log.txt with what was printed
    OUTPUT/results.csv              rewritten after every cell

Without a common start, squared error stays at interpolation for hundreds of steps where half of the examples are
corrupted, and short trainings compare nothing but that.

A cell is trained on the slides of all folds but its own, and scored on the slides of its own. Its seed is the number of
its fold, so the five networks of a setting are independent, and all settings of a fold begin alike. An interrupted cell
starts again. Several cells share a process, because TensorFlow takes as long to start as a small cell to train.
"""
from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from tqdm import tqdm

from pipelines.config import PatchOptions, corrupt_options, degrade_options
from pipelines.errors import require
from pipelines.files import atomic_path, remove
from pipelines.sources import Source
from pipelines.workers import Died, run_jobs
from sr_keras.config import METHODS, Objective, define_train_flags, generator_options, objective, train_options
from sr_keras.training.run_folder import read_metrics, versions
from study.folds import Slide
from study.grid import BICUBIC, RESULTS_FILE, Cell, setting_flags
from study.results import JUDGEMENTS, Row, read_results, write_results

if TYPE_CHECKING:
    from sr_keras.training.plan import Plan

COMMON_FLAGS = "common.flags"
SEEN = 4  # tiles in a batch of scoring
# Objectives of what cells share, by stage. With q = 1 the start is neither squared error's nor the quasi-norm's.
SHARED = {"autoencoder": METHODS["srgan_sqe"], "warmup": Objective(q=1.0, lambda_m=0, lambda_s=0, lambda_d=0)}


@dataclass(frozen=True)
class Study:
    """Folders of a study, the slides by name with their checksum, and the flags that all cells share, one a line."""

    work: Path
    output: Path
    slides: Mapping[str, Slide]
    folds: str
    common: str

    def of_fold(self, fold: int) -> set[str]:
        """Return the names of the slides of a fold."""
        return {name for name, slide in self.slides.items() if slide.fold == fold}


@dataclass(frozen=True)
class Failed:
    """A cell that could not be trained or scored, with the reason."""

    cell: str
    reason: str


def write_tiles(sources: Sequence[Source], work: Path, patches: PatchOptions, scored: int, workers: int | None) -> None:
    """Extract the tiles to train on and to score, once for all cells.

    All slides give HR in the same way: of a folder of pairs the HR, too, is a folder of tiles.

    Args:
        sources: Folders of tiles, some with LR beside them.
        work: The folder of the study.
        patches: Which tiles to train on.
        scored: Tiles of each slide to score.
        workers: Processes.
    """
    from pipelines.shards import write_shards

    alone = [replace(source, lr_paths=None) for source in sources]
    pairs = [source for source in sources if source.is_pairs]
    few = replace(patches, max_patches=scored)
    for part, some, options in (("train", alone, patches), ("test", alone, few), ("pairs", pairs, few)):
        if some:
            report = write_shards(some, work / part, options, workers, progress=False)
            print(f"{part:<6} {report.patches:>6} tiles of {report.slides} slides")


def train_cells(cells: Sequence[Cell], study: Study, at_once: int) -> list[Failed]:
    """Train and score the cells that results.csv does not contain, and return those that failed.

    Raises:
        ValueError: results.csv is damaged, of other folds, or has a cell trained with other flags.
    """
    path = study.output / RESULTS_FILE
    rows = read_results(path, study.folds)
    done = {row["cell"]: row["flags"] for row in rows}
    for cell in cells:
        require(done.get(cell.name, _command(cell)) == _command(cell), "output", "contain no cell trained with other "
                "flags", "choose another folder, or delete the rows of this cell", f"{cell.name} in {path}")
    missing = [cell for cell in cells if cell.name not in done]
    bicubics = [fold for fold in sorted({cell.fold for cell in cells}) if f"{BICUBIC}-fold{fold}" not in done]
    failed: list[Failed] = []
    with tqdm(total=len(cells), initial=len(cells) - len(missing), unit="cell", miniters=0) as bar:
        for job, outcome in run_jobs(partial(_job, study=study), [*bicubics, *missing], at_once, lambda count: None):
            name = job.name if isinstance(job, Cell) else f"{BICUBIC}-fold{job}"
            outcome = Failed(name, str(outcome)) if isinstance(outcome, Died) else outcome
            if isinstance(outcome, Failed):
                failed.append(outcome)
                tqdm.write(f"failed: {outcome.cell}: {outcome.reason}", file=sys.stderr)
            else:
                rows += outcome
                write_results(rows, path)
            bar.update(isinstance(job, Cell))
    return failed


def _job(job: Cell | int, report: Callable[[int], None], study: Study) -> list[Row] | Failed:
    """Train and score a cell, or score bicubic on a fold."""
    if not isinstance(job, Cell):
        return _bicubic_rows(job, study)
    folder = study.work / "cells" / job.name
    try:
        remove(folder)
        folder.mkdir(parents=True)
        with _logged(folder / "log.txt"):
            return _cell_rows(job, folder, study) or Failed(job.name, "no slide of its fold has scanned LR")
    except (OSError, ValueError, RuntimeError) as error:  # a full disk, a loss that is not finite: other cells go on
        return Failed(job.name, " ".join(f"{type(error).__name__}: {error}".split()))


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def _cell_rows(cell: Cell, folder: Path, study: Study) -> list[Row]:
    import keras
    import tensorflow as tf

    from sr_keras.model.loading import load_generator
    from sr_keras.training.stages import train_stages

    plan = _plan(cell, folder, study)
    if plan.options.deterministic:
        tf.config.experimental.enable_op_determinism()
    shared: dict[str, Any] = {"generator": str(_shared("warmup", cell, plan, study))}
    if plan.objective.lambda_m:
        shared["autoencoder"] = str(_shared("autoencoder", cell, plan, study))
    plan = replace(plan, options=replace(plan.options, **shared))
    generator = load_generator(train_stages(plan), plan.degrade.scale)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    metrics, setting = read_metrics(folder), cell.setting
    judged = {name: float(metrics[-1][name]) for name in JUDGEMENTS if metrics[-1].get(name)}
    facts = {**_columns(cell.name, setting.name, cell.fold, study), **vars(setting), **judged,
             "seconds": sum(float(row["seconds"]) for row in metrics), "commit": versions()["commit"],
             "flags": _command(cell)}
    real = not plan.degrade.is_textbook
    rows = [facts | scores for scores in _scores(generator, cell.fold, study, plan, real)]
    keras.backend.clear_session()
    gc.collect()
    return rows


def _plan(cell: Cell, folder: Path, study: Study) -> Plan:
    """Return the plan of a cell: what `sr_keras.train` makes of its flags, on the slides of its folds."""
    from pipelines.shards import open_shards
    from sr_keras.training.plan import Plan

    values = flags.FlagValues()
    define_train_flags(values)
    values(["cell", *study.common.splitlines(), *setting_flags(cell.setting), f"--seed={cell.fold}",
            f"--run={folder}"])
    own = study.of_fold(cell.fold)
    return Plan(folder, train_options(values), objective(values), generator_options(values), degrade_options(values),
                corrupt_options(values), open_shards(study.work / "train", set(study.slides) - own),
                open_shards(study.work / "test", own))


def _shared(stage: str, cell: Cell, plan: Plan, study: Study) -> Path:
    """Return what the cells of a fold and corruption share: what this stage trains, if it is not there yet."""
    from sr_keras.training.stages import train_stages

    others = "".join(f"-{one}" for one in cell.setting.variant.split(";") if one and not one.startswith("lambda_"))
    path = study.work / "shared" / f"{stage}-{cell.setting.corruption}{others}-fold{cell.fold}.keras"
    if not path.exists():
        run = plan.run / stage
        stages = tuple(one if one.name == stage else replace(one, epochs=0) for one in plan.options.stages)
        options = replace(plan.options, stages=stages)
        train_stages(replace(plan, run=run, options=options, objective=SHARED[stage]))
        with atomic_path(path) as temporary:
            shutil.copyfile(run / f"{stage}.keras", temporary)
    return path


def _bicubic_rows(fold: int, study: Study) -> list[Row]:
    """Return the rows of bicubic on the textbook LR and, where there are pairs, on the scanned LR."""
    from sr_keras.metrics import bicubic
    from study.grid import Setting

    plan = _plan(Cell(Setting("srgan", METHODS["srgan"].q), fold), study.work / "cells" / BICUBIC, study)
    upscale = partial(bicubic, scale=plan.degrade.scale)
    return [{**_columns(f"{name}-fold{fold}", name, fold, study), "method": BICUBIC, **scores}
            for name, real in ((BICUBIC, False), (f"{BICUBIC}-real", True))
            for scores in _scores(upscale, fold, study, plan, real)]


def _columns(cell: str, setting: str, fold: int, study: Study) -> Row:
    return {"cell": cell, "setting": setting, "fold": fold, "variant": "", "folds": study.folds}


def _scores(upscale: Callable[[Any], Any], fold: int, study: Study, plan: Plan, real: bool) -> Iterator[Row]:
    """Yield the mean scores of every slide of a fold; with `real`, on scanned LR, of those that have it."""
    import numpy as np

    from pipelines.dataset import evaluation_dataset
    from pipelines.pixels import quantise
    from pipelines.shards import open_shards
    from sr_keras import metrics
    from sr_keras.evaluation.scored_patches import score_images, text

    folder = study.work / ("pairs" if real else "test")
    there = set(open_shards(folder).slide_ids) if folder.exists() else set()
    found: dict[str, list[dict[str, float]]] = {}
    own = study.of_fold(fold) & there
    dataset = evaluation_dataset(open_shards(folder, own), batch_size=SEEN, degrade=plan.degrade,
                                 lr="real" if real else "made").as_numpy_iterator() if own else ()
    for batch in dataset:
        sr = quantise(np.asarray(upscale(batch["lr"])))
        values = score_images(batch["hr"], sr, batch["lr"], plan.degrade, ("psnr", "ssim", "ms_ssim", "qilv", "rrmse"))
        values |= {"rrmse_squared": values["rrmse"]**2, "qilv_unit": metrics.qilv(batch["hr"], sr, peak=1.0).numpy()}
        for i, slide in enumerate(batch["slide_id"]):
            found.setdefault(text(slide), []).append({name: float(value[i]) for name, value in values.items()})
    for slide, tiles in found.items():
        means = {name: float(np.mean([tile[name] for tile in tiles])) for name in tiles[0]}
        yield {"slide": slide, "magnification": study.slides[slide].magnification, "tiles": len(tiles),
               **{name: value if np.isfinite(value) else None for name, value in means.items()}}


def _command(cell: Cell) -> str:
    """Return the training options as recorded in the results: without paths."""
    return " ".join([f"--flagfile={COMMON_FLAGS}", *setting_flags(cell.setting), f"--seed={cell.fold}"])
