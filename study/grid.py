# SPDX-License-Identifier: Apache-2.0
"""The cells of a study, and the flags of `sr_keras.train` for each.

A grid is text, AXIS=VALUES joined by ";", and means every combination of its values:

    method=srgan,srgan_e,srgan_qe,srgan_sqe; fraction=0,0.3,0.5
    method=srgan_sqe; q=0.25,0.5,0.75,1,1.5,2; fraction=0.3; balance=paper,equal

Axes are method, q, balance, fraction, kind, side, seed, and any flag of `sr_keras.train`, including the lambdas.
Defaults: the method's own q, the paper's balance, fraction 0, mixed kinds, the HR side. A cell that two grids contain
is trained once. Cells with fraction 0 are the same for all kinds and sides.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

from pipelines.config import SIDES
from pipelines.errors import require
from sr_keras.config import METHODS

# Methods that are not in the paper: L_F with at most one other term.
TERMS_ALONE = {"fidelity": (), "fidelity_m": ("m",), "fidelity_s": ("s",), "fidelity_d": ("d",)}
KINDS = {"noise": ("noise",), "blur": ("blur",), "contrast": ("contrast",), "outlier": ("outlier",),
         "mixed": ("noise", "blur", "contrast")}
BALANCES = ("paper", "equal")
NONE = "none"
LAMBDAS = ("m", "s", "d", "v")
# Flags that the grid sets; they are not accepted on the command line of the study.
WEIGHTS = tuple(f"lambda_{term}" for term in LAMBDAS)
SET_BY_GRID = ("method", "q", *WEIGHTS, "corrupt_fraction", "corrupt_kinds", "corrupt_side",
           "seed", "run", "train_region", "val_region", "test_region")


@dataclass(frozen=True)
class Cell:
    """One training run."""

    method: str
    q: float
    balance: str = "paper"
    fraction: float = 0.0
    kind: str = "mixed"
    side: str = "hr"
    seed: int = 0
    variant: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        methods = (*METHODS, *TERMS_ALONE)
        require(self.method in methods, "method", f"be one of {methods}", "correct the grid", self.method)
        require(0 < self.q <= 2, "q", "lie in (0, 2]", "correct the grid", self.q)
        require(self.balance in BALANCES, "balance", f"be one of {BALANCES}", "correct the grid", self.balance)
        require(0 <= self.fraction <= 1, "fraction", "lie in [0, 1]", "0.3 means 30% of the examples", self.fraction)
        if self.fraction == 0:
            object.__setattr__(self, "kind", NONE)
            object.__setattr__(self, "side", NONE)
            return
        require(self.kind in KINDS, "kind", f"be one of {tuple(KINDS)}", "correct the grid", self.kind)
        require(self.side in SIDES, "side", f"be one of {SIDES}", "correct the grid", self.side)

    @property
    def name(self) -> str:
        """Unique name, also the name of the folder."""
        corrupted = f"{self.fraction:g}-{self.kind}-{self.side}" if self.fraction else "clean"
        variant = f"-{self.variant.replace(';', '-')}" if self.variant else ""
        return f"{self.method}-q{self.q:g}-{self.balance}-{corrupted}-seed{self.seed}{variant}"

    @property
    def columns(self) -> dict[str, object]:
        """The columns of the results that describe the cell."""
        return {"cell": self.name, **asdict(self)}


def parse_grids(grids: Sequence[str], seeds: Iterable[int], train_flags: Iterable[str]) -> list[Cell]:
    """Return the cells of all grids, each once, sorted by seed.

    Args:
        grids: See the module.
        seeds: Seeds of the grids that have no seed axis.
        train_flags: Names of the flags that may be axes.

    Raises:
        ValueError: A grid cannot be parsed, or has an unknown axis or value.
    """
    require(bool(grids), "grid", "be set", "write --grid='method=srgan_sqe; fraction=0,0.3', for example", grids)
    free = {*train_flags} - {*SET_BY_GRID} | {*WEIGHTS}
    axes = [_axes(grid, [str(seed) for seed in seeds], free) for grid in grids]
    cells = [_cell(dict(zip(one, values, strict=True))) for one in axes for values in product(*one.values())]
    return sorted(dict.fromkeys(cells), key=lambda cell: cell.seed)


def cell_flags(cell: Cell, factors: Mapping[str, float] | None = None) -> list[str]:
    """Return the flags of `sr_keras.train` for this cell.

    Args:
        cell: The cell.
        factors: Term -> factor of its lambda, for the balance "equal".
    """
    method = "srgan_sqe" if cell.method in TERMS_ALONE else cell.method
    weights = {term: getattr(METHODS[method], f"lambda_{term}") for term in LAMBDAS}
    if cell.method in TERMS_ALONE:
        weights = {term: weight if term in TERMS_ALONE[cell.method] else 0.0 for term, weight in weights.items()}
    for term, factor in (factors or {}).items():
        weights[term] *= factor
    flags = [f"--method={method}", f"--q={cell.q:g}", *(f"--lambda_{t}={w:.4g}" for t, w in weights.items())]
    if cell.fraction:
        flags += [f"--corrupt_fraction={cell.fraction:g}", f"--corrupt_kinds={','.join(KINDS[cell.kind])}",
                  f"--corrupt_side={cell.side}"]
    return [*flags, *(f"--{setting}" for setting in cell.variant.split(";") if setting), f"--seed={cell.seed}"]


def _axes(grid: str, seeds: list[str], more: set[str]) -> dict[str, list[str]]:
    known = ("method", "q", "balance", "fraction", "kind", "side", "seed")
    found: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in grid.split(";"))):
        name, _, values = part.partition("=")
        require(bool(values), "grid", "be AXIS=VALUES joined by ';'", "write method=srgan_sqe; fraction=0,0.3", grid)
        require(name in known or name in more, "grid", f"have axes among {known} or flags of sr_keras.train",
                f"correct {name!r}", grid)
        require(name not in found, "grid", "contain each axis once", f"join the values of {name!r}", grid)
        found[name] = [value.strip() for value in values.split(",")]
    require("method" in found, "grid", "have a method axis", "add method=srgan_sqe, for example", grid)
    return {"seed": seeds, **found}


def _cell(values: dict[str, str]) -> Cell:
    variant = ";".join(f"{name}={value}" for name, value in sorted(values.items())
                       if name not in Cell.__dataclass_fields__)
    method = values["method"]
    default = METHODS[method].q if method in METHODS else METHODS["srgan_sqe"].q
    try:
        numbers = {"q": float(values.get("q", default)), "fraction": float(values.get("fraction", 0)),
                   "seed": int(values["seed"])}
    except ValueError as error:
        raise ValueError(f"`grid` must have numbers for q, fraction and seed; correct them. Received: {values}"
                         ) from error
    words = {name: values[name] for name in ("balance", "kind", "side") if name in values}
    return Cell(method, variant=variant, **numbers, **words)  # type: ignore[arg-type]
