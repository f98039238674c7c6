"""Slides in, a trained and measured model out, in one command.

    python -m sr_keras.demo                    on the sample slide that is always there
    python -m sr_keras.demo --data=my_slides   on your own slides or folders of tiles

It only types the commands that a user would type, and shows them: train, evaluate, export, picture. A demo that was
interrupted goes on where it stopped.
"""
from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

from absl import flags

from pipelines import console

FLAGS = flags.FlagValues()
flags.DEFINE_string("data", None, "Folder of slides or of tiles; the sample slide if left out.", flag_values=FLAGS)
flags.DEFINE_string("name", None, "Name of the run and of the model; demo or the folder's name.", flag_values=FLAGS)

SAMPLE_FACTS = ("--data=One picture of human colon, DAB immunohistochemistry with haematoxylin, 512x512 pixels: "
                "skimage.data.immunohistochemistry", "--data_licence=no known copyright restrictions (scikit-image)")
FLAGFILES = Path(__file__).parent / "flagfiles"
# Of own slides, however many: 5000 patches of 256x256 are 1 GB in memory and a minute or two of reading, and the small
# model trains on 12,800 crops in all; 100 are scored within a minute.
PATCHES, PATCHES_A_SLIDE, SCORED = 5000, 500, 100


def main() -> int:
    """Type the commands, draw the picture, and say what was made."""
    name = FLAGS.name or _name(FLAGS.data)
    run, model = Path("runs") / name, Path("saved_models") / name
    _type("sr_keras.train", *_training(FLAGS.data), f"--run={run}", "--resume")
    _type("sr_keras.evaluate", f"--model={run}", f"--data={run}", f"--output={run / 'scores'}",
          *(() if FLAGS.data is None else (f"--limit={SCORED}",)))
    if not is_exported(run, model):
        _type("sr_keras.export", f"--model={run}", f"--name={name}", f"--scores={run / 'scores'}",
              *(SAMPLE_FACTS if FLAGS.data is None else ()))
    picture = draw(model, run, run / "demo.png")
    print(last_screen(run, model, picture, own=FLAGS.data is not None))
    return 0


def _name(data: str | None) -> str:
    """Return a name for the run that a shell takes as it is."""
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


def _type(module: str, *arguments: str) -> None:
    """Show a command and run it; a failure ends the demo with that command's own words."""
    print(f"\n$ python -m {module} {shlex.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if status:
        raise SystemExit(status)


def is_exported(run: Path, model: Path) -> bool:
    """Tell whether the newest version of the model was made of the generator that the run holds now."""
    from sr_keras.model.loading import GENERATOR_FILE, versions_of

    versions = versions_of(model)
    return bool(versions) and versions[-1].stat().st_mtime >= (run / GENERATOR_FILE).stat().st_mtime


def draw(model: Path, run: Path, path: Path) -> Path:
    """Draw LR, bicubic, SR and HR of a patch of the run's test part side by side, with an inset; return `path`."""
    from pipelines.dataset import evaluation_dataset
    from sr_keras.evaluation import side_by_side
    from sr_keras.metrics import bicubic
    from sr_keras.model.loading import load_generator
    from sr_keras.training.split import open_part

    generator = load_generator(model)
    examples = evaluation_dataset(open_part(run), degrade=generator.degrade)
    example = next(examples.as_numpy_iterator())
    lr, hr = example["lr"], example["hr"]
    side_by_side(lr[0], bicubic(lr, generator.scale)[0], generator(lr)[0], hr[0], path)
    return path


def last_screen(run: Path, model: Path, picture: Path, own: bool) -> str:
    """Return what was made, where, how good it is, and what to type next."""
    verdict = _verdict(run / "scores" / "scores.csv")
    more = ("train longer:        python -m sr_keras.train --train_data=FOLDER --run=runs/mine" if own else
            "on your own slides:  make demo DATA=folder_of_slides_or_tiles")
    return f"""
{'-' * 100}
Made:
  the picture          {picture}    LR | bicubic | SR | HR
  the scores           {run / 'scores' / 'scores.md'}    on a part that no training patch touches
  the model            {model}    TensorFlow SavedModel, with its model card
  the run              {run}    flags, checkpoints, metrics.csv, TensorBoard
{verdict}
Next:
  super-resolve:       python -m sr_keras.super_resolve --model={model} --input=image.png --output=image_x4.png
  {more}
  watch the curves:    tensorboard --logdir={run / 'tensorboard'}
{'-' * 100}"""


def _verdict(path: Path) -> str:
    """Return in one line where the model beats bicubic, by the means of the table in scores.md."""
    from sr_keras.evaluation import METRICS, summarise

    with open(path, newline="", encoding="utf-8") as handle:
        rows = [{name: float(text) if name in METRICS else text for name, text in row.items()}
                for row in csv.DictReader(handle)]
    means = {method: {name: estimate.mean for name, estimate in of_method.items()}
             for method, of_method in summarise(rows).estimates.items()}
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
