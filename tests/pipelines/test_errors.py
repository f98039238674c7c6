# SPDX-License-Identifier: Apache-2.0
"""A mistake has one form of message, and no exception of a decoder is another than SlideError."""
from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import SlideError, UserError, require, require_folder, slide_errors


def test_requirement_names_what_is_wrong_what_to_do_and_what_was_given():
    with pytest.raises(ValueError) as caught:
        require(False, "scale", "be 2, 4 or 8", "take 4", 3)
    assert str(caught.value) == "`scale` must be 2, 4 or 8; take 4. Received: scale=3"
    require(True, "scale", "be 2, 4 or 8", "take 4", 4)


@pytest.mark.parametrize("given", [None, ""])
def test_folder_that_is_not_given_is_refused(given):
    with pytest.raises(ValueError, match="`output` must be given"):
        require_folder(given)


def test_folder_may_be_new_but_no_file_may_be_in_its_place_or_above_it(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert require_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
    for path in (file, file / "below"):
        with pytest.raises(ValueError, match=rf"be a folder; {file} is a file"):
            require_folder(str(path))


@pytest.mark.parametrize("raised", [KeyError("x"), OSError("two\nlines"), ZeroDivisionError(), RecursionError("deep")])
def test_every_exception_of_a_decoder_becomes_one_line_with_the_file(raised):
    with pytest.raises(SlideError) as caught, slide_errors(Path("a.svs")):
        raise raised
    assert str(caught.value).startswith("a.svs: cannot be read as a slide or image (")
    assert "\n" not in str(caught.value)
    assert "()" not in str(caught.value)  # a reason that is empty is the name of the exception
    assert caught.value.__cause__ is raised
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("raised", [SlideError("b.svs: has no levels"), MemoryError(), KeyboardInterrupt()])
def test_what_says_enough_or_is_not_the_file_s_fault_passes(raised):
    with pytest.raises(type(raised)) as caught, slide_errors(Path("a.svs")):
        raise raised
    assert caught.value is raised
