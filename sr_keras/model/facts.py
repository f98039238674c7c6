"""What is known of a model: which LR it was made for, how it was trained, and how far its output departs from its LR.

    saved_models/NAME/VERSION/facts.json, beside the SavedModel:

    scale, halo, max_pixels   of the graph; see `sr_keras.formats.saved_model`
    lr_mpp                    [low, high], microns per pixel of its LR
    stain                     "H&E", for example
    degradation               how its LR was made: the fields of `pipelines.config.DegradeOptions`
    trained_on                the data, in words
    usual_departure           [low, high], grey levels of 255: what `sr_keras.slides.trust_map` finds at the median
    flags, versions           of the training run

All but scale, halo and max_pixels may be null: unknown. Older versions have flags and versions in assets.extra. Facts
that are null but follow from the flags are read from them.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from pipelines.config import BLURS, DegradeOptions, Range, check_range
from pipelines.errors import require
from pipelines.flags import define_degrade_flags, degrade_options

FLAGS_FILE = "flags.txt"  # in a run folder: all flags of the training run, one a line
FACTS_FILE = Path("facts.json")
OLD_FACTS_FILE = Path("assets.extra") / "sr_keras.json"
LARGEST_MPP, LARGEST_DEPARTURE = 100.0, 255.0
TEXTBOOK = "--degradation=textbook"  # the only degradation of runs that are older than this flag


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a model beyond its graph; None if unknown. The fields are those of facts.json."""

    lr_mpp: Range | None = None
    stain: str | None = None
    degradation: DegradeOptions | None = None
    trained_on: str | None = None
    usual_departure: Range | None = None
    flags: str | None = None
    versions: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, most in (("lr_mpp", LARGEST_MPP), ("usual_departure", LARGEST_DEPARTURE)):
            if (given := getattr(self, name)) is not None:
                check_range(name, given, 0, most)

    def as_json(self) -> dict[str, Any]:
        """Return the facts in the form that `from_json` takes."""
        return asdict(self)


def from_json(said: Mapping[str, Any], where: Path) -> ModelFacts:
    """Return facts that were written as JSON; unknown keys are ignored.

    Args:
        said: Result of `as_json`; what is null or missing is taken from its flags.
        where: The file, for error messages.

    Raises:
        ValueError: A value is out of range or of the wrong type.
    """
    known: dict[str, Any] = {field.name: said.get(field.name) for field in fields(ModelFacts)}
    try:
        for name in ("lr_mpp", "usual_departure"):
            known[name] = None if known[name] is None else tuple(map(float, known[name]))
        if known["degradation"] is not None:
            options: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                       for name, value in known["degradation"].items()}
            known["degradation"] = DegradeOptions(**options)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"`facts` must be as sr_keras.export writes them; export the model again ({error}). "
                         f"Received: {str(where)!r}") from error
    by_flags = of_flags(known["flags"], where)
    return ModelFacts(**{name: getattr(by_flags, name) if value is None else value for name, value in known.items()})


def of_flags(flags: str | None, where: Path) -> ModelFacts:
    """Return the facts that follow from the flags of a run, one a line.

    Raises:
        ValueError: A flag can't be parsed.
    """
    said = dict(line.lstrip("-").partition("=")[::2] for line in (flags or "").splitlines())
    values = absl_flags.FlagValues()
    define_degrade_flags(values)
    lines = [f"--{name}={value}" for name, value in said.items() if name in values]
    old = [TEXTBOOK] if "degradation" in values and "degradation" not in said else []
    try:
        values(["run", *old, *lines])
        options = degrade_options(values) if lines else None
        lr_mpp = float(said["mpp"]) * int(said["scale"]) if said.get("mpp") and "scale" in said else None
    except (ValueError, absl_flags.Error) as error:
        raise ValueError(f"`flags` of a run must be those that it was started with; correct them ({error}). "
                         f"Received: {str(where)!r}") from error
    return ModelFacts(lr_mpp=None if lr_mpp is None else (lr_mpp, lr_mpp), degradation=options, flags=flags)


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the JSON of the facts of a model version, also of an older one.

    Raises:
        ValueError: There is none, it is damaged, or it has no scale and halo.
    """
    path = next((folder / name for name in (FACTS_FILE, OLD_FACTS_FILE) if (folder / name).is_file()),
                folder / FACTS_FILE)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(facts["scale"], int) and isinstance(facts["halo"], int)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{folder}: its scale and halo are unknown; write it with python -m sr_keras.export. "
                         f"{reason}") from error
    require(known, path.name, "hold whole numbers for scale and halo", "export the model again", facts)
    return facts


def in_words(options: DegradeOptions) -> str:
    """Return how LR is made, in a sentence."""
    if options.is_textbook:
        sigma = options.range_of("blur_sigma")[0]
        return f"a Gaussian blur of {sigma:.3g} HR pixels, every {_NTH[options.scale]} pixel"
    if options == DegradeOptions(options.scale, blurs=("none",), resamplings=("box",)):
        return f"the mean of {options.scale}x{options.scale} HR pixels"
    never = options.jpeg_passes[0]
    blurs = [_BLUR_WORDS[name].format(_range(options.range_of(_BLUR_RANGES[name])) if name in _BLUR_RANGES else "")
             for name in BLURS if name in options.blurs]
    parts = ["blur: " + " or ".join(blurs), "resampling: " + " or ".join(dict.fromkeys(options.resamplings))]
    if options.shot_noise[1] > 0 or options.read_noise[1] > 0:
        parts.append(f"noise up to {max(options.shot_noise[1], options.read_noise[1]):.3g}")
    if options.sharpen[1] > 0:
        parts.append(f"sharpening up to {options.sharpen[1]:.3g}")
    if options.gain != (1.0, 1.0) or options.gamma != (1.0, 1.0):
        parts.append(f"colour gain {_range(options.gain)}, gamma {_range(options.gamma)}")
    parts.append("no JPEG" if never == 1 else f"JPEG quality {_range(options.jpeg_quality)} in {1 - never:.0%} of them")
    return "; ".join(parts)


_NTH = {2: "2nd", 4: "4th", 8: "8th"}
_BLUR_WORDS = {"none": "none", "gaussian": "Gaussian of {} HR pixels", "disc": "disc of radius {}",
               "airy": "Airy of NA {}"}
_BLUR_RANGES = {"gaussian": "blur_sigma", "disc": "disc_radius", "airy": "numerical_aperture"}


def _range(bounds: Range) -> str:
    return f"{bounds[0]:.3g}" if bounds[0] == bounds[1] else f"{bounds[0]:.3g} to {bounds[1]:.3g}"
