# SPDX-License-Identifier: Apache-2.0
"""Figures show the methods, slides and claims that there are, name the VGG, and have the same bytes every time."""
from __future__ import annotations

import re

import pytest

from study.claims import Claim, Claims, answer
from study.figures import write_figures

CLAIMS = Claims(0.05, {"ms_ssim": 0.002, "qilv": 0.02, "rrmse": 0.001}, [
    Claim("SQE beats SRGAN", "srgan_sqe-q0.5-0.5-mixed-hr", "srgan-q2-0.5-mixed-hr", 1),
    Claim("q = 0.5 is better", "fidelity-q0.5-clean", "fidelity-q2-clean", 1)])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, study, settings, slides):
    folder = tmp_path_factory.mktemp("figures")
    write_figures(settings, study, answer(CLAIMS, study, slides), slides, folder, "hed")
    return folder


def test_three_figures_as_png_and_svg(drawn):
    assert {path.name for path in drawn.iterdir()} == {f"{name}{suffix}" for name in ("methods", "stability", "claims")
                                                       for suffix in (".png", ".svg")}


def test_words_name_metrics_methods_the_vgg_and_claims(drawn):
    methods, stability, claims = ((drawn / f"{name}.svg").read_text() for name in ("methods", "stability", "claims"))
    for words in ("MS-SSIM ↑", "QILV ↑", "RRMSE ↓", "SRGAN, VGG16 fine-tuned for edges (HED)", "SRGAN_SQE", "bicubic"):
        assert f"<!-- {words} -->" in methods
    assert "VGG16 fine-tuned for edges (HED)" in stability
    assert "0 to 50% corrupted" in stability
    assert "<!-- SQE beats SRGAN -->" in claims
    assert "q = 0.5 is better" not in claims  # it was not run


def test_stability_has_a_point_for_every_slide(drawn):
    """Four methods, three metrics and 27 slides."""
    assert len(re.findall(r"<use xlink:href", (drawn / "stability.svg").read_text())) >= 4 * 3 * 27


def test_same_rows_and_settings_in_any_order_give_the_same_svg(drawn, study, settings, slides, tmp_path):
    """So lines go from share to share, in whatever order a grid has them."""
    write_figures(settings[::-1], study[::-1], answer(CLAIMS, study[::-1], slides), slides, tmp_path, "hed")
    assert (tmp_path / "methods.svg").read_bytes() == (drawn / "methods.svg").read_bytes()


def test_claim_of_any_difference_is_drawn(study, slides, tmp_path):
    claims = Claims(0.05, {"ms_ssim": 0.002}, [
        Claim("at all", "srgan_sqe-q0.5-0.5-mixed-hr", "srgan-q2-0.5-mixed-hr", 0)])
    write_figures([], study, answer(claims, study, slides), slides, tmp_path, "hed")
    assert "<!-- at all -->" in (tmp_path / "claims.svg").read_text()


def test_nothing_is_drawn_of_nothing(settings, slides, tmp_path):
    assert write_figures(settings, [], answer(CLAIMS, [], slides), slides, tmp_path / "none", "hed") == []
    assert not (tmp_path / "none").exists()
