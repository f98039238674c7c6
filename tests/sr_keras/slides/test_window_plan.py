# SPDX-License-Identifier: Apache-2.0
"""Windows: whole tiles of the pyramid, of one shape, and by the memory that is asked for alone."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sr_keras import networks
from sr_keras.model.facts import ModelFacts
from sr_keras.model.streaming import stream_of
from sr_keras.slides.window_plan import kept_bytes, plan_windows, pyramid_tile, window_limits


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


def engine(halo: int, filters: int, tail_filters: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(stream=object(), halo=halo, facts=ModelFacts(filters=filters, tail_filters=tail_filters))


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


@pytest.mark.parametrize(("filters", "tail"), [(48, 16), (64, 4)])
@pytest.mark.parametrize("memory", [1.4, 2, 4])
def test_whole_network_takes_memory_by_the_filters_of_its_tail(filters, tail, memory):
    def pixels(trunk: int, tail: int) -> float:
        facts = ModelFacts(filters=trunk, tail_filters=tail)
        return window_limits(SimpleNamespace(facts=facts), 4, memory).pixels

    assert pixels(filters, tail) == pixels(tail, tail) > 1.15 * pixels(filters, filters)


@pytest.mark.parametrize("memory", [1.4, 2, 4])
def test_narrow_tail_gives_bands_larger_and_wider_windows_than_the_full_network_and_smaller_than_a_narrow_one(memory):
    full, narrow, thin = (window_limits(engine(32, *sizes), 4, memory) for sizes in ((48, 48), (48, 16), (16, 16)))
    assert full.pixels < narrow.pixels == thin.pixels
    assert full.columns <= narrow.columns <= thin.columns
    assert window_limits(engine(32, 48), 4, memory) == full


@pytest.mark.parametrize(("scale", "blocks", "filters", "tail"), [
    (4, 12, 12, 12), (4, 12, 12, 4), (4, 16, 8, 1), (4, 1, 6, 6), (4, 6, 8, 8), (2, 12, 8, 8), (2, 8, 8, 2),
    (8, 12, 8, 4)])
def test_kept_rows_are_counted_as_a_band_keeps_them(scale, blocks, filters, tail):
    network = networks.generator(scale, blocks, filters, tail_filters=tail)
    halo, width = networks.receptive_field(network), 9
    _, *kept = stream_of(network).band(True, False)(np.zeros((1, 2 * halo, width, 3), np.uint8))
    expected = kept_bytes(filters, tail, scale, halo)
    assert sum(rows.nbytes for rows in kept) / width == pytest.approx(expected, rel=0.05)
