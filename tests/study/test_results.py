# SPDX-License-Identifier: Apache-2.0
"""results.csv survives writing and reading; means are correct; curves contain the right rows."""
from __future__ import annotations

import pytest

from study.results import (
    COLUMNS,
    Curve,
    along_q,
    on_same_patches,
    read_results,
    select,
    series,
    slide_means,
    write_results,
)

ROWS = [
    {"cell": "b", "method": "srgan_sqe", "q": 0.5, "balance": "paper", "fraction": 0.3, "kind": "mixed", "side": "hr",
     "seed": 1, "variant": "", "vgg_weights": None, "slide": "s2", "magnification": "40x", "patches": 3, "psnr": 25.5,
     "ssim": 0.7, "ms_ssim": 0.9, "qilv": 0.8, "rrmse": 0.05, "lr_consistency": 0.01, "seconds": 100.0,
     "commit": "abc", "flags": "--q=0.5 --corrupt_kinds=noise,blur"},
    {"cell": "bicubic", "method": "bicubic", "variant": "", "slide": "s1", "magnification": "20x", "psnr": 24.0},
]


def test_rows_survive_the_file_and_numbers_are_numbers(tmp_path):
    write_results(ROWS, tmp_path / "results.csv")
    first, bicubic = read_results(tmp_path / "results.csv")
    assert first == ROWS[0]
    assert bicubic["q"] is None
    assert bicubic["seed"] is None
    assert bicubic["psnr"] == 24.0
    assert tuple(first) == COLUMNS


def test_order_of_rows_does_not_change_the_file(tmp_path):
    write_results(ROWS, tmp_path / "a.csv")
    write_results(ROWS[::-1], tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_no_file_is_no_rows(tmp_path):
    assert read_results(tmp_path / "results.csv") == []


@pytest.mark.parametrize("damage", [lambda row: row[:row.index(",")], lambda row: row.replace("25.5", "good")])
def test_damaged_row_is_named_by_its_line(tmp_path, damage):
    write_results(ROWS, tmp_path / "results.csv")
    head, first, *more = (tmp_path / "results.csv").read_text().splitlines()
    (tmp_path / "results.csv").write_text("\n".join([head, damage(first), *more]))
    with pytest.raises(ValueError, match=r"results\.csv` must be a CSV table .*line 2"):
        read_results(tmp_path / "results.csv")


def test_select_takes_a_value_or_any_of_several():
    assert select(ROWS, method="bicubic") == [ROWS[1]]
    assert select(ROWS, method=("bicubic", "srgan_sqe"), variant="") == ROWS


def scores_of(*pairs):
    """Rows of scores.csv: a slide, and the PSNR of bicubic and of SR."""
    return [{"example_id": str(i), "slide_id": slide, "method": method, "psnr": psnr, "ssim": "0.5"}
            for i, (slide, *both) in enumerate(pairs) for method, psnr in zip(("bicubic", "sr"), both, strict=True)]


def test_slide_means_leave_out_a_patch_of_both_methods_where_one_is_infinite():
    scores = scores_of(("a", "1", "20"), ("a", "3", "30"), ("a", "9", "inf"), ("a", "inf", "8"), ("b", "inf", "7"))
    assert slide_means(scores, "sr")["a"] == {"patches": 4, "psnr": 25.0, "ssim": 0.5}
    assert slide_means(scores, "bicubic")["a"]["psnr"] == 2
    assert slide_means(scores, "sr")["b"] == {"patches": 1, "psnr": None, "ssim": 0.5}


def test_a_mean_over_other_patches_than_those_of_bicubic_is_left_out():
    def rows(method, *pairs):
        return [{"slide": slide, **means} for slide, means in slide_means(scores_of(*pairs), method).items()]

    first, same = (("a", "20", "22"), ("a", "inf", "30")), (("a", "20", "23"), ("a", "inf", "inf"))
    more = (("a", "20", "inf"), ("a", "inf", "30"))
    assert on_same_patches(rows("sr", *same), rows("bicubic", *same), rows("bicubic", *first)) == [
        {"slide": "a", "patches": 2, "psnr": 23, "ssim": 0.5}]
    assert on_same_patches(rows("sr", *more), rows("bicubic", *more), rows("bicubic", *first)) == [
        {"slide": "a", "patches": 2, "psnr": None, "ssim": 0.5}]


def test_paper_and_equal_balance_are_one_at_the_papers_q(study):
    rows = select(study, variant="")
    assert not select(rows, balance="equal", q=0.5)
    assert [curve.q for curve in series(rows, "srgan_sqe", "equal")] == [0.25, 0.5, 1.0, 2.0]
    assert series(select(rows, balance="paper"), "srgan_sqe", "equal") == []


def test_what_stands_for_an_equal_balance_has_the_seeds_of_the_others(study):
    one_seed = [row for row in study if row["balance"] != "equal" or row["seed"] == 0]
    found = along_q(select(one_seed, variant=""), "srgan_sqe", "equal", 0.3, ("mixed", "hr"))
    assert {curve.q for curve in found} == {0.25, 0.5, 1.0, 2.0}
    assert {row["seed"] for mine in found.values() for row in mine} == {0}
    assert {row["seed"] for row in along_q(select(one_seed, variant=""), "srgan_sqe", "paper", 0.3, ("mixed", "hr"))[
        Curve("srgan_sqe", 0.5, "paper")]} == {0, 1}
