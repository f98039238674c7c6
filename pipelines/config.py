"""What the pipelines can be asked to do, as frozen dataclasses. No absl, no TensorFlow: floor 0.

Every object checks itself on construction, so a wrong value stops a run in its first second.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

from pipelines.errors import require

CORRUPTIONS = ("noise", "blur", "contrast", "outlier")
SIDES = ("lr", "hr", "both")
SAMPLINGS = ("grid", "random")
PAIRS = ("files", "levels", "scans")
SCALES = (2, 4, 8)
BLURS = ("none", "gaussian", "disc", "airy")
RESAMPLINGS = ("nth", "box", "cascade", "bicubic", "lanczos")
SUBSAMPLINGS = ("444", "420")
MOST_SIGMA = 12.0  # HR pixels: a kernel that reaches further has no tissue left to blur
SEEDS = 2**63  # TensorFlow takes them as int64


def check_resolution(mpp: float | None, level: int, assume_mpp: float | None) -> None:
    """Refuse a resolution that no slide is read at: `mpp` microns per pixel where given, else `level`.

    Raises:
        ValueError: One of them is out of range, or both are given.
    """
    require(mpp is None or 0 < mpp < inf, "mpp", "be positive and finite",
            "give microns per pixel, 0.5 is about 20x", mpp)
    require(level >= 0, "level", "be 0 or more", "0 is the highest resolution", level)
    require(mpp is None or level == 0, "level", "be left out when mpp is given", "choose one of the two", level)
    require(assume_mpp is None or 0 < assume_mpp < inf, "assume_mpp", "be positive and finite",
            "give microns per pixel", assume_mpp)


def check_seed(seed: int) -> None:
    """Refuse a seed that is negative or has more than 63 bits.

    Raises:
        ValueError: It is.
    """
    require(0 <= seed < SEEDS, "seed", "be 0 or more and less than 2**63", "0 is the default", seed)


Range = tuple[float, float]  # low and high, both included; equal for a fixed value


def check_range(name: str, value: Range, least: float, most: float) -> None:
    """Refuse a range that is none, or leaves [least, most].

    Raises:
        ValueError: It does.
    """
    require(len(value) == 2 and value[0] <= value[1], name, "have its low end first", "write low,high", value)
    require(least <= value[0] and value[1] <= most, name, f"lie in {least} to {most}", "write low,high", value)


@dataclass(frozen=True)
class DegradeOptions:
    """How an HR patch becomes an LR one, in the order in which a scanner does it. The default is the paper's textbook.

    Ranges are (low, high), and each example draws its own value; a kind is drawn from those that are listed, each as
    likely, so that one listed twice comes twice as often. Lengths are in HR pixels unless another unit is named; images
    are on [0, 1].

    Attributes:
        scale: HR side over LR side.
        blurs: Point spread functions to draw from, of BLURS.
        blur_sigma: Of a Gaussian; a number or a range. At 0 it is the mean of the central pixels.
        anisotropy: Longer over shorter sigma of a Gaussian, 1 or more, at a random angle; their mean square is kept.
        disc_radius: Of a defocus disc.
        numerical_aperture, wavelength, optics_mpp: Of an Airy pattern; wavelength in microns, mpp that of HR pixels.
        resamplings: How the plane becomes coarser, of RESAMPLINGS.
        shot_noise: Standard deviation of the Poisson noise on white.
        read_noise: Standard deviation of the Gaussian noise, everywhere.
        sharpen: Amount of the scanner's unsharp mask (sigma 1 LR pixel).
        gain: Factor of each colour channel.
        gamma: Exponent of all values.
        jpeg_passes: Share of the examples that are compressed never, once, twice.
        jpeg_quality: Of libjpeg, whole numbers in 1 to 100.
        jpeg_subsamplings: Of the chroma, of SUBSAMPLINGS.
    """

    scale: int = 4
    blurs: tuple[str, ...] = ("gaussian",)
    blur_sigma: float | Range = 1.6
    anisotropy: Range = (1.0, 1.0)
    disc_radius: Range = (1.0, 1.0)
    numerical_aperture: Range = (0.4, 0.4)
    wavelength: Range = (0.55, 0.55)
    optics_mpp: Range = (0.25, 0.25)
    resamplings: tuple[str, ...] = ("nth",)
    shot_noise: Range = (0.0, 0.0)
    read_noise: Range = (0.0, 0.0)
    sharpen: Range = (0.0, 0.0)
    gain: Range = (1.0, 1.0)
    gamma: Range = (1.0, 1.0)
    jpeg_passes: tuple[float, float, float] = (1.0, 0.0, 0.0)
    jpeg_quality: Range = (75, 75)
    jpeg_subsamplings: tuple[str, ...] = ("420",)

    def __post_init__(self) -> None:
        require(self.scale in SCALES, "scale", f"be one of {SCALES}", "HR side over LR side", self.scale)
        for name, known in (("blurs", BLURS), ("resamplings", RESAMPLINGS), ("jpeg_subsamplings", SUBSAMPLINGS)):
            given = getattr(self, name)
            require(bool(given) and all(one in known for one in given), name, f"name some of {known}",
                    "separate them by commas", given)
        limits = {
            "blur_sigma": (0, MOST_SIGMA), "anisotropy": (1, 4), "disc_radius": (0, 2 * MOST_SIGMA),
            "numerical_aperture": (0.05, 1.5), "wavelength": (0.2, 1.5), "optics_mpp": (0.01, 10),
            "shot_noise": (0, 0.5), "read_noise": (0, 0.5),
            "sharpen": (0, 5), "gain": (0.1, 10), "gamma": (0.1, 10), "jpeg_quality": (1, 100)}
        for name, (least, most) in limits.items():
            check_range(name, self.range_of(name), least, most)
        require(all(bound == int(bound) for bound in self.jpeg_quality), "jpeg_quality", "be whole numbers",
                "75 is usual", self.jpeg_quality)
        shares = self.jpeg_passes
        require(len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6, "jpeg_passes",
                "be three shares that sum to 1", "compressed never, once, twice", shares)

    def range_of(self, name: str) -> Range:
        """Return a range by its name, a number as the range that holds it alone."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value, value)

    @property
    def is_textbook(self) -> bool:
        """Whether nothing is drawn and `pipelines.degrade.degrade` is all that happens, at one `blur_sigma`."""
        return not isinstance(self.blur_sigma, tuple) and replace(self, scale=4, blur_sigma=1.6) == DegradeOptions()


