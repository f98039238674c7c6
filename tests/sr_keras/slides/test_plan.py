# SPDX-License-Identifier: Apache-2.0
"""Windows: whole tiles of the pyramid, of one shape, and by the memory that is asked for alone."""
from __future__ import annotations

from types import SimpleNamespace

import pytest

from sr_keras.model.engines import ENGINES
from sr_keras.model.facts import ModelFacts
from sr_keras.slides.plan import plan_windows, pyramid_tile, window_pixels


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
    overheads = [plan_windows((20000, 30000), 4, 40, window_pixels(None, 4, memory)).overhead
                 for memory in (2, 4, 8, 16)]
    assert overheads == sorted(overheads, reverse=True)
    assert overheads[-1] < 0.25


@pytest.mark.parametrize("name", ENGINES)
def test_engine_that_runs_in_parts_computes_less_twice_in_as_much_memory(name):
    engine, whole = (SimpleNamespace(name=name, parts=parts, facts=ModelFacts(filters=48))
                     for parts in (object(), None))
    in_parts, at_once = (plan_windows((20000, 30000), 4, 33, window_pixels(one, 4)) for one in (engine, whole))
    assert in_parts.overhead < 0.6 * at_once.overhead
    assert max(y.side * x.side for y, x in in_parts) <= window_pixels(engine, 4)


def test_fewer_filters_mean_larger_windows():
    few, many = (SimpleNamespace(name="tensorflow", parts=object(), facts=ModelFacts(filters=filters))
                 for filters in (32, 64))
    less, more = (plan_windows((20000, 30000), 4, 24, window_pixels(one, 4)).overhead for one in (few, many))
    assert less < more
