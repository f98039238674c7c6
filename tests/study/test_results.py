"""The table: what is written is read again, and means are the means."""
from __future__ import annotations

import pytest

from study.results import COLUMNS, read_results, select, slide_means, write_results

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
    with pytest.raises(ValueError, match=r"`output` must contain a complete table; .* line 2 of .*results.csv"):
        read_results(tmp_path / "results.csv")


def test_select_takes_a_value_or_any_of_several():
    assert select(ROWS, method="bicubic") == [ROWS[1]]
    assert select(ROWS, method=("bicubic", "srgan_sqe"), variant="") == ROWS


def test_slide_means_are_by_slide_and_method_and_leave_out_the_infinite():
    scores = [{"slide_id": slide, "method": method, "psnr": psnr, "ssim": "0.5"} for slide, method, psnr in [
        ("a", "sr", "20"), ("a", "sr", "30"), ("a", "sr", "inf"), ("a", "bicubic", "1"), ("b", "sr", "7")]]
    means = slide_means(scores, "sr")
    assert means["a"] == {"patches": 3, "psnr": 25.0, "ssim": 0.5}
    assert means["b"]["psnr"] == pytest.approx(7)
