# SPDX-License-Identifier: Apache-2.0
"""Options of the pipelines, as frozen dataclasses that check themselves, and their flags. No TensorFlow."""
from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any

from absl import flags

from pipelines.errors import require
from pipelines.names import split_paths
from pipelines.options import (
    AT_LEAST_1,
    FINITE_OR_0,
    ORDERED,
    POSITIVE,
    SEED,
    SHARE,
    WHOLE,
    Options,
    Range,
    bounds,
    define,
    option,
    read,
    within,
)

CORRUPTIONS = ("noise", "blur", "contrast", "outlier")
SIDES = ("lr", "hr", "both")
SAMPLINGS = ("grid", "random")
PAIRS = ("files", "levels", "scans")
SCALES = (2, 4, 8)
BLURS = ("none", "gaussian", "disc", "airy")
RESAMPLINGS = ("nth", "box", "cascade", "bicubic", "lanczos")
SUBSAMPLINGS = ("444", "420")
MOST_SIGMA = 12.0  # HR pixels: a wider kernel leaves no tissue to see


def check_resolution(mpp: float | None, level: int, assume_mpp: float | None) -> None:
    """Raise a ValueError if a number is out of range, or both `mpp` (microns per pixel) and `level` are given."""
    require(mpp is None or 0 < mpp < inf, "mpp", "be positive and finite",
            "give microns per pixel, 0.5 is about 20x", mpp)
    require(level >= 0, "level", "be 0 or more", "0 is the highest resolution", level)
    require(mpp is None or level == 0, "level", "be left out when mpp is given", "give only one of them", level)
    require(assume_mpp is None or 0 < assume_mpp < inf, "assume_mpp", "be positive and finite",
            "give microns per pixel", assume_mpp)


def check_seed(seed: int) -> None:
    """Raise a ValueError if a seed is negative or has more than 63 bits."""
    require(SEED.holds(seed), "seed", SEED.words, "0 is the default", seed)


def check_range(name: str, value: Range, least: float, most: float) -> None:
    """Raise a ValueError unless a range has its low end first and lies in [least, most]."""
    for rule in (ORDERED, within(least, most)):
        require(rule.holds(value), name, rule.words, "write low,high", value)


def _range(default: float | Range, help: str, least: float, most: float, *rules: Any, unit: str = "") -> Any:
    return option(default, help, "write LOW,HIGH or one number", ORDERED, within(least, most), *rules, unit=unit)


