# SPDX-License-Identifier: Apache-2.0
"""A card says what is known, calls the rest unknown, and says what the model must not be used for."""
from __future__ import annotations

import re

import pytest

from pipelines.config import DEGRADATIONS
from sr_keras.export import model_card
from sr_keras.model.facts import ModelFacts
from sr_keras.templates import render

SIZE = {"scale": 4, "halo": 12, "parameters": 123456}
FACTS = ModelFacts(
    lr_mpp=(0.9, 2.1), stain="H&E", degradation=DEGRADATIONS["scanner"], trained_on="40 slides of breast, 0.25 mpp",
    usual_departure=(2.0, 3.25), flags="--q=0.5\n--train_data=breast\n",
    versions={"tensorflow": "2.21.0", "commit": "abc123"})
GIVEN = {"facts": FACTS, "data_licence": "CC BY 4.0", "scores": "| psnr |\n| --- |\n| 27.1 |",
         "nuclei": "| F1 |\n| --- |\n| 0.93 |"}

NUCLEI = "Nuclei, what is invented and lost, and perceptual distance"


def sections(card: str) -> dict[str, str]:
    return dict(re.findall(r"^## (.+?)\n\n(.*?)(?=\n\n## |\Z)", card, flags=re.M | re.S))


def test_bare_card_says_unknown_wherever_nothing_was_given():
    found = sections(model_card("demo", **SIZE))
    for heading in ("Training data", "What input it is for", "Scores", NUCLEI, "Licence", "Training flags", "Versions"):
        assert "unknown (not given" in found[heading], heading
    assert found["Training data"].count("unknown") == 2  # the data, and its licence


def test_full_card_holds_what_was_given_and_nothing_unknown():
    card = model_card("demo", **SIZE, **GIVEN)
    found = sections(card)
    assert "unknown" not in card
    assert FACTS.trained_on in found["Training data"]
    assert "CC BY 4.0" in found["Licence"]
    assert "Apache License 2.0" in found["Licence"]
    assert GIVEN["scores"] in found["Scores"]
    assert GIVEN["nuclei"] in found[NUCLEI]
    assert "not\nthe published LPIPS" in found[NUCLEI]
    assert f"```\n{FACTS.flags}```" in found["Training flags"]
    assert "commit abc123" in found["Versions"]
    for said in ("0.9 to 2.1 microns per pixel", "H&E", "Gaussian of 0.4 to 3.2 HR pixels",
                 "JPEG quality 50 to 98 in 65% of them", "2.0 to 3.2 of 255"):
        assert said in found["What input it is for"], said
    assert re.search(r"Exported: \d{4}-\d{2}-\d{2}, with Python 3", found["Versions"])


def test_card_says_how_forms_differ_on_what_and_why_there_is_no_engine():
    given = {"compared": "tissue A", "calibrated": "tissue B"}
    text = render("parity.md", table="| form |\n| --- |\n| ONNX |", missing="no GPU", **given)
    found = sections(model_card("demo", **SIZE, parity=text))["Files, and how they differ from Keras"]
    for said in ("on tissue A", "calibrated with tissue B", "\n\n| form |\n", "No TensorRT engine was built: no GPU"):
        assert said in found, said
    assert "TensorRT" not in render("parity.md", table="", missing=None, **given)
    assert "Files, and" not in str(sections(model_card("demo", **SIZE)))


@pytest.mark.parametrize("given", [*([name] for name in GIVEN), list(GIVEN), []])
def test_no_missing_fact_shows_as_none(given):
    card = model_card("demo", **SIZE, **{name: GIVEN[name] for name in given})
    assert "None" not in card


def test_diagnosis_is_ruled_out_whatever_was_given():
    for facts in ({}, GIVEN):
        limits = sections(model_card("demo", **SIZE, **facts))["What it must not be used for"]
        assert "Not for diagnosis" in limits
        assert "not validated clinically" in limits


def test_card_names_model_size_and_how_to_load_it():
    card = model_card("breast", scale=2, halo=7, parameters=1234567)
    assert card.startswith("# breast: super-resolution x2 for histology\n\n## ")
    found = sections(card)
    assert "1,234,567 parameters" in found["What it is"]
    assert "depends on 7 input pixels" in found["What it is"]
    assert "--model=saved_models/breast" in found["How to load it"]


def test_every_code_block_is_closed():
    assert model_card("demo", **SIZE, **GIVEN).count("```") % 2 == 0
