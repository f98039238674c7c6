# SPDX-License-Identifier: Apache-2.0
"""One option: its default, help, unit, group and check are the metadata of a dataclass field.

    @dataclass(frozen=True)
    class Blur(Options):
        sigma: float = option(1.6, "Width of the blur", "1.6 is the paper's", AT_LEAST_0, unit="HR pixels")

`Options` checks every field when an object is made. `pipelines.flags` defines the command-line flags from the same
fields, so that help text, default and check are written once.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any

from pipelines.errors import require

GROUPS = ("basic", "data", "model", "loss", "expert")  # of --help, in this order
SEEDS = 2**63  # TensorFlow takes seeds as int64
Range = tuple[float, float]  # low and high, both included; equal for a fixed value


@dataclass(frozen=True)
class Rule:
    """What a value must do, in words that follow "must", and whether a value does it."""

    words: str
    holds: Callable[[Any], bool]


POSITIVE = Rule("be positive", lambda value: value > 0)
FINITE = Rule("be positive and finite", lambda value: 0 < value < inf)
AT_LEAST_0 = Rule("be 0 or more", lambda value: value >= 0)
FINITE_OR_0 = Rule("be 0 or more and finite", lambda value: 0 <= value < inf)
AT_LEAST_1 = Rule("be 1 or more", lambda value: value >= 1)
SHARE = Rule("lie in [0, 1]", lambda value: 0 <= value <= 1)
BELOW_1 = Rule("lie in [0, 1)", lambda value: 0 <= value < 1)
SEED = Rule("be 0 or more and less than 2**63", lambda value: 0 <= value < SEEDS)
WHOLE = Rule("be whole numbers", lambda value: all(bound == int(bound) for bound in bounds(value)))
GIVEN = Rule("be given", bool)
ORDERED = Rule("have its low end first", lambda value: len(bounds(value)) == 2 and bounds(value)[0] <= bounds(value)[1])


def within(least: float, most: float) -> Rule:
    """Return the rule that a number, or both ends of a range, lie in [least, most]."""
    return Rule(f"lie in {least} to {most}", lambda value: all(least <= bound <= most for bound in bounds(value)))


def bounds(value: float | Range) -> Range:
    """Return a range as it is, and a number as the range that holds it alone."""
    return value if isinstance(value, tuple) else (value, value)


def option(default: Any, help: str, hint: str = "", *rules: Rule, group: str = "expert", unit: str = "",
           flag: str | None = None, choices: Sequence[Any] = (), several: bool = False) -> Any:
    """Return a dataclass field that is an option.

    Args:
        default: Its value if it is not given. None needs no check.
        help: What it is, without a full stop.
        hint: A typical value or a remedy, for the help and for error messages.
        *rules: What its value must do.
        group: Where `--help` lists it, one of GROUPS.
        unit: Of its value.
        flag: Name of its flag, where that is not the field's.
        choices: The only values.
        several: It is a tuple of some of the choices.
    """
    if several:
        known = Rule(f"name some of {tuple(choices)}", lambda value: bool(value) and set(value) <= set(choices))
        rules = (known, *rules)
    elif choices:
        rules = (Rule(f"be one of {tuple(choices)}", lambda value: value in choices), *rules)
    return field(default=default, metadata={"help": help, "hint": hint, "rules": rules, "group": group, "unit": unit,
                                            "flag": flag, "choices": tuple(choices), "several": several})


def same_as(options: Any, name: str) -> Any:
    """Return a dataclass field that is the same option as that of another dataclass."""
    other = options.__dataclass_fields__[name]
    return field(default=other.default, metadata=other.metadata)


class Options:
    """Base of frozen dataclasses whose fields are options: a wrong value is refused when the object is made."""

    def __post_init__(self) -> None:
        check(self)


def check(options: Any, prefix: str = "") -> None:
    """Check every option of an object.

    Args:
        options: A dataclass with fields of `option`.
        prefix: What its flags' names begin with.

    Raises:
        ValueError: A value breaks a rule; the message names the flag.
    """
    for one in fields(options):
        value = getattr(options, one.name)
        if not one.metadata or (value is None and one.default is None):
            continue
        name = prefix + (one.metadata["flag"] or one.name)
        hint = one.metadata["hint"] or f"the default is {one.default!r}"
        for rule in one.metadata["rules"]:
            require(rule.holds(value), name, rule.words, hint, value)
