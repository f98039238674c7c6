# SPDX-License-Identifier: Apache-2.0
"""Register two scans of the same glass: a cheap low-resolution scan and a good one.

    sr-keras register --lr=scan10x.svs --hr=scan40x.svs --output=pairs.json
    sr-keras extract --pairs=pairs.json --output=shards/pairs

Finds rotation (any, and a glass scanned face down), scale (about 2, 4 or 8) and shift, then the place of each patch to
a fraction of a pixel. Patches that are out of focus, folded, torn or blank are left out. Check the picture beside the
output, pairs.png: a checkerboard of both scans, in which the tissue should continue from field to field.
"""
from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines.console import run
from pipelines.errors import require
from pipelines.options import GIVEN, POSITIVE, Options, Rule, basic, flags_of, read

LEAST_PATCH = 32  # smaller ones show too little to compare


@dataclass(frozen=True)
class RegisterOptions(Options):
    """The two scans, and how they are compared."""

    output: str = basic(None, "JSON file to write; a picture is written beside it", "", GIVEN,
                        Rule("be a .json file", lambda name: Path(name).suffix.lower() == ".json"
                             and not Path(name).is_dir()))
    lr: str = basic(None, "The scan of low resolution", "", GIVEN)
    hr: str = basic(None, "The scan of the same glass that is 2, 4 or 8 times finer", "", GIVEN)
    patch_size: int = basic(128, "Side of the compared patches", "", Rule(
        f"be {LEAST_PATCH} or more", lambda side: side >= LEAST_PATCH), unit="LR pixels")
    max_patches: int = basic(2000, "Most patches to compare, from all over the tissue", "", POSITIVE)
    overwrite: bool = basic(False, "Replace an existing output and its picture")


FLAGS = flags_of(RegisterOptions)


def main() -> int:
    """Register, write the result, and print how good it is."""
    options = read(FLAGS, RegisterOptions)
    output = Path(options.output)
    for path in (output, output.with_suffix(".png")):
        require(not any(path.exists() and path.samefile(scan) for scan in (options.lr, options.hr)), "output",
                "leave the scans as they are", "choose another name", str(path))
        require(options.overwrite or not path.exists(), "output", "not exist, nor its picture",
                "choose another name, or add --overwrite", str(path))
    # Matrix products are small here, so threads cost more than they save.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from pipelines.register.scans import register_scans

    found = register_scans(Path(options.lr), Path(options.hr), output, options.patch_size, options.max_patches)
    quality, accepted = found.quality, len(found.patches)
    print(f"{quality['hr_pixels_per_lr_pixel']:.4f} HR pixels per LR pixel (scale {found.scale}), "
          f"{quality['rotation_degrees']:.3f} degrees{', mirrored' if quality['mirrored'] else ''}")
    print(f"{accepted} of {accepted + len(found.rejected)} patches fit, median residual "
          f"{quality['median_residual_hr_pixels']:.2f} HR pixels, correlation {quality['median_correlation']:.2f}")
    if found.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in quality["rejected"].items())
        print(f"left out: {len(found.rejected) / (accepted + len(found.rejected)):.0%} ({reasons})")
    print(f"look at {output.with_suffix('.png')}, then: "
          f"sr-keras extract --pairs={shlex.quote(str(output))} "
          f"--output={shlex.quote(f'shards/{output.stem}')}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, FLAGS, __doc__))
