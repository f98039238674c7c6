# SPDX-License-Identifier: Apache-2.0
"""Tiles are computed while they are looked at, newest view first, and memory is bounded."""
from __future__ import annotations

from threading import Event

import numpy as np
import pytest

from sr_keras.view.tile_queue import Tiles

WAIT = 300  # seconds, on a busy machine


def array(value: int = 0, size: int = 100) -> np.ndarray:
    return np.full(size, value, np.uint8)


@pytest.fixture
def busy(tiles):
    """Tiles whose thread is at work until the event is set."""
    begun, go_on = Event(), Event()

    def compute():
        begun.set()
        assert go_on.wait(WAIT)
        return array()

    tiles.look("another", {"busy": compute}, lambda error: None)
    assert begun.wait(WAIT)
    yield tiles, go_on
    go_on.set()


def test_what_is_no_longer_looked_at_is_not_computed(busy):
    tiles, go_on = busy
    computed, done = [], Event()
    tiles.look("me", {name: lambda name=name: computed.append(name) for name in ("old 1", "old 2")}, lambda error: None)
    tiles.look("me", {"new": lambda: computed.append("new")}, lambda error: done.set())
    assert tiles.waiting("me") == 1
    go_on.set()
    assert done.wait(WAIT)
    assert computed == ["new"]


def test_viewer_that_moved_last_comes_first(busy):
    tiles, go_on = busy
    computed, done = [], Event()
    for viewer in ("first", "second"):
        tiles.look(viewer, {viewer: lambda viewer=viewer: computed.append(viewer)},
                   lambda error: len(computed) == 2 and done.set())
    go_on.set()
    assert done.wait(WAIT)
    assert computed == ["second", "first"]


def test_viewer_that_left_is_not_told_and_its_files_close_after_its_tile(busy):
    tiles, go_on = busy
    told, closed = [], Event()
    tiles.look("me", {"mine": lambda: array()}, told.append)
    tiles.forget("me", closed.set)
    assert not closed.wait(0.1)  # the thread is still at work
    go_on.set()
    assert closed.wait(WAIT)
    assert (told, tiles.get("mine")) == ([], None)


def test_memory_is_bounded_and_what_was_used_last_stays():
    tiles = Tiles(350)
    done = Event()
    tiles.look("me", {number: lambda number=number: array(number) for number in range(3)},
               lambda error: tiles.waiting("me") or done.set())
    assert done.wait(WAIT)
    tiles.get(0)
    done.clear()
    tiles.look("me", {3: lambda: array(3)}, lambda error: done.set())
    assert done.wait(WAIT)
    assert [tiles.get(number) is not None for number in range(4)] == [True, False, True, True]
    assert tiles.bytes == 300
    tiles.close()


def test_what_is_kept_is_not_computed_again(tiles):
    done = Event()
    tiles.look("me", {1: lambda: array(1)}, lambda error: done.set())
    assert done.wait(WAIT)
    tiles.look("you", {1: lambda: array(2)}, lambda error: None)
    assert (tiles.waiting("you"), tiles.get(1)[0], tiles.computed) == (0, 1, 1)


def test_failed_tile_is_told_and_the_next_is_computed(tiles):
    told, done = [], Event()

    def fail():
        raise ValueError("white")

    def tell(error):
        told.append(error and str(error))
        if len(told) == 2:
            done.set()

    tiles.look("me", {1: fail, 2: lambda: array(2)}, tell)
    assert done.wait(WAIT)
    assert told == ["white", None]
    assert tiles.get(2)[0] == 2


def test_viewer_that_cannot_be_told_is_forgotten_and_the_others_go_on(busy):
    tiles, go_on = busy
    computed, done = [], Event()

    def tell(error):
        raise AttributeError("the document is gone")

    tiles.look("other", {"other": lambda: array()}, lambda error: done.set())
    tiles.look("gone", {name: lambda name=name: computed.append(name) for name in "ab"}, tell)
    go_on.set()
    assert done.wait(WAIT)
    assert computed == ["a"]
    assert not tiles.waiting("gone")
