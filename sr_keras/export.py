# SPDX-License-Identifier: Apache-2.0
r"""Export a trained generator, in the formats you deploy, as the next version of saved_models/NAME.

    sr-keras export --model=runs/demo --name=demo
    sr-keras export --model=runs/demo --name=demo --formats=saved_model,litert,onnx,tensorrt
    sr-keras export --model=runs/mine --name=mine --scores=runs/mine/scores \
        --data="40 H&E slides of breast, 0.25 mpp, scanner X" --data_licence="in house, not to be passed on"

Each file is run by its own runtime on real tissue and compared with Keras. If one differs by more than its precision
allows, nothing is kept. The comparison is written to parity.json and to the model card, README.md. On a machine without
TensorRT or a GPU, the commands that build the engines elsewhere are printed. The uncertainty head beside the generator,
if `sr-keras uncertainty` wrote one, comes along.
"""
from __future__ import annotations

import platform
import re
import shlex
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pipelines import console
from pipelines.errors import require
from pipelines.files import Finite, read_json, read_text
from pipelines.options import GIVEN, ORDERED, Options, Range, Rule, basic, flags_of, read
from sr_keras.formats import FORMATS, PRECISIONS, with_required
from sr_keras.formats.format import Source
from sr_keras.formats.saved_model import DEFAULT_MAX_PIXELS, export_saved_model, next_version, write_serving_files
from sr_keras.formats.tensorrt import engine_commands
from sr_keras.model.facts import ModelFacts, Scores, find_generator, in_words
from sr_keras.templates import MODEL_NAME, render

if TYPE_CHECKING:
    import keras

    from sr_keras.formats.parity import ExportReport
    from sr_keras.formats.run_data import Tissue
    from sr_keras.model.uncertainty_head import HeadFacts

SCORES_FILES = ("standard.md", "scores.md")  # of all kinds of LR, and of one
GAINS_FILE = "standard.json"
NUCLEI_FILE, NUCLEI_FACTS_FILE = "nuclei.md", "nuclei.json"
ABSOLUTE_PATH = re.compile(r"(?<![\w/.:<])/(?:[^\s,/]+/)+([^\s,/]+)")  # of which the last part is kept
CODE_LICENCE = "Apache-2.0"
CARD_FILE = "README.md"
UNKNOWN = "unknown (not given when this card was written)"


class _Measured(TypedDict):
    gain: dict[str, Finite | None]


class Gains(TypedDict):
    """What is read of GAINS_FILE, which `sr-keras evaluate` wrote: the gain over bicubic by kind of LR and by score."""

    lr: dict[str, _Measured]


@dataclass(frozen=True)
class ExportOptions(Options):
    """What is exported, in which formats, and what is said about it."""

    model: str = basic(None, "A run folder or a .keras generator", "", GIVEN)
    name: str = basic(None, "Name of the model", "", GIVEN, Rule(
        "be the plain name of a folder: letters, digits, spaces and . + - _, the first a letter or digit",
        lambda name: bool(MODEL_NAME.fullmatch(name))))
    output: str = basic("saved_models", "Folder of models; NAME/VERSION is created in it")
    formats: tuple[str, ...] = basic(("saved_model",), "Formats", "the SavedModel is always written",
                                     choices=tuple(FORMATS), several=True)
    precisions: tuple[str, ...] = basic(PRECISIONS, "Precisions of the LiteRT files and TensorRT engines",
                                        "int8_dynamic is for LiteRT only", choices=PRECISIONS, several=True)
    calibration_data: str | None = basic(None, "Data that calibrates int8: a run, shards, or slides and folders of "
                                         "tiles. By default the run's training slides, or a picture that comes with "
                                         "scikit-image")
    max_pixels: int = basic(DEFAULT_MAX_PIXELS, "LR pixels that a request to a server may have, or a batch of requests "
                            "on a GPU; fewer need less memory")
    lr_mpp: Range | None = basic(None, "LOW,HIGH: microns per pixel of the input that the model is for",
                                 "by default those of its training patches", ORDERED)
    stain: str | None = basic(None, "The stain that the model is for, for instance H&E")
    departure_data: str | None = basic(None, "A run or shards on which to measure how far the output usually departs "
                                       "from the input", "by default the run's validation slides")
    data: str | None = basic(None, "For the card: the training data (tissue, stain, magnification, source)")
    data_licence: str | None = basic(None, "For the card: the licence of that data")
    scores: str | None = basic(None, f"For the card: a Markdown table, or the folder with {', '.join(SCORES_FILES)} or "
                               f"{NUCLEI_FILE} that sr-keras evaluate wrote")


