# SPDX-License-Identifier: Apache-2.0
"""The scores of a study: results.csv, one row per cell and scored slide.

    cell, setting   unique names; a setting has a cell for each fold
    method          bicubic, a method of the paper, or "fidelity" (L_F alone)
    q               power of the quasi-norm
    fraction        share of corrupted training examples
    kind, side      kind of corruption, and the corrupted side of a pair
    variant         other flags that differ from the rest of the study, NAME=VALUE joined by ";"
    fold            the fold that was held out and is scored
    slide, magnification, tiles     where it was scored, and on how many tiles
    psnr ... qilv_unit              means over the tiles of that slide; empty if not finite
    d_hr, d_sr, d_accuracy          of the discriminator in the last epoch: mean probability that it gives HR and SR,
                                    share of its judgements that are right
    seconds         training time by the clock
    commit          of the code, and flags: the options of `sr-keras train`
    folds           checksum of the file of folds

`rrmse_squared` and `qilv_unit` are RRMSE and QILV as the paper's numbers seem to be made: squared, and with the
constants of images in [0, 1]. Bicubic has rows of its own, with empty fields where a column does not apply.
"""
from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from pipelines.errors import require
from pipelines.files import Finite, read_table, read_text, write_csv
from sr_keras.features import LABELS
from study.grid import BICUBIC, FIDELITY, NONE, Setting

Row = dict[str, Any]
SCORES = ("psnr", "ssim", "ms_ssim", "qilv", "rrmse", "rrmse_squared", "qilv_unit")
JUDGEMENTS = ("d_hr", "d_sr", "d_accuracy")
COLUMNS = ("cell", "setting", "method", "q", "fraction", "kind", "side", "variant", "fold", "slide", "magnification",
           "tiles", *SCORES, *JUDGEMENTS, "seconds", "commit", "folds", "flags")
FLOATS = ("q", "fraction", "seconds", *SCORES, *JUDGEMENTS)
INTEGERS = ("fold", "tiles")
EMPTY = Literal[""]
NAMES = {BICUBIC: "bicubic", "srgan": "SRGAN", "srgan_e": "SRGAN_E", "srgan_qe": "SRGAN_QE",
         "srgan_sqe": "SRGAN_SQE", FIDELITY: "L_F alone"}


def read_results(path: Path, folds: str) -> list[Row]:
    """Return the rows of results.csv, empty fields as None; no rows if there is no file.

    Args:
        path: The file.
        folds: Checksum of the file of folds that the rows must be of.

    Raises:
        ValueError: The columns are different, a row is damaged, or it is of another file of folds.
    """
    if not path.exists():
        return []
    remedy = "correct or delete the row, or choose another folder"
    header = tuple(read_text(path, remedy).split("\n", 1)[0].rstrip("\r").split(","))
    require(header == COLUMNS, "output", f"contain the results of a study, with the columns {', '.join(COLUMNS)}",
            "choose another folder, or remove this file", f"{path} with {', '.join(header)[:200] or 'no header'}")
    kinds = {**dict.fromkeys(COLUMNS, str), **dict.fromkeys(FLOATS, Finite | EMPTY),
             **dict.fromkeys(INTEGERS, int | EMPTY)}
    kind = msgspec.defstruct("Result", list(kinds.items()))
    rows = [{name: _parse(name, row[name]) for name in COLUMNS} for row in read_table(path, kind, remedy)]
    others = sorted({row["folds"] or "none" for row in rows} - {folds})
    require(not others, "folds", "be the file that the results were made with",
            "name that file, or choose another folder for the results", f"{path} of the folds {', '.join(others)}")
    return rows


def write_results(rows: Iterable[Row], path: Path) -> None:
    """Write results.csv atomically, sorted by cell and slide: the same rows give the same bytes."""
    write_csv([{name: row.get(name) for name in COLUMNS}
               for row in sorted(rows, key=lambda row: (row["cell"], row["slide"]))], path)


def by_slide(rows: Iterable[Row], setting: str, column: str) -> dict[str, float]:
    """Return slide -> score of a setting, sorted, without slides that have none."""
    return dict(sorted((row["slide"], row[column]) for row in rows
                       if row["setting"] == setting and row[column] is not None))


def finished(rows: Sequence[Row], setting: str, slides: Collection[str]) -> bool:
    """Tell whether every one of these slides was scored."""
    return {row["slide"] for row in rows if row["setting"] == setting} >= set(slides)


def label(setting: Setting, vgg_weights: str, corruption: bool = True) -> str:
    """Return a setting in words, with the VGG that was used in place of ImageNet's."""
    name = NAMES[setting.method]
    if setting.method == "srgan":
        name += f", {LABELS.get(vgg_weights, f'VGG of {Path(vgg_weights).name}')}"
    name += f", q = {setting.q:g}" if setting.method == FIDELITY else ""
    name += f", {setting.variant.replace(';', ', ')}" if setting.variant else ""
    if not corruption:
        return name
    how = "" if setting.kind in ("mixed", NONE) else f" {setting.kind}"
    return f"{name}, {setting.fraction:.0%}{how}"


def _parse(name: str, text: str) -> Any:
    if text == "":
        return "" if name == "variant" else None
    return int(float(text)) if name in INTEGERS else float(text) if name in FLOATS else text
