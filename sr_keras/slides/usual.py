"""How far a model's output departs from its input as a rule: on slides that it was validated on.

    usual = usual_departure(generator, batches)       # (2.1, 3.4), the least and the largest median of a slide

What a map of trust finds on another slide is read beside it.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipelines.config import Range
from pipelines.pixels import to_uint8
from sr_keras.model.loading import LoadedGenerator
from sr_keras.slides.departure import measure
from sr_keras.slides.fitting import fit_degradation

PATCHES = 12  # of a slide at most


def usual_departure(generator: LoadedGenerator, batches: Iterable[Mapping[str, Any]]) -> Range | None:
    """Return the least and the largest median departure of a slide; None where there is no patch.

    Args:
        generator: A trained one.
        batches: Dicts of slide_id [B] and lr [B, h, w, 3], float in [0, 1], as
            `pipelines.dataset.evaluation_dataset` gives them.
    """
    found = departures(generator, batches)
    return (min(found.values()), max(found.values())) if found else None


def departures(generator: LoadedGenerator, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the median departure of each slide, by the degradation that fits each of its patches."""
    squares: dict[str, list[np.ndarray]] = defaultdict(list)
    for batch in batches:
        for slide_id, lr in zip(batch["slide_id"], to_uint8(np.asarray(batch["lr"])), strict=True):
            found = squares[slide_id.decode() if isinstance(slide_id, bytes) else str(slide_id)]
            if len(found) < PATCHES:
                sr = generator(lr[np.newaxis])[0]
                fitted = fit_degradation([(lr, sr)], generator.scale)
                found.append(measure(lr, sr, fitted).departure.ravel())
    return {slide_id: float(np.median(np.concatenate(found))) for slide_id, found in squares.items()}
