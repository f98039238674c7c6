# SPDX-License-Identifier: Apache-2.0
"""The tables and the figure of the peers follow from the two files of numbers, and the documents hold them."""
from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.peers.__main__ import PAGE, PICTURE, SCORES, SPEEDS
from benchmarks.peers.methods import BY_NAME, METHODS, OURS, ROOT
from benchmarks.peers.patches import KINDS
from benchmarks.peers.report import BEGIN, END, Results, draw, page_tables, short_table, write_between
from pipelines.files import write_csv

SLIDES = ("a", "b")


def write(folder: Path, **changes: float) -> tuple[Path, Path]:
    """Write numbers that grow with the method, the kind of LR and the slide; `changes` are of a method's PSNR."""
    scores = [{"slide": slide, "lr": kind, "method": method.name, "patches": 3,
               "psnr": changes.get(method.name, 20.0 + i) + j + 10 * k, "ms_ssim": 0.8 + i / 100, "qilv": 0.5,
               "rrmse": 0.1 + i / 100}
              for i, method in enumerate(METHODS) for j, kind in enumerate(KINDS) for k, slide in enumerate(SLIDES)]
    speeds = [{"method": method.name, "weight_bytes": i * 10**6, "file_bytes": 2 * i * 10**6, "runtime": "x 1",
               "seconds": 0.1 * (i + 1), "cpu_seconds": 0.1 * (i + 1), "peak_bytes": 2**27, "rounds": 3, "load": 0.1}
              for i, method in enumerate(METHODS)]
    write_csv(scores, folder / "scores.csv")
    write_csv(speeds, folder / "speeds.csv")
    return folder / "scores.csv", folder / "speeds.csv"


def rows_of(table: str) -> dict[str, list[str]]:
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in cells}


def test_short_table_has_means_over_slides_and_the_best_in_bold(tmp_path):
    rows = rows_of(short_table(Results(*write(tmp_path, real_esrgan=31.25))))
    assert rows["method"][:3] == ["MB", "s a tile", "PSNR ↑"]
    assert rows["Real-ESRGAN x4plus"][:3] == ["1.00", "0.200", "**36.25**"]
    assert rows["bicubic"][:3] == ["", "0.100", "25.00"]
    assert rows[BY_NAME[OURS].label][2] == "30.00"
    assert rows[BY_NAME[OURS].label][3] == "**0.850**"


def test_lower_error_is_the_best(tmp_path):
    table = page_tables(Results(*write(tmp_path))).split("**real pairs**")[1]
    assert rows_of(table)["bicubic"][-1] == "**0.1000**"


def test_slides_are_counted_on_which_ours_is_better(tmp_path):
    table = page_tables(Results(*write(tmp_path, dat_light=99))).split("our default model is better than**")[1]
    columns = rows_of(table)["LR and score"]
    row = dict(zip(columns, rows_of(table)["real pairs, PSNR (dB)"], strict=True))
    assert row == {"bicubic": "2 of 2", "Real-ESRGAN x4plus": "2 of 2", "DAT-light x4": "0 of 2",
                   "ESRGAN-thick x4": "2 of 2", "ours, light": "2 of 2"}
    assert set(rows_of(table)["real pairs, QILV"]) == {"0 of 2"}  # equal is not better


def test_slide_that_can_not_be_judged_counts_nowhere(tmp_path):
    scores, speeds = write(tmp_path)
    head, *lines = scores.read_text().splitlines()
    judged = [f"{line},{'nan' if line.startswith('a,') else 0.5 + i / 1000}" for i, line in enumerate(lines)]
    scores.write_text("\n".join([f"{head},nuclei_f1", *judged]) + "\n")
    results = Results(scores, speeds)
    assert set(rows_of(page_tables(results))["real pairs, nuclei F1"]) == {"1 of 1"}
    assert "nuclei F1 ↑" in short_table(results)
    assert "LPIPS-like" not in page_tables(results)


def test_busy_machine_is_said(tmp_path):
    scores, speeds = write(tmp_path)
    assert "busy" not in page_tables(Results(scores, speeds))
    speeds.write_text(speeds.read_text().replace(",3,0.1\n", ",3,4.2\n"))
    assert "the load of the machine before was 4.2.\n**The machine was busy" in page_tables(Results(scores, speeds))


def test_kind_of_lr_that_was_not_scored_is_left_out(tmp_path):
    scores, speeds = write(tmp_path)
    scores.write_text("".join(line for line in scores.read_text().splitlines(True) if ",box," not in line))
    results = Results(scores, speeds)
    assert "**textbook (sigma 1.6)**" in page_tables(results)
    assert "box" not in page_tables(results)


@pytest.mark.parametrize("dropped", ["a,box,dat_light,", "b,pairs,bicubic,"])
def test_incomplete_scores_are_refused(dropped, tmp_path):
    scores, speeds = write(tmp_path)
    scores.write_text("".join(line for line in scores.read_text().splitlines(True) if not line.startswith(dropped)))
    with pytest.raises(ValueError, match="`scores` must have every method on every slide.*"
                       + dropped.split(",")[2]):
        Results(scores, speeds)


def test_damaged_numbers_are_refused_by_line(tmp_path):
    scores, speeds = write(tmp_path)
    scores.write_text(scores.read_text().replace("0.8,", "much,", 1))
    with pytest.raises(ValueError, match=r"scores\.csv.*line 2"):
        Results(scores, speeds)


def test_page_is_replaced_between_the_two_lines_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n")
    write_between(page, "new\n")
    write_between(page, "new\n")
    assert page.read_text() == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="`page` must have the lines between which tables are written"):
        write_between(page, "new")
    assert page.read_text() == "nothing"


def test_figure_follows_from_the_numbers(tmp_path):
    pictures = []
    for changes in ({}, {}, {"dat_light": 27.5}):
        draw(Results(*write(tmp_path, **changes)), tmp_path / "x.png")
        pictures.append(np.asarray(Image.open(tmp_path / "x.png")))
    np.testing.assert_array_equal(*pictures[:2])
    assert (pictures[0] != pictures[2]).any()


def test_committed_documents_have_the_tables_of_the_committed_numbers():
    results = Results(SCORES, SPEEDS)
    for page, gap, table in ((PAGE, "\n\n", page_tables(results)), (ROOT / "README.md", "\n", short_table(results))):
        assert f"{BEGIN}{gap}{table.strip()}{gap}{END}" in page.read_text(encoding="utf-8")
    assert PICTURE.is_file()
    with open(SCORES, newline="", encoding="utf-8") as file:
        assert min(int(row["patches"]) for row in csv.DictReader(file)) >= 10
