"""What is compared in a study: its rows, seen as curves along the fraction of corrupted examples.

A `Curve` is a method at one q, one balance and one set of VGG weights. Fraction 0 is the same cell whatever the kind
and side of a corruption, and belongs to each. Variants are no curves: whoever selects them leaves them out before.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_keras.config import METHODS
from sr_keras.evaluation import METRICS
from study.results import Row, select
from study.statistics import Units, less, units

NAMES = {"bicubic": "bicubic", "srgan": "SRGAN", "srgan_e": "SRGAN_E", "srgan_qe": "SRGAN_QE", "srgan_sqe": "SRGAN_SQE",
         "fidelity": "L_F alone", "fidelity_m": "L_F + L_M", "fidelity_s": "L_F + L_S", "fidelity_d": "L_F + L_D"}
SERIES = (("srgan_sqe", "paper"), ("srgan_sqe", "equal"), ("fidelity", "paper"))  # that are followed along q
NOT_RUN = "not run"
Corruption = tuple[str, str]  # kind, side


@dataclass(frozen=True)
class Curve:
    """What is followed along the fractions."""

    method: str
    q: float | None = None
    balance: str | None = None
    vgg_weights: str | None = None

    @property
    def name(self) -> str:
        """The method's name, which says so where its VGG19 is not ImageNet's."""
        name = NAMES.get(self.method, self.method)
        if self.vgg_weights in (None, "", "imagenet"):
            return name
        return f"{name} ({'random VGG' if self.vgg_weights == 'random' else f'VGG of {Path(self.vgg_weights).name}'})"

    @property
    def label(self) -> str:
        """The name, with what is not the method's own."""
        usual = self.method in METHODS and METHODS[self.method].q == self.q
        q = "" if usual or self.q is None else f", q = {self.q:g}"
        return f"{self.name}{q}{', equal balance' if self.balance == 'equal' else ''}"

    @property
    def is_paper(self) -> bool:
        """Whether it is one of the paper's methods as the paper has it."""
        return self.method in METHODS and self.q in (None, METHODS[self.method].q) and self.balance in (None, "paper")

    def rows(self, rows: Sequence[Row], fraction: float, corruption: Corruption) -> list[Row]:
        """Return its rows at a fraction; bicubic's are the same at all of them."""
        mine = [row for row in rows if curve_of(row) == self]
        if self.method == "bicubic":
            return mine
        kind, side = corruption
        return select(mine, fraction=fraction, **({"kind": kind, "side": side} if fraction else {}))


BICUBIC = Curve("bicubic")


def curve_of(row: Row) -> Curve:
    """Return the curve a row is of."""
    return Curve(row["method"], *(row.get(name) for name in ("q", "balance", "vgg_weights")))


def curves(rows: Sequence[Row]) -> list[Curve]:
    """Return all curves but bicubic's: the paper's methods in its order, then what is built on L_F; each by q."""
    order = list(NAMES)

    def key(curve: Curve) -> tuple:
        place = order.index(curve.method) if curve.method in order else len(order)
        return place, curve.balance == "equal", curve.q or 0, str(curve)

    return sorted({curve_of(row) for row in rows} - {BICUBIC}, key=key)


def series(rows: Sequence[Row], method: str, balance: str) -> list[Curve]:
    """Return the curves of one method and balance, by q.

    The lambdas were published for q = 0.5, so that there the balances are one: where no cell of "equal" was run at that
    q, the paper's stands for it.
    """
    found = [curve for curve in curves(rows) if curve.method == method]
    mine = [curve for curve in found if (curve.balance or "paper") == balance]
    if mine and balance == "equal" and method in METHODS and METHODS[method].q not in [curve.q for curve in mine]:
        mine += [curve for curve in found if curve.is_paper and curve.q == METHODS[method].q]
    return sorted(mine, key=lambda curve: curve.q or 0)


def along_q(rows: Sequence[Row], method: str, balance: str, fraction: float,
            corruption: Corruption) -> dict[Curve, list[Row]]:
    """Return the curves of `series` with their rows at a fraction; what stands in has the seeds of the others alone."""
    found = {curve: mine for curve in series(rows, method, balance) if (mine := curve.rows(rows, fraction, corruption))}
    seeds = {row["seed"] for curve, mine in found.items() if curve.balance == balance for row in mine}
    return {curve: same for curve, mine in found.items() if (same := [row for row in mine if row["seed"] in seeds])}


def corruptions(rows: Sequence[Row]) -> list[Corruption]:
    """Return each (kind, side) that was run, mixed on the HR side first; that of a clean set if there is no other."""
    found = {(row["kind"], row["side"]) for row in rows if row.get("fraction")}
    return sorted(found, key=lambda one: (one[0] != "mixed", one[1] != "hr", one)) or [("none", "none")]


def fractions(rows: Sequence[Row], corruption: Corruption) -> list[float]:
    """Return the fractions that were run with this corruption, 0 among them."""
    return sorted({row["fraction"] for row in rows if row.get("fraction") is not None
                   and (not row["fraction"] or (row["kind"], row["side"]) == corruption)})


def scopes(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return "all slides" and, where there are several, each magnification -> its rows."""
    groups = sorted({row["magnification"] for row in rows if row["magnification"]}, reverse=True)
    apart = {one: select(rows, magnification=one) for one in groups} if len(groups) > 1 else {}
    return {"all slides": list(rows), **apart}


def falls(rows: Sequence[Row], curve: Curve, fraction: float, corruption: Corruption, metric: str) -> Units:
    """Return by how much each unit is worse than at fraction 0, positive whichever way the metric goes."""
    clean, corrupted = (units(curve.rows(rows, one, corruption), metric) for one in (0.0, fraction))
    return less(clean, corrupted) if METRICS[metric].higher_is_better else less(corrupted, clean)


def title(corruption: Corruption) -> str:
    """Return a corruption in words."""
    kind, side = corruption
    if kind == "none":
        return "no corruption"
    return f"{kind} corruption, {'both sides' if side == 'both' else f'{side.upper()} side'}"


def heading(metric: str) -> str:
    """Return the metric's label and the way to better."""
    return f"{METRICS[metric].label} {'↑' if METRICS[metric].higher_is_better else '↓'}"


def percent(fraction: float) -> str:
    """Return a share in per cent."""
    return f"{100 * fraction:g}%"