# What LR a model is trained on and scored on, by name. "scanner" is what cameras and their software do, drawn widely;
# "pyramid" what a slide's own coarse levels are: averages of 2x2, again and again, each level compressed.
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
    """Return a preset of DEGRADATIONS, with some of its options changed.

    Raises:
        ValueError: There is no such preset, or a change is out of range.
    """
    require(name in DEGRADATIONS, "degradation", f"be one of {tuple(DEGRADATIONS)}",
            "'scanner' is for slides as scanners give them", name)
    return replace(DEGRADATIONS[name], **changes)


@dataclass(frozen=True)
class CorruptOptions:
    """What an uncurated training set contains: which share of the examples, what, on which side, how strong.

    Strength 1 is what a lab would call plainly bad, 0 leaves an image as it is. An outlier's is its share in the
    image: 1 is another tile altogether, less a double exposure.
    """

    fraction: float = 0.0
    kinds: tuple[str, ...] = ("noise", "blur", "contrast")
    side: str = "hr"
    noise_strength: float = 1.0
    blur_strength: float = 1.0
    contrast_strength: float = 1.0
    outlier_strength: float = 1.0
    outlier_dir: str | None = None

    def __post_init__(self) -> None:
        require(0 <= self.fraction <= 1, "corrupt_fraction", "lie in [0, 1]", "0.3 means 30% of the examples",
                self.fraction)
        require(bool(self.kinds) and all(k in CORRUPTIONS for k in self.kinds),
                "corrupt_kinds", f"name some of {CORRUPTIONS}", "separate them by commas", self.kinds)
        require(self.side in SIDES, "corrupt_side", f"be one of {SIDES}", "choose one of these", self.side)
        for kind in ("noise", "blur", "contrast"):
            strength = getattr(self, f"{kind}_strength")
            require(0 <= strength < inf, f"{kind}_strength", "be 0 or more and finite",
                    "1 is the strength of a plainly bad slide", strength)
        require(0 <= self.outlier_strength <= 1, "outlier_strength", "lie in [0, 1]", "1 is another tile altogether",
                self.outlier_strength)
        require("outlier" not in self.kinds or self.fraction == 0 or bool(self.outlier_dir),
                "outlier_dir", "name a folder of tiles of another stain when corrupt_kinds has 'outlier'",
                "give the folder or leave the kind out", self.outlier_dir)


@dataclass(frozen=True)
class PatchOptions:
    """Which patches are read from a slide.

    `patch_size` and `stride` are in pixels of the resolution that is read. That is `mpp` microns per pixel
    where given, else `level`. `assume_mpp` is the mpp of slides that do not say theirs. `pairs` says where the LR of
    each patch comes from: "files" beside the tiles, "levels" of the slide, `scale` times coarser, or two "scans" of one
    glass (with `match_colours` HR takes the colours of LR); None: no LR is read. Folders of tiles that have LR beside
    them give pairs in any case.
    """

    patch_size: int = 256
    stride: int | None = None
    mpp: float | None = None
    level: int = 0
    assume_mpp: float | None = None
    sampling: str = "grid"
    max_patches: int | None = None
    min_tissue: float = 0.5
    seed: int = 0
    pairs: str | None = None
    scale: int = 4
    match_colours: bool = False

    def __post_init__(self) -> None:
        require(self.patch_size > 0, "patch_size", "be positive", "256 is the paper's", self.patch_size)
        require(self.stride is None or self.stride > 0, "stride", "be positive", "leave it out for patch_size",
                self.stride)
        check_resolution(self.mpp, self.level, self.assume_mpp)
        require(self.sampling in SAMPLINGS, "sampling", f"be one of {SAMPLINGS}", "choose one of these", self.sampling)
        require(self.max_patches is None or self.max_patches > 0, "max_patches", "be positive",
                "leave it out for all", self.max_patches)
        require(self.sampling == "grid" or self.max_patches is not None,
                "max_patches", "be given when sampling is 'random'", "say how many patches a slide may give",
                self.max_patches)
        require(0 <= self.min_tissue <= 1, "min_tissue", "lie in [0, 1]", "0.5 wants half of a patch covered",
                self.min_tissue)
        check_seed(self.seed)
        require(self.pairs is None or self.pairs in PAIRS, "pairs", f"be one of {PAIRS}",
                "leave it out to make LR of HR", self.pairs)
        require(self.scale in SCALES, "scale", f"be one of {SCALES}", "HR side over LR side", self.scale)
        require(not self.match_colours or self.pairs == "scans", "match_colours", "go with pairs of two scans",
                "name the .json of pipelines.register by --pairs", self.match_colours)
        for name in ("patch_size", "stride"):
            require((getattr(self, name) or 0) % self.unit == 0, name, f"be divisible by scale={self.scale} for pairs",
                    "choose a multiple of it", getattr(self, name))

    @property
    def unit(self) -> int:
        """What corners of patches are multiples of: LR and HR of pairs begin at the same place."""
        return self.scale if self.pairs == "levels" else 1
