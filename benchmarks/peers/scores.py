# SPDX-License-Identifier: Apache-2.0
"""Score what the methods made, by the project's own metrics: a row for each slide, kind of LR and method."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.methods import METHODS, SCALE, Method
from benchmarks.peers.patches import KINDS, read
from pipelines.config import DegradeOptions
from pipelines.errors import require
from pipelines.pixels import to_float
from sr_keras.evaluation.patches import score_images
from sr_keras.evaluation.tables import GAIN_METRICS, finite_mean

BATCH = 4  # bounds the memory


def score(work: Path, methods: Sequence[Method] = METHODS) -> Iterator[dict[str, Any]]:
    """Yield a row for each slide, kind of LR and method: means over the patches of the slide.

    Raises:
        FileNotFoundError: A method has not made its SR yet.
        ValueError: Its patches are not those of HR, or of another size.
    """
    for kind in KINDS:
        lr, hr = (read(work / plane / f"{kind}.npz") for plane in ("lr", "hr"))
        made = {method.name: read(work / "sr" / method.name / f"{kind}.npz") for method in methods}
        for name, sr in made.items():
            require(sr.keys() == hr.keys(), "sr", "have the patches of hr",
                    f"remove {work / 'sr' / name} and run again", f"{name}, {kind}")
        for slide in sorted({example.rpartition("/")[0] for example in hr}):
            examples = [example for example in hr if example.rpartition("/")[0] == slide]
            for name, sr in made.items():
                planes = [[images[example] for example in examples] for images in (hr, sr, lr)]
                yield {"slide": slide, "lr": kind, "method": name, "patches": len(examples), **_means(*planes)}


def _means(*planes: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean of every metric over patches; planes are hr, sr and lr, uint8."""
    found: dict[str, list[float]] = {name: [] for name in GAIN_METRICS}
    for start in range(0, len(planes[0]), BATCH):
        hr, sr, lr = (to_float(np.stack(plane[start:start + BATCH])) for plane in planes)
        for name, values in score_images(hr, sr, lr, DegradeOptions(SCALE), GAIN_METRICS).items():
            found[name] += values.tolist()
    return {name: finite_mean(values) for name, values in found.items()}
