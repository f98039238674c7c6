"""The pipelines' flags, defined in one place and turned at once into options objects."""
from __future__ import annotations

from typing import Any

from absl import flags

from pipelines.config import (
    BLURS,
    CORRUPTIONS,
    DEGRADATIONS,
    RESAMPLINGS,
    SAMPLINGS,
    SCALES,
    SIDES,
    SUBSAMPLINGS,
    CorruptOptions,
    DegradeOptions,
    PatchOptions,
    degradation,
)

# Defaults have one home: the options themselves.
_PATCH, _DEGRADE, _CORRUPT = PatchOptions(), DegradeOptions(), CorruptOptions()
_RANGES = {
    "blur_sigma": "Sigma of a Gaussian blur in HR pixels",
    "anisotropy": "Longer over shorter sigma of a Gaussian blur",
    "disc_radius": "Radius of a defocus disc in HR pixels",
    "numerical_aperture": "Of the lens, for an Airy pattern",
    "wavelength": "Of the light in microns, for an Airy pattern",
    "optics_mpp": "Microns per HR pixel, for an Airy pattern",
    "shot_noise": "Standard deviation of Poisson noise on white, of [0, 1]",
    "read_noise": "Standard deviation of Gaussian noise, of [0, 1]",
    "sharpen": "Amount of the scanner's unsharp mask",
    "gain": "Factor of each colour channel",
    "gamma": "Exponent of all values",
    "jpeg_quality": "Quality of JPEG, whole numbers in 1 to 100",
}
_KINDS = {"blurs": BLURS, "resamplings": RESAMPLINGS, "jpeg_subsamplings": SUBSAMPLINGS}


def define_patch_flags(values: flags.FlagValues) -> None:
    """Define which patches are read: size, resolution, sampling, tissue."""
    flags.DEFINE_integer("patch_size", _PATCH.patch_size, "Side of an HR patch in pixels.", flag_values=values)
    flags.DEFINE_integer("stride", _PATCH.stride, "Step of the grid in pixels; patch_size if left out.",
                         flag_values=values)
    flags.DEFINE_float("mpp", _PATCH.mpp, "Microns per pixel to read at; 0.5 is about 20x, 0.25 about 40x.",
                       flag_values=values)
    flags.DEFINE_integer("level", _PATCH.level, "Slide level to read where no mpp is asked.", flag_values=values)
    flags.DEFINE_float("assume_mpp", _PATCH.assume_mpp, "mpp of slides that do not say theirs.", flag_values=values)
    flags.DEFINE_enum("sampling", _PATCH.sampling, SAMPLINGS, "A grid, or random places.", flag_values=values)
    flags.DEFINE_integer("max_patches", _PATCH.max_patches, "Most patches a slide may give; all if left out.",
                         flag_values=values)
    flags.DEFINE_float("min_tissue", _PATCH.min_tissue,
                       "Least share of a patch that is tissue; of shards and of pairs of files all are used.",
                       flag_values=values)
    flags.DEFINE_string("pairs", _PATCH.pairs,
                        "Where the LR of each patch comes from: 'levels' is the slide's own level that is scale times "
                        "coarser; 'files' demands tiles with LR beside them, which are found without it; what "
                        "pipelines.register wrote (.json, several by commas) for two scans of the same glass. Left "
                        "out, LR is made of HR.", flag_values=values)


def patch_options(values: flags.FlagValues, seed: int = 0, patch_size: int | None = None) -> PatchOptions:
    """Return the patch flags as options; `patch_size` overrides the flag's, and a stride of the flag's stays."""
    return PatchOptions(
        patch_size=patch_size or values.patch_size, stride=values.stride, mpp=values.mpp, level=values.level,
        assume_mpp=values.assume_mpp, sampling=values.sampling, max_patches=values.max_patches,
        min_tissue=values.min_tissue, seed=seed, pairs="scans" if registered(values.pairs) else values.pairs,
        match_colours="match_colours" in values and values.match_colours,
        scale=int(values.scale) if "scale" in values else _PATCH.scale)


