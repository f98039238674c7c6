# SPDX-License-Identifier: Apache-2.0
"""The kinds of LR on which models are scored, by name.

    STANDARD    the list of `sr-keras evaluate --lr=standard`, the rows of the table on a model card
    CURVES      the points of the curves beside it: sharpness, JPEG quality and noise
    PRESETS     the degradations of training

A condition of the first two draws no value but the noise itself, so that all patches and models get the same LR. REAL
is the scanned LR of pairs. Sigmas are in HR pixels, noise is the standard deviation on [0, 1], and JPEG is libjpeg's
with 4:2:0 chroma subsampling unless the name says 4:4:4.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pipelines.config import DEGRADATIONS, DegradeOptions, degradation
from pipelines.errors import require


@dataclass(frozen=True)
class Condition:
    """One kind of LR: the degradation that makes it from HR, or None for the scanned LR of pairs."""

    name: str
    label: str
    degrade: DegradeOptions | None

    @property
    def is_real(self) -> bool:
        """Whether its LR was scanned."""
        return self.degrade is None

    def at_scale(self, scale: int) -> Condition:
        """Return the condition for models of a scale."""
        return replace(self, degrade=self.degrade and replace(self.degrade, scale=scale))


def blurred(sigma: float) -> Condition:
    """Return the textbook degradation with a blur of `sigma`."""
    name, label = ("textbook", "textbook (sigma 1.6)") if sigma == 1.6 else (f"sigma-{sigma:g}", f"sigma {sigma:g}")
    return Condition(name, label, degradation("textbook", blur_sigma=sigma))


def compressed(quality: int, subsampling: str = "420") -> Condition:
    """Return the textbook degradation, compressed by JPEG."""
    name = f"jpeg-{quality}" + ("" if subsampling == "420" else f"-{subsampling}")
    return Condition(name, f"textbook + JPEG {quality} {':'.join(subsampling)}",
                     degradation("textbook", **_jpeg(quality, subsampling)))


def noisy(deviation: float) -> Condition:
    """Return the textbook degradation with Gaussian noise."""
    return Condition(f"noise-{deviation:g}", f"textbook + noise {deviation:g}",
                     degradation("textbook", read_noise=(deviation, deviation))) if deviation else blurred(1.6)


def resampled(name: str, label: str, kind: str, **changes: Any) -> Condition:
    """Return a resampling without a blur, as image programs do it."""
    return Condition(name, label, DegradeOptions(blurs=("none",), resamplings=(kind,), **changes))


def _jpeg(quality: int, subsampling: str) -> dict[str, Any]:
    return {"jpeg_passes": (0.0, 1.0, 0.0), "jpeg_quality": (quality, quality), "jpeg_subsamplings": (subsampling,)}


REAL = Condition("pairs", "real pairs", None)
STANDARD = (
    REAL, blurred(1.6), blurred(0.8), blurred(2.4), blurred(3.2),
    resampled("box", "box average", "box"), resampled("bicubic", "antialiased bicubic", "bicubic"),
    compressed(90, "444"), compressed(80), compressed(60), noisy(0.01), noisy(0.03),
    resampled("pyramid-75", "pyramid (2x2 means, JPEG 75 4:2:0)", "cascade", **_jpeg(75, "420")))
CURVES: dict[str, list[tuple[float, Condition]]] = {  # by the label of the axis, with the value of each condition
    "blur of LR, sigma in HR pixels": [(sigma, blurred(sigma)) for sigma in (0.8, 1.2, 1.6, 2.4, 3.2)],
    "JPEG quality of LR, 4:2:0": [(quality, compressed(quality)) for quality in (50, 60, 70, 80, 90, 98)],
    "noise of LR, standard deviation": [(noise, noisy(noise)) for noise in (0, 0.005, 0.01, 0.02, 0.03)]}
PRESETS = tuple(Condition(name, f"drawn from the preset {name!r}", degrade) for name, degrade in DEGRADATIONS.items()
                if not degrade.is_textbook)


def standard_conditions(scale: int, real: bool) -> tuple[Condition, ...]:
    """Return the conditions of the standard list and of the curves, each once; REAL only if there are pairs."""
    more = [condition for points in CURVES.values() for _, condition in points]
    found = {condition.name: condition.at_scale(scale) for condition in (*STANDARD, *more)}
    return tuple(condition for condition in found.values() if real or not condition.is_real)


def condition_named(name: str) -> Condition:
    """Return a condition of the standard list, or a preset of `pipelines.config.DEGRADATIONS`, by its name.

    Raises:
        ValueError: There is none.
    """
    found = {condition.name: condition for condition in (*STANDARD, *PRESETS)}
    require(name in found, "lr", f"be one of {', '.join(('standard', *found))}", "'standard' scores on the whole list",
            name)
    return found[name]


def trained_condition(degrade: DegradeOptions) -> Condition:
    """Return the degradation that a model was trained on as a condition, with a label for tables."""
    if degrade.is_textbook:
        return Condition("trained", f"blur of {degrade.range_of('blur_sigma')[0]} HR pixels", degrade)
    known = next((one for one in PRESETS if one.at_scale(degrade.scale).degrade == degrade), None)
    return Condition("trained", known.label if known else "drawn as in training", degrade)
