"""Export a trained generator, in every form that is deployed, as the next version of saved_models/NAME.

    python -m sr_keras.export --model=runs/demo --name=demo
    python -m sr_keras.export --model=runs/demo --name=demo --formats=saved_model,litert,onnx,tensorrt
    python -m sr_keras.export --model=runs/mine --name=mine --scores=runs/mine/scores \\
        --data="40 H&E slides of breast, 0.25 mpp, scanner X" --data_licence="in house, not to be passed on"

Each form is run by its own runtime on real tissue and compared with Keras; if one differs by more than its precision
allows, nothing is kept. The table goes into parity.json and into the model card, README.md. Without TensorRT or a GPU
the commands that build the engines elsewhere are printed.
"""
from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from pipelines import console
from pipelines.errors import require

if TYPE_CHECKING:
    import keras

    from sr_keras.formats.registry import Forms
    from sr_keras.model.facts import ModelFacts

FORMATS = ("saved_model", "litert", "onnx", "tensorrt")
PRECISIONS = ("float32", "float16", "int8_dynamic", "int8")
SCORES_FILES = ("standard.md", "scores.md")  # of all kinds of LR, and of one
CODE_LICENCE = "Apache-2.0"

FLAGS = flags.FlagValues()
flags.DEFINE_string("model", None, "A run folder or a .keras generator.", flag_values=FLAGS)
flags.DEFINE_string("name", None, "What the model shall be called.", flag_values=FLAGS)
flags.DEFINE_string("output", "saved_models", "Folder of models; NAME/VERSION is made in it.", flag_values=FLAGS)
flags.DEFINE_list("formats", ["saved_model"], f"Some of: {', '.join(FORMATS)}. The SavedModel is always written.",
                  flag_values=FLAGS)
flags.DEFINE_list("precisions", list(PRECISIONS), "Of the LiteRT files and of what TensorRT builds; int8_dynamic is "
                  "LiteRT's alone.", flag_values=FLAGS)
flags.DEFINE_string("calibration_data", None, "What int8 is calibrated with: a run, shards, or slides and folders of "
                    "tiles. By default the run's training slides, or a picture that comes with scikit-image.",
                    flag_values=FLAGS)
flags.DEFINE_integer("max_pixels", 2**20, "LR pixels that a request to a server may have, or a batch of them on a GPU; "
                     "fewer take less of its memory.", flag_values=FLAGS)
flags.DEFINE_list("lr_mpp", None, "low,high: microns per pixel of the input that it is for; by default those of its "
                  "training patches.", flag_values=FLAGS)
flags.DEFINE_string("stain", None, "The stain that it is for, for instance H&E.", flag_values=FLAGS)
flags.DEFINE_string("departure_data", None, "A run or shards, to measure how far its output departs from its input as "
                    "a rule; by default the run's validation slides.", flag_values=FLAGS)
flags.DEFINE_string("data", None, "For the card: what it was trained on (tissue, stain, magnification, source).",
                    flag_values=FLAGS)
flags.DEFINE_string("data_licence", None, "For the card: the terms that data stands under.", flag_values=FLAGS)
flags.DEFINE_string("scores", None, f"For the card: a Markdown table, or the folder with "
                    f"{' or '.join(SCORES_FILES)} that sr_keras.evaluate wrote.", flag_values=FLAGS)


def main() -> int:
    """Export, and say where to and how to use it."""
    _check()
    scores = _read_scores(FLAGS.scores)

    from sr_keras.formats.parity import parity_table
    from sr_keras.formats.purpose import facts_of, measured_on
    from sr_keras.formats.registry import check_installed, engine_commands
    from sr_keras.formats.saved_model import export_saved_model
    from sr_keras.formats.serving import write_serving_files
    from sr_keras.model.keras_file import load_keras, scale_of
    from sr_keras.model.loading import find_generator, load_generator, run_flags
    from sr_keras.slides.trust_map import PATCHES, usual_departure

    check_installed(FLAGS.formats)
    path = find_generator(FLAGS.model)
    require(path.is_file(), "model", "be a run folder or a .keras generator", "this one is exported already",
            FLAGS.model)
    generator = load_keras(path)
    facts = facts_of(path.parent, scale_of(generator), lr_mpp=_range("lr_mpp", FLAGS.lr_mpp), stain=FLAGS.stain,
                     trained_on=FLAGS.data or _named_data(run_flags(path.parent)))
    loaded = load_generator(path)
    batches = measured_on(FLAGS.departure_data, path.parent, loaded, PATCHES)
    facts = replace(facts, usual_departure=usual_departure(loaded, batches))
    written: list[Forms] = []
    version = export_saved_model(
        generator, Path(FLAGS.output) / FLAGS.name, facts=facts, max_pixels=FLAGS.max_pixels,
        extra=lambda folder: written.append(_write_forms(generator, path, folder, facts, scores)))
    write_serving_files(Path(FLAGS.output))
    (forms,) = written
    print(f"{parity_table(forms.rows)}\n\n"
          f"exported, and checked against Keras on {forms.compared}: {version}\n"
          f"its model card:   {version / 'README.md'}\n"
          f"use it:           python -m sr_keras.super_resolve --model={version.parent} --input=picture.png "
          "--output=large.png")
    if forms.lacking:
        print("\n".join(["", f"no TensorRT engine here: {forms.lacking}", "where there is one, build them with",
                         *engine_commands(version, FLAGS.precisions)]))
    return 0


