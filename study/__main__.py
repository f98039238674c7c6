# SPDX-License-Identifier: Apache-2.0
r"""Train a grid of cells by cross-validation over slides, score them, and answer the claims.

    python -m study --flagfile=sr_keras/flagfiles/study_slides.flags \
        --data=tiles/train,pairs/train,pairs/val --outlier_dir=tiles/outliers \
        --work=runs/study_slides --output=docs/study/slides
    python -m study --flagfile=sr_keras/flagfiles/study_slides.flags --train=false \
        --output=docs/study/slides --page=docs/robustness.md

Every cell is a run of `sr_keras.train` on the slides of all folds but one, scored on the slides of that one. Flags of
`sr_keras.train` apply to all cells, except those that the grid sets. The same command again resumes the study; cells in
OUTPUT/results.csv are not trained again, even on another machine. With --train=false the tables and figures are made of
the results there are; cells that are missing are named "not run".

OUTPUT gets results.csv, tables.md and figures: numbers and plots, no picture of a slide. WORK gets the tiles and runs.
--page puts the table of claims into a page, between two lines that say so.
"""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from pipelines import console
from pipelines.config import corrupt_options, degrade_options, patch_options
from pipelines.errors import require
from pipelines.files import read_text, write_text
from pipelines.options import define_paths
from pipelines.workers import cores
from sr_keras.config import define_train_flags, generator_options, objective, train_defaults, train_options
from study.folds import FOLDS_FILE, check_slides, checksum, read_folds
from study.grid import RESULTS_FILE, SET_BY_STUDY, Cell, Setting, parse_grids, setting_flags

if TYPE_CHECKING:
    from pipelines.sources import Source

CLAIMS_FILE = Path(__file__).parent / "claims.yaml"
TRAIN = flags.FlagValues()
define_train_flags(TRAIN)
FLAGS = flags.FlagValues()
FLAGS.append_flag_values(TRAIN)
FLAGS.set_default("degradation", "textbook")  # the degradation of the paper
flags.DEFINE_multi_string("grid", [], "Cells to train, such as 'method=srgan_sqe; q=0.5,1; fraction=0,0.3'. May be "
                          "repeated; earlier grids are trained first.", flag_values=FLAGS)
