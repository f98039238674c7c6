# SPDX-License-Identifier: Apache-2.0
"""Where a model is, and facts about it: what LR it was made for, how it was trained, and how it scores.

    saved_models/NAME/VERSION/facts.json, beside the SavedModel, and facts.json of a run folder:

    scale, halo, max_pixels   of the graph of a SavedModel; see `sr_keras.formats.saved_model`
    lr_mpp                    [low, high], microns per pixel of the LR it was made for
    stain                     for instance "H&E"
    degradation               how its LR was made: the fields of `pipelines.config.DegradeOptions`
    filters                   of its convolutions, which decide how much memory it takes
    tail_filters              of its enlarging steps
    trained_on                the data, in words
    usual_departure           [low, high], grey levels of 255: what `sr_keras.slides.trust_map` finds at the median
    scores                    gain over bicubic, by kind of LR and by score
    nuclei                    nuclei and perceptual distances, by kind of LR: nuclei.json of `evaluate --nuclei`
    flags, versions           of the training run, for readers; an export leaves out flags that name paths

All but the first line may be null, which means unknown. Runs and exports that are older than one of these fields are
read by way of their training flags.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
from absl import flags as absl_flags

from pipelines.config import (
    BLURS,
    DegradeOptions,
    Range,
    check_range,
    define_degrade_flags,
    degrade_options,
)
from pipelines.errors import require
from pipelines.files import Finite, checked, read_json, read_text, write_text
from sr_keras import shipped_model

FACTS_FILE = Path("facts.json")
OLD_FACTS_FILE = Path("assets.extra") / "sr_keras.json"
FLAGS_FILE = "flags.txt"
GENERATOR_FILE = "generator.keras"  # of a run folder
SAVED_MODEL_FILE = "saved_model.pb"  # of a version's folder
SIGNATURE = "serving_default"
LARGEST_MPP, LARGEST_DEPARTURE, MOST_FILTERS = 100.0, 255.0, 2**16
LOCAL_FLAGS = ("run", "train_data", "val_data", "test_data", "autoencoder", "generator", "outlier_dir",
               "cache", "cases")
TEXTBOOK = "--degradation=textbook"  # what runs used before this flag existed
EXPORT_AGAIN = "write it with sr-keras export"
Scores = dict[str, dict[str, Finite]]


@dataclass(frozen=True)
class ModelFacts:
    """What is known about a model beyond its graph; None is unknown. See the module for the fields."""

    lr_mpp: Range | None = None
    stain: str | None = None
    degradation: DegradeOptions | None = None
    trained_on: str | None = None
    usual_departure: Range | None = None
    flags: str | None = None
    versions: dict[str, str] | None = None
    filters: int | None = None
    scores: Scores | None = None
    nuclei: Scores | None = None
    tail_filters: int | None = None

    def __post_init__(self) -> None:
        for name, most in (("lr_mpp", LARGEST_MPP), ("usual_departure", LARGEST_DEPARTURE)):
            if (given := getattr(self, name)) is not None:
                check_range(name, given, 0, most)
        for name in ("filters", "tail_filters"):
            given = getattr(self, name)
            require(given is None or 0 < given <= MOST_FILTERS, name, f"be 1 to {MOST_FILTERS}", "correct it", given)


def find_generator(path: str | Path, argument: str = "model") -> Path:
    """Return the .keras file or the SavedModel version folder that `path` stands for.

    Raises:
        FileNotFoundError: There is no such path, or the run has no generator yet.
        ValueError: It is neither.
    """
    path = Path(path)
    if not path.exists():
        models = sorted(folder.name for folder in shipped_model().parent.glob("srgan_*"))
        remedy = f"check the spelling, or take a model that ships with this program ({', '.join(models)})"
        if path.name in models:
            remedy = f"the command sr-keras finds it by this name; here give {shipped_model(path.name)}"
        raise FileNotFoundError(f"`{argument}` must exist; {remedy}. Received: {argument}={str(path)!r}")
    if (path.suffix == ".keras" and path.is_file()) or (path / SAVED_MODEL_FILE).is_file():
        return path
    if (path / GENERATOR_FILE).is_file():
        return path / GENERATOR_FILE
    if (path / FLAGS_FILE).is_file():
        raise FileNotFoundError(f"{path}: this run has no {GENERATOR_FILE} yet; let it finish, "
                                "with --resume if it was stopped")
    versions = [folder for folder in versions_of(path) if (folder / SAVED_MODEL_FILE).is_file()]
    require(bool(versions), argument, "be a .keras file, a run folder or a SavedModel folder",
            "check the path", str(path))
    return versions[-1]


def versions_of(folder: Path) -> list[Path]:
    """Return the contents of `folder` that are named by a number, lowest first; none if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def from_json(content: Mapping[str, Any], where: Path) -> ModelFacts:
    """Return facts that were written as JSON; unknown fields are ignored.

    Args:
        content: A `ModelFacts` by `asdict`. Fields that it does not have are read from its flags.
        where: The file or folder that errors name.

    Raises:
        ValueError: A value is out of range or of another type.
    """
    known = {field.name: content[field.name] for field in fields(ModelFacts) if field.name in content}
    facts = checked(known, ModelFacts, where, EXPORT_AGAIN)
    if facts.degradation:
        unknown = known["degradation"].keys() - vars(facts.degradation).keys()
        require(not unknown, "degradation", "have options of this version only", "install the version that wrote "
                f"{where}", ", ".join(sorted(unknown)))
    if "degradation" not in known or "filters" not in known:  # written before these fields
        older = vars(facts_of_flags(facts.flags, where))
        facts = replace(facts, **{name: value for name, value in older.items() if name not in known})
    return facts


