"""What is usual for a model is the range of its slides' medians, each patch compared by what fits it."""
from __future__ import annotations

import numpy as np
import pytest

from pipelines.pixels import to_float
from sr_keras.model.facts import ModelFacts
from sr_keras.slides.usual import PATCHES, departures, usual_departure


class Repeating:
    """A generator that repeats pixels, and is off by some grey levels where the first pixel is odd."""

    scale, facts = 4, ModelFacts()

    def __init__(self, error: int) -> None:
        self.error, self.calls = error, 0

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        self.calls += 1
        sr = np.repeat(np.repeat(lr, 4, 1), 4, 2)
        return sr + np.uint8(self.error * (lr[0, 0, 0, 0] % 2))


def batch(lr: np.ndarray, *slide_ids: str) -> dict:
    return {"slide_id": np.array([slide_id.encode() for slide_id in slide_ids]), "lr": to_float(lr)}


def test_range_is_that_of_the_medians_of_slides(histology):
    even, odd = (histology[:32, :32] // 2 for _ in range(2))
    even[0, 0, 0], odd[0, 0, 0] = 10, 11
    batches = [batch(np.stack([even, odd]), "a", "b"), batch(np.stack([odd, odd]), "b", "b")]
    assert departures(Repeating(12), batches) == {"a": pytest.approx(0, abs=1e-3), "b": pytest.approx(12, abs=0.5)}
    low, high = usual_departure(Repeating(12), batches)
    assert (low, high) == (pytest.approx(0, abs=1e-3), pytest.approx(12, abs=0.5))
    assert usual_departure(Repeating(12), []) is None


def test_no_more_patches_of_a_slide_are_computed_than_are_needed(histology):
    generator = Repeating(0)
    departures(generator, [batch(np.stack([histology[:32, :32]] * 10), *"a" * 10)] * 2)
    assert generator.calls == PATCHES
