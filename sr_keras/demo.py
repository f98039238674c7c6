"""Slides in, a trained and measured model out, in one command.

    python -m sr_keras.demo                    on the sample slide that is always there
    python -m sr_keras.demo --data=my_slides   on your own slides or folders of tiles

It only types the commands that a user would type, and shows them: train, evaluate, export, picture. A demo that was
interrupted goes on where it stopped.
"""
from __future__ import annotations

import csv
import math
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


def main() -> int:
    name = FLAGS.name or ("demo" if FLAGS.data is None else f"demo-{Path(FLAGS.data).resolve().name}")
    run, model = Path("runs") / name, Path("saved_models") / name
    _type("sr_keras.train", *_training(FLAGS.data), f"--run={run}", "--resume")
    _type("sr_keras.evaluate", f"--model={run}", f"--data={run}", f"--output={run / 'scores'}")
    if not model.exists():
        _type("sr_keras.export", f"--model={run}", f"--name={name}", f"--scores={run / 'scores'}",
              *(SAMPLE_FACTS if FLAGS.data is None else ()))
    picture = draw(model, run, run / "demo.png")
    print(last_screen(run, model, picture, own=FLAGS.data is not None))
    return 0


def _training(data: str | None) -> list[str]:
    if data is None:
        return [f"--flagfile={_shown(FLAGFILES / 'demo.flags')}"]
    return [f"--flagfile={_shown(FLAGFILES / 'quick.flags')}", f"--train_data={data}"]


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _type(module: str, *arguments: str) -> None:
    """Show a command and run it; a failure ends the demo with that command's own words."""
    print(f"\n$ python -m {module} {shlex.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if status:
        raise SystemExit(status)


def draw(model: Path, run: Path, path: Path) -> Path:
    """Draw LR, bicubic, SR and HR of a patch of the run's test part side by side, with an inset; return `path`."""
    from pipelines.dataset import evaluation_dataset
    from pipelines.options import DegradeOptions
    from sr_keras.models import load_generator
    from sr_keras.parts import open_part
    from sr_keras.scores import bicubic, side_by_side

    generator = load_generator(model)
    examples = evaluation_dataset(open_part(run), degrade=DegradeOptions(scale=generator.scale))
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
    """Return in one line where the model beats bicubic."""
    with open(path, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    means = {method: {name: _mean(rows, method, name) for name in ("psnr", "ms_ssim", "rrmse", "qilv")}
             for method in ("bicubic", "sr")}
    better = {"psnr": 1, "ms_ssim": 1, "rrmse": -1, "qilv": 1}
    lost = [name for name, sign in better.items()
            if not (means["sr"][name] - means["bicubic"][name]) * sign > 0]  # so that a nan is no win
    said = "on PSNR, MS-SSIM, RRMSE and QILV" if not lost else f"but not on {', '.join(lost)}"
    return f"  beats bicubic {said}\n"


def _mean(rows: list[dict[str, str]], method: str, name: str) -> float:
    values = [float(row[name]) for row in rows if row["method"] == method and row.get(name)]
    finite = [value for value in values if math.isfinite(value)]  # a patch without error has an infinite PSNR
    return sum(finite) / len(finite) if finite else math.nan


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
