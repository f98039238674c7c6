# SPDX-License-Identifier: Apache-2.0
"""Score and time other people's models beside the shipped ones, on the same LR of the same patches.

    python -m venv .venv-peers
    .venv-peers/bin/pip install -r benchmarks/peers/requirements.txt
    npm pack @upscalerjs/esrgan-thick@1.0.0 && tar xzf upscalerjs-esrgan-thick-1.0.0.tgz
    python -m benchmarks.peers --data=tiles/val,pairs/val --work=runs/peers \\
        --peers_python=.venv-peers/bin/python --esrgan_thick=package/models/x4/model.json

--steps is some of these, by default all, always in this order:

    lr        cut the patches and make their LR, of every kind
    sr        have every method super-resolve them
    score     write docs/peers.csv: a row for each slide, kind of LR and method; see `benchmarks.peers.scores`
    time      write docs/peers_speed.csv: seconds and memory on one core, all methods in turn
    report    write the tables of docs/peers.md and README.md and docs/peers.png, from the two files alone

Patches, LR, SR and scores are kept in --work, and what is there is not made again. `--steps=time,report` repeats the
times.
"""
from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from benchmarks.peers.methods import METHODS, ROOT, THICK_FILE
from benchmarks.peers.patches import KINDS
from pipelines import console
from pipelines.errors import require
from pipelines.files import read_table, write_csv
from pipelines.options import define_paths

MEASURES = ["pixels", "nuclei", "perceptual"]
STEPS = ["lr", "sr", "score", "time", "report"]
SCORES, SPEEDS, PICTURE, PAGE = (ROOT / "docs" / name for name in
                                 ("peers.csv", "peers_speed.csv", "peers.png", "peers.md"))
FLAGS = flags.FlagValues()
define_paths(FLAGS, "data", [], "Folders of slides or tiles, with pairs among them.")
flags.DEFINE_string("work", "runs/peers", "Folder for patches, LR and SR.", flag_values=FLAGS)
flags.DEFINE_string("peers_python", ".venv-peers/bin/python", "Python of the environment that has "
                    "benchmarks/peers/requirements.txt.", flag_values=FLAGS)
flags.DEFINE_string("esrgan_thick", None, "model.json of ESRGAN-thick x4.", flag_values=FLAGS)
flags.DEFINE_integer("per_slide", 20, "Patches of each slide and kind of LR.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("rounds", 15, "Rounds that are timed.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_list("measures", MEASURES, f"Some of {', '.join(MEASURES)}, for the step score; what was measured before "
                  "stays.", flag_values=FLAGS)
flags.DEFINE_list("kinds", list(KINDS), f"Kinds of LR for the steps sr and score: some of {', '.join(KINDS)}.",
                  flag_values=FLAGS)
flags.DEFINE_list("steps", STEPS, f"Some of {', '.join(STEPS)}.", flag_values=FLAGS)


def main() -> int:
    """Do the steps."""
    for name, known in (("steps", STEPS), ("measures", MEASURES), ("kinds", list(KINDS))):
        some = FLAGS[name].value or []
        require(bool(some) and {*some} <= {*known}, name, f"be some of {', '.join(known)}", "check the spelling", some)
    work, peers_python = Path(FLAGS.work).absolute(), Path(FLAGS.peers_python).absolute()
    if {"lr", "sr", "score"} & set(FLAGS.steps):
        console.import_tensorflow()
    if "lr" in FLAGS.steps:
        _write_patches(work)
    if {"sr", "time"} & set(FLAGS.steps):
        _run(work, peers_python)
    if "score" in FLAGS.steps:
        _score(work)
    if "report" in FLAGS.steps:
        _report()
    return 0


def _write_patches(work: Path) -> None:
    from benchmarks.peers.patches import write_patches

    require(bool(FLAGS.data), "data", "be given", "for example --data=tiles/val,pairs/val", FLAGS.data)
    for path in FLAGS.data:
        require(Path(path).exists(), "data", "exist", "check the spelling", path)
    write_patches(FLAGS.data, work, FLAGS.per_slide)


def _run(work: Path, peers_python: Path) -> None:
    from benchmarks.peers.patches import commands_of, measure, super_resolve

    require(peers_python.exists(), "peers_python", "be the Python of the peers' environment",
            "make it as --help shows", str(peers_python))
    if not (work / THICK_FILE).exists():
        require(FLAGS.esrgan_thick is not None and Path(FLAGS.esrgan_thick).is_file(), "esrgan_thick",
                "be the model.json of ESRGAN-thick x4", "get it as --help shows", FLAGS.esrgan_thick)
        console.import_tensorflow()
        from benchmarks.peers.esrgan_thick import convert

        convert(Path(FLAGS.esrgan_thick), work / THICK_FILE)
    commands = commands_of(peers_python=peers_python, work=work)
    for method in METHODS if "sr" in FLAGS.steps else ():
        super_resolve(method, commands[method.name], work, FLAGS.kinds)
    if "time" in FLAGS.steps:
        write_csv(measure(commands, FLAGS.rounds), SPEEDS)


def _score(work: Path) -> None:
    from benchmarks.peers.scores import Key, joined, score

    tables = {}
    for measure in MEASURES:
        for kind in KINDS:
            path = work / "scores" / f"{measure}-{kind}.csv"
            if measure in FLAGS.measures and kind in FLAGS.kinds and not path.exists():
                print(f"scoring {measure}: {kind}", flush=True)
                write_csv(score(work, measure, kind), path)
            if path.exists():
                tables[measure, kind] = read_table(path, Key, "remove it")
    write_csv(joined(tables), SCORES)


def _report() -> None:
    from benchmarks.peers.report import Results, draw, page_tables, short_table, write_between

    results = Results(SCORES, SPEEDS)
    write_between(PAGE, page_tables(results))
    write_between(ROOT / "README.md", short_table(results), gap="\n")  # which has to be short
    draw(results, PICTURE)
    print(short_table(results))


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
