# SPDX-License-Identifier: Apache-2.0
"""Figures are complete, reproducible, mark what was not run, and show the values of the table."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from study.figures import STYLES, write_figures

NAMES = {"figure_3a_mixed_hr", "figure_3a_mixed_hr_by_magnification", "figure_3b_clean",
         "figure_3b_clean_by_magnification", "figure_3b_mixed_hr_30", "figure_3b_mixed_hr_30_by_magnification",
         "robustness_mixed_hr", "robustness_mixed_hr_20x", "robustness_mixed_hr_40x"}


@pytest.fixture(scope="module")
def drawn(grid, tmp_path_factory):
    """Return the folder with all figures of the study, drawn once."""
    folder = tmp_path_factory.mktemp("figures")
    paths = write_figures(grid(), folder)
    assert len(paths) == len(set(paths))
    assert set(paths) == set(folder.iterdir())
    return folder


def small(grid, **more):
    """Return a study that is drawn quickly: one slide, one q."""
    return [row for row in grid(**{"qs": (), "fractions": (0.0, 0.3), **more}) if row["slide"] == "erosion"]


def colours(path):
    """Return the colours of more than 50 pixels."""
    found, counts = np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0, return_counts=True)
    return {"#{:02X}{:02X}{:02X}".format(*one) for one, count in zip(found, counts, strict=True) if count > 50}


def test_every_figure_is_there_as_png_and_svg(drawn):
    assert {path.name for path in drawn.iterdir()} == {name + suffix for name in NAMES for suffix in (".png", ".svg")}


def test_png_shows_every_line(drawn):
    assert {STYLES[name][0] for name in ("srgan", "srgan_e", "srgan_qe", "srgan_sqe")} <= colours(
        drawn / "figure_3a_mixed_hr.png")
    assert {STYLES[name][0] for name in ("srgan_sqe", "equal", "fidelity")} <= colours(
        drawn / "figure_3b_mixed_hr_30.png")


def test_png_fits_a_page(drawn):
    for path in drawn.glob("*.png"):
        with Image.open(path) as image:
            assert image.width / image.info["dpi"][0] == pytest.approx(7.2, abs=0.01)
            assert image.height / image.info["dpi"][1] < 10


def test_svg_names_metrics_methods_and_random_vgg(drawn):
    text = (drawn / "figure_3a_mixed_hr.svg").read_text()
    for words in ("(a1) MS-SSIM ↑", "(a2) QILV ↑", "(a3) RRMSE ↓", "SRGAN (random VGG)", "SRGAN_SQE", "bicubic",
                  "2 slides × 2 seeds"):
        assert words in text
    assert "<!-- SRGAN -->" not in text
    assert "SRGAN (random VGG)" in (drawn / "robustness_mixed_hr.svg").read_text()


def test_figure_by_magnification_counts_the_slides_of_a_panel(drawn):
    text = (drawn / "figure_3a_mixed_hr_by_magnification.svg").read_text()
    assert "<!-- 40x -->" in text
    assert "<!-- 20x -->" in text
    assert "1 slide × 2 seeds" in text


def test_caption_says_where_seeds_differ(grid, tmp_path):
    rows = [row for row in small(grid) if row["method"] != "srgan_e" or row["seed"] == 0]
    write_figures(rows, tmp_path)
    assert "1 slide × 1 or 2 seeds" in (tmp_path / "figure_3a_mixed_hr.svg").read_text()


def test_robustness_shows_fidelity_at_each_q(drawn):
    text = (drawn / "robustness_mixed_hr.svg").read_text()
    assert all(f"L_F alone, q = {q}" in text for q in ("0.25", "0.5", "1", "2"))


def test_svg_is_the_same_to_the_byte_every_time(grid, tmp_path):
    first, second = ([path.read_bytes() for path in write_figures(small(grid), tmp_path / name)
                      if path.suffix == ".svg"] for name in "ab")
    assert first == second
    assert b"<dc:date>" not in first[0]


def test_variants_do_not_move_a_figure(grid, tmp_path):
    rows = small(grid)
    without = [row for row in rows if not row["variant"]]
    assert len(without) < len(rows)
    first, second = ({path.name: path.read_bytes() for path in write_figures(some, tmp_path / name)}
                     for name, some in (("a", rows), ("b", without)))
    assert first == second


def test_figures_of_an_unfinished_study_are_written(unfinished, tmp_path):
    rows = [row for row in unfinished if row["slide"] == "erosion"]
    assert tmp_path / "figure_3a_mixed_hr.svg" in write_figures(rows, tmp_path)


def test_metric_that_was_not_measured_is_called_not_run(grid, tmp_path):
    rows = [row | {"ms_ssim": None} for row in small(grid)]
    write_figures(rows, tmp_path)
    assert (tmp_path / "figure_3a_mixed_hr.svg").read_text().count("<!-- not run -->") == 1


@pytest.mark.parametrize(("keep", "names"), [
    (lambda row: row["fraction"] == 0, {"figure_3a_clean"}),
    (lambda row: row["fraction"] == 0.3, {"figure_3a_mixed_hr"}),
    (lambda row: row["method"] == "fidelity", {"robustness_mixed_hr"}),
    (lambda row: row["method"] == "bicubic", set()), (lambda row: False, set())])
def test_a_part_of_the_study_gives_the_figures_it_can(grid, tmp_path, keep, names):
    paths = write_figures([row for row in small(grid) if keep(row)], tmp_path)
    assert {path.stem for path in paths} == names


def test_figures_replace_older_ones_whole(grid, tmp_path):
    (tmp_path / "figure_3a_mixed_hr.svg").write_text("old")
    write_figures(small(grid, methods=("srgan_sqe",)), tmp_path)
    assert (tmp_path / "figure_3a_mixed_hr.svg").read_text().rstrip().endswith("</svg>")
    assert not list(tmp_path.glob(".*"))
