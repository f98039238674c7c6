# SPDX-License-Identifier: Apache-2.0
"""Command-line flags, defined from dataclasses of `pipelines.options` and read back into them.

    FLAGS = flags.FlagValues()
    define(FLAGS, PatchOptions)
    options = read(FLAGS, PatchOptions)
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields, replace
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from absl import flags

from pipelines.config import DEGRADATIONS, CorruptOptions, DegradeOptions, PatchOptions, degradation

T = TypeVar("T")
PARSERS = {int: flags.IntegerParser, float: flags.FloatParser, str: flags.ArgumentParser}


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
            _define(values, name, hints[one.name], None if preset else default, one.metadata)


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


def _define(values: flags.FlagValues, name: str, hint: Any, default: Any, about: Any) -> None:
    kind, choices, unit = _plain(hint), [str(one) for one in about["choices"]], about["unit"]
    text = about["help"] + (f" ({unit})" if unit else "")
    text += f": some of {', '.join(choices)}" if about["several"] else ""
    text += (f"; {about['hint']}" if about["hint"] else "") + "."
    flag: flags.Flag
    if kind is bool:
        flag = flags.BooleanFlag(name, default, text)
    elif get_origin(kind) is tuple:
        flag = flags.Flag(flags.ListParser(), flags.CsvListSerializer(","), name,
                          None if default is None else list(default), text)
    elif choices:
        flag = flags.EnumFlag(name, None if default is None else str(default), text, choices)
    else:
        serializer: flags.ArgumentSerializer = flags.ArgumentSerializer()
        flag = flags.Flag(PARSERS[kind](), serializer, name, default, text)
    flags.DEFINE_flag(flag, values, module_name=about["group"])  # --help lists flags by "module"


def _typed(name: str, value: Any, hint: Any) -> Any:
    kind = _plain(hint)
    if get_origin(kind) is not tuple:
        return kind(value)
    number, length = get_args(kind)[0], len(get_args(kind))
    if number is str:
        return tuple(value)
    try:
        numbers = tuple(number(part) for part in value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be numbers; {_form(number, length)}. "
                         f"Received: {name}={','.join(value)!r}") from error
    if length == 2 and len(numbers) == 1:  # a range of one number; where the option takes a number, that
        return numbers * 2 if kind == hint else numbers[0]
    if len(numbers) != length:
        raise ValueError(f"`{name}` must be {length} numbers; {_form(number, length)}. "
                         f"Received: {name}={','.join(value)!r}")
    return numbers


def _form(number: type, length: int) -> str:
    return "write x,y,width,height" if number is int else f"write {'LOW,HIGH' if length == 2 else '0.35,0.5,0.15'}"


def define_patch_flags(values: flags.FlagValues) -> None:
    """Define which patches are read: size, resolution, sampling, tissue."""
    define(values, PatchOptions, leave_out=("seed", "scale", "match_colours"))


def patch_options(values: flags.FlagValues, seed: int = 0, patch_size: int | None = None) -> PatchOptions:
    """Return the patch flags as options; `patch_size` replaces the flag, `stride` stays."""
    return read(values, PatchOptions, seed=seed, patch_size=patch_size or values.patch_size,
                pairs="scans" if registered(values.pairs) else values.pairs)


def registered(pairs: str | None) -> list[str]:
    """Return the files of pipelines.register in the flag `pairs`."""
    return pairs.split(",") if pairs and pairs.endswith(".json") else []


def define_degrade_flags(values: flags.FlagValues, preset: str = "scanner") -> None:
    """Define how HR becomes LR: a preset, and flags that replace its values."""
    define(values, DegradeOptions, leave_out=[one.name for one in fields(DegradeOptions) if one.name != "scale"])
    flags.DEFINE_flag(flags.EnumFlag("degradation", preset, "How LR is made from HR: the paper's way (textbook), as "
                                     "scanners do, or as the levels of a slide are made (pyramid).",
                                     list(DEGRADATIONS)), values, module_name="data")
    define(values, DegradeOptions, preset=True)


def degrade_options(values: flags.FlagValues) -> DegradeOptions:
    """Return the degradation flags as options.

    Raises:
        ValueError: A value is refused.
    """
    options = read(values, DegradeOptions, degradation(values.degradation))
    low, high = options.range_of("blur_sigma")
    return replace(options, blur_sigma=low) if low == high else options  # nothing is drawn: it may be the textbook


def define_corrupt_flags(values: flags.FlagValues) -> None:
    """Define what an uncurated training set contains."""
    define(values, CorruptOptions)


def corrupt_options(values: flags.FlagValues) -> CorruptOptions:
    """Return the corruption flags as options."""
    return read(values, CorruptOptions)
