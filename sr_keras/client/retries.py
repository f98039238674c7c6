"""Try again what may work the next time, and nothing else."""
from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from sr_keras.client.errors import UNAVAILABLE, Failure

FIRST_S = 0.5
LONGEST_S = 10.0
Answer = TypeVar("Answer")


def retried(call: Callable[[], Answer], retries: int, sleep: Callable[[float], object],
            uniform: Callable[[float, float], float] = random.uniform) -> Answer:
    """Return `call()`, tried again while the server is UNAVAILABLE.

    Nothing else is tried again: a request that was wrong stays wrong, and one that took too long would only add to what
    the server is behind with. Waiting doubles from FIRST_S to LONGEST_S, and is shortened at random by up to half:
    clients that failed together do not come back together.

    Args:
        call: Raises `Failure`.
        retries: How often to try again, at most.
        sleep: Waits for so many seconds.
        uniform: Draws between two numbers.

    Raises:
        Failure: The last one.
    """
    for retry in range(retries):
        try:
            return call()
        except Failure as failure:
            if failure.code != UNAVAILABLE:
                raise
        sleep(min(LONGEST_S, FIRST_S * 2**retry) * uniform(0.5, 1.0))
    return call()
