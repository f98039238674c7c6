# SPDX-License-Identifier: Apache-2.0
"""A server that is UNAVAILABLE is asked again after longer and longer waits, a limited number of times."""
from __future__ import annotations

import pytest

from sr_keras.client.connection import retried
from sr_keras.client.protocol import Failure


def failing(times: int, code: str = "UNAVAILABLE"):
    def call() -> str:
        call.count += 1
        if call.count <= times:
            raise Failure(code, f"attempt {call.count}")
        return "fine"

    call.count = 0
    return call


def test_waiting_doubles_and_is_shortened_at_random_by_up_to_half():
    longest, shortest = [], []
    for slept, draw in ((longest, max), (shortest, min)):
        assert retried(failing(7), 7, slept.append, draw) == "fine"
    assert longest == [0.5, 1, 2, 4, 8, 10, 10]
    assert shortest == [second / 2 for second in longest]


def test_waiting_differs_from_client_to_client():
    waits = []
    for _ in range(20):
        retried(failing(1), 1, waits.append)
    assert len(set(waits)) > 10
    assert 0.25 <= min(waits) < max(waits) <= 0.5


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_last_failure_is_raised(retries):
    call, slept = failing(99), []
    with pytest.raises(Failure, match=f"attempt {retries + 1}"):
        retried(call, retries, slept.append)
    assert (call.count, len(slept)) == (retries + 1, retries)


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED", "DROPPED", "BAD_ANSWER"])
def test_nothing_else_is_tried_again(code):
    call, slept = failing(1, code), []
    with pytest.raises(Failure, match=code):
        retried(call, 5, slept.append)
    assert (call.count, slept) == (1, [])
