# SPDX-License-Identifier: Apache-2.0
"""folds: the committed file holds no case on two sides and is even; draws repeat; what is refused."""
from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from study.folds import FLAGS, FOLDS_FILE, Slide, check_slides, checksum, draw, main, read_folds

HEAD = "slide,case,magnification,fold\n"


def write(path: Path, *lines: str) -> Path:
    path.write_text(HEAD + "".join(f"{line}\n" for line in lines))
    return path


def test_committed_folds_hold_no_case_on_two_sides_by_the_names_of_the_slides():
    """The source's rule: a case is CASE, or CASE-2 for its second slide."""
    slides = read_folds(FOLDS_FILE)
    assert len(slides) == 27
    for one, other in combinations(slides.values(), 2):
        if re.sub(r"-\d+$", "", one.slide) == re.sub(r"-\d+$", "", other.slide):
            assert one.fold == other.fold, (one, other)
            assert one.case == other.case
    assert slides["anthracosis"].fold == slides["anthracosis-2"].fold


def test_committed_folds_are_even_in_slides_and_magnifications():
    slides = read_folds(FOLDS_FILE).values()
    assert sorted(Counter(slide.fold for slide in slides).values()) == [5, 5, 5, 6, 6]
    for magnification in ("20x", "40x", "unknown"):
        mine = Counter(slide.fold for slide in slides if slide.magnification == magnification)
        assert len(mine) == 5
        assert max(mine.values()) - min(mine.values()) <= 1


def test_committed_folds_follow_from_the_seed(tmp_path):
    copy = tmp_path / "folds.csv"
    copy.write_text(re.sub(r",\d+$", ",0", FOLDS_FILE.read_text(), flags=re.MULTILINE))
    FLAGS(["folds", f"--file={copy}"])
    assert main() == 0
    assert copy.read_bytes() == FOLDS_FILE.read_bytes()
    FLAGS(["folds", f"--file={copy}", "--seed=1"])
    main()
    assert checksum(copy) != checksum(FOLDS_FILE)


def test_a_case_stays_in_one_fold_whatever_the_seed():
    slides = [Slide(f"s{i}", f"case{i // 3}", "40x" if i % 2 else "20x", 0) for i in range(18)]
    for seed in range(20):
        found = draw(slides, 3, seed)
        assert all(one.fold == other.fold for one, other in combinations(found, 2) if one.case == other.case)
        assert Counter(slide.fold for slide in found) == {0: 6, 1: 6, 2: 6}


@pytest.mark.parametrize(("lines", "message"), [
    (["a,one,20x,0", "b,one,20x,1"], "`folds` must have the slides of a case .*: one'$"),
    (["a,one,20x,0", "a,one,20x,0", "b,two,20x,1"], "`folds` must name each slide once.*: a'$"),
    (["a,one,20x,0", "b,two,20x,0"], "`folds` must have two folds or more"),
    (["a,one,20x,first", "b,two,20x,0"], r"must be a CSV table.*line 2"),
    (["a,one,20x,-1", "b,two,20x,0"], r"must be a CSV table.*line 2"),
    (["a,one,20x,1.5", "b,two,20x,0"], r"must be a CSV table.*line 2"),
])
def test_folds_that_cannot_be_used_are_refused(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_folds(write(tmp_path / "folds.csv", *lines))


def test_fold_may_be_written_as_a_table_program_writes_numbers(tmp_path):
    assert read_folds(write(tmp_path / "folds.csv", "a,one,20x,1.0", "b,two,20x,0.0"))["a"].fold == 1


def test_more_folds_than_cases_are_refused():
    with pytest.raises(ValueError, match="`folds` must be at most 1, the number of cases; lower it"):
        draw([Slide("a", "one", "20x", 0), Slide("b", "one", "20x", 0)], 2, seed=0)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`folds` must be a CSV file.*nosuch\.csv"):
        read_folds(tmp_path / "nosuch.csv")


def test_slide_in_no_fold_and_fold_of_no_slide_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"`folds` must have every slide of --data in a fold.*without b, c'"):
        check_slides({"a"}, {"a", "c", "b"}, tmp_path)
    with pytest.raises(ValueError, match=r"`data` must have every slide of .*no b'"):
        check_slides({"a", "b"}, {"a"}, tmp_path)
