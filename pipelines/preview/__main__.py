# SPDX-License-Identifier: Apache-2.0
"""Draw what training sees of a few patches: synthetic LR beside real LR, or the corruptions of an uncurated set.

    sr-keras preview --output=family.png
    sr-keras preview --output=family.png --data=pairs/
    sr-keras preview --output=family.png --data=slide.svs --pairs=levels
    sr-keras preview --output=corruptions.png --show=corruptions --degradation=textbook

The first shows the LR of the textbook, pyramid and scanner presets from the same HR. If the data hold pairs, the real
LR is beside them, and a table shows how similar each preset is. The last shows every corruption at three strengths, and
then each side of a pair.
"""
from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import config
from pipelines.console import import_tensorflow, run
from pipelines.errors import require
from pipelines.files import atomic_path
from pipelines.names import COMMAS, split_paths
from pipelines.options import GIVEN, Options, Rule, basic, flags_of, read
from pipelines.patches import Patch, Skipped, find_sources, read_patches
from pipelines.pixels import to_float
from pipelines.shards import print_skipped
from pipelines.sources import Source, is_among

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANDIDATES = 64  # patches of a slide to choose from
ROWS, MEMBERS = 3, 5  # slides, and members of --degradation, in the picture of degradations


@dataclass(frozen=True)
class PreviewOptions(Options):
    """What is drawn, and where to."""

    output: str = basic(None, "PNG to write or replace; not inside the data", "", GIVEN,
                        Rule("be a .png file", lambda name: Path(name).suffix.lower() == ".png"
                             and not Path(name).is_dir()))
    data: str = basic("sample", f"Slides, folders of tiles, or pairs. {COMMAS}")
    show: str = basic("degradations", "What to draw", choices=("degradations", "corruptions"))
    outlier_dir: str | None = basic(None, "Tiles of another stain, to show the corruption 'outlier' too")


FLAGS = flags_of(PreviewOptions)
config.define_patch_flags(FLAGS)
config.define_degrade_flags(FLAGS)


def main() -> int:
    """Draw the picture, and print the table and the picture's path."""
    options, output = config.patch_options(FLAGS), Path(read(FLAGS, PreviewOptions).output)
    inputs = [*split_paths(FLAGS.data), *filter(None, [FLAGS.outlier_dir])]
    require(not is_among(output, inputs), "output", "lie outside of data and outlier_dir",
            "it would become one of their tiles: choose another file", FLAGS.output)
    sources = find_sources(FLAGS.data)
    figure = _corruptions(sources, options) if FLAGS.show == "corruptions" else _degradations(sources, options)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=180, format="png")
    print(output)
    return 0


def _corruptions(sources: list[Source], options: config.PatchOptions) -> Figure:
    import_tensorflow()
    from pipelines.corrupt import load_outliers  # TensorFlow
    from pipelines.preview.drawings import draw_corruptions

    (patch,) = choose_patches(sources, options, 1)
    outliers = FLAGS.outlier_dir and load_outliers(FLAGS.outlier_dir, options.patch_size)
    figure = draw_corruptions(to_float(patch.pixels), config.degrade_options(FLAGS), outliers)
    resolution = "resolution unknown" if patch.mpp is None else f"{patch.mpp:g} microns per pixel"
    figure.suptitle(f"{patch.example_id}, {resolution}", x=0.01, ha="left", fontsize=9, color="0.35")
    return figure


def _degradations(sources: list[Source], options: config.PatchOptions) -> Figure:
    import_tensorflow()
    from pipelines.preview.drawings import draw_degradations, likeness_table, likenesses  # TensorFlow

    asked = config.degrade_options(FLAGS)
    presets = {name: config.degradation(name, scale=asked.scale) for name in config.DEGRADATIONS
               if name != FLAGS.degradation}
    presets[FLAGS.degradation] = asked  # last
    chosen = choose_patches(sources, options, ROWS)
    for patch in chosen:
        require(patch.pixels.shape[0] % asked.scale == 0, "patch_size", f"be divisible by scale={asked.scale}",
                "choose a multiple of it", patch.pixels.shape[0])
    if all(patch.lr is None for patch in chosen):
        print("There are no pairs in the data, so synthetic LR cannot be compared with real LR.")
    else:
        found = (patch for source in sources for patch in read_patches(source, options))
        rows = likenesses([patch for patch in found if isinstance(patch, Patch)], presets)
        print(f"{len(rows['real'])} pairs of {len(sources)} slides\n{likeness_table(rows)}")
    return draw_degradations(chosen, [*presets.items(), *[(FLAGS.degradation, asked)] * (MEMBERS - 1)])


def choose_patches(sources: list[Source], options: config.PatchOptions, count: int) -> list[Patch]:
    """Return a patch of each of the first `count` slides that give any: that with the largest standard deviation.

    It is one of CANDIDATES. What cannot be read is printed.

    Raises:
        ValueError: No slide gives a patch; says why.
    """
    chosen: list[Patch] = []
    skipped: list[Skipped] = []
    for source in sources:
        found = list(islice(read_patches(source, options), CANDIDATES))
        skipped += [item for item in found if isinstance(item, Skipped)]
        patches = [patch for patch in found if isinstance(patch, Patch)]
        chosen += [max(patches, key=lambda patch: patch.pixels.std(axis=(0, 1)).sum())] if patches else []
        if len(chosen) == count:
            break
    if not chosen:
        raise ValueError("`data` must have a patch to show; choose another slide or patch_size. "
                         f"Received: {sources[0].slide_id!r} ({skipped[0].reason if skipped else 'nothing was found'})")
    print_skipped([item for item in skipped if item.broken])
    return chosen


if __name__ == "__main__":
    sys.exit(run(main, FLAGS, __doc__))