define_paths(FLAGS, "data", [], "Folders of tiles, one folder a slide, with or without LR beside them.")
flags.DEFINE_string("folds", str(FOLDS_FILE), "CSV file with the fold of every slide.", flag_values=FLAGS)
flags.DEFINE_string("claims", str(CLAIMS_FILE), "YAML file with the claims.", flag_values=FLAGS)
flags.DEFINE_string("work", None, "Folder for tiles and runs.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "Folder for results, tables and figures.", flag_values=FLAGS)
flags.DEFINE_string("page", None, "Markdown page that gets the table of claims.", flag_values=FLAGS)
flags.DEFINE_integer("scored_tiles", 8, "Number of tiles of each slide to score.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("at_once", None, "Number of cells trained in parallel. Default: one per core.", lower_bound=1,
                     flag_values=FLAGS)
flags.DEFINE_boolean("train", True, "Train what is missing; false only writes tables and figures.", flag_values=FLAGS)


def main() -> int:
    """Return 1 if a cell failed."""
    common = "".join(f"{line}\n" for line in console.resolved(TRAIN).splitlines() if _is_common(line))
    require(bool(FLAGS.output), "output", "be set", "add --output=docs/study/slides, for example", FLAGS.output)
    require(FLAGS.train or (Path(FLAGS.output) / RESULTS_FILE).is_file(), "output", f"contain {RESULTS_FILE} with "
            "--train=false", "name the folder of a study that was run", FLAGS.output)
    require(not FLAGS.page or Path(FLAGS.page).is_file(), "page", "be a Markdown file", "check the spelling",
            FLAGS.page)
    all_cells = common + (f"--outlier_dir={FLAGS.outlier_dir}\n" if FLAGS.outlier_dir else "")  # no path is recorded
    settings = _checked_settings(all_cells)
    folds = Path(FLAGS.folds)
    slides = read_folds(folds)
    sources = _sources(set(slides), folds) if FLAGS.train else []
    console.import_tensorflow()
    from study.cells import COMMON_FLAGS, Study, train_cells, write_tiles
    from study.claims import read_claims
    from study.report import write_report

    claims = read_claims(Path(FLAGS.claims), {setting.name for setting in settings})
    output, failed = Path(FLAGS.output), []
    _write_once(output / COMMON_FLAGS, common)  # of tables too: SRGAN is labelled by --vgg_weights
    if FLAGS.train:
        work = Path(FLAGS.work)
        _write_once(work / COMMON_FLAGS, common)
        write_tiles(sources, work, patch_options(FLAGS), FLAGS.scored_tiles, FLAGS.workers)
        at_once = FLAGS.at_once or cores()
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
            os.environ[name] = str(max(1, cores() // at_once))  # of the processes that are started
        failed = train_cells([Cell(setting, fold) for setting in settings
                              for fold in sorted({slide.fold for slide in slides.values()})],
                             Study(work, output, slides, checksum(folds), all_cells), at_once)
    write_report(settings, claims, slides, checksum(folds), output, FLAGS.vgg_weights, FLAGS.page)
    for one in failed:
        print(f"failed: {one.cell}: {one.reason}", file=sys.stderr)
    return 1 if failed else 0


def _checked_settings(common: str) -> list[Setting]:
    """Return the settings to train; refuse invalid flags before anything is written."""
    given = [name for name in SET_BY_STUDY if TRAIN[name].present]
    require(not given, "flags", "not include flags that the study sets", "write them as axes of --grid, or name the "
            "slides by --data", given)
    require(FLAGS.best_by == "last", "best_by", "be last, because the validation slides are scored",
            "add --best_by=last", FLAGS.best_by)
    settings = parse_grids(FLAGS.grid, list(TRAIN))
    for setting in settings if FLAGS.train else ():
        values = flags.FlagValues()
        define_train_flags(values)
        try:
            values([setting.name, *common.splitlines(), *setting_flags(setting)])
        except flags.Error as error:
            raise ValueError(f"`grid` must have valid values; correct it. Received: {setting.name}: {error}") from error
        for options in (train_options, patch_options, degrade_options, generator_options, corrupt_options, objective):
            options(values)  # each checks its own values
    return settings


def _is_common(line: str) -> bool:
    name = line.lstrip("-").partition("=")[0]
    decided = (*SET_BY_STUDY, "outlier_dir", "resume")
    return name not in decided and name.removeprefix("no") not in decided


def _write_once(path: Path, text: str) -> None:
    """Write the flags that all cells share; refuse a change to flags that were written before.

    A flag that is missing in the file is newer than its cells, which used the default.
    """
    if not path.exists():
        write_text(path, text)
        return
    before = read_text(path, "restore a copy of it, or use another folder")
    changed = sorted((set(text.splitlines()) ^ set(before.splitlines())) - set(train_defaults().splitlines()))
    require(not changed, "flags", f"equal those in {path}", "use other folders for another study", changed)


def _sources(slides: set[str], folds: Path) -> list[Source]:
    """Return the slides of --data, which must be those of the folds."""
    from pipelines.sources import find_sources

    for name, example in (("work", "runs/study"), ("data", "tiles/train,pairs/train")):
        require(bool(FLAGS[name].value), name, "be set", f"add --{name}={example}, for example", FLAGS[name].value)
    sources = find_sources(FLAGS.data)
    require(all(source.tiles for source in sources), "data", "be folders of tiles", "extract the tiles of the slides",
            ",".join(FLAGS.data))
    check_slides(slides, {source.slide_id for source in sources}, folds)
    return sources


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
