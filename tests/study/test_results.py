# SPDX-License-Identifier: Apache-2.0
"""results.csv survives writing and reading; rows of other folds and damaged ones are refused; labels name the VGG."""
from __future__ import annotations

import pytest

from study.grid import Setting
from study.results import COLUMNS, by_slide, finished, label, read_results, write_results

FOLDS = "f" * 12


def test_rows_survive_the_file_and_numbers_are_numbers(study, tmp_path):
    write_results(study, tmp_path / "results.csv")
    found = read_results(tmp_path / "results.csv", FOLDS)
    assert len(found) == len(study)
    assert tuple(found[0]) == COLUMNS
    ours = {(row["cell"], row["slide"]): row for row in study}
    for row in found:
        one = ours[row["cell"], row["slide"]]
        assert row["ms_ssim"] == pytest.approx(one["ms_ssim"], rel=1e-5)
        assert (row["fold"], row["q"], row["fraction"]) == (one["fold"], one["q"], one["fraction"])


def test_order_of_rows_does_not_change_the_file(study, tmp_path):
    write_results(study, tmp_path / "a.csv")
    write_results(study[::-1], tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_no_file_is_no_rows(tmp_path):
    assert read_results(tmp_path / "results.csv", FOLDS) == []


def test_results_of_another_fold_file_are_refused(study, tmp_path):
    write_results(study, tmp_path / "results.csv")
    with pytest.raises(ValueError, match=r"`folds` must be the file that the results were made with.*ffffffffffff"):
        read_results(tmp_path / "results.csv", "0" * 12)


@pytest.mark.parametrize("damage", [lambda row: row[:row.index(",")], lambda row: row.replace(",8,", ",good,"),
                                    lambda row: row.replace(",0.99,", ",nan,")])
def test_damaged_row_is_named_by_its_line(study, tmp_path, damage):
    write_results(study, tmp_path / "results.csv")
    head, first, *more = (tmp_path / "results.csv").read_text().splitlines()
    (tmp_path / "results.csv").write_text("\n".join([head, damage(first), *more]))
    with pytest.raises(ValueError, match=r"results\.csv` must be a CSV table .*line 2"):
        read_results(tmp_path / "results.csv", FOLDS)


def test_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "results.csv").write_text("cell,method,q,balance\n")
    with pytest.raises(ValueError, match="`output` must contain the results of a study"):
        read_results(tmp_path / "results.csv", FOLDS)


def test_setting_is_finished_when_every_slide_has_a_score(study, settings, slides):
    name = settings[0].name
    assert finished(study, name, slides)
    assert len(by_slide(study, name, "qilv")) == 27
    less = [row for row in study if (row["setting"], row["slide"]) != (name, "slide03")]
    assert not finished(less, name, slides)
    assert "slide03" not in by_slide(less, name, "qilv")


def test_label_names_the_vgg_that_stands_for_imagenets():
    one = Setting("srgan", 2.0, 0.3)
    assert label(one, "hed") == "SRGAN, VGG16 fine-tuned for edges (HED), 30%"
    assert label(one, "my/vgg.h5") == "SRGAN, VGG of vgg.h5, 30%"
    without = Setting("srgan_sqe", 0.5, 0.3, "blur", variant="lambda_d=0")
    assert label(without, "hed") == "SRGAN_SQE, lambda_d=0, 30% blur"
    assert label(Setting("fidelity", 1.0), "hed") == "L_F alone, q = 1, 0%"
