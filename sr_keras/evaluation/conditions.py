"""The kinds of LR that a model is scored on: one list, by name, so that every table means the same by "JPEG 80 4:2:0".

    STANDARD    the list of `sr_keras.evaluate --lr=standard`, the rows of the table on a model card
    CURVES      what the picture beside it follows: gain over sharpness, JPEG quality and noise

Every condition is fixed: it draws no value, apart from the noise itself, so that two patches and two models meet the
same LR. REAL is no degradation but the LR that was recorded beside HR. Sigmas are in HR pixels, noise is the standard
deviation on [0, 1], and JPEG is libjpeg's, with its chroma at half resolution (4:2:0) unless 4:4:4 is said.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pipelines.config import DEGRADATIONS, DegradeOptions, degradation
from pipelines.errors import require

STANDARD_NAME, REAL_NAME = "standard", "pairs"
SIGMAS = (0.8, 1.2, 1.6, 2.4, 3.2)
QUALITIES = (50, 60, 70, 80, 90, 98)
NOISES = (0.0, 0.005, 0.01, 0.02, 0.03)


@dataclass(frozen=True)
class Condition:
    """One kind of LR. `degrade` says how it is made of HR; None is the real LR that the data carries."""

    name: str
    label: str
    degrade: DegradeOptions | None

    @property
    def is_real(self) -> bool:
        """Whether its LR is recorded and not made."""
        return self.degrade is None

    def at_scale(self, scale: int) -> Condition:
        """Return the same for models of that scale."""
        return replace(self, degrade=self.degrade and replace(self.degrade, scale=scale))


@dataclass(frozen=True)
class Curve:
    """Conditions along one axis: `label` of the axis, and the value that each condition stands for."""

    name: str
    label: str
    points: tuple[tuple[float, Condition], ...]


def blurred(sigma: float) -> Condition:
    """Return the textbook's LR at another blur."""
    name, label = ("textbook", f"textbook (sigma {sigma:g})") if sigma == 1.6 else (f"sigma-{sigma:g}",
                                                                                    f"sigma {sigma:g}")
    return Condition(name, label, degradation("textbook", blur_sigma=sigma))


def compressed(quality: int, subsampling: str = "420") -> Condition:
    """Return the textbook's LR as a JPEG of that quality."""
    name = f"jpeg-{quality}" + ("" if subsampling == "420" else f"-{subsampling}")
    return Condition(name, f"textbook + JPEG {quality} {':'.join(subsampling)}", degradation(
        "textbook", **_jpeg(quality, subsampling)))


def noisy(deviation: float) -> Condition:
    """Return the textbook's LR with Gaussian noise."""
    if deviation == 0:
        return blurred(1.6)
    return Condition(f"noise-{deviation:g}", f"textbook + noise {deviation:g}",
                     degradation("textbook", read_noise=(deviation, deviation)))


def resampled(name: str, label: str, kind: str, **changes: Any) -> Condition:
    """Return the LR of a program that makes a picture smaller, with no blur before."""
    return Condition(name, label, DegradeOptions(blurs=("none",), resamplings=(kind,), **changes))


def _jpeg(quality: int, subsampling: str) -> dict[str, Any]:
    return {"jpeg_passes": (0.0, 1.0, 0.0), "jpeg_quality": (quality, quality), "jpeg_subsamplings": (subsampling,)}


REAL = Condition(REAL_NAME, "real pairs", None)
STANDARD = (
    REAL, blurred(1.6), blurred(0.8), blurred(2.4), blurred(3.2),
    resampled("box", "box average", "box"), resampled("bicubic", "antialiased bicubic", "bicubic"),
    compressed(90, "444"), compressed(80), compressed(60), noisy(0.01), noisy(0.03),
    resampled("pyramid-75", "pyramid (2x2 means, JPEG 75 4:2:0)", "cascade", **_jpeg(75, "420")))
CURVES = (
    Curve("sigma", "blur of LR, sigma in HR pixels", tuple((sigma, blurred(sigma)) for sigma in SIGMAS)),
    Curve("quality", "JPEG quality of LR, 4:2:0", tuple((quality, compressed(quality)) for quality in QUALITIES)),
    Curve("noise", "noise of LR, standard deviation", tuple((noise, noisy(noise)) for noise in NOISES)))
# The textbook is among the above.
PRESETS = tuple(Condition(name, f"drawn from the preset {name!r}", degrade) for name, degrade in DEGRADATIONS.items()
                if not degrade.is_textbook)


def standard_conditions(scale: int, real: bool) -> tuple[Condition, ...]:
    """Return the standard list and what the curves need beyond it, each once; the real LR only where there is some."""
    found = {condition.name: condition for condition in (
        *STANDARD, *(condition for curve in CURVES for _, condition in curve.points))}
    return tuple(condition.at_scale(scale) for condition in found.values() if real or not condition.is_real)


def condition_named(name: str) -> Condition:
    """Return one condition of the standard list, or a preset of `pipelines.config.DEGRADATIONS`.

    Raises:
        ValueError: There is none of that name.
    """
    found = {condition.name: condition for condition in (*STANDARD, *PRESETS)}
    require(name in found, "lr", f"be one of {', '.join((STANDARD_NAME, *found))}", "'standard' scores on the whole "
            "list", name)
    return found[name]


def trained_condition(degrade: DegradeOptions) -> Condition:
    """Return how a model was trained as a condition, with words for it that a table can have."""
    if degrade.is_textbook:
        return Condition("trained", f"blur of {degrade.range_of('blur_sigma')[0]} HR pixels", degrade)
    known = next((one for one in PRESETS if one.at_scale(degrade.scale).degrade == degrade), None)
    return Condition("trained", known.label if known else "drawn as in training", degrade)