@dataclass(frozen=True)
class DegradeOptions(Options):
    """How an HR patch becomes an LR patch, in the order of a scanner. The default is the paper's degradation.

    Ranges are (low, high); each example draws its own values. Each example also draws one of the listed blurs, one
    resampling and one subsampling with equal chances, so an item that is listed twice is drawn twice as often. Images
    are in [0, 1].
    """

    scale: int = option(4, "HR side / LR side", choices=SCALES, group="basic")
    blurs: tuple[str, ...] = option(("gaussian",), "Point spread functions to draw from", "separate them by commas",
                                    choices=BLURS, several=True)
    # At sigma 0 the blur is the mean of the central pixels.
    blur_sigma: float | Range = _range(1.6, "Sigma of a Gaussian blur", 0, MOST_SIGMA, unit="HR pixels")
    anisotropy: Range = _range((1.0, 1.0), "Longer sigma / shorter sigma of a Gaussian blur", 1, 4)
    disc_radius: Range = _range((1.0, 1.0), "Radius of a defocus disc", 0, 2 * MOST_SIGMA, unit="HR pixels")
    numerical_aperture: Range = _range((0.4, 0.4), "Numerical aperture of the lens, for an Airy pattern", 0.05, 1.5)
    wavelength: Range = _range((0.55, 0.55), "Wavelength of the light, for an Airy pattern", 0.2, 1.5, unit="microns")
    optics_mpp: Range = _range((0.25, 0.25), "Size of an HR pixel, for an Airy pattern", 0.01, 10, unit="microns")
    resamplings: tuple[str, ...] = option(("nth",), "Downsampling methods to draw from", "separate them by commas",
                                          choices=RESAMPLINGS, several=True)
    shot_noise: Range = _range((0.0, 0.0), "Standard deviation of Poisson noise on white, of [0, 1]", 0, 0.5)
    read_noise: Range = _range((0.0, 0.0), "Standard deviation of Gaussian noise, of [0, 1]", 0, 0.5)
    sharpen: Range = _range((0.0, 0.0), "Amount of the scanner's unsharp mask with sigma 1 LR pixel", 0, 5)
    gain: Range = _range((1.0, 1.0), "Factor of each colour channel", 0.1, 10)
    gamma: Range = _range((1.0, 1.0), "Exponent of all values", 0.1, 10)
    jpeg_passes: tuple[float, float, float] = option(
        (1.0, 0.0, 0.0), "Shares of the patches that are JPEG-compressed never, once and twice",
        "write NEVER,ONCE,TWICE")
    jpeg_quality: Range = _range((75, 75), "Quality of JPEG (libjpeg)", 1, 100, WHOLE)
    jpeg_subsamplings: tuple[str, ...] = option(("420",), "Chroma subsamplings of JPEG to draw from",
                                                "separate them by commas", choices=SUBSAMPLINGS, several=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.jpeg_passes
        require(len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6, "jpeg_passes",
                "be three shares that sum to 1", "write NEVER,ONCE,TWICE", shares)

    def range_of(self, name: str) -> Range:
        """Return a range by its name, a number as the range that holds it alone."""
        return bounds(getattr(self, name))

    @property
    def is_textbook(self) -> bool:
        """Whether it is the paper's degradation, `pipelines.degrade.degrade`, at any one `blur_sigma`."""
        return not isinstance(self.blur_sigma, tuple) and replace(self, scale=4, blur_sigma=1.6) == DegradeOptions()


# Presets. "textbook" is the paper's. "scanner" draws widely from what cameras and their software do. "pyramid" is how a
# slide's own coarse levels are made: repeated averages of 2x2 pixels, each level compressed.
DEGRADATIONS: dict[str, DegradeOptions] = {
    "textbook": DegradeOptions(),
    "scanner": DegradeOptions(
        blurs=("none", "none", "gaussian", "gaussian", "disc", "airy"), blur_sigma=(0.4, 3.2), anisotropy=(1.0, 1.6),
        disc_radius=(0.5, 3.0), numerical_aperture=(0.2, 0.75), wavelength=(0.45, 0.65), optics_mpp=(0.2, 0.5),
        resamplings=("nth", *RESAMPLINGS), shot_noise=(0.0, 0.03), read_noise=(0.0, 0.02), sharpen=(0.0, 0.6),
        gain=(0.98, 1.02), gamma=(0.97, 1.03), jpeg_passes=(0.35, 0.5, 0.15), jpeg_quality=(50, 98),
        jpeg_subsamplings=("420", "444")),
    "pyramid": DegradeOptions(
        blurs=("none",), resamplings=("cascade",), jpeg_passes=(0.1, 0.9, 0.0), jpeg_quality=(70, 92),
        jpeg_subsamplings=("420",)),
}


def degradation(name: str, **changes: Any) -> DegradeOptions:
    """Return a preset of DEGRADATIONS, with some options changed."""
    require(name in DEGRADATIONS, "degradation", f"be one of {tuple(DEGRADATIONS)}",
            "'scanner' suits scanned slides", name)
    return replace(DEGRADATIONS[name], **changes)


def _strength(kind: str) -> Any:
    return option(1.0, f"Strength of {kind}", "1 is a clearly bad slide, 0 changes nothing", FINITE_OR_0)


@dataclass(frozen=True)
class CorruptOptions(Options):
    """What an uncurated training set contains: how many bad examples, which kinds, on which side, how strong."""

    fraction: float = option(0.0, "Share of the training examples to corrupt", "0.3 means 30% of the examples", SHARE,
                             flag="corrupt_fraction", group="data")
    kinds: tuple[str, ...] = option(("noise", "blur", "contrast"), "Kinds of corruption", "separate them by commas",
                                    flag="corrupt_kinds", choices=CORRUPTIONS, several=True, group="data")
    side: str = option("hr", "Which image of a pair is corrupted", flag="corrupt_side", choices=SIDES, group="data")
    noise_strength: float = _strength("noise")
    blur_strength: float = _strength("blur")
    contrast_strength: float = _strength("contrast")
    outlier_strength: float = option(1.0, "Share of the other tile in an outlier",
                                     "1 replaces the patch by another tile, less is a double exposure", SHARE)
    outlier_dir: str | None = option(None, "Folder of tiles of another stain, for the kind 'outlier'")

    def __post_init__(self) -> None:
        super().__post_init__()
        require("outlier" not in self.kinds or self.fraction == 0 or bool(self.outlier_dir),
                "outlier_dir", "name a folder of tiles of another stain when corrupt_kinds has 'outlier'",
                "give the folder or remove the kind", self.outlier_dir)


@dataclass(frozen=True)
class PatchOptions(Options):
    """Which patches are read from a slide.

    `pairs` says where the LR of each patch comes from: "files" beside the tiles; "levels" of the slide, `scale` times
    coarser; two "scans" of one glass. With None, LR is made from HR, except for folders of tiles that have LR beside
    them: these always give pairs.
    """

    patch_size: int = option(256, "Side of an HR patch", "256 is the paper's", POSITIVE, unit="pixels", group="data")
    stride: int | None = option(None, "Step of the grid of patches", "by default patch_size", POSITIVE, unit="pixels",
                                group="data")
    mpp: float | None = option(None, "Microns per pixel to read at", "0.5 is about 20x, 0.25 about 40x", group="data")
    level: int = option(0, "Slide level to read if mpp is not given", "0 is the highest resolution", group="data")
    assume_mpp: float | None = option(None, "Microns per pixel of all inputs; overrides their metadata", group="data")
    sampling: str = option("grid", "Patches on a grid, or at random places", choices=SAMPLINGS, group="data")
    max_patches: int | None = option(None, "Largest number of patches from a slide", "by default all", POSITIVE,
                                     group="data")
    min_tissue: float = option(0.5, "Smallest share of a patch that is tissue; not used for shards and pairs of files",
                               "0.5 needs tissue on half of the patch", SHARE, group="data")
    seed: int = option(0, "Seed of the choice of patches", "0 is the default", SEED)
    pairs: str | None = option(
        None, "Where LR comes from: 'levels' is the slide's own level, scale times coarser; 'files' are tiles with LR "
        "beside them, which are also found by default; or the .json files of sr-keras register, for two scans of the "
        "same glass. By default LR is made from HR", group="data")
    scale: int = option(4, "HR side / LR side", choices=SCALES, group="basic")
    match_colours: bool = option(False, "Give HR the colours of LR; for pairs of two scans", group="data")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_resolution(self.mpp, self.level, self.assume_mpp)
        require(self.sampling == "grid" or self.max_patches is not None, "max_patches",
                "be given when sampling is 'random'", "set how many patches to take from a slide", self.max_patches)
        require(self.pairs is None or self.pairs in PAIRS, "pairs", f"be one of {PAIRS}",
                "leave it out to make LR from HR", self.pairs)
        require(not self.match_colours or self.pairs == "scans", "match_colours", "go with pairs of two scans",
                "give the .json of sr-keras register as --pairs", self.match_colours)
        for name in ("patch_size", "stride"):
            require((getattr(self, name) or 0) % self.unit == 0, name, f"be divisible by scale={self.scale} for pairs",
                    "choose a multiple of it", getattr(self, name))

    @property
    def unit(self) -> int:
        """Corners of patches are multiples of it, so that LR and HR of pairs start at the same place."""
        return self.scale if self.pairs == "levels" else 1


@dataclass(frozen=True)
class DatasetOptions(Options):
    """How `pipelines.dataset.training_dataset` makes batches of (lr, hr)."""

    batch_size: int = option(16, "Patches in a step", "", POSITIVE, group="basic")
    crop_size: int | None = option(None, "Side of a random crop of a patch to train on", "by default the whole patch",
                                   POSITIVE, unit="pixels", group="data")
    steps_per_epoch: int | None = option(None, "Steps in an epoch", "by default one pass over the patches", POSITIVE)
    min_tissue: float = option(0.0, "Least share of a patch that is tissue")
    cache: str = option("none", "'memory' keeps the patches in memory; a path copies the shards to that folder, for "
                        "instance on a faster disk")
    shuffle_buffer: int = option(512, "Patches in memory to draw the next one from, unless all are in memory",
                                 "1 keeps the order within the shards", POSITIVE)
    augment: bool = option(True, "Flip and turn the patches")
    shrink: float = option(1.0, "Take half of the crops up to this factor larger and shrink them, to train on other "
                           "microns per pixel", "1 turns it off", AT_LEAST_1, group="data")
    pair_share: float = option(0.5, "Share of the examples that use the scanned LR, if the data contain pairs",
                               "0.5 is half of the examples", SHARE, group="data")
    recolour: float = option(0.0, "Share of the examples with synthetic LR that get the colours of another stain",
                             "0 turns it off", SHARE, group="data")
    seed: int = option(0, "Seed of the split, the order, the corruption and the weights", "0 is the default", SEED)


@dataclass(frozen=True)
class Preset(Options):
    """Which of DEGRADATIONS the flags of the degradation change."""

    degradation: str = option("scanner", "How LR is made from HR: the paper's way (textbook), as scanners do, or as "
                              "the levels of a slide are made (pyramid)", choices=tuple(DEGRADATIONS), group="data")


def define_patch_flags(values: flags.FlagValues) -> None:
    """Define which patches are read: size, resolution, sampling, tissue."""
    define(values, PatchOptions, leave_out=("seed", "scale", "match_colours"))


def patch_options(values: flags.FlagValues, seed: int = 0) -> PatchOptions:
    """Return the patch flags as options."""
    return read(values, PatchOptions, seed=seed, pairs="scans" if registered(values.pairs) else values.pairs)


def registered(pairs: str | None) -> list[str]:
    """Return the files of pipelines.register in the flag `pairs`."""
    return split_paths(pairs) if pairs and pairs.endswith(".json") else []


def define_degrade_flags(values: flags.FlagValues, preset: str = "scanner") -> None:
    """Define how HR becomes LR: a preset, and flags that replace its values."""
    define(values, DegradeOptions, leave_out=[one.name for one in fields(DegradeOptions) if one.name != "scale"])
    define(values, Preset(preset))
    define(values, DegradeOptions, preset=True)


def degrade_options(values: flags.FlagValues) -> DegradeOptions:
    """Return the degradation flags as options."""
    options = read(values, DegradeOptions, degradation(values.degradation))
    low, high = options.range_of("blur_sigma")
    return replace(options, blur_sigma=low) if low == high else options  # nothing is drawn: it may be the textbook


def corrupt_options(values: flags.FlagValues) -> CorruptOptions:
    """Return the corruption flags as options."""
    return read(values, CorruptOptions)
