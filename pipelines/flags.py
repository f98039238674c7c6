"""The pipelines' flags, defined in one place and turned at once into options objects."""
from __future__ import annotations

from absl import flags

from pipelines.options import CORRUPTIONS, SAMPLINGS, SCALES, SIDES, CorruptOptions, DegradeOptions, PatchOptions

# Defaults have one home: the options themselves.
_PATCH, _DEGRADE, _CORRUPT = PatchOptions(), DegradeOptions(), CorruptOptions()


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
                       "Least share of a patch that is tissue; of shards all are used.", flag_values=values)


def patch_options(values: flags.FlagValues, seed: int = 0, patch_size: int | None = None) -> PatchOptions:
    """Return the patch flags as options; `patch_size` overrides the flag's, and a stride of the flag's stays."""
    return PatchOptions(
        patch_size=patch_size or values.patch_size, stride=values.stride, mpp=values.mpp, level=values.level,
        assume_mpp=values.assume_mpp, sampling=values.sampling, max_patches=values.max_patches,
        min_tissue=values.min_tissue, seed=seed)


def define_degrade_flags(values: flags.FlagValues) -> None:
    """Define how HR becomes LR."""
    flags.DEFINE_enum("scale", str(_DEGRADE.scale), [str(s) for s in SCALES], "HR side over LR side.",
                      flag_values=values)
    flags.DEFINE_float("blur_sigma", _DEGRADE.blur_sigma, "Gaussian blur before subsampling, in HR pixels.",
                       flag_values=values)


def degrade_options(values: flags.FlagValues) -> DegradeOptions:
    """Return the degradation flags as options."""
    return DegradeOptions(scale=int(values.scale), blur_sigma=values.blur_sigma)


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
