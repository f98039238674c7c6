# SPDX-License-Identifier: Apache-2.0
"""From slides to a trained and measured model in one command.

    sr-keras demo                    on the sample slide, which is part of the installation
    sr-keras demo --data=my_slides   on your own slides or folders of tiles

First it draws a picture with the shipped model. Then it runs the commands
that you would type, and shows them: train, evaluate, export. Last it draws
a picture with the new model. An interrupted demo continues where it stopped.
"""
from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import console
from pipelines.config import degradation
from pipelines.options import Options, basic, flags_of
from sr_keras.config import SHIPPED_MODEL
from sr_keras.model.facts import GENERATOR_FILE, versions_of

if TYPE_CHECKING:
    from sr_keras.model.loading import LoadedGenerator

SAMPLE_FACTS = ("--data=One picture of human colon, DAB immunohistochemistry with haematoxylin, 512x512 pixels: "
                "skimage.data.immunohistochemistry", "--data_licence=no known copyright restrictions (scikit-image)")
FLAGFILES = Path(__file__).parent / "flagfiles"
TISSUE = Path(__file__).parent / "demo_tissue.png"  # H&E at 0.5 mpp, from OpenSlide's CMU-1-Small-Region.svs (CC0)
# Limits for own slides: 5000 patches of 256x256 take 1 GB of memory and a minute or two to read, and the small model
# trains on 12,800 crops in all; 100 are scored within a minute.
PATCHES, PATCHES_A_SLIDE, SCORED = 5000, 500, 100


@dataclass(frozen=True)
class DemoOptions(Options):
    """What the demo trains on, and what it is called."""

    data: str | None = basic(None, "Folder of slides or of tiles", "by default the sample slide")
    name: str | None = basic(None, "Name of the run and of the model", "by default demo, or the folder's name")


FLAGS = flags_of(DemoOptions)


def main() -> int:
    """Draw with the shipped model, run the commands, draw with the new model, and print where everything is."""
    name = FLAGS.name or _name(FLAGS.data)
    run, model = Path("runs") / name, Path("runs") / "saved_models" / name  # not served with the shipped ones
    first = draw_shipped(Path("runs") / f"{name}-first.png")
    print(f"A picture by the shipped model: {first}    LR | bicubic | SR | HR\n"
          "Now a small model of your own is trained, which takes some minutes.", flush=True)
    _run("sr_keras.train", *_training(FLAGS.data), f"--run={run}", "--resume")
    _run("sr_keras.evaluate", f"--model={run}", f"--data={run}", f"--output={run / 'scores'}",
         *(() if FLAGS.data is None else (f"--limit={SCORED}",)))
    if not is_exported(run, model):
        _run("sr_keras.export", f"--model={run}", f"--name={name}", f"--output={model.parent}",
             f"--scores={run / 'scores'}", *(SAMPLE_FACTS if FLAGS.data is None else ()))
    picture = draw(model, run, run / "demo.png")
    print(last_screen(run, model, picture, own=FLAGS.data is not None))
    return 0


def draw_shipped(path: Path) -> Path:
    """Draw H&E tissue with the shipped model; its LR is made as a scanner's pyramid holds it. Return `path`."""
    console.import_tensorflow()
    import numpy as np
    from PIL import Image

    from pipelines.degrade import degrade_example
    from pipelines.pixels import quantise, to_float
    from sr_keras.model.loading import load_generator

    generator = load_generator(SHIPPED_MODEL)
    hr = to_float(np.asarray(Image.open(TISSUE)))
    scanner = degradation("pyramid", scale=generator.scale, jpeg_passes=(0.0, 1.0, 0.0), jpeg_quality=(75, 75))
    return _draw(generator, quantise(degrade_example(hr, scanner, (0, 0)).numpy()), hr, path)


def draw(model: Path, run: Path, path: Path) -> Path:
    """Draw a patch of the run's test part with the new model; return `path`."""
    from pipelines.dataset import evaluation_dataset
    from sr_keras.model.loading import load_generator
    from sr_keras.training.split import open_part

    generator = load_generator(model)
    example = next(evaluation_dataset(open_part(run), degrade=generator.degrade).as_numpy_iterator())
    return _draw(generator, example["lr"][0], example["hr"][0], path)


