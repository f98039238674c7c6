"""What both transports call things on the wire, and how they stand behind one interface."""
from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from sr_keras.client.answers import Due
from sr_keras.client.options import BYTES, TENSOR

# Of the SavedModels that `sr_keras.export` writes; see there.
SIGNATURES = {TENSOR: "serving_default", BYTES: "encoded"}
OUTPUTS = {TENSOR: "sr", BYTES: "sr_bytes"}
# Asked with the side of a picture, answered with what becomes of it.
ABOUT, SIDE, SR_SIDE, HALO, MAX_PIXELS = "about", "side", "sr_side", "halo", "max_pixels"
SLACK = 2**16


class Transport(Protocol):
    """A way to one model of a server; threads may share it."""

    def predict(self, lr: np.ndarray, due: Due, version: int | None) -> np.ndarray:
        """Super-resolve uint8 [1, h, w, 3] -> uint8 [1, scale*h, scale*w, 3], or raise `Failure`."""

    def about(self, version: int | None) -> dict[str, Any]:
        """Return what the model says of a picture of side 1, by name and not checked, or raise `Failure`."""

    def states(self, version: int | None) -> dict[int, str]:
        """Return the state of each version of the model that the server knows, or of one, or raise `Failure`."""

    def close(self) -> None:
        """Let go of it; what waits for an answer fails."""


def most_bytes(values: int) -> int:
    """Return how long an answer of so many uint8 values may be: as they are, as PNG, as base64 of it, as varints."""
    return 2 * values + SLACK
