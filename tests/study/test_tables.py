# SPDX-License-Identifier: Apache-2.0
"""Tables show the effects built into an artificial study, accept unfinished studies, and label random VGG weights."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from study.results import Curve, corruptions, curves, fractions, read_results, select, write_results
from study.statistics import compare, falls
from study.tables import (
    SHOWN,
    falls_table,
    methods_table,
    note,
    q_table,
    steps_table,
    terms_table,
    variants_table,
    write_tables,
)

MIXED = ("mixed", "hr")


def plain(rows):
    return select(rows, variant="")


def lines_of(table, *leading):
    """Return the other cells of every line that starts with these cells."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line]
    return [line[len(leading):] for line in lines if tuple(line[:len(leading)]) == leading]


def line_of(table, *leading):
    (line,) = lines_of(table, *leading)
    return line


def number(cell):
    return float(re.match(r"\**([-+]?[0-9.]+)", cell)[1])


def p_of(cell):
    return float(cell.rpartition("p = ")[2])


def test_methods_table_holds_the_means_and_the_best_in_bold(study):
    table = methods_table(plain(study), MIXED)
    ms_ssim = lines_of(table, "all slides", "SRGAN_SQE")[0]
    assert [number(cell) for cell in ms_ssim] == pytest.approx([0.915] * 4, abs=0.002)
    assert all(cell.startswith("**") for cell in ms_ssim)
    assert "**" not in "".join(lines_of(table, "all slides", "SRGAN_E")[0])
    assert len(lines_of(table, "all slides", "SRGAN_SQE")) == len(SHOWN)


def test_lowest_rrmse_is_the_best(study):
    rrmse = SHOWN.index("rrmse")
    lines = lines_of(methods_table(plain(study), MIXED), "all slides", "SRGAN_SQE")[rrmse]
    assert all(cell.startswith("**") for cell in lines)


def test_bicubic_stands_beside_the_methods_and_can_be_the_best(study):
    for row in study:
        if row["method"] != "bicubic":
            row["psnr"] -= 10
    line = lines_of(methods_table(plain(study), MIXED), "all slides", "bicubic")[SHOWN.index("psnr")]
    assert all(cell.startswith("**") for cell in line)


def test_magnifications_stand_apart(study):
    table = methods_table(plain(study), MIXED)
    at = {scope: number(lines_of(table, scope, "SRGAN_SQE")[0][0]) for scope in ("20x", "40x")}
    assert at["20x"] - at["40x"] == pytest.approx(0.03, abs=0.003)


def test_one_magnification_is_not_repeated(study):
    assert "40x" not in methods_table(select(plain(study), slide="erosion"), MIXED)


def test_random_vgg_is_named_wherever_srgan_stands(study, tmp_path):
    write_tables(study, tmp_path / "tables.md")
    text = (tmp_path / "tables.md").read_text()
    assert "SRGAN (random VGG) − SRGAN_SQE" in text
    assert "SRGAN_E − SRGAN (random VGG)" in text
    assert not re.search(r"SRGAN(?! \(random VGG\)|_)", text)


def test_srgan_of_two_sets_of_weights_is_two_methods(study):
    study += [row | {"vgg_weights": "imagenet"} for row in study if row["method"] == "srgan"]
    assert [curve.label for curve in curves(plain(study))][:2] == ["SRGAN", "SRGAN (random VGG)"]
    assert lines_of(methods_table(plain(study), MIXED), "all slides", "SRGAN")
    assert Curve("srgan", 2.0, "paper", "/where/vgg.h5").label == "SRGAN (VGG of vgg.h5)"


def test_clean_cells_belong_to_every_corruption(study):
    study += [row | {"kind": "outlier"} for row in study if row["fraction"] == 0.3]
    rows = plain(study)
    assert corruptions(rows) == [MIXED, ("outlier", "hr")]
    assert fractions(rows, ("outlier", "hr")) == [0.0, 0.3]
    assert [number(cell) for cell in lines_of(methods_table(rows, ("outlier", "hr")), "all slides", "SRGAN_E")[0]
            ] == pytest.approx([0.895, 0.871], abs=0.002)


def test_q_table_finds_the_best_q_of_each_series(study):
    table = q_table(plain(study), MIXED)
    for method in ("SRGAN_SQE", "SRGAN_SQE, equal balance", "L_F alone"):
        assert [line[0] for line in lines_of(table, "30%", method) if line[1].startswith("**")] == ["0.5"]
    assert lines_of(table, "30%", "bicubic")
    assert not lines_of(table, "10%")  # a single q