def _draw(generator: LoadedGenerator, lr: Any, hr: Any, path: Path) -> Path:
    """Draw LR, bicubic, SR and HR side by side, with an inset."""
    from sr_keras.evaluation.pictures import side_by_side
    from sr_keras.metrics import bicubic

    batch = lr[None]
    side_by_side(lr, bicubic(batch, generator.scale)[0], generator(batch)[0], hr, path)
    return path


def _name(data: str | None) -> str:
    """Return a name for the run that needs no quotes in a shell."""
    return "demo" if data is None else "demo-" + re.sub(r"[^\w.-]+", "-", Path(data).resolve().name)


def _training(data: str | None) -> list[str]:
    if data is None:
        return [f"--flagfile={_shown(FLAGFILES / 'demo.flags')}"]
    from pipelines.sources import find_sources

    each = max(1, min(PATCHES_A_SLIDE, PATCHES // len(find_sources(data))))
    return [f"--flagfile={_shown(FLAGFILES / 'quick.flags')}", f"--train_data={data}", f"--max_patches={each}"]


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _run(module: str, *arguments: str) -> None:
    """Print a command and run it; if it fails or is interrupted, which it says, the demo ends with its exit status."""
    print(f"\n$ sr-keras {module.rpartition('.')[2]} {shlex.join(arguments)}", flush=True)
    command = subprocess.Popen([sys.executable, "-m", module, *arguments])
    try:
        status = command.wait()
    except KeyboardInterrupt:  # of both processes
        status = command.wait()
        if status != console.INTERRUPTED:
            raise
    if status:
        raise SystemExit(status)


def is_exported(run: Path, model: Path) -> bool:
    """Return whether the newest version of the model is newer than the generator of the run."""
    versions = versions_of(model)
    return bool(versions) and versions[-1].stat().st_mtime >= (run / GENERATOR_FILE).stat().st_mtime


def last_screen(run: Path, model: Path, picture: Path, own: bool) -> str:
    """Return what was made, where it is, how good it is, and what to type next."""
    verdict = _verdict(run / "scores" / "scores.csv")
    more = ("train longer:        sr-keras train --train_data=FOLDER --run=runs/mine" if own else
            "on your own slides:  make demo DATA=folder_of_slides_or_tiles")
    return f"""
{'-' * 100}
Results:
  the picture          {picture}    LR | bicubic | SR | HR
  the scores           {run / 'scores' / 'scores.md'}    on tissue that is not in any training patch
  the model            {model}    TensorFlow SavedModel, with its model card
  the run              {run}    flags, checkpoints, metrics.csv, TensorBoard
{verdict}
Next:
{_activation()}  super-resolve:       sr-keras super-resolve --model={model} --input=image.png --output=image_x4.png
  {more}
  watch the curves:    tensorboard --logdir={run / 'tensorboard'}
{'-' * 100}"""


def _activation() -> str:
    """Return the line to type first where this program's environment is not that of the shell, as after `make demo`."""
    script = Path(sys.prefix) / "bin" / "activate"
    if os.environ.get("VIRTUAL_ENV") == sys.prefix or not script.is_file():
        return ""
    return f"  first:               source {shlex.quote(_shown(script))}\n"


def _verdict(path: Path) -> str:
    """Return a line that says on which scores the model beats bicubic, by the means of the table in scores.md."""
    from sr_keras.evaluation.scored_patches import METRICS
    from sr_keras.evaluation.tables import read_scores, summarise

    means = {method: {name: estimate.mean for name, estimate in of_method.items()}
             for method, of_method in summarise(read_scores(path)).estimates.items()}
    won: list[str] = []
    lost: list[str] = []
    for name, bicubic in means["bicubic"].items():
        better = means["sr"][name] > bicubic if METRICS[name].higher_is_better else means["sr"][name] < bicubic
        (won if better else lost).append(METRICS[name].label.partition(" (")[0])
    if not won:
        return "  does not beat bicubic on any score: it needs more slides, or longer training\n"
    return f"  beats bicubic on {_listed(won)}{f', but not on {_listed(lost)}' if lost else ''}\n"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