def registered(pairs: str | None) -> list[str]:
    """Return the files of pipelines.register that the flag `pairs` names."""
    return pairs.split(",") if pairs and pairs.endswith(".json") else []


def define_degrade_flags(values: flags.FlagValues, preset: str = "scanner") -> None:
    """Define how HR becomes LR: a preset, and whatever of it shall be otherwise."""
    flags.DEFINE_enum("scale", str(_DEGRADE.scale), [str(s) for s in SCALES], "HR side over LR side.",
                      flag_values=values)
    flags.DEFINE_enum("degradation", preset, list(DEGRADATIONS),
                      "How LR is made of HR: the paper's textbook; what scanners do; what a slide's own levels are.",
                      flag_values=values)
    for name, meaning in _RANGES.items():
        flags.DEFINE_list(name, None, f"{meaning}: LOW,HIGH or a number, in place of the preset's.", flag_values=values)
    for name, known in _KINDS.items():
        flags.DEFINE_list(name, None, f"Some of {', '.join(known)}, in place of the preset's.", flag_values=values)
    flags.DEFINE_list("jpeg_passes", None, "Shares of patches compressed never, once and twice.", flag_values=values)


def degrade_options(values: flags.FlagValues) -> DegradeOptions:
    """Return the degradation flags as options.

    Raises:
        ValueError: A range is none, or out of range.
    """
    given: dict[str, Any] = {name: values[name].value for name in (*_KINDS, *_RANGES, "jpeg_passes")}
    changes: dict[str, Any] = {name: tuple(given[name]) for name in _KINDS if given[name]}
    for name in (*_RANGES, "jpeg_passes"):
        if given[name]:
            numbers = _numbers(name, given[name])
            changes[name] = numbers if len(numbers) > 1 else numbers * 2
    blur = changes.get("blur_sigma")
    if blur and blur[0] == blur[1]:
        changes["blur_sigma"] = blur[0]  # nothing is drawn: it may be the textbook
    return degradation(values.degradation, scale=int(values.scale), **changes)


def _numbers(name: str, parts: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in parts)
    except ValueError as error:
        raise ValueError(f"`{name}` must be numbers; write {name}=LOW,HIGH. "
                         f"Received: {name}={','.join(parts)!r}") from error


def define_corrupt_flags(values: flags.FlagValues) -> None:
    """Define what an uncurated training set contains."""
    flags.DEFINE_float("corrupt_fraction", _CORRUPT.fraction, "Share of the training examples to corrupt; 0.3 is 30%.",
                       flag_values=values)
    flags.DEFINE_list("corrupt_kinds", list(_CORRUPT.kinds), f"Some of {', '.join(CORRUPTIONS)}.", flag_values=values)
    flags.DEFINE_enum("corrupt_side", _CORRUPT.side, SIDES, "Which side of a pair is bad.", flag_values=values)
    for kind in ("noise", "blur", "contrast"):
        flags.DEFINE_float(f"{kind}_strength", 1.0, f"Strength of {kind}; 1 is plainly bad.", flag_values=values)
    flags.DEFINE_float("outlier_strength", _CORRUPT.outlier_strength, "Share of the other stain in an outlier.",
                       flag_values=values)
    flags.DEFINE_string("outlier_dir", _CORRUPT.outlier_dir, "Tiles of another stain, for 'outlier'.",
                        flag_values=values)


def corrupt_options(values: flags.FlagValues) -> CorruptOptions:
    """Return the corruption flags as options."""
    return CorruptOptions(
        fraction=values.corrupt_fraction, kinds=tuple(values.corrupt_kinds), side=values.corrupt_side,
        noise_strength=values.noise_strength, blur_strength=values.blur_strength,
        contrast_strength=values.contrast_strength, outlier_strength=values.outlier_strength,
        outlier_dir=values.outlier_dir)