FLAGS = flags_of(ExportOptions)


def main() -> int:
    """Export a model, and print where it is and how to use it."""
    options = read(FLAGS, ExportOptions)
    scores, gains = _read_scores(FLAGS.scores)
    nuclei, nuclei_facts = _read_nuclei(FLAGS.scores)
    path = find_generator(FLAGS.model)
    require(path.is_file(), "model", "be a run folder or a .keras generator", "this one is exported already",
            FLAGS.model)

    console.import_tensorflow()
    from sr_keras.formats.parity import parity_table
    from sr_keras.formats.run_data import compared_tissue, departure_batches, facts_of
    from sr_keras.model.loading import load_generator, load_keras, scale_of
    from sr_keras.model.uncertainty_head import check_owner, folder_of
    from sr_keras.slides.trust_map import PATCHES, usual_departure

    for name in with_required(FLAGS.formats):
        FORMATS[name].check_installed()
    head = check_owner(folder_of(path), path) if folder_of(path).exists() else None
    generator, loaded = load_keras(path), load_generator(path)
    facts = facts_of(path.parent, scale_of(generator), lr_mpp=options.lr_mpp, stain=FLAGS.stain,
                     trained_on=FLAGS.data, filters=loaded.facts.filters, scores=gains,
                     nuclei=nuclei_facts)
    batches = departure_batches(FLAGS.departure_data, path.parent, loaded, PATCHES)
    facts = replace(facts, tail_filters=loaded.facts.tail_filters, usual_departure=usual_departure(loaded, batches))
    compared = compared_tissue(path.parent, loaded.degrade)
    reports: list[ExportReport] = []
    exported = export_saved_model(
        generator, Path(FLAGS.output) / FLAGS.name, facts=facts, max_pixels=FLAGS.max_pixels,
        extra=lambda folder: reports.append(_write_files(generator, path, folder, facts, compared, scores,
                                                          nuclei, head)))
    write_serving_files(Path(FLAGS.output))
    (report,) = reports
    print(f"{parity_table([file.parity for file in report.files])}\n\n"
          f"exported, and compared with Keras on {compared.name}: {exported}\n"
          f"model card:   {exported / CARD_FILE}\n"
          f"use it:       sr-keras super-resolve --model={shlex.quote(str(exported.parent))} "
          "--input=picture.png --output=large.png")
    if report.missing:
        print("\n".join(["", f"no TensorRT engine was built: {report.missing}", "build them on a machine with a GPU:",
                         *engine_commands(exported, FLAGS.precisions)]))
    return 0


