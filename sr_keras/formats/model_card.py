# SPDX-License-Identifier: Apache-2.0
"""The model card: what a reader must know before using a model, as Markdown.

The text is templates/model_card.md. A value that is not given is called unknown; the card invents nothing. Its sections
follow Mitchell et al. 2019, "Model cards for model reporting".
"""
from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from sr_keras.model.facts import ModelFacts, in_words
from sr_keras.templates import render

UNKNOWN = "unknown (not given when this card was written)"
PACKAGES = ("sr_keras", "tensorflow", "keras")


def model_card(name: str, *, scale: int, halo: int, parameters: int, facts: ModelFacts | None = None,
               data_licence: str | None = None, scores: str | None = None, parity: str | None = None) -> str:
    """Return the card of a model.

    Args:
        name: Of the model, as in saved_models/NAME.
        scale: SR side over LR side.
        halo: LR pixels around a tile that its values depend on.
        parameters: Number of learned parameters.
        facts: What it was made for and how it was trained.
        data_licence: Licence of the training data.
        scores: A table of scores in Markdown, and the data they were measured on.
        parity: What `parity_text` returns; its section is left out if it is not given.
    """
    facts = facts or ModelFacts()
    exported_with = {"Python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}
    return render(
        "model_card.md", name=name, scale=scale, halo=halo, parameters=parameters, facts=facts, unknown=UNKNOWN,
        resolution=facts.lr_mpp and "{:.3g} to {:.3g} microns per pixel".format(*facts.lr_mpp),
        degradation=facts.degradation and in_words(facts.degradation),
        departure=facts.usual_departure and "{:.1f} to {:.1f} of 255 at a slide's median".format(
            *facts.usual_departure),
        data_licence=data_licence, scores=scores, parity=parity, date=f"{datetime.now(UTC):%Y-%m-%d}",
        exported_with=_listed(exported_with), trained_with=_listed(facts.versions or {}))


def parity_text(table: str, compared: str, calibrated: str, missing: str | None) -> str:
    """Return what the card says about the files of a model.

    Args:
        table: What `sr_keras.formats.parity.parity_table` returns.
        compared: The tissue that files were compared on.
        calibrated: The tissue that calibrated int8.
        missing: Why there are no TensorRT engines; None if there are, or none were asked for.
    """
    return render("parity.md", table=table, compared=compared, calibrated=calibrated, missing=missing)


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed as a package)"
