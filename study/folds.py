# SPDX-License-Identifier: Apache-2.0
"""Which slide is in which fold of the cross-validation: study/folds.csv.

    slide,case,magnification,fold
    anthracosis,anthracosis,40x,0

    python -m study.folds --file=study/folds.csv --seed=0    draws the column `fold` anew

The slides of a case (patient) are in one fold. Folds are drawn so that each has about the same number of slides of each
magnification, and of slides.
"""
from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from absl import flags

from pipelines import console
from pipelines.errors import require
from pipelines.files import Count, read_table, write_csv

FOLDS_FILE = Path(__file__).parent / "folds.csv"
REMEDY = "correct it, or draw the folds again with python -m study.folds"
FLAGS = flags.FlagValues()
flags.DEFINE_string("file", str(FOLDS_FILE), "The file; its column `fold` is replaced.", flag_values=FLAGS)
flags.DEFINE_integer("folds", 5, "Number of folds.", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of the draw.", lower_bound=0, flag_values=FLAGS)


@dataclass(frozen=True)
class Slide:
    """A slide, the case it is of, its magnification ("unknown" if nobody wrote it down), and its fold from 0 on."""

    slide: str
    case: str
    magnification: str
    fold: Count


def main() -> int:
    """Draw the folds of the file anew."""
    path = Path(FLAGS.file)
    slides = draw(_read(path), FLAGS.folds, FLAGS.seed)
    write_csv([asdict(slide) for slide in slides], path)
    print(f"{path}: {len(slides)} slides in {FLAGS.folds} folds")
    return 0


def draw(slides: Sequence[Slide], folds: int, seed: int) -> list[Slide]:
    """Return the slides with new folds, in the order of their names."""
    cases = sorted({slide.case for slide in slides})
    require(folds <= len(cases), "folds", f"be at most {len(cases)}, the number of cases", "lower it", folds)
    order = np.random.default_rng(seed).permutation(len(cases))
    members = {case: [slide for slide in slides if slide.case == case] for case in cases}
    # Rare magnifications first: later cases can still even out the sizes.
    frequency = Counter(slide.magnification for slide in slides)
    strata = {case: members[case][0].magnification for case in cases}
    shuffled = sorted((cases[i] for i in order), key=lambda case: (frequency[strata[case]], strata[case]))
    found: list[Slide] = []
    for case in shuffled:
        sizes = [(sum(one.fold == fold and one.magnification == strata[case] for one in found),
                  sum(one.fold == fold for one in found), fold) for fold in range(folds)]
        found += [replace(slide, fold=min(sizes)[2]) for slide in members[case]]
    return sorted(found, key=lambda slide: slide.slide)


def read_folds(path: Path) -> dict[str, Slide]:
    """Return the slides by name.

    Raises:
        ValueError: The file is damaged, has fewer than two folds, names a slide twice, or has a case in two folds.
        FileNotFoundError: There is no such file.
    """
    slides = _read(path)
    twice = [name for name, count in Counter(slide.slide for slide in slides).items() if count > 1]
    require(not twice, "folds", "name each slide once", REMEDY, f"{path}: {', '.join(twice)}")
    require(len({slide.fold for slide in slides}) > 1, "folds", "have two folds or more", REMEDY, str(path))
    by_case: dict[str, set[int]] = {}
    for slide in slides:
        by_case.setdefault(slide.case, set()).add(slide.fold)
    shared = sorted(case for case, folds in by_case.items() if len(folds) > 1)
    require(not shared, "folds", "have the slides of a case (patient) in one fold", REMEDY,
            f"{path}: {', '.join(shared)}")
    return {slide.slide: slide for slide in slides}


def check_slides(folds: Collection[str], found: Collection[str], path: Path) -> None:
    """Raise a ValueError unless the folds and the data have the same slides."""
    nowhere, missing = sorted(set(found) - set(folds)), sorted(set(folds) - set(found))
    require(not nowhere, "folds", "have every slide of --data in a fold", "add them, or name other data",
            f"{path} without {', '.join(nowhere)}")
    require(not missing, "data", f"have every slide of {path}", "name more folders", f"no {', '.join(missing)}")


def checksum(path: Path) -> str:
    """Return what tells one file of folds from another, in the results."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _read(path: Path) -> list[Slide]:
    if not path.is_file():
        raise FileNotFoundError(f"`folds` must be a CSV file; check the spelling. Received: folds={str(path)!r}")
    return [msgspec.convert(row, Slide, strict=False) for row in read_table(path, Slide, REMEDY)]


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