def model_card(name: str, *, scale: int, halo: int, parameters: int, facts: ModelFacts | None = None,
               data_licence: str | None = None, scores: str | None = None, nuclei: str | None = None,
               parity: str | None = None, uncertainty: str | None = None) -> str:
    """Return the card of a model, Markdown. A value that is not given is called unknown; the card invents nothing.

    Its sections follow Mitchell et al. 2019, "Model cards for model reporting".

    Args:
        name: Of the model, as in saved_models/NAME.
        scale: SR side over LR side.
        halo: LR pixels around a tile that its values depend on.
        parameters: Number of learned parameters.
        facts: What it was made for and how it was trained.
        data_licence: Licence of the training data.
        scores: A table of scores in Markdown, and the data they were measured on.
        nuclei: The same of its nuclei and of perceptual distances.
        parity: The text of templates/parity.md; its section is left out if it is not given.
        uncertainty: The table of the model's head, likewise.
    """
    facts = facts or ModelFacts()
    exported_with = {"Python": platform.python_version()}
    for package in ("sr_keras", "tensorflow", "keras"):
        exported_with[package] = "(not installed as a package)"
        with suppress(PackageNotFoundError):
            exported_with[package] = version(package)
    return render(
        "model_card.md", name=name, scale=scale, halo=halo, parameters=parameters, facts=facts, unknown=UNKNOWN,
        resolution=facts.lr_mpp and "{:.3g} to {:.3g} microns per pixel".format(*facts.lr_mpp),
        degradation=facts.degradation and in_words(facts.degradation),
        departure=facts.usual_departure and "{:.1f} to {:.1f} of 255 at a slide's median".format(
            *facts.usual_departure),
        data_licence=data_licence, scores=scores, nuclei=nuclei, parity=parity, uncertainty=uncertainty,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        exported_with=_listed(exported_with), trained_with=_listed(facts.versions or {}))


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _write_files(generator: keras.Model, path: Path, folder: Path, facts: ModelFacts, compared: Tissue,
                 scores: str | None, nuclei: str | None, head: HeadFacts | None) -> ExportReport:
    """Write the other formats beside the SavedModel in `folder`, the head, and the model card."""
    from sr_keras.formats.parity import parity_table, write_formats
    from sr_keras.formats.run_data import calibration_tissue
    from sr_keras.model.loading import load_generator
    from sr_keras.model.uncertainty_head import folder_of, table

    loaded = load_generator(folder)
    if head:
        shutil.copytree(folder_of(path), folder_of(folder))
    about = {"name": FLAGS.name, "version": next_version(Path(FLAGS.output) / FLAGS.name).name,
             "scale": loaded.scale, "halo": loaded.halo, "code_licence": CODE_LICENCE,
             "data_licence": FLAGS.data_licence or "unknown"}
    calibration = calibration_tissue(FLAGS.calibration_data, path.parent, loaded.degrade)
    report = write_formats(
        Source(lambda: generator, lambda: calibration.lr, about), folder, FLAGS.formats, FLAGS.precisions,
        compared=compared, calibrated=calibration.name)
    compared_forms = parity_table([file.parity for file in report.files])
    card = model_card(
        FLAGS.name, scale=loaded.scale, halo=loaded.halo, parameters=generator.count_params(),
        facts=facts, data_licence=FLAGS.data_licence, scores=scores, nuclei=nuclei,
        uncertainty=table(head) if head else None,
        parity=render("parity.md", table=compared_forms, compared=compared.name, calibrated=calibration.name,
                      missing=report.missing))
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return report


def _read_scores(path: str | None) -> tuple[str | None, Scores | None]:
    """Return the text for the card, without folders of this machine, and the gains for the facts if there are any."""
    if path is None:
        return None, None
    given = Path(path)
    found = [given / name for name in SCORES_FILES if (given / name).is_file()] if given.is_dir() else [given]
    remedy = "name what sr-keras evaluate wrote"
    require(bool(found) or (given / NUCLEI_FILE).is_file(), "scores", "be a Markdown table, or a folder with "
            f"{', '.join(SCORES_FILES)} or {NUCLEI_FILE}", remedy, path)
    try:
        text = "\n".join(one.read_text(encoding="utf-8") for one in found)
    except (OSError, ValueError) as error:
        raise ValueError(f"`scores` must be a Markdown table; {remedy}. Received: scores={path!r}") from error
    gains = read_json(given / GAINS_FILE, Gains, remedy)["lr"] if (given / GAINS_FILE).exists() else {}
    scores = {kind: {name: value for name, value in measured["gain"].items() if value is not None}
              for kind, measured in gains.items()}
    return ABSOLUTE_PATH.sub(r"\1", text) or None, scores or None


def _read_nuclei(path: str | None) -> tuple[str | None, Scores | None]:
    """Return the same of what `sr-keras evaluate --nuclei` wrote; None if there is none."""
    if path is None or not (Path(path) / NUCLEI_FILE).is_file():
        return None, None
    remedy = "score the nuclei again"
    text = read_text(Path(path) / NUCLEI_FILE, remedy)
    return ABSOLUTE_PATH.sub(r"\1", text), read_json(Path(path) / NUCLEI_FACTS_FILE, Scores, remedy)


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
