"""What the pipelines can be asked to do, as frozen dataclasses. No absl, no TensorFlow: floor 0.

Every object checks itself on construction, so a wrong value stops a run in its first second.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

CORRUPTIONS = ("noise", "blur", "contrast", "outlier")
SIDES = ("lr", "hr", "both")
SAMPLINGS = ("grid", "random")
SCALES = (2, 4, 8)
SEEDS = 2**63  # TensorFlow takes them as int64


def require(holds: bool, name: str, rule: str, remedy: str, value: object) -> None:
    """Raise ValueError "`name` must `rule`; `remedy`. Received: name=value" unless `holds`."""
    if not holds:
        raise ValueError(f"`{name}` must {rule}; {remedy}. Received: {name}={value!r}")


def require_folder(output: str | None) -> Path:
    """Return the folder that `output` names; it need not be there yet.

    Raises:
        ValueError: None is named, or a file is in its place or above it.
    """
    require(bool(output), "output", "be given", "name a folder to write to", output)
    folder = Path(output or ".")
    there = next(above for above in (folder, *folder.parents) if above.exists())
    require(there.is_dir(), "output", "be a folder", f"{there} is a file: name another", output)
    return folder


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


@dataclass(frozen=True)
class DegradeOptions:
    """How an HR patch becomes an LR one: Gaussian blur of `blur_sigma` HR pixels, then every `scale`-th pixel."""

    scale: int = 4
    blur_sigma: float = 1.6

    def __post_init__(self) -> None:
        require(self.scale in SCALES, "scale", f"be one of {SCALES}", "choose one of these", self.scale)
        require(0 <= self.blur_sigma < inf, "blur_sigma", "be 0 or more and finite",
                "give it in HR pixels, 0 for no blur", self.blur_sigma)


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
    where given, else `level`. `assume_mpp` is the mpp of slides that do not say theirs.
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
