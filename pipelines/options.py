# SPDX-License-Identifier: Apache-2.0
"""One option: its default, help, unit, group and check are the metadata of a dataclass field.

    @dataclass(frozen=True)
    class Blur(Options):
        sigma: float = option(1.6, "Width of the blur", "1.6 is the paper's", AT_LEAST_0, unit="HR pixels")

`Options` checks every field when an object is made. The command-line flags are defined from the same fields, and read
back into an object, so that help text, default and check are written once:

    FLAGS = flags_of(Blur)
    options = read(FLAGS, Blur)
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from functools import partial
from math import inf
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from absl import flags

from pipelines.errors import require
from pipelines.names import COMMAS, split_paths

T = TypeVar("T")
GROUPS = ("basic", "data", "model", "loss", "expert")  # of --help, in this order
SEEDS = 2**63  # TensorFlow takes seeds as int64
Range = tuple[float, float]  # low and high, both included; equal for a fixed value
PLAIN_FLAGS: dict[type, Callable[..., Any]] = {
    int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string, bool: flags.DEFINE_bool}


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
           flag: str | None = None, choices: Sequence[Any] = (), several: bool = False, repeated: bool = False) -> Any:
    """Return a dataclass field that is an option.

    Args:
        default: Its value if it is not given. None needs no check.
        help: What it is.
        hint: A typical value or a remedy, for the help and for error messages.
        *rules: What its value must do.
        group: Where `--help` lists it, one of GROUPS.
        unit: Of its value.
        flag: Name of its flag, where that is not the field's.
        choices: The only values.
        several: It is a tuple of some of the choices.
        repeated: It is a tuple of strings, and its flag is given once for each.
    """
    if several:
        known = Rule(f"name some of {tuple(choices)}", lambda value: bool(value) and set(value) <= set(choices))
        rules = (known, *rules)
    elif choices:
        rules = (Rule(f"be one of {tuple(choices)}", lambda value: value in choices), *rules)
    return field(default=default, metadata={"help": help, "hint": hint, "rules": rules, "group": group, "unit": unit,
                                            "flag": flag, "choices": tuple(choices), "several": several,
                                            "repeated": repeated})


basic = partial(option, group="basic")  # an option of the first group of --help


def same_as(options: Any, name: str) -> Any:
    """Return a dataclass field that is the same option as that of another dataclass."""
    other = options.__dataclass_fields__[name]
    return field(default=other.default, metadata=other.metadata)


class Options:
    """Base of frozen dataclasses whose fields are options.

    Raises:
        ValueError: When an object is made, a value breaks a rule; the message names the flag.
    """

    def __post_init__(self) -> None:
        check(self)


def check(options: Any, prefix: str = "") -> None:
    """Check every option of a dataclass object; `prefix` is what the names of its flags begin with."""
    for one in fields(options):
        value = getattr(options, one.name)
        rules, name = one.metadata.get("rules", ()), _name(one, prefix)
        if value is None and one.default is None and GIVEN not in rules:
            continue
        hint = one.metadata.get("hint") or f"the default is {one.default!r}"
        for rule in rules:
            require(rule.holds(value), name, rule.words, f"add --{name}=..." if rule is GIVEN else hint, value)


def flags_of(*kinds: type) -> flags.FlagValues:
    """Return the flags of dataclasses; of two that have the same name, the first."""
    values = flags.FlagValues()
    for kind in kinds:
        define(values, kind)
    return values


def define(values: flags.FlagValues, kind: type | Any, prefix: str = "", preset: bool = False,
           leave_out: Sequence[str] = ()) -> None:
    """Define a flag for each option of a dataclass that has no flag yet.

    Args:
        values: Where to define them.
        kind: The dataclass; or an object of it, whose values are the defaults.
        prefix: What the names of the flags begin with.
        preset: Another flag chooses a preset, so these flags have no default and replace its values.
        leave_out: Options without a flag.
    """
    hints = get_type_hints(kind if isinstance(kind, type) else type(kind))
    for one in fields(kind):
        name = _name(one, prefix)
        if one.metadata and name not in values and one.name not in leave_out:
            default = one.default if isinstance(kind, type) else getattr(kind, one.name)
            _define(values, name, _plain(hints[one.name]), None if preset else default, one.metadata)


def read(values: flags.FlagValues, kind: type[T], preset: T | None = None, prefix: str = "", **changes: Any) -> T:
    """Return the flags as an object of a dataclass.

    Args:
        values: The flags.
        kind: The dataclass.
        preset: Flags that are not given keep its values; without it, those of the dataclass.
        prefix: What the names of the flags begin with.
        changes: Options that do not come from flags.

    Raises:
        ValueError: A value is refused; the message names the flag.
    """
    hints, given = get_type_hints(kind), {}
    for one in fields(kind):  # type: ignore[arg-type]
        name = _name(one, prefix)
        if one.metadata and name in values and one.name not in changes:
            flag = values[name]
            if flag.value is not None and (flag.value != [] or flag.default):
                given[one.name] = _typed(name, flag.value, hints[one.name])
    given.update(changes)
    return kind(**given) if preset is None else replace(preset, **given)  # type: ignore[type-var]


def _name(one: Field, prefix: str) -> str:
    return prefix + (one.metadata.get("flag") or one.name)


def _plain(hint: Any) -> Any:
    """Return the type of a value that is given: the tuple of a union with one, and a union without None."""
    union = get_origin(hint) not in (tuple, None)
    options = [one for one in get_args(hint) if one is not type(None)] if union else [hint]
    return next((one for one in options if get_origin(one) is tuple), options[0])


class _PathsParser(flags.BaseListParser):
    """Parse a list of paths; see `pipelines.names.split_paths`."""

    def __init__(self) -> None:
        super().__init__(",", "paths with commas between them")

    def parse(self, argument: Any) -> list[str]:
        return argument if isinstance(argument, list) else split_paths(argument or "")


def define_paths(values: flags.FlagValues, name: str, default: list[str], help: str, group: str = "basic") -> None:
    """Define a flag that is a list of paths, which may have commas in them."""
    flags.DEFINE(_PathsParser(), name, default, f"{help} {COMMAS}", flag_values=values,
                 serializer=flags.CsvListSerializer(","), module_name=group)


def _define(values: flags.FlagValues, name: str, kind: Any, default: Any, about: Any) -> None:
    choices = [str(one) for one in about["choices"]]
    text = about["help"] + (f" ({about['unit']})" if about["unit"] else "")
    text += f": some of {', '.join(choices)}" if about["several"] else ""
    text = (f"{text}; {about['hint']}" if about["hint"] else text).removesuffix(".") + "."
    where = {"flag_values": values, "module_name": about["group"]}  # --help lists flags by "module"
    if about["repeated"]:
        flags.DEFINE_multi_string(name, list(default), text, **where)
    elif kind == tuple[str, ...] and not about["several"]:
        define_paths(values, name, list(default), text, about["group"])
    elif get_origin(kind) is tuple:
        flags.DEFINE_list(name, None if default is None else list(default), text, **where)
    elif choices:
        flags.DEFINE_enum(name, None if default is None else str(default), choices, text, **where)
    else:
        PLAIN_FLAGS[kind](name, default, text, **where)


def _typed(name: str, value: Any, hint: Any) -> Any:
    kind = _plain(hint)
    if get_origin(kind) is not tuple:
        return kind(value)
    number, length = get_args(kind)[0], len(get_args(kind))
    if number is str:
        return tuple(value)
    form = "x,y,width,height" if number is int else "LOW,HIGH" if length == 2 else "0.35,0.5,0.15"
    received = f"write {form}. Received: {name}={','.join(value)!r}"
    try:
        numbers = tuple(number(part) for part in value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be numbers; {received}") from error
    if length == 2 and len(numbers) == 1:  # a range of one number; where the option takes a number, that
        return numbers[0] if kind != hint and number in get_args(hint) else numbers * 2
    if len(numbers) != length:
        raise ValueError(f"`{name}` must be {length} numbers; {received}")
    return numbers
