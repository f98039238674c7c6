"""The model card: what a reader must know before using a model, as Markdown.

Only what is given is said. What is not given is said to be unknown: a card must not invent. Sections follow Mitchell et
al. 2019, "Model cards for model reporting".
"""
from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from sr_keras.model.facts import ModelFacts, in_words

UNKNOWN = "unknown (not given when this card was written)"
PACKAGES = ("sr_keras", "tensorflow", "keras")
FENCE = "```"


def model_card(name: str, *, scale: int, halo: int, parameters: int, facts: ModelFacts | None = None,
               data_licence: str | None = None, scores: str | None = None, parity: str | None = None) -> str:
    """Return the card of a model.

    Args:
        name: of the model, as in saved_models/NAME.
        scale: SR side over LR side.
        halo: LR pixels around a tile that its values depend on.
        parameters: how many numbers were learned.
        facts: what it was made for and trained on, by which flags and software.
        data_licence: under which terms that data stands.
        scores: a table of scores in Markdown, and what they were measured on.
        parity: what `parity_text` returns; left out where it is not given.
    """
    facts = facts or ModelFacts()
    sections = {
        "What it is": _what(scale, halo, parameters),
        "How to load it": _loading(name, scale),
        "What input it is for": _purpose(facts),
        "What it must not be used for": _limits(scale),
        "Training data": f"{facts.trained_on or UNKNOWN}\n\nLicence of the data: {data_licence or UNKNOWN}",
        "Scores": scores or f"Scores are {UNKNOWN}.",
        **({"Forms, and how they differ from Keras": parity} if parity else {}),
        "Licence": _licence(data_licence),
        "Training flags": f"{FENCE}\n{facts.flags.strip()}\n{FENCE}" if facts.flags else f"Flags are {UNKNOWN}.",
        "Versions": _versions(facts.versions),
    }
    title = f"# {name}: super-resolution x{scale} for histology"
    return "\n\n".join([title, *(f"## {heading}\n\n{text.strip()}" for heading, text in sections.items())]) + "\n"


def parity_text(table: str, compared: str, calibrated: str, lacking: str | None) -> str:
    """Return what the card says of the forms of a model.

    Args:
        table: of `sr_keras.formats.parity.parity_table`.
        compared: the tissue that they were compared on.
        calibrated: the tissue that int8 was calibrated with.
        lacking: why there are no TensorRT engines; None where there are, or none were asked for.
    """
    engines = f"\n\nNo TensorRT engine was built: {lacking}" if lacking else ""
    return f"""Each was run by its own runtime on {compared}. Differences lie in [0, 1]. The largest is
that beyond the rounding to 8 bit, the mean is that of the 8-bit pictures, and changes are of the scores against the
true picture, less those of Keras. int8 was calibrated with {calibrated}.

{table}{engines}"""


def _what(scale: int, halo: int, parameters: int) -> str:
    return f"""A convolutional network that turns a low-resolution RGB picture of stained tissue into one with {scale}
times the pixels a side. It has {parameters:,} parameters. A pixel depends on {halo} input pixels to each side, so that
large pictures can be computed in tiles that keep such a margin.

Method: SRGAN_SQE (Upadhyay and Awate, "Robust super-resolution GAN, with manifold-based and perception loss", ISBI
2019), or the variant of it that the training flags name."""


def _loading(name: str, scale: int) -> str:
    return f"""On pictures of any size:

{FENCE}
python -m sr_keras.super_resolve --model=saved_models/{name} --input=picture.png --output=picture_x{scale}.png
{FENCE}

From Python, with TensorFlow alone (VERSION is the folder this card lies in):

{FENCE}python
import tensorflow as tf
model = tf.saved_model.load("saved_models/{name}/VERSION")
sr = model.signatures["serving_default"](lr=tf.constant(lr))["sr"]  # uint8 [B, h, w, 3] -> [B, {scale}*h, {scale}*w, 3]
{FENCE}"""


def _purpose(facts: ModelFacts) -> str:
    mpp = f"{facts.lr_mpp[0]:.3g} to {facts.lr_mpp[1]:.3g} microns per pixel" if facts.lr_mpp else UNKNOWN
    usual = f"{facts.usual_departure[0]:.1f} to {facts.usual_departure[1]:.1f} of 255 at a slide's median" \
        if facts.usual_departure else UNKNOWN
    return f"""\
- Resolution: {mpp}
- Stain: {facts.stain or UNKNOWN}
- Degradation: {in_words(facts.degradation) if facts.degradation else UNKNOWN}
- Usual departure of the output, degraded again, from the input: {usual}"""


def _limits(scale: int) -> str:
    return f"""\
- **Not for diagnosis, nor for any decision about a patient.** It is research software, not validated clinically.
- Its detail is estimated, not seen: {scale**2} pixels are made of each one that was measured. Structures can appear
  that the tissue does not have, and small ones that it has can vanish. Do not count, measure or grade on its output
  without checking that against true scans.
- Stains, scanners, organs and magnifications other than those named under Training data and Scores: nothing is known of
  how it does there.
- Input of another kind than named under What input it is for. `sr_keras.super_resolve` looks at its input and warns
  where it is, and `--trust_map` shows where the output does not agree with it.
- Keep the original beside every picture made with it, and say that it was made."""


def _licence(data_licence: str | None) -> str:
    data = f"stands under: {data_licence}" if data_licence else f"stands under terms that are {UNKNOWN}"
    return (f"The code is under the Apache License 2.0. The training data {data}. Whoever passes the weights on should "
            "check that those terms allow it.")


def _versions(trained_with: Mapping[str, str] | None) -> str:
    now = {"Python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}
    trained = ", ".join(f"{name} {number}" for name, number in (trained_with or {}).items()) or UNKNOWN
    exported_with = ", ".join(f"{name} {number}" for name, number in now.items())
    return f"- Exported: {datetime.now(UTC):%Y-%m-%d}, with {exported_with}\n- Trained with: {trained}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed as a package)"
