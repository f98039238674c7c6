# SPDX-License-Identifier: Apache-2.0
"""Read the patches of slides, or of folders of tiles, into shards that training reads fast.

    sr-keras extract --data=sample --output=shards/sample --patch_size=128
    sr-keras extract --data=slides/,more/case.svs --output=shards/mine --mpp=0.5 --max_patches=2000

Slides are read in parallel. The same command again continues a run that was stopped. Slides and patches that cannot be
read are skipped, listed at the end, and recorded in the slide's .json; --strict makes them an error.

--ray=auto reads slides on the machines of a Ray cluster, to the same bytes. All machines need slides and output under
the same paths. A lost machine costs only time.

Pairs with scanned LR, instead of LR made from HR:

    sr-keras extract --data=pairs/ --output=shards/pairs          NAME.jpeg beside NAME_lrXY.png
    sr-keras extract --data=hr/ --lr_data=lr/ --output=shards/pairs       two folders with the same names
    sr-keras extract --data=slides/ --pairs=levels --output=shards/levels     levels of the slides
    sr-keras extract --pairs=pairs.json --output=shards/pairs       two scans, from sr-keras register
"""
from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass

from pipelines.cluster import Cluster
from pipelines.config import PatchOptions, patch_options, registered
from pipelines.console import run
from pipelines.errors import require, require_folder
from pipelines.names import ANONYMOUS, alias, read_key
from pipelines.options import Options, basic, flags_of


@dataclass(frozen=True)
class ExtractOptions(Options):
    """What is read, by what, and where the shards go."""

    data: tuple[str, ...] = basic(("sample",), "Slides, and folders of slides or tiles; 'sample' is a slide that comes "
                                  "with this program")
    lr_data: str | None = basic(None, "Folder with the LR of the tiles in --data, which is then one folder: the same "
                                "folders and names in both")
    output: str | None = basic(None, "Folder for the shards")
    workers: int | None = basic(None, "Processes that read slides", "by default one per core")
    strict: bool = basic(False, "Stop at the first slide or patch that cannot be read")
    ray: str | None = basic(None, "Read on a Ray cluster: 'auto' for the one that this machine belongs to, or else a "
                            "local one; or HOST:PORT. Needs the extra 'cluster'")
    anonymous: str | None = basic(None, ANONYMOUS)


FLAGS = flags_of(ExtractOptions, PatchOptions)


def main() -> int:
    """Extract, and print the result."""
    options = patch_options(FLAGS, seed=FLAGS.seed)
    folder = require_folder(FLAGS.output)
    from pipelines.pairs import pair_folders
    from pipelines.patches import find_sources
    from pipelines.shards import print_skipped, write_shards
    from pipelines.sources import anonymous

    pages = registered(FLAGS.pairs)
    require(not pages or FLAGS["data"].using_default_value, "data", "be left out with registered scans",
            "--pairs names the slides", FLAGS.data)
    if pages:
        from pipelines.scan_pairs import pair_scans  # slow to import

        sources, options = pair_scans(pages, options)
    else:
        sources = find_sources(FLAGS.data)
    if FLAGS.lr_data:
        require(len(FLAGS.data) == 1, "data", "be one folder with lr_data", "extract other folders separately",
                FLAGS.data)
        sources = pair_folders(sources, FLAGS.data[0], FLAGS.lr_data)
    homes = {path.parent for source in sources for path in source.files}
    require(not any(home.resolve().is_relative_to(folder.resolve()) for home in homes), "output",
            "hold none of the slides", "folders with shards are not searched for slides: choose another folder",
            FLAGS.output)
    if key := read_key(FLAGS.anonymous):
        for source in sources:  # the screen is the only place where a name stands beside its hash
            print(f"{source.slide_id} is {alias(source.slide_id, key)}")
        sources = [anonymous(source, key) for source in sources]
    with Cluster(FLAGS.ray, most=FLAGS.workers) if FLAGS.ray else nullcontext() as cluster:
        report = write_shards(sources, folder, options, FLAGS.workers, FLAGS.strict, cluster=cluster)
    kept = f" ({report.kept} of them finished before)" if report.kept else ""
    print(f"{report.patches} patches of {report.slides} slides{kept} in {FLAGS.output}")
    print_skipped(report.skipped)
    print(f"train on them: sr-keras train --train_data={shlex.quote(FLAGS.output)} --run=runs/mine")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, FLAGS, __doc__))
