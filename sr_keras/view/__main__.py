# SPDX-License-Identifier: Apache-2.0
r"""Look at slides in a browser, super-resolved where you look.

    sr-keras view slide.svs --mpp=1 --model=srgan_sqe_x4_light
    sr-keras view --input=slides --model=runs/mine --model=saved_models/srgan_sqe_x4
    sr-keras view --input=slide.svs --mpp=1 --finished=slide_x4.tif

The page shows LR, bicubic interpolation, SR by each model, and the trust map over it, in panels that move together; a
wipe between them; a magnifier. Only the tiles that are looked at are computed. A folder or several slides begin with a
gallery. --finished shows an output of super_resolve in place of a model, or beside those that are given.

It is served on 127.0.0.1, to browsers of this machine alone; the slides that are given are all that it shows. A marked
region is written to --output. Ctrl-C ends it.

Exit status: 0 when it is stopped, 2 for an error.
"""
from __future__ import annotations

import sys
import webbrowser
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from threading import Thread
from typing import Any

from pipelines import console
from pipelines.errors import require
from pipelines.names import COMMAS
from pipelines.options import GIVEN, Options, basic, define, flags_of, read, within
from sr_keras.config import SHIPPED_MODEL
from sr_keras.model.facts import find_generator
from sr_keras.model.runtimes import AUTO, ENGINE_CHOICES
from sr_keras.slides import EnlargeOptions
from sr_keras.slides.outputs import find_files, find_inputs

SHOWN_OPTIONS = ("mpp", "level", "assume_mpp")


@dataclass(frozen=True)
class ViewOptions(Options):
    """What is shown, by which models, and where."""

    input: str = basic(None, f"A slide or picture, a folder of them, or a list. {COMMAS}", "", GIVEN)
    model: tuple[str, ...] = basic(
        (), "saved_models/NAME, a run folder, or a .keras generator; give it again for several side by side. The "
        f"default is {SHIPPED_MODEL.name}", repeated=True)
    finished: str | None = basic(None, "An output of super_resolve, to show beside its source", "give the --mpp or "
                                 "--level that it was made with")
    output: str = basic(".", "Folder for marked regions that are super-resolved to a file")
    port: int = basic(0, "Port on 127.0.0.1", "0 for one that is free", within(0, 65535))
    browser: bool = basic(True, "Open the page in a browser")
    engine: str = basic(AUTO, "What runs the network; auto is TensorFlow on a GPU and LiteRT elsewhere",
                        choices=ENGINE_CHOICES)


FLAGS = flags_of(ViewOptions)
define(FLAGS, EnlargeOptions, leave_out=[name for name in EnlargeOptions.__dataclass_fields__
                                         if name not in SHOWN_OPTIONS])


def main() -> int:
    """Check the flags, load the models, and serve until stopped."""
    read(FLAGS, ViewOptions)
    options = read(FLAGS, EnlargeOptions)
    slides = _find_slides(FLAGS.input)
    finished = FLAGS.finished and Path(FLAGS.finished)
    require(not finished or len(slides) == 1, "finished", "be left out for several slides", "name its one source",
            FLAGS.finished)
    console.import_optional("bokeh", "view")
    models = FLAGS.model or ([] if finished else [str(SHIPPED_MODEL)])
    for model in models:
        find_generator(model)  # a misspelt name is an error before TensorFlow starts
    console.import_tensorflow()
    from sr_keras.view.scene import Scene
    from sr_keras.view.server import Viewer, listen

    sockets = listen(FLAGS.port)  # before the models, which take a while
    generators = [_open(model) for model in models]
    if len(slides) == 1:  # of several, those that cannot be read are shown as such
        Scene(slides[0], generators, options, finished).close()
    viewer = Viewer(slides, generators, options, sockets=sockets, finished=finished, output=Path(FLAGS.output))
    shown = slides[0] if len(slides) == 1 else f"{len(slides)} slides"
    print(f"{viewer.url} shows {shown}; Ctrl-C ends it", flush=True)
    if FLAGS.browser:
        Thread(target=webbrowser.open, args=(viewer.url,), daemon=True).start()  # one in a terminal keeps it
    viewer.run()
    return 0


def _find_slides(inputs: str) -> list[Path]:
    """Return the slides and pictures of a list of files and folders.

    Raises:
        FileNotFoundError: One does not exist.
        ValueError: A folder contains none.
    """
    found = {path: find_files(path, path) if path.is_dir() else [path] for path in find_inputs(inputs)}
    for path, slides in found.items():
        require(bool(slides), "input", "contain slides or pictures", "name another folder", str(path))
    return list(dict.fromkeys(slide for slides in found.values() for slide in slides))


def _open(model: str) -> Any:
    from sr_keras.model.engines import open_engine

    generator = open_engine(FLAGS.engine, model)
    print(generator.why)
    return generator


def _named(arguments: list[str]) -> list[str]:
    """Return arguments whose first are paths without a flag, as `view slide.svs` has, with --input in front of them."""
    paths = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    quoted = ",".join(f'"{path}"' if "," in path and len(paths) > 1 else path for path in paths)
    return [*([f"--input={quoted}"] if paths else []), *arguments[len(paths):]]


if __name__ == "__main__":
    sys.argv[1:] = _named(sys.argv[1:])
    sys.exit(console.run(main, FLAGS, __doc__))