def test_steps_table_finds_effects_of_known_size(grid):
    table = steps_table(plain(grid(seeds=3)), MIXED)
    pairs, *cells = line_of(table, "0%", "SRGAN_QE − SRGAN_E")
    assert pairs == "6"
    assert number(cells[0]) == pytest.approx(0.01, abs=0.001)
    assert p_of(cells[0]) == pytest.approx(2 / 2**6, abs=0.001)
    assert number(line_of(table, "50%", "SRGAN_SQE − SRGAN (random VGG)")[1]) == pytest.approx(0.08, abs=0.002)
    assert number(line_of(table, "0%", "SRGAN_SQE − bicubic")[1]) == pytest.approx(0.07, abs=0.002)


def test_falls_are_found_and_positive_is_worse_for_every_metric(grid):
    table = falls_table(plain(grid(seeds=3)), MIXED)
    _, *cells = line_of(table, "50%", "SRGAN (random VGG)")
    assert number(cells[0]) == pytest.approx(0.05, abs=0.001)
    assert all(number(cell) > 0 and p_of(cell) < 0.05 for cell in cells)
    both = line_of(table, "50%", "SRGAN (random VGG) − SRGAN_SQE")[1]
    assert number(both) == pytest.approx(0.05, abs=0.002)


def test_no_fall_is_not_called_significant(grid):
    curve = Curve("srgan_sqe", 0.5, "paper")
    studies = [plain(grid(("srgan_sqe",), seeds=4, qs=(), luck=luck)) for luck in range(40)]
    p = [compare(falls(rows, curve, 0.3, MIXED, "ms_ssim")).p for rows in studies]
    assert sum(one <= 0.05 for one in p) <= 5  # of 40, where 2 are to be expected


def test_fall_of_rrmse_is_its_rise(study):
    curve = Curve("srgan_e", 2.0, "paper")
    rise = falls(plain(study), curve, 0.5, MIXED, "rrmse")
    assert sorted(rise) == [(slide, seed) for slide in ("erosion", "keloid-scar") for seed in (0, 1)]
    assert min(rise.values()) > 0


def test_terms_table_has_what_each_term_adds(study):
    table = terms_table(plain(study), MIXED)
    mean, _, more = line_of(table, "0%", "L_F + L_S, q = 0.5")[0].partition("; ")
    assert number(mean) == pytest.approx(0.91, abs=0.001)
    assert number(more) == pytest.approx(0.01, abs=0.001)
    assert ";" not in line_of(table, "0%", "L_F alone, q = 0.5")[0]


def test_variants_stand_alone_and_beside_the_cell_they_vary(study):
    line = line_of(variants_table(study), "SRGAN_SQE", "30%", "mixed corruption, HR side", "epsilon=0.01")
    assert number(line[0].partition("; ")[2]) == pytest.approx(0.004, abs=0.001)
    assert variants_table(plain(study)) == ""


def test_tables_of_an_unfinished_study_have_what_is_there(unfinished, tmp_path):
    write_tables(unfinished, tmp_path / "tables.md")
    text = (tmp_path / "tables.md").read_text()
    assert "nan" not in text
    assert re.search(r"\[\d\]", text)  # a mean over fewer pairs than another says so


@pytest.mark.parametrize("keep", [lambda row: row["fraction"] == 0, lambda row: row["fraction"] == 0.3,
                                  lambda row: row["method"] == "bicubic", lambda row: row["variant"],
                                  lambda row: row["method"] == "srgan_e" and row["seed"] == 0, lambda row: False])
def test_tables_of_a_part_of_the_study_are_written(study, tmp_path, keep):
    write_tables([row for row in study if keep(row)], tmp_path / "tables.md")
    text = (tmp_path / "tables.md").read_text()
    assert text.startswith("# Tables")
    assert "nan" not in text


def test_missing_cell_is_called_not_run(study):
    rows = [row for row in plain(study) if not (row["method"] == "srgan_e" and row["fraction"] == 0.3)]
    assert lines_of(methods_table(rows, MIXED), "all slides", "SRGAN_E")[0][2] == "not run"


def test_note_says_how_little_there_is(study, grid):
    assert "2 test slides × 2 seeds" in note(study)
    assert "too narrow" in note(study)
    assert "p cannot be below 0.125" in note(study)
    assert "p cannot be below 0.0312" in note(grid(seeds=3))
    assert note([]) == "No cell has been scored yet."


def test_tables_of_a_csv_are_those_of_its_rows(study, tmp_path):
    write_results(study, tmp_path / "results.csv")
    write_tables(read_results(tmp_path / "results.csv"), tmp_path / "csv.md")
    write_tables(read_results(tmp_path / "results.csv")[::-1], tmp_path / "reversed.md")
    assert (tmp_path / "csv.md").read_bytes() == (tmp_path / "reversed.md").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_published_tables_follow_from_the_published_results(tmp_path):
    published = Path(__file__).parents[2] / "docs" / "study" / "small"
    write_tables(read_results(published / "results.csv"), tmp_path / "tables.md")
    assert (tmp_path / "tables.md").read_text() == (published / "tables.md").read_text()
