# SPDX-License-Identifier: Apache-2.0
"""Flags follow from the fields of options, and become the same options again."""
from __future__ import annotations

from dataclasses import dataclass

import pytest
from absl import flags

from pipelines import console
from pipelines.config import CorruptOptions, DegradeOptions, PatchOptions, degradation
from pipelines.flags import (
    define,
    define_corrupt_flags,
    define_degrade_flags,
    define_patch_flags,
    degrade_options,
    patch_options,
    read,
)
from pipelines.options import POSITIVE, Options, option


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


def degrade(*arguments: str, preset: str = "scanner") -> DegradeOptions:
    values = flags.FlagValues()
    define_degrade_flags(values, preset)
    console.parse(["program", *arguments], values)
    return degrade_options(values)


def test_degradation_is_its_preset_until_a_flag_replaces_a_value():
    assert degrade() == degradation("scanner")
    assert degrade("--degradation=pyramid", "--scale=2") == degradation("pyramid", scale=2)
    assert degrade("--gain=0.9,1.1", "--blurs=disc").gain == (0.9, 1.1)
    assert degrade("--gain=1.1").gain == (1.1, 1.1)


def test_fixed_blur_of_the_textbook_is_still_the_textbook():
    for given in ("--blur_sigma=2", "--blur_sigma=2,2"):
        assert degrade(given, preset="textbook") == DegradeOptions(blur_sigma=2.0)
        assert degrade(given, preset="textbook").is_textbook


@pytest.mark.parametrize("argument", ["--gain=low,high", "--gain=1,2,3", "--jpeg_passes=0.5,0.5", "--gain=2,1"])
def test_wrong_range_names_its_flag(argument):
    name = argument[2:].partition("=")[0]
    with pytest.raises(ValueError, match=rf"^`{name}` must "):
        degrade(argument)


def test_registered_scans_are_pairs_of_scans():
    values = flags.FlagValues()
    define_patch_flags(values)
    define_corrupt_flags(values)
    console.parse(["program", "--pairs=a.json,b.json", "--patch_size=64"], values)
    assert patch_options(values, seed=3, patch_size=32) == PatchOptions(32, seed=3, pairs="scans")
