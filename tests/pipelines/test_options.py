# SPDX-License-Identifier: Apache-2.0
"""Options check themselves, and their flags follow from them and become the same options again."""
from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan

import pytest
from absl import flags

from pipelines import console
from pipelines.config import CorruptOptions, PatchOptions
from pipelines.options import (
    BELOW_1,
    FINITE,
    ORDERED,
    POSITIVE,
    SEED,
    SHARE,
    WHOLE,
    Options,
    Range,
    define,
    option,
    read,
    within,
)


@dataclass(frozen=True)
class Example(Options):
    share: float | None = option(None, "Share", "0.5 is half", SHARE, flag="its_share")
    decay: float = option(0.9, "Decay", "", BELOW_1)
    size: float = option(1.0, "Size", "1 is usual", FINITE)
    sides: tuple[str, ...] = option(("lr",), "Sides", "write lr,hr", choices=("lr", "hr"), several=True)
    shape: str | None = option(None, "Shape", "leave it out", choices=("disc", "airy"))
    span: float | Range = option(1.0, "Range", "write LOW,HIGH", ORDERED, within(0, 9), WHOLE)
    seed: int = option(0, "Seed", "0 is the default", SEED)


def test_defaults_and_values_at_the_ends_are_taken():
    Example()
    Example(share=0.0, decay=0.0, span=(0, 9), sides=("hr", "lr"), shape="airy", seed=2**63 - 1)
    Example(share=1.0, span=9)


@pytest.mark.parametrize(("values", "message"), [
    ({"share": 1.5}, "`its_share` must lie in [0, 1]; 0.5 is half. Received: its_share=1.5"),
    ({"share": nan}, "`its_share` must lie in [0, 1]; 0.5 is half. Received: its_share=nan"),
    ({"decay": 1}, "`decay` must lie in [0, 1); the default is 0.9. Received: decay=1"),
    ({"size": inf}, "`size` must be positive and finite; 1 is usual. Received: size=inf"),
    ({"sides": ()}, "`sides` must name some of ('lr', 'hr'); write lr,hr. Received: sides=()"),
    ({"shape": "box"}, "`shape` must be one of ('disc', 'airy'); leave it out. Received: shape='box'"),
    ({"span": (2, 1)}, "`span` must have its low end first; write LOW,HIGH. Received: span=(2, 1)"),
    ({"span": (1, 10)}, "`span` must lie in 0 to 9; write LOW,HIGH. Received: span=(1, 10)"),
    ({"span": 1.5}, "`span` must be whole numbers; write LOW,HIGH. Received: span=1.5"),
])
def test_wrong_value_is_refused_in_one_form_of_words(values, message):
    with pytest.raises(ValueError) as caught:
        Example(**values)
    assert str(caught.value) == message


@dataclass(frozen=True)
class Blur(Options):
    sigma: float = option(1.6, "Width", "1.6 is the paper's", POSITIVE, group="model", unit="pixels")
    kind: str = option("disc", "Kind", flag="blur_kind", choices=("disc", "airy"))
    size: tuple[int, int, int, int] | None = option(None, "Size", "write x,y,width,height")
    names: tuple[str, ...] = option(("a",), "Names", choices=("a", "b"), several=True)
    passes: int | None = option(None, "Passes")
    fast: bool = option(False, "Fast")
    internal: int = 3


def parsed(*arguments: str, kind=Blur, **settings) -> flags.FlagValues:
    values = flags.FlagValues()
    define(values, kind, **settings)
    console.parse(["program", *arguments], values)
    return values


@pytest.mark.parametrize("kind", [Blur, PatchOptions, CorruptOptions])
def test_flags_that_are_not_given_are_the_defaults(kind):
    assert read(parsed(kind=kind), kind) == kind()


def test_each_type_of_option_is_read_from_its_flag():
    values = parsed("--sigma=2", "--blur_kind=airy", "--size=1,2,3,4", "--names=b,a", "--passes=2", "--fast")
    assert read(values, Blur) == Blur(2.0, "airy", (1, 2, 3, 4), ("b", "a"), 2, True)
    assert "internal" not in values


def test_resolved_flags_give_the_same_options_again():
    values = parsed("--size=1,2,3,4", "--fast")
    again = parsed(*console.resolved(values).splitlines())
    assert read(again, Blur) == read(values, Blur)


def test_preset_keeps_what_no_flag_replaces():
    values = parsed("--sigma=2", preset=True)
    assert read(values, Blur, Blur(3.0, "airy", passes=4)) == Blur(2.0, "airy", passes=4)


def test_prefix_and_defaults_of_an_object():
    values = parsed("--first_passes=2", kind=Blur(5.0), prefix="first_")
    assert read(values, Blur, prefix="first_") == Blur(5.0, passes=2)


@pytest.mark.parametrize(("argument", "named"), [("--sigma=0", "sigma"), ("--size=1,2,3", "size"),
                                                  ("--size=a,b,c,d", "size"), ("--names=c", "names"),
                                                  ("--names=", "names")])
def test_wrong_value_names_its_flag(argument, named):
    with pytest.raises(ValueError, match=rf"^`{named}` must .*; .*\. Received: {named}="):
        read(parsed(argument), Blur)


def test_help_has_the_unit_the_hint_the_choices_and_the_group():
    values = parsed()
    assert values["sigma"].help == "Width (pixels); 1.6 is the paper's."
    assert values["names"].help == "Names: some of a, b."
    assert {flag.name for flag in values.flags_by_module_dict()["model"]} == {"sigma"}
