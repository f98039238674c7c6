"""Which cells a study has, and what each asks of `sr_keras.train`.

A grid is text, AXIS=VALUES joined by ";", and stands for every combination of its values:

    method=srgan,srgan_e,srgan_qe,srgan_sqe; fraction=0,0.3,0.5
    method=srgan_sqe; q=0.25,0.5,0.75,1,1.5,2; fraction=0.3; balance=paper,equal

Axes are method, q, balance, fraction, kind, side, seed, and any flag of `sr_keras.train`, a lambda among them. What a
grid does not name has one value: the method's q, the paper's balance, no corruption, of mixed kinds, on the HR side. A
cell that two grids name is one cell, and so is one that is corrupted in no way, whatever the kind and side.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

from pipelines.config import SIDES
from pipelines.errors import require
from sr_keras.config import METHODS

# The terms that a method has beside L_F, where it is no method of the paper: single ones on top of the fidelity.
TERMS_ALONE = {"fidelity": (), "fidelity_m": ("m",), "fidelity_s": ("s",), "fidelity_d": ("d",)}
KINDS = {"noise": ("noise",), "blur": ("blur",), "contrast": ("contrast",), "outlier": ("outlier",),
         "mixed": ("noise", "blur", "contrast")}
BALANCES = ("paper", "equal")
NONE = "none"
LAMBDAS = ("m", "s", "d", "v")
# What a cell decides; the study's own command line has no say in it.
WEIGHTS = tuple(f"lambda_{term}" for term in LAMBDAS)
DECIDED = ("method", "q", *WEIGHTS, "corrupt_fraction", "corrupt_kinds", "corrupt_side",
           "seed", "run", "train_region", "val_region", "test_region")


@dataclass(frozen=True)
class Cell:
    """One training run; its name follows from the rest."""

    method: str
    q: float
    balance: str = "paper"
    fraction: float = 0.0
    kind: str = "mixed"
    side: str = "hr"
    seed: int = 0
    variant: str = ""

    def __post_init__(self) -> None:
        methods = (*METHODS, *TERMS_ALONE)
        require(self.method in methods, "method", f"be one of {methods}", "mend the grid", self.method)
        require(0 < self.q <= 2, "q", "lie in (0, 2]", "mend the grid", self.q)
        require(self.balance in BALANCES, "balance", f"be one of {BALANCES}", "mend the grid", self.balance)
        require(0 <= self.fraction <= 1, "fraction", "lie in [0, 1]", "0.3 means 30% of the examples", self.fraction)
        if self.fraction == 0:
            object.__setattr__(self, "kind", NONE)
            object.__setattr__(self, "side", NONE)
            return
        require(self.kind in KINDS, "kind", f"be one of {tuple(KINDS)}", "mend the grid", self.kind)
        require(self.side in SIDES, "side", f"be one of {SIDES}", "mend the grid", self.side)

    @property
    def name(self) -> str:
        """What tells it apart, fit for a folder."""
        corrupted = f"{self.fraction:g}-{self.kind}-{self.side}" if self.fraction else "clean"
        variant = f"-{self.variant.replace(';', '-')}" if self.variant else ""
        return f"{self.method}-q{self.q:g}-{self.balance}-{corrupted}-seed{self.seed}{variant}"

    @property
    def columns(self) -> dict[str, object]:
        """What stands in the results' table of it."""
        return {"cell": self.name, **asdict(self)}


def parse_grids(grids: Sequence[str], seeds: Iterable[int], train_flags: Iterable[str]) -> list[Cell]:
    """Return the cells of all grids, each once: those of the first seed before those of the next.

    Args:
        grids: See the module.
        seeds: For the grids that name none.
        train_flags: Names of the flags that may be axes.

    Raises:
        ValueError: A grid is no grid, or names what is unknown.
    """
    require(bool(grids), "grid", "be given", "write --grid='method=srgan_sqe; fraction=0,0.3', say", grids)
    free = {*train_flags} - {*DECIDED} | {*WEIGHTS}
    axes = [_axes(grid, [str(seed) for seed in seeds], free) for grid in grids]
    cells = [_cell(dict(zip(one, values, strict=True))) for one in axes for values in product(*one.values())]
    return sorted(dict.fromkeys(cells), key=lambda cell: cell.seed)


def cell_flags(cell: Cell, factors: Mapping[str, float] | None = None) -> list[str]:
    """Return the flags of `sr_keras.train` that make this cell.

    Args:
        cell: The cell.
        factors: By how much to multiply the weight of a term, by its letter; for the balance "equal".
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
                f"mend {name!r}", grid)
        require(name not in found, "grid", "name each axis once", f"join the values of {name!r}", grid)
        found[name] = [value.strip() for value in values.split(",")]
    require("method" in found, "grid", "name its methods", "add method=srgan_sqe, say", grid)
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
        raise ValueError(f"`grid` must have numbers for q, fraction and seed; mend it. Received: {values}") from error
    words = {name: values[name] for name in ("balance", "kind", "side") if name in values}
    return Cell(method, variant=variant, **numbers, **words)  # type: ignore[arg-type]
