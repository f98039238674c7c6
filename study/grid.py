# SPDX-License-Identifier: Apache-2.0
"""The cells of a study, and the flags of `sr_keras.train` for each.

A grid is text, AXIS=VALUES joined by ";", and means every combination of its values, in that order:

    method=srgan,srgan_e,srgan_qe,srgan_sqe; fraction=0,0.3,0.5
    method=fidelity; q=0.5,1,2; fraction=0.3

Axes are method, q, fraction, kind, side, and any flag of `sr_keras.train`, including the lambdas. Defaults: the
method's own q, fraction 0, mixed kinds, the HR side. A combination is a `Setting`; with a fold it is a `Cell`, one
training run. Settings with fraction 0 are the same for all kinds and sides.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from pipelines.config import SIDES
from pipelines.errors import require
from sr_keras.config import METHODS

FIDELITY = "fidelity"  # L_F alone
BICUBIC = "bicubic"  # is scored and not trained
KINDS = {"noise": ("noise",), "blur": ("blur",), "contrast": ("contrast",), "outlier": ("outlier",),
         "mixed": ("noise", "blur", "contrast")}
NONE = "none"
LAMBDAS = ("lambda_m", "lambda_s", "lambda_d", "lambda_v")
# Flags of `sr_keras.train` that the study sets; they are not accepted on its command line.
SET_BY_STUDY = ("method", "q", *LAMBDAS, "corrupt_fraction", "corrupt_kinds", "corrupt_side", "seed", "run",
                "autoencoder", "generator", "train_data", "val_data", "test_data", "train_region", "val_region",
                "test_region")
RESULTS_FILE = "results.csv"  # see `study.results`
REMEDY = "correct the grid"


@dataclass(frozen=True)
class Setting:
    """What a cell is trained on and by."""

    method: str
    q: float
    fraction: float = 0.0
    kind: str = "mixed"
    side: str = "hr"
    variant: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        methods = (*METHODS, FIDELITY)
        require(self.method in methods, "method", f"be one of {methods}", REMEDY, self.method)
        require(0 < self.q <= 2, "q", "lie in (0, 2]", REMEDY, self.q)
        require(0 <= self.fraction <= 1, "fraction", "lie in [0, 1]", "0.3 means 30% of the examples", self.fraction)
        if self.fraction == 0:
            object.__setattr__(self, "kind", NONE)
            object.__setattr__(self, "side", NONE)
            return
        require(self.kind in KINDS, "kind", f"be one of {tuple(KINDS)}", REMEDY, self.kind)
        require(self.side in SIDES, "side", f"be one of {SIDES}", REMEDY, self.side)

    @property
    def corruption(self) -> str:
        """Name of what is corrupted."""
        return f"{self.fraction:g}-{self.kind}-{self.side}" if self.fraction else "clean"

    @property
    def name(self) -> str:
        """Unique name, by which claims call it."""
        variant = f"-{self.variant.replace(';', '-')}" if self.variant else ""
        return f"{self.method}-q{self.q:g}-{self.corruption}{variant}"


@dataclass(frozen=True)
class Cell:
    """One training run: a setting trained on all folds but this one."""

    setting: Setting
    fold: int

    @property
    def name(self) -> str:
        """Unique name, also the name of the folder."""
        return f"{self.setting.name}-fold{self.fold}"


def parse_grids(grids: Sequence[str], train_flags: Iterable[str]) -> list[Setting]:
    """Return the settings of all grids in their order, each once.

    Args:
        grids: See the module.
        train_flags: Names of the flags that may be axes.

    Raises:
        ValueError: A grid cannot be parsed, or has an unknown axis or value.
    """
    require(bool(grids), "grid", "be set", "write --grid='method=srgan_sqe; fraction=0,0.3', for example", grids)
    free = {*train_flags} - {*SET_BY_STUDY} | {*LAMBDAS}
    axes = [_axes(grid, free) for grid in grids]
    return list(dict.fromkeys(_setting(dict(zip(one, values, strict=True)))
                              for one in axes for values in product(*one.values())))


def setting_flags(setting: Setting) -> list[str]:
    """Return the flags of `sr_keras.train` for a setting."""
    alone = setting.method == FIDELITY
    flags = [f"--method={'srgan_sqe' if alone else setting.method}", f"--q={setting.q:g}"]
    flags += [f"--{weight}=0" for weight in LAMBDAS if alone]
    if setting.fraction:
        flags += [f"--corrupt_fraction={setting.fraction:g}", f"--corrupt_kinds={','.join(KINDS[setting.kind])}",
                  f"--corrupt_side={setting.side}"]
    return [*flags, *(f"--{one}" for one in setting.variant.split(";") if one)]


def _axes(grid: str, more: set[str]) -> dict[str, list[str]]:
    known = ("method", "q", "fraction", "kind", "side")
    found: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in grid.split(";"))):
        name, _, values = part.partition("=")
        require(bool(values), "grid", "be AXIS=VALUES joined by ';'", "write method=srgan_sqe; fraction=0,0.3", grid)
        require(name in known or name in more, "grid", f"have axes among {known} or flags of sr_keras.train",
                f"correct {name!r}", grid)
        require(name not in found, "grid", "contain each axis once", f"join the values of {name!r}", grid)
        found[name] = [value.strip() for value in values.split(",")]
    require("method" in found, "grid", "have a method axis", "add method=srgan_sqe, for example", grid)
    return found


def _setting(values: dict[str, str]) -> Setting:
    variant = ";".join(f"{name}={value}" for name, value in sorted(values.items())
                       if name not in Setting.__dataclass_fields__)
    method = values["method"]
    default = METHODS[method].q if method in METHODS else METHODS["srgan_sqe"].q
    try:
        q, fraction = float(values.get("q", default)), float(values.get("fraction", 0))
    except ValueError as error:
        raise ValueError(f"`grid` must have numbers for q and fraction; correct them. Received: {values}") from error
    words = {name: values[name] for name in ("kind", "side") if name in values}
    return Setting(method, q, fraction, variant=variant, **words)
