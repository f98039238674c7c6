"""Windows: whole tiles of the pyramid, of one shape, and by the memory that is asked for alone."""
from __future__ import annotations

import pytest

from sr_keras.whole_slide.windows import plan, pyramid_tile


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_cores_are_whole_tiles_of_the_pyramid_and_windows_have_one_shape(scale):
    windows = plan((3001, 5003), scale, halo=20)
    tile = pyramid_tile(scale)
    assert tile % 16 == 0
    assert tile % scale == 0
    for axis in (windows.rows, windows.columns):
        assert all(scale * span.core_start % tile == 0 for span in axis)
        assert len({span.side for span in axis}) == 1
    assert windows.overhead == pytest.approx(sum(y.side * x.side for y, x in windows) / (3001 * 5003) - 1)


def test_more_memory_means_less_computed_twice_and_free_memory_means_nothing():
    overheads = [plan((20000, 30000), 4, 40, 64, memory=memory).overhead for memory in (2, 4, 8, 16)]
    assert overheads == sorted(overheads, reverse=True)
    assert overheads[-1] < 0.25
    assert plan((20000, 30000), 4, 24, 32).overhead < plan((20000, 30000), 4, 24, 64).overhead
