"""Export a trained generator, with its model card, as the next version of saved_models/NAME.

    python -m sr_keras.export --model=runs/demo --name=demo
    python -m sr_keras.export --model=runs/mine --name=mine --scores=runs/mine/scores \\
        --data="40 H&E slides of breast, 0.25 mpp, scanner X" --data_licence="in house, not to be passed on"
"""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from pipelines import console
from pipelines.options import require

FORMATS = ("saved_model",)
SCORES_FILE = "scores.md"

FLAGS = flags.FlagValues()
flags.DEFINE_string("model", None, "A run folder or a .keras generator.", flag_values=FLAGS)
flags.DEFINE_string("name", None, "What the model shall be called.", flag_values=FLAGS)
flags.DEFINE_string("output", "saved_models", "Folder of models; NAME/VERSION is made in it.", flag_values=FLAGS)
flags.DEFINE_list("formats", list(FORMATS), f"Some of: {', '.join(FORMATS)}.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "For the card: what it was trained on (tissue, stain, magnification, source).",
                    flag_values=FLAGS)
flags.DEFINE_string("data_licence", None, "For the card: the terms that data stands under.", flag_values=FLAGS)
flags.DEFINE_string("scores", None, f"For the card: a Markdown table, or the folder with {SCORES_FILE} that "
                    "sr_keras.evaluate wrote.", flag_values=FLAGS)


def main() -> int:
    _check()
    scores = _read_scores(FLAGS.scores)

    from sr_keras.export.model_card import model_card
    from sr_keras.export.saved_model import export_saved_model
    from sr_keras.models import find_generator, load_keras, run_flags, scale_of
    from sr_keras.networks import receptive_field

    path = find_generator(FLAGS.model)
    require(path.is_file(), "model", "be a run folder or a .keras generator", "this one is exported already",
            FLAGS.model)
    generator = load_keras(path)
    run: dict[str, Any] = {"flags": run_flags(path.parent), "versions": _versions(path.parent)}
    card = model_card(
        FLAGS.name, scale=scale_of(generator), halo=receptive_field(generator), parameters=generator.count_params(),
        data=FLAGS.data or _named_data(run["flags"]), data_licence=FLAGS.data_licence, scores=scores,
        flags=run["flags"], trained_with=run["versions"])
    version = export_saved_model(generator, Path(FLAGS.output) / FLAGS.name, card=card, facts=run)
    print(f"exported, and checked against Keras on tissue: {version}\n"
          f"its model card:   {version / 'README.md'}\n"
          f"use it:           python -m sr_keras.super_resolve --model={version.parent} --input=picture.png "
          "--output=large.png")
    return 0


def _check() -> None:
    require(bool(FLAGS.model), "model", "be given", "name a run folder or a .keras generator", FLAGS.model)
    require(bool(FLAGS.name) and Path(FLAGS.name).name == FLAGS.name and FLAGS.name[:1] != ".", "name",
            "be the plain name of a folder", "say how the model shall be called, and with --output where", FLAGS.name)
    unknown = [name for name in FLAGS.formats if name not in FORMATS]
    require(bool(FLAGS.formats) and not unknown, "formats", f"be some of {', '.join(FORMATS)}", "leave out the others",
            ",".join(FLAGS.formats))


def _read_scores(path: str | None) -> str | None:
    if path is None:
        return None
    found = Path(path) / SCORES_FILE if Path(path).is_dir() else Path(path)
    return found.read_text(encoding="utf-8")


def _versions(folder: Path) -> dict[str, str] | None:
    """Return the versions that a run folder says it was trained with; None where it is no run."""
    path = folder / "versions.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _named_data(run_flags: str | None) -> str | None:
    """Return the data that the run's flags name: not what it shows, but where to look."""
    named = [line.removeprefix("--") for line in (run_flags or "").splitlines() if line.startswith("--train_data=")]
    return f"Not described; the training flags name it: `{named[0]}`" if named else None


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
