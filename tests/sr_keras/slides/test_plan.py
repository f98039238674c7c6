# SPDX-License-Identifier: Apache-2.0
"""Windows: whole tiles of the pyramid, of one shape, and by the memory that is asked for alone."""
from __future__ import annotations

from types import SimpleNamespace

import pytest

from sr_keras.model.facts import ModelFacts
from sr_keras.slides.plan import plan_windows, pyramid_tile, window_limits


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_cores_are_whole_tiles_of_the_pyramid_and_windows_have_one_shape(scale):
    windows = plan_windows((3001, 5003), scale, halo=20)
    tile = pyramid_tile(scale)
    assert tile % 16 == 0
    assert tile % scale == 0
    for axis in (windows.rows, windows.columns):
        assert all(scale * span.core_start % tile == 0 for span in axis)
        assert len({span.side for span in axis}) == 1
    assert windows.overhead == pytest.approx(sum(y.side * x.side for y, x in windows) / (3001 * 5003) - 1)


def test_more_memory_means_less_computed_twice_and_free_memory_means_nothing():
    overheads = [plan_windows((20000, 30000), 4, 40, window_limits(None, 4, memory)).overhead
                 for memory in (2, 4, 8, 16)]
    assert overheads == sorted(overheads, reverse=True)
    assert overheads[-1] < 0.25


def engine(halo: int, filters: int) -> SimpleNamespace:
    return SimpleNamespace(stream=object(), halo=halo, facts=ModelFacts(filters=filters))


@pytest.mark.parametrize(("halo", "filters"), [(20, 16), (32, 48), (40, 64)])
@pytest.mark.parametrize("shape", [(15000, 15000), (20000, 30000), (5000, 1400), (3000, 60000)])
def test_engine_that_runs_in_bands_computes_less_than_a_tenth_twice_in_the_default_memory(shape, halo, filters):
    pixels, widest, _ = limits = window_limits(engine(halo, filters), 4)
    windows = plan_windows(shape, 4, halo, limits)
    assert windows.overhead < 0.1
    assert max(y.side * x.side for y, x in windows) <= pixels
    assert max(x.side for x in windows.columns) <= widest


def test_engine_that_runs_at_once_computes_more_twice():
    assert plan_windows((20000, 30000), 4, 32, window_limits(None, 4)).overhead > 0.3


def test_fewer_filters_mean_larger_windows():
    less, more = (plan_windows((20000, 30000), 4, 24, window_limits(engine(24, filters), 4)).overhead
                  for filters in (32, 64))
    assert less < more
