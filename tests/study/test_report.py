# SPDX-License-Identifier: Apache-2.0
"""Tables hold the answers and means that the rows give, unfinished studies are accepted, a page gets the claims."""
from __future__ import annotations

import re

import numpy as np
import pytest

from study.claims import Claim, Claims
from study.report import BEGIN, END, means_table, paper_table, write_report
from study.results import write_results

CLAIMS = Claims(0.05, {"ms_ssim": 0.002, "rrmse": 0.001}, [
    Claim("50%: SRGAN_SQE beats SRGAN", "srgan_sqe-q0.5-0.5-mixed-hr", "srgan-q2-0.5-mixed-hr", 1),
    Claim("30%: q = 0.5 beats q = 2", "fidelity-q0.5-0.3-mixed-hr", "fidelity-q2-0.3-mixed-hr", 1)])
FOLDS = "f" * 12


@pytest.fixture(scope="module")
def written(tmp_path_factory, study, settings, slides):
    """Return the folder of a report, with a page."""
    folder = tmp_path_factory.mktemp("report")
    write_results(study, folder / "results.csv")
    marks = (f"{BEGIN.format(name)}\nearlier\n{END.format(name)}"
             for name in ("claims", "figures", "the paper's scales"))
    (folder / "page.md").write_text("\n\n".join(("# Page", *marks, "more\n")))
    write_report(settings, CLAIMS, slides, FOLDS, folder, "hed", str(folder / "page.md"))
    return folder


def line_of(text: str, *leading: str) -> list[str]:
    """Return the cells of the only line of a table that begins with these."""
    (line,) = [line for line in text.splitlines() if line.startswith("| " + " | ".join(leading) + " |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_page_gets_the_answers_and_keeps_the_rest(written):
    page = (written / "page.md").read_text()
    assert page.startswith("# Page\n")
    assert page.endswith(END.format("the paper's scales") + "\n\nmore\n")
    assert line_of(page, "SRGAN_SQE, 50%")[3] == "0.0050"
    assert "SRGAN_QE, 50%" not in page
    assert all(f"](figures/{name}.png)" in page for name in ("methods", "stability", "claims"))
    assert "earlier" not in page
    better, smaller = line_of(page, "50%: SRGAN_SQE beats SRGAN")[1:]
    assert re.fullmatch(r"\*\*held\*\* \+0\.0(19|20)\d", better)
    assert re.fullmatch(r"\*\*held\*\* \+0\.00(39|40)\d", smaller)
    assert line_of(page, "30%: q = 0.5 beats q = 2")[1:] == ["not run", "not run"]
    assert max(map(len, page.splitlines())) < 100


def test_long_table_has_interval_p_effect_and_folds(written):
    text = (written / "tables.md").read_text()
    cells = line_of(text, "50%: SRGAN_SQE beats SRGAN", "MS-SSIM")
    assert cells[2:4] == ["+0.0020", "held"]
    mean, low, high = (float(value) for value in re.findall(r"[+-][\d.]+", cells[4]))
    assert low < mean < high
    assert mean == pytest.approx(0.02, abs=0.001)
    p, corrected = (float(value) for value in cells[5].split(", "))
    assert corrected == pytest.approx(4 * p, rel=0.1)  # of a family of four, the smallest
    assert float(cells[6]) > 10
    assert cells[7] == "5 of 5"


def test_means_are_over_slides_and_not_run_where_nothing_was_scored(study, settings, slides):
    table = means_table(settings, study, slides, "hed")
    cells = line_of(table, "SRGAN, VGG16 fine-tuned for edges (HED), 50%")
    expected = np.mean([row["ms_ssim"] for row in study if row["setting"] == "srgan-q2-0.5-mixed-hr"])
    assert cells[1] == "27 of 27"
    assert float(cells[2].split()[0]) == pytest.approx(expected, abs=0.0006)
    assert line_of(table, "bicubic")[1] == "27 of 27"
    assert line_of(table, "bicubic, scanned LR")[2] == "not run"


def test_discriminator_and_the_papers_scales_are_shown(written, study, settings):
    text = (written / "tables.md").read_text()
    assert line_of(text, "SRGAN_SQE, 0%", "0.800", "0.200", "0.900")
    _, _, rrmse, squared, _, unit = line_of(paper_table(settings, study, "hed"), "SRGAN_SQE, 0%")
    assert (squared, unit) == ("0.0050", "0.9900")
    assert float(rrmse) == pytest.approx(0.2 * (1.2 - 0.93), abs=0.001)  # a third of the slides is at 0.95


def test_study_without_rows_says_not_run(tmp_path, settings, slides):
    write_report(settings, CLAIMS, slides, FOLDS, tmp_path, "hed")
    text = (tmp_path / "tables.md").read_text()
    assert "0 of 40 cells have been run" in text
    assert text.count("not run") >= 2 * 2
    assert not (tmp_path / "figures").exists()


def test_unfinished_study_counts_its_slides_and_answers_nothing_of_them(tmp_path, study, settings, slides):
    write_results([row for row in study if row["fold"] != 3], tmp_path / "results.csv")
    write_report(settings, CLAIMS, slides, FOLDS, tmp_path, "hed")
    text = (tmp_path / "tables.md").read_text()
    assert line_of(text, "50%: SRGAN_SQE beats SRGAN", "MS-SSIM")[3] == "not run"
    assert set(line_of(text, "SRGAN_SQE, 0%", "22 of 27")[2:]) == {"not run"}
    assert "32 of 40 cells have been run" in text
    write_results(study, tmp_path / "results.csv")
    write_report(settings[:1], Claims(0.05, {"ms_ssim": 0.002}, []), slides, FOLDS, tmp_path, "hed")
    assert "5 of 5 cells have been run" in (tmp_path / "tables.md").read_text()  # others are not of this grid


@pytest.mark.parametrize("text", ["# Page\n", f"{END.format('figures')}\n{BEGIN.format('figures')}\nmore\n"])
def test_page_without_the_two_lines_in_their_order_is_refused(text, tmp_path, settings, slides):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match="`page` must have the lines"):
        write_report(settings, CLAIMS, slides, FOLDS, tmp_path, "hed", str(tmp_path / "page.md"))
    assert (tmp_path / "page.md").read_text() == text