def run_facts(folder: Path) -> ModelFacts:
    """Return the facts of the run in a folder; nothing is known where it is not a run.

    Raises:
        ValueError: Its facts.json is damaged; or it is older than that file, and its flags are damaged.
    """
    path, flags = folder / FACTS_FILE, folder / FLAGS_FILE
    if path.exists():
        return from_json(read_json(path, dict[str, Any], "correct it, or train again"), path)
    return facts_of_flags(read_text(flags, "restore a copy of it"), flags) if flags.exists() else ModelFacts()


def write_run_facts(folder: Path, facts: ModelFacts) -> None:
    """Write the facts of a run into its folder."""
    write_text(folder / FACTS_FILE, json.dumps(asdict(facts), indent=2) + "\n")


def facts_of_flags(flags: str | None, where: Path) -> ModelFacts:
    """Return the facts of a run or an export that is older than facts.json, from its flags, one a line.

    Raises:
        ValueError: A flag can't be understood.
    """
    given = dict(line.lstrip("-").partition("=")[::2] for line in (flags or "").splitlines())
    values = absl_flags.FlagValues()
    define_degrade_flags(values)
    lines = [f"--{name}={value}" for name, value in given.items() if name in values]
    old = [TEXTBOOK] if "degradation" not in given else []
    try:
        values(["run", *old, *lines])
        options = degrade_options(values) if lines else None
        lr_mpp = float(given["mpp"]) * int(given["scale"]) if given.get("mpp") and "scale" in given else None
        filters = int(given["filters"]) if "filters" in given else None
        return ModelFacts(lr_mpp=None if lr_mpp is None else (lr_mpp, lr_mpp), degradation=options, flags=flags,
                          filters=filters)
    except (ValueError, absl_flags.Error) as error:
        raise ValueError(f"`flags` of a run must be those it was started with; correct them ({error}). "
                         f"Received: {str(where)!r}") from error


def without_paths(flags: str) -> str:
    """Return flags, one a line, without those that name files or folders."""
    lines = (line.lstrip("-").partition("=") for line in flags.splitlines())
    return "".join(f"--{name}{equals}{value}\n" for name, equals, value in lines
                   if name not in LOCAL_FLAGS and "/" not in value)


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the JSON of the facts of an exported version, older ones included.

    Raises:
        ValueError: There is none, it is damaged, or it lacks scale or halo.
    """
    path = next((folder / name for name in (FACTS_FILE, OLD_FACTS_FILE) if (folder / name).exists()),
                folder / FACTS_FILE)
    require(path.exists(), FACTS_FILE.name, "exist", EXPORT_AGAIN, str(path))
    facts = read_json(path, dict[str, Any], EXPORT_AGAIN)
    checked(facts, _OfGraph, path, EXPORT_AGAIN)
    return facts


class _OfGraph(TypedDict):
    """The facts that a graph can't be run without."""

    scale: Annotated[int, msgspec.Meta(ge=1, le=64)]
    halo: Annotated[int, msgspec.Meta(ge=0, le=2**16)]


def in_words(options: DegradeOptions) -> str:
    """Return how LR is made, in words."""
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
