# SPDX-License-Identifier: Apache-2.0
r"""Which case (patient) a slide is of, for splits: by a pattern, by a table, or by TCGA's names.

    case_finder(pattern=r"^(P\d+)")("P017 HE 2")    # "P017"
    case_finder(table="cases.csv")("slide 4")       # its case in the line slide 4,P017

A slide is named as reports show it: its file name without suffix, or the folder of its tiles. In a table the suffix may
stay.
"""
from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from pipelines.errors import require
from pipelines.names import printable
from pipelines.slide import slide_id_of
from pipelines.sources import SLIDE_SUFFIXES, TILE_SUFFIXES, CaseOf

HEADER = ("slide", "case")


def case_finder(pattern: str | None = None, table: str | os.PathLike[str] | None = None) -> CaseOf | None:
    """Return the function from the name of a slide to its case; None if neither is given.

    It raises a ValueError for a slide that does not match the pattern, or is not in the table.

    Args:
        pattern: A regular expression with one group, which is the case.
        table: A CSV file with a line slide,case for each slide.

    Raises:
        ValueError: Both are given, the pattern is not valid, or the table is damaged.
        FileNotFoundError: There is no such table.
    """
    require(pattern is None or table is None, "case_pattern", "be left out with --cases", "give only one", pattern)
    return _by_pattern(pattern) if pattern is not None else _by_table(Path(table)) if table is not None else None


def _by_pattern(pattern: str) -> CaseOf:
    try:
        groups = (compiled := re.compile(pattern)).groups
    except re.error as error:
        raise ValueError(f"`case_pattern` must be a regular expression; correct it ({error}). "
                         f"Received: case_pattern={pattern!r}") from error
    require(groups == 1, "case_pattern", "have one group, which is the case", r"for example ^(P\d+)", pattern)

    def case_of(slide_id: str) -> str:
        found = compiled.search(slide_id)
        require(bool(found and found[1]), "case_pattern", f"find the case of every slide, and {slide_id!r} has none",
                "correct it, or leave that slide out", pattern)
        return found[1] if found else ""

    return case_of


def _by_table(path: Path) -> CaseOf:
    cases = _read_table(path)

    def case_of(slide_id: str) -> str:
        require(slide_id in cases, "cases", f"have a line for every slide, and {slide_id!r} has none",
                "add it as slide,case", str(path))
        return cases[slide_id]

    return case_of


def _read_table(path: Path) -> dict[str, str]:
    """Return the case of every slide in a CSV file, by the name with and without its suffix."""
    remedy, cases = "write one line slide,case for each slide", dict[str, str]()
    if not path.is_file():
        raise FileNotFoundError(f"`cases` must be a CSV file; check the spelling. Received: cases={str(path)!r}")
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = [(number, [printable(text.strip()) for text in row])
                    for number, row in enumerate(csv.reader(file, strict=True), 1) if row]
    except csv.Error as error:
        raise ValueError(f"`cases` must be a CSV file; {remedy} ({error}). Received: cases={str(path)!r}") from error
    for number, row in rows:
        require(len(row) == len(HEADER) and all(row), "cases", f"be a CSV file, and line {number} is not slide,case",
                remedy, str(path))
        name, case = row
        suffix = Path(name).suffix.lower()
        for slide_id in {name, slide_id_of(Path(name))} if suffix in SLIDE_SUFFIXES | TILE_SUFFIXES else {name}:
            require(cases.setdefault(slide_id, case) == case, "cases", f"have one case for {slide_id!r}",
                    f"correct line {number}", str(path))
    if rows and tuple(text.lower() for text in rows[0][1]) == HEADER:
        del cases[rows[0][1][0]]
    require(bool(cases), "cases", "name slides and their cases", remedy, str(path))
    return cases
