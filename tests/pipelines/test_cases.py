# SPDX-License-Identifier: Apache-2.0
"""The case of a slide comes from a pattern or a table, and a mistake in either is one line."""
from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cases import case_finder
from pipelines.sources import Source, check_disjoint, split_sources

PATTERN = r"^(P\d+)"
PATIENTS = [Source(f"P{case:02} {stain} {block}", ()) for case in range(6) for stain in ("HE", "PAS") for block in "AB"]


def cases(sources):
    return {source.slide_id[:3] for source in sources}


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "cases.csv"
    path.write_text("slide,case\n" + "".join(f"{one.slide_id}.svs,{one.slide_id[:3]}\n" for one in PATIENTS))
    return path


def test_pattern_takes_its_group_and_no_other_part():
    case_of = case_finder(pattern=r"(?:HE|PAS)-(\w+?)_")
    assert [case_of(name) for name in ("HE-a1_2", "x PAS-a1_9_8", "HE-b_")] == ["a1", "a1", "b"]


@pytest.mark.parametrize("text", [
    "one,P1\ntwo.ome.tif,P2\n", "slide,case\none.svs,P1\ntwo.tif,P2\n", '\ufeffSlide,Case\r\n"one", P1\r\n\r\ntwo,P2',
    "one,P1\none.svs,P1\ntwo,P2\n"])
def test_table_has_a_header_or_not_and_names_with_suffix_or_not(text, tmp_path):
    (tmp_path / "cases.csv").write_text(text, encoding="utf-8")
    case_of = case_finder(table=tmp_path / "cases.csv")
    assert [case_of("one"), case_of("two")] == ["P1", "P2"]


def test_table_names_folders_of_tiles_and_names_that_are_not_utf_8(tmp_path):
    (tmp_path / "cases.csv").write_bytes(b"P1.2,a\nP1.3,b\nM\xfcller.svs,c\n")
    case_of = case_finder(table=tmp_path / "cases.csv")
    assert [case_of(name) for name in ("P1.2", "P1.3", r"M\xfcller")] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="'P1' has none"):
        case_of("P1")


@pytest.mark.parametrize("kind", ["pattern", "table"])
def test_no_case_is_on_two_sides_of_a_split(kind, table):
    case_of = case_finder(PATTERN) if kind == "pattern" else case_finder(table=table)
    for seed in range(10):
        parts = split_sources(PATIENTS, 0.2, 0.2, seed, case_of)
        assert sum(map(len, parts)) == len(PATIENTS)
        assert [len(cases(part)) for part in parts] == [4, 1, 1]
        assert sum(len(cases(part)) for part in parts) == 6
    by_slide = split_sources(PATIENTS, 0.2, 0.2, 0)
    assert cases(by_slide[0]) & cases(by_slide[1]), "without it they are split by slide"


@pytest.mark.parametrize("kind", ["pattern", "table"])
def test_case_in_two_given_parts_is_refused(kind, table):
    case_of = case_finder(PATTERN) if kind == "pattern" else case_finder(table=table)
    check_disjoint(PATIENTS[:4], PATIENTS[4:], case_of)
    check_disjoint(PATIENTS[:2], PATIENTS[2:])
    with pytest.raises(ValueError, match=r"must share no case.*P00 HE A and P00 PAS A"):
        check_disjoint(PATIENTS[:2], PATIENTS[2:], case_of)
    regions = [replace(one, region=(0, 0, 9, 9)) for one in PATIENTS[:2]]
    with pytest.raises(ValueError, match=r"must share no case.*P00 HE A and P00 HE B"):
        check_disjoint(regions[:1], regions[1:], case_of)
    check_disjoint(regions[:1], [replace(regions[0], region=(9, 0, 9, 9))], case_of)


def test_too_few_cases_are_refused_since_cutting_their_slides_would_part_them():
    with pytest.raises(ValueError, match=r"3 cases.*--test_fraction=0.*Received: 2 case"):
        split_sources(PATIENTS[:8], 0.2, 0.2, 0, case_finder(PATTERN))
    train, val, test = split_sources(PATIENTS[:8], 0.2, 0, 0, case_finder(PATTERN))
    assert (len(train), len(val), test) == (4, 4, [])


@pytest.mark.parametrize(("pattern", "says"), [
    (r"(P\d+", "must be a regular expression; correct it (missing ), unterminated subpattern at position 0)"),
    (r"P\d+", "must have one group, which is the case"), (r"(P)(\d+)", "must have one group"), ("", "have one group")])
def test_pattern_that_is_wrong_is_one_line(pattern, says):
    with pytest.raises(ValueError, match=r"^`case_pattern` .*" + re.escape(says)):
        case_finder(pattern)


@pytest.mark.parametrize("pattern", [PATTERN, r"(\d*)", r"P1|(P2)"])
def test_slide_without_a_case_is_named(pattern):
    with pytest.raises(ValueError, match=r"^`case_pattern` must find the case of every slide, and 'biopsy' has none;"):
        case_finder(pattern)("biopsy")


@pytest.mark.parametrize(("content", "says"), [
    (b"", "must name slides and their cases"), (b"slide,case\n", "must name slides"),
    (b"slide;case\none;P1\n", "line 1 is not slide,case"), (b"one,P1\ntwo\n", "line 2 is not slide,case"),
    (b"one,P1,x\n", "line 1 is not"), (b"one,\n", "line 1 is not"), (b"one,P1\none.svs,P2\n", "one case for 'one'"),
    (b'one,"P1\n', "must be a CSV file"), (bytes(range(45, 256)), "must be a CSV file|is not"),
    (b"one," + b"x" * 200_000, "must be a CSV file")])
def test_table_that_is_damaged_is_one_line_that_names_it(content, says, tmp_path):
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^`cases` .*({says}).*Received: cases='.*cases\.csv'$"):
        case_finder(table=tmp_path / "cases.csv")


def test_missing_table_missing_slide_and_both_flags_are_named(table, tmp_path):
    for gone in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"^`cases` must be a CSV file"):
            case_finder(table=gone)
    with pytest.raises(ValueError, match=r"^`cases` must have a line for every slide, and 'P77' has none; add it"):
        case_finder(table=table)("P77")
    with pytest.raises(ValueError, match="give only one"):
        case_finder(PATTERN, table)
    assert case_finder() is None
