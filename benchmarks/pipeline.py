# SPDX-License-Identifier: Apache-2.0
"""Measure how fast patches are read, compared with a plain Python loop, and the time of each step.

    python -m benchmarks.pipeline
    python -m benchmarks.pipeline --data=case.svs --seconds=120
    python -m benchmarks.pipeline --degradation=scanner

The plain loop is one process with openslide's read_region, PIL, skimage's gaussian and slicing, without augmentation.
Everything is timed in turns within one run, and ratios are of medians. If the machine has other load, compare the CPU
times, which add up all cores.

Measured on 2 cores, 256x256 patches, scale 4, in CPU ms per patch: the plain loop 4.1 (the sample) to 4.7 (a JPEG
slide); from shards 1.3 to 1.4: reading 0.1, decoding 0.1, float 0.3, blur and subsampling 0.6, augmentation 0.2.
docs/benchmarks.md has what the scanner's degradations and corruption cost. Tried without success: mapping batches
instead of examples (1.4 times slower), one thread within each operation (no difference), rotation by gather (slower),
blur as a blocked matrix product (0.15 less) or under XLA (0.17 less, and a second to compile).
"""
from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from absl import flags

from pipelines.config import define_degrade_flags, degrade_options
from pipelines.console import import_tensorflow, run
from pipelines.errors import require
from pipelines.workers import cores

if TYPE_CHECKING:
    from benchmarks.input_pipelines import Speed

FLAGS = flags.FlagValues()
define_degrade_flags(FLAGS, "textbook")
flags.DEFINE_string("data", "sample", "A slide, or a folder; its first slide is used.", flag_values=FLAGS)
flags.DEFINE_integer("patch_size", 256, "Side of a patch in pixels.", flag_values=FLAGS)
flags.DEFINE_float("seconds", 60.0, "How long to measure.", flag_values=FLAGS)


def main() -> int:
    """Measure and print the tables."""
    degrade = degrade_options(FLAGS)
    require(0 < FLAGS.seconds < math.inf, "seconds", "be positive and finite", "60 gives steady medians", FLAGS.seconds)
    require(FLAGS.patch_size % degrade.scale == 0, "patch_size", f"be divisible by scale={degrade.scale}",
            "choose a multiple of it", FLAGS.patch_size)
    import_tensorflow()
    from benchmarks import input_pipelines
    from pipelines.patches import find_sources

    with TemporaryDirectory() as folder:
        material = input_pipelines.prepare(find_sources(FLAGS.data), Path(folder), FLAGS.patch_size)
        print(f"{len(material.places)} patches of {FLAGS.patch_size} px from {material.source.slide_id}, "
              f"{cores()} cores, scale {degrade.scale}, degradation {FLAGS.degradation}\n")
        speeds = input_pipelines.time_in_turns(input_pipelines.inputs(material, degrade), 0.6 * FLAGS.seconds)
        print(input_table(speeds))
        speeds = input_pipelines.time_in_turns(input_pipelines.stages(material, degrade), 0.4 * FLAGS.seconds)
        print(stage_table(speeds))
        raw = input_pipelines.raw_bytes_per_second(material.shards.paths)
    patch_bytes = 3 * FLAGS.patch_size**2
    print(f"The machine reads the shards' bytes, from its page cache, at {raw / 1e9:.1f} GB/s: "
          f"{raw / patch_bytes:.0f} patches/s.")
    return 0


def input_table(speeds: dict[str, Speed]) -> str:
    """Return the table of inputs; ratios are to the first."""
    first = next(iter(speeds.values())).per_second
    lines = [f"{'':28}{'patches/s':>10}{'ratio':>8}{'CPU ms a patch':>16}"]
    lines += [f"{name:28}{speed.per_second:10.0f}{speed.per_second / first:7.1f}x{speed.cpu_ms:16.2f}"
              for name, speed in speeds.items()]
    return "\n".join(lines) + "\n"


def stage_table(speeds: dict[str, Speed]) -> str:
    """Return the table of steps, from pipelines that each add one step to the one before."""
    so_far = [0.0, *(speed.cpu_ms for speed in speeds.values())]
    lines = [f"{'where the time goes':28}{'CPU ms a patch':>34}"]
    lines += [f"{name:28}{after - before:34.2f}"
              for name, (before, after) in zip(speeds, pairwise(so_far), strict=True)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run(main, FLAGS, __doc__))