def _write_forms(generator: keras.Model, path: Path, folder: Path, facts: ModelFacts, scores: str | None) -> Forms:
    """Write the forms beside the SavedModel in `folder`, and the card that says how they differ."""
    from sr_keras.formats.calibration import calibration_tissue, compared_tissue
    from sr_keras.formats.model_card import model_card, parity_text
    from sr_keras.formats.parity import parity_table
    from sr_keras.formats.registry import write_forms
    from sr_keras.formats.saved_model import CARD_FILE, next_version
    from sr_keras.model.loading import load_generator

    loaded = load_generator(folder)  # knows its scale, its halo, and the degradation of its flags
    about = {"name": FLAGS.name, "version": next_version(Path(FLAGS.output) / FLAGS.name).name,
             "scale": loaded.scale, "halo": loaded.halo, "code_licence": CODE_LICENCE,
             "data_licence": FLAGS.data_licence or "unknown"}
    forms = write_forms(generator, folder, FLAGS.formats, precisions=FLAGS.precisions, facts=about,
                        compared=compared_tissue(path.parent, loaded.degrade),
                        calibration=calibration_tissue(FLAGS.calibration_data, path.parent, loaded.degrade))
    card = model_card(
        FLAGS.name, scale=loaded.scale, halo=loaded.halo, parameters=generator.count_params(),
        facts=facts, data_licence=FLAGS.data_licence, scores=scores,
        parity=parity_text(parity_table(forms.rows), forms.compared, forms.calibrated, forms.lacking))
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return forms


def _check() -> None:
    require(bool(FLAGS.model), "model", "be given", "name a run folder or a .keras generator", FLAGS.model)
    plain = bool(FLAGS.name) and not set(FLAGS.name) & set("/:") and FLAGS.name[0] != "."  # as the client takes it
    require(plain, "name", "be the plain name of a folder, without :",
            "say how the model shall be called, and with --output where", FLAGS.name)
    for name, known, given in (("formats", FORMATS, FLAGS.formats), ("precisions", PRECISIONS, FLAGS.precisions)):
        require(bool(given) and set(given) <= set(known), name, f"be some of {', '.join(known)}",
                "leave out the others", ",".join(given))


def _read_scores(path: str | None) -> str | None:
    if path is None:
        return None
    given = Path(path)
    found = [given / name for name in SCORES_FILES if (given / name).is_file()] if given.is_dir() else [given]
    remedy = "name what sr_keras.evaluate wrote"
    require(bool(found), "scores", f"be a Markdown table, or a folder with {' or '.join(SCORES_FILES)}", remedy, path)
    try:
        return "\n".join(one.read_text(encoding="utf-8") for one in found)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`scores` must be a Markdown table; {remedy}. Received: scores={path!r}") from error


def _range(name: str, given: list[str] | None) -> tuple[float, float] | None:
    """Return a flag of two numbers."""
    try:
        low, high = map(float, given or (0, 0))
    except ValueError as error:
        raise ValueError(f"`{name}` must be two numbers; write low,high. Received: {name}={','.join(given or [])!r}"
                         ) from error
    return (low, high) if given else None


def _named_data(run_flags: str | None) -> str | None:
    """Return the data that the run's flags name: not what it shows, but where to look."""
    named = [line.removeprefix("--") for line in (run_flags or "").splitlines() if line.startswith("--train_data=")]
    return f"Not described; the training flags name it: `{named[0]}`" if named else None


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
