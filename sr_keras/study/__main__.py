"""Train a grid of cells on the same budget, score them, and draw what came of it.

    python -m sr_keras.study --flagfile=sr_keras/flagfiles/study_small.flags \\
        --train_data=tiles/train --val_data=tiles/val --work=runs/study --output=docs/study/small

Every cell is a run of `sr_keras.train`; its flags, but those that a grid decides, may be given here and hold for all
cells. What was stopped goes on when the same command is run again; cells whose rows are in OUTPUT/results.csv are
done, also where their runs are no longer there.

OUTPUT gets results.csv, tables.md, figures and residuals: numbers and plots. WORK gets the runs, and report.html, which
shows patches of the slides. Without --test_data the validation slides are scored; --best_by=last, which keeps each
stage's last epoch, is needed then: nothing is chosen on slides that are scored.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path

from absl import flags

from pipelines import console
from pipelines.files import write_text
from pipelines.flags import degrade_options, patch_options
from pipelines.options import require
from sr_keras.flags import data_options, define_train_flags, generator_options, train_options
from sr_keras.options import Objective
from sr_keras.study.grid import DECIDED, Cell, parse_grids

TRAIN = flags.FlagValues()
define_train_flags(TRAIN)
FLAGS = flags.FlagValues()
FLAGS.append_flag_values(TRAIN)
flags.DEFINE_multi_string("grid", [], "Cells: 'method=srgan_sqe; q=0.5,1; fraction=0,0.3'; may be repeated.",
                          flag_values=FLAGS)
flags.DEFINE_list("seeds", ["0", "1"], "Seeds of every cell.", flag_values=FLAGS)
flags.DEFINE_string("work", None, "Folder for shards, runs and the report with its patches.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "Folder for the table, figures and residuals.", flag_values=FLAGS)
flags.DEFINE_integer("test_patches", None, "Score so many patches, from each test slide the same number; all if left "
                     "out.", flag_values=FLAGS)
flags.DEFINE_list("magnifications", [], "SLIDE:MAGNIFICATION of each test slide, to report by.", flag_values=FLAGS)
flags.DEFINE_integer("at_once", None, "Cells trained at the same time; one a core, or one where there is a GPU, if "
                     "left out.", lower_bound=1, flag_values=FLAGS)


def main() -> int:
    cells = _checked()
    from sr_keras.study.campaign import train_cells
    from sr_keras.study.cells import COMMON_FLAGS, Bench
    from sr_keras.study.present import present

    work, output = Path(FLAGS.work), Path(FLAGS.output)
    common = "".join(f"{line}\n" for line in console.resolved(TRAIN).splitlines() if _is_common(line))
    for folder in (work, output):
        _write_once(folder / COMMON_FLAGS, common)
    _write_shards(work / "shards")
    bench = Bench(work, output, FLAGS.test_patches, degrade_options(FLAGS), FLAGS.vgg_weights,
                  dict(text.split(":") for text in FLAGS.magnifications))
    failed = train_cells(cells, bench, FLAGS.epsilon or Objective().epsilon, _at_once())
    present(cells, failed, bench)
    for one in failed:
        print(f"failed: {one.cell.name}: {one.reason}", file=sys.stderr)
    return 1 if failed else 0


def _checked() -> list[Cell]:
    """Return the cells that are asked for; refuse what cannot work before anything is done."""
    for name, example in (("work", "runs/study"), ("output", "docs/study/small"), ("val_data", "tiles/val")):
        require(bool(FLAGS[name].value), name, "be given", f"add --{name}={example}, say", FLAGS[name].value)
    given = [name for name in DECIDED if TRAIN[name].present]
    require(not given, "flags", "leave to the grid what the grid decides", "write them as axes of --grid", given)
    for check in (train_options, patch_options, degrade_options, generator_options):  # each checks itself
        check(FLAGS)
    data = data_options(FLAGS)
    require(bool(data.test_data) or FLAGS.best_by == "last", "best_by",
            "be last where the validation slides are scored", "add it, or name other slides by --test_data",
            FLAGS.best_by)
    require(data.eval_patch_size >= 161, "eval_patch_size", "be 161 or more", "MS-SSIM needs it", data.eval_patch_size)
    wrong = [text for text in FLAGS.magnifications if text.count(":") != 1]
    require(not wrong, "magnifications", "be SLIDE:MAGNIFICATION", "write erosion:40x", wrong)
    try:
        seeds = [int(seed) for seed in FLAGS.seeds]
    except ValueError as error:
        raise ValueError(f"`seeds` must be whole numbers; write 0,1. Received: seeds={FLAGS.seeds!r}") from error
    return parse_grids(FLAGS.grid, seeds, list(TRAIN))


def _is_common(line: str) -> bool:
    name = line.lstrip("-").partition("=")[0]
    return name not in (*DECIDED, "train_data", "val_data", "test_data") and name.removeprefix("no") not in DECIDED


def _write_once(path: Path, text: str) -> None:
    """Write flags that all cells share; refuse others than those that cells were made with."""
    if path.exists():
        before = path.read_text(encoding="utf-8")
        changed = sorted(set(text.splitlines()) ^ set(before.splitlines()))
        require(not changed, "flags", f"be those of {path}", "name other folders for another study", changed)
    else:
        write_text(path, text)


def _write_shards(folder: Path) -> None:
    """Read every part once, for all cells; without test slides those of validation are scored."""
    from dataclasses import replace

    from pipelines.patches import check_disjoint, find_sources
    from pipelines.shards import write_shards

    data = data_options(FLAGS)
    patches = patch_options(FLAGS)
    whole = replace(patches, patch_size=data.eval_patch_size, stride=None)
    parts = {"train": (data.train_data, patches), "val": (data.val_data, whole),
             "test": (data.test_data or data.val_data, whole)}
    sources = {part: find_sources(paths, name=f"{part}_data") for part, (paths, _) in parts.items()}
    check_disjoint(sources["train"], sources["val"])
    check_disjoint(sources["train"], sources["test"])
    for part, (_, options) in parts.items():
        report = write_shards(sources[part], folder / part, options, data.workers, data.strict, progress=False,
                              name=f"{part}_data")
        print(f"{part:<6} {report.patches:>6} patches from {report.slides} slide(s)")


def _at_once() -> int:
    if FLAGS.at_once:
        return FLAGS.at_once
    import tensorflow as tf

    return 1 if tf.config.list_physical_devices("GPU") else len(os.sched_getaffinity(0))


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
