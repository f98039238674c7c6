# SPDX-License-Identifier: Apache-2.0
r"""Train a grid of cells with the same budget, score them, and write tables and figures.

    python -m study --flagfile=sr_keras/flagfiles/study_small.flags \
        --train_data=tiles/train --val_data=tiles/val --work=runs/study --output=docs/study/small

Every cell is a run of `sr_keras.train`. Flags of `sr_keras.train` apply to all cells, except those that the grid sets.
Run the same command again to resume; cells listed in OUTPUT/results.csv are not trained again, even if their runs were
deleted.

OUTPUT gets results.csv, tables.md, figures and residuals: numbers and plots. WORK gets the runs and report.html, which
shows patches of the slides. Without --test_data the validation slides are scored. Then --best_by=last is required, so
that no checkpoint is chosen on the slides that are scored.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from pipelines import console
from pipelines.config import corrupt_options, degrade_options, patch_options
from pipelines.errors import require
from pipelines.files import write_text
from pipelines.workers import available_memory, cores
from sr_keras.config import Objective
from sr_keras.training.flags import (
    data_options,
    define_train_flags,
    generator_options,
    objective,
    train_defaults,
    train_options,
)
from study.grid import SET_BY_GRID, Cell, cell_flags, parse_grids

if TYPE_CHECKING:
    from pipelines.sources import Source

CELL_MEMORY = 3 * 2**29  # bytes of a small cell without its cached tiles (measured: 1.3 GiB)

TRAIN = flags.FlagValues()
define_train_flags(TRAIN)
FLAGS = flags.FlagValues()
FLAGS.append_flag_values(TRAIN)
FLAGS.set_default("degradation", "textbook")  # the degradation of the paper
flags.DEFINE_multi_string("grid", [], "Cells to train, such as 'method=srgan_sqe; q=0.5,1; fraction=0,0.3'. May be "
                          "repeated.", flag_values=FLAGS)
flags.DEFINE_list("seeds", ["0", "1"], "Seeds of every cell.", flag_values=FLAGS)
flags.DEFINE_string("work", None, "Folder for shards, runs and the report with patches.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "Folder for the table, figures and residuals.", flag_values=FLAGS)
flags.DEFINE_integer("test_patches", None, "Number of patches to score, the same from each test slide. Default: all.",
                     flag_values=FLAGS)
flags.DEFINE_list("magnifications", [], "SLIDE:MAGNIFICATION of each test slide, to report scores by magnification.",
                  flag_values=FLAGS)
flags.DEFINE_integer("at_once", None, "Number of cells trained in parallel. Default: one on a GPU, else one per core "
                     "as memory allows.", lower_bound=1, flag_values=FLAGS)


def main() -> int:
    """Return 1 if a cell failed."""
    common = "".join(f"{line}\n" for line in console.resolved(TRAIN).splitlines() if _is_common(line))
    cells = _checked(common)
    console.import_tensorflow()
    from study.report import write_outputs
    from study.training import COMMON_FLAGS, Study, require_disk_space, train_cells

    work, output = Path(FLAGS.work), Path(FLAGS.output)
    sources = _sources()
    require_disk_space(cells, work, output)
    for folder in (work, output):
        _write_once(folder / COMMON_FLAGS, common)
    _write_shards(sources, work / "shards")
    study = Study(work, output, FLAGS.test_patches, degrade_options(FLAGS), FLAGS.vgg_weights,
                  dict(text.split(":") for text in FLAGS.magnifications), corrupt_options(FLAGS))
    failed = train_cells(cells, study, FLAGS.epsilon or Objective().epsilon, _at_once(work / "shards/train"))
    for one in failed:
        print(f"failed: {one.cell.name}: {one.reason}", file=sys.stderr)
    write_outputs(cells, failed, study)
    return 1 if failed else 0


def _checked(common: str) -> list[Cell]:
    """Return the cells to train; refuse invalid flags before anything is written.

    Args:
        common: The flags that all cells share, one per line.
    """
    for name, example in (("work", "runs/study"), ("output", "docs/study/small"), ("val_data", "tiles/val")):
        require(bool(FLAGS[name].value), name, "be set", f"add --{name}={example}, for example", FLAGS[name].value)
    given = [name for name in SET_BY_GRID if TRAIN[name].present]
    require(not given, "flags", "not include flags that the grid sets", "write them as axes of --grid", given)
    data = data_options(FLAGS)
    require(bool(data.test_data) or FLAGS.best_by == "last", "best_by",
            "be last if the validation slides are scored", "add --best_by=last, or set --test_data to other slides",
            FLAGS.best_by)
    require(data.eval_patch_size >= 161, "eval_patch_size", "be 161 or more", "MS-SSIM needs it", data.eval_patch_size)
    wrong = [text for text in FLAGS.magnifications if text.count(":") != 1]
    require(not wrong, "magnifications", "be SLIDE:MAGNIFICATION", "write erosion:40x", wrong)
    try:
        seeds = [int(seed) for seed in FLAGS.seeds]
    except ValueError as error:
        raise ValueError(f"`seeds` must be integers; write 0,1. Received: seeds={FLAGS.seeds!r}") from error
    require(bool(seeds), "seeds", "have at least one value", "write 0,1", FLAGS.seeds)
    cells = parse_grids(FLAGS.grid, seeds, list(TRAIN))
    for cell in cells:
        _check_flags([*common.splitlines(), *cell_flags(cell)], cell.name)
    return cells


def _check_flags(given: list[str], cell: str) -> None:
    """Refuse flags that `sr_keras.train` would refuse."""
    values = flags.FlagValues()
    define_train_flags(values)
    try:
        values([cell, *given])
    except flags.Error as error:
        raise ValueError(f"`grid` must have valid values; correct it. Received: {cell}: {error}") from error
    for options in (train_options, patch_options, degrade_options, generator_options, corrupt_options, objective):
        options(values)  # each checks its own values


def _is_common(line: str) -> bool:
    name = line.lstrip("-").partition("=")[0]
    decided = (*SET_BY_GRID, "train_data", "val_data", "test_data")
    return name not in decided and name.removeprefix("no") not in decided


def _write_once(path: Path, text: str) -> None:
    """Write the flags that all cells share; refuse a change to flags that were written before.

    A flag that is missing in the file is newer than its cells, which used the default.
    """
    if path.exists():
        before = path.read_text(encoding="utf-8")
        changed = sorted((set(text.splitlines()) ^ set(before.splitlines())) - set(train_defaults().splitlines()))
        require(not changed, "flags", f"equal those in {path}", "use other folders for another study", changed)
    else:
        write_text(path, text)


def _sources() -> dict[str, list[Source]]:
    """Return the slides of every part; without test slides the validation slides are scored."""
    from pipelines.cases import case_finder
    from pipelines.sources import check_disjoint, find_sources

    data = data_options(FLAGS)
    paths = {"train": data.train_data, "val": data.val_data, "test": data.test_data or data.val_data}
    sources = {part: find_sources(some, name=f"{part}_data") for part, some in paths.items()}
    case_of = case_finder(data.case_pattern, data.cases)
    check_disjoint(sources["train"], sources["val"], case_of)
    check_disjoint(sources["train"], sources["test"], case_of)
    return sources


def _write_shards(sources: dict[str, list[Source]], folder: Path) -> None:
    """Extract the patches of every part once, for all cells."""
    from dataclasses import replace

    from pipelines.shards import write_shards

    data, patches = data_options(FLAGS), patch_options(FLAGS)
    whole = replace(patches, patch_size=data.eval_patch_size, stride=None)
    for part, slides in sources.items():
        report = write_shards(slides, folder / part, patches if part == "train" else whole, data.workers, data.strict,
                              progress=False, name=f"{part}_data", max_skipped=data.max_skipped)
        print(f"{part:<6} {report.patches:>6} patches from {report.slides} slide(s)")


def _at_once(train: Path) -> int:
    """Return how many cells fit cores and memory; one on a GPU."""
    if FLAGS.at_once:
        return FLAGS.at_once
    import tensorflow as tf

    from pipelines.shards import open_shards

    if tf.config.list_physical_devices("GPU"):
        return 1
    shards = open_shards(train)
    cached = shards.count * shards.patch_size**2 * 3 if FLAGS.cache == "memory" else 0
    return max(1, min(cores(), available_memory() // (CELL_MEMORY + cached)))


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
