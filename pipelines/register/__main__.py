# SPDX-License-Identifier: Apache-2.0
"""Register two scans of the same glass: a cheap low-resolution scan and a good one.

    python -m pipelines.register --lr=scan10x.svs --hr=scan40x.svs --output=pairs.json
    python -m pipelines.extract --pairs=pairs.json --output=shards/pairs

Finds rotation (any, and a glass scanned face down), scale (about 2, 4 or 8) and shift, then the place of each patch to
a fraction of a pixel. Patches that are out of focus, folded, torn or blank are left out. Check the picture beside the
output, pairs.png: a checkerboard of both scans, in which the tissue should continue from field to field.
"""
from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from absl import flags

from pipelines.console import run
from pipelines.errors import require

FLAGS = flags.FlagValues()
flags.DEFINE_string("lr", None, "The scan of low resolution.", flag_values=FLAGS)
flags.DEFINE_string("hr", None, "The scan of the same glass that is 2, 4 or 8 times finer.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "JSON file to write; a picture is written beside it.", flag_values=FLAGS)
flags.DEFINE_integer("patch_size", 128, "Side of the compared patches, in LR pixels.", flag_values=FLAGS)
flags.DEFINE_integer("max_patches", 2000, "Most patches to compare, from all over the tissue.", flag_values=FLAGS)

LEAST_PATCH = 32


def main() -> int:
    """Register, write the result, and print how good it is."""
    require(bool(FLAGS.output), "output", "be given", "name the .json file to write", FLAGS.output)
    output = Path(FLAGS.output)
    require(output.suffix.lower() == ".json" and not output.is_dir(), "output", "be a .json file",
            "it is written as JSON", FLAGS.output)
    for name in ("lr", "hr"):
        require(bool(FLAGS[name].value), name, "be given", "give a slide", FLAGS[name].value)
    require(FLAGS.patch_size >= LEAST_PATCH, "patch_size", f"be {LEAST_PATCH} or more",
            "smaller patches show too little to compare", FLAGS.patch_size)
    require(FLAGS.max_patches > 0, "max_patches", "be positive", "2000 is the default", FLAGS.max_patches)
    # Matrix products are small here, so threads cost more than they save.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from pipelines.register.scans import register_scans

    found = register_scans(Path(FLAGS.lr), Path(FLAGS.hr), output, FLAGS.patch_size, FLAGS.max_patches)
    quality, accepted = found.quality, len(found.patches)
    print(f"{quality['hr_pixels_per_lr_pixel']:.4f} HR pixels per LR pixel (scale {found.scale}), "
          f"{quality['rotation_degrees']:.3f} degrees{', mirrored' if quality['mirrored'] else ''}")
    print(f"{accepted} of {accepted + len(found.rejected)} patches fit, median residual "
          f"{quality['median_residual_hr_pixels']:.2f} HR pixels, correlation {quality['median_correlation']:.2f}")
    if found.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in quality["rejected"].items())
        print(f"left out: {len(found.rejected) / (accepted + len(found.rejected)):.0%} ({reasons})")
    print(f"look at {output.with_suffix('.png')}, then: "
          f"python -m pipelines.extract --pairs={shlex.quote(str(output))} "
          f"--output={shlex.quote(f'shards/{output.stem}')}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, FLAGS, __doc__))
