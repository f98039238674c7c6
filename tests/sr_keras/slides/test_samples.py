"""Windows that stand for a plane: inside of it, in tissue, spread, and the same every time."""
from __future__ import annotations

import pytest

from sr_keras.slides.samples import sample_windows


@pytest.mark.parametrize("shape", [(1, 1), (40, 300), (96, 96), (100, 97), (5000, 3000), (100000, 80000)])
def test_windows_lie_in_the_plane_and_differ(shape):
    windows = sample_windows(shape, 8, 96)
    assert 1 <= len(windows) <= 8
    assert len({(rows.start, columns.start) for rows, columns in windows}) == len(windows)
    for rows, columns in windows:
        assert rows.stop - rows.start == min(96, shape[0])
        assert columns.stop - columns.start == min(96, shape[1])
        assert 0 <= rows.start < rows.stop <= shape[0]
        assert 0 <= columns.start < columns.stop <= shape[1]
    assert sample_windows(shape, 8, 96) == windows


def test_windows_are_of_tissue_where_there_is_some():
    def in_a_corner(rows, columns):
        return rows.stop > 700 and columns.stop > 500

    windows = sample_windows((1000, 1000), 8, 96, in_a_corner)
    assert len(windows) == 8
    assert all(in_a_corner(*window) for window in windows)
    assert sample_windows((1000, 1000), 8, 96, lambda *_: False) == sample_windows((1000, 1000), 8, 96)


def test_windows_are_spread_over_the_plane():
    windows = sample_windows((10000, 10000), 8, 96)
    assert max(rows.start for rows, _ in windows) - min(rows.start for rows, _ in windows) > 6000
    assert max(columns.start for _, columns in windows) - min(columns.start for _, columns in windows) > 6000
