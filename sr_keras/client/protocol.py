# SPDX-License-Identifier: Apache-2.0
"""What client and server exchange: names, errors, and checks of answers.

A transport raises `Failure`; the client turns it into a `ServerError`, which names the server, the model and a remedy.

A server is not trusted: it may run another model, another version, or be broken. Nothing is decoded or copied before
its size is known to be right, since a small PNG can hold a picture that fills memory. Of a server's text only a short
printable part is shown.
"""
from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from pipelines.errors import UserError
from sr_keras.client.options import BYTES, MAX_HALO, MAX_SCALE, TENSOR

# Of the SavedModels that `sr_keras.export` writes; see `sr_keras.formats.signatures`.
SIGNATURES = {TENSOR: "serving_default", BYTES: "encoded"}
OUTPUTS = {TENSOR: "sr", BYTES: "sr_bytes"}
ABOUT, SIDE, SR_SIDE, HALO, MAX_PIXELS = "about", "side", "sr_side", "halo", "max_pixels"
SLACK = 2**16

UNAVAILABLE = "UNAVAILABLE"
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
CANCELLED = "CANCELLED"
# Our own codes: gRPC has none for these, or calls them UNAVAILABLE, which would be retried in vain.
BAD_ANSWER = "BAD_ANSWER"
DROPPED = "DROPPED"
NOT_TRUSTED = "NOT_TRUSTED"

MEANINGS = {
    UNAVAILABLE: ("is not running, or not ready", "start it, or check `server`"),
    DEADLINE_EXCEEDED: ("did not answer in time", "raise `timeout_s`, or make `tile` smaller"),
    CANCELLED: ("was given up", "the client was closed"),
    "NOT_FOUND": ("does not have this model", "check `model_name` and `model_version`"),
    "INVALID_ARGUMENT": ("refuses the request", "check that the model is a generator, and has what `encoding` needs"),
    "FAILED_PRECONDITION": ("is not set up for this request", "if it batches, use the same `tile` as all its clients"),
    "UNAUTHENTICATED": ("does not know this caller", "check the authorisation header"),
    "PERMISSION_DENIED": ("does not admit this caller", "check the authorisation header"),
    "RESOURCE_EXHAUSTED": ("has no memory for the request", "make `tile` or `in_flight` smaller"),
    DROPPED: ("dropped the connection", "try again, or see its log"),
    NOT_TRUSTED: ("can't be trusted", "give the certificate of its authority as `ca_cert`, or check `server`"),
    BAD_ANSWER: ("did not answer with super-resolved pixels", "check `model_name`, and `scale` if given"),
}
LONGEST_REASON = 200
SHORTEST_SECRET = 8
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PNG_HEADER = struct.Struct(">IIBB")  # width, height, bit depth, colour type, right behind PNG_START
EIGHT_BIT_RGB = (8, 2)


class Failure(Exception):
    """A request failed: `code` says how, `reason` is the text of the transport or the server."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class ServerError(UserError):
    """A request to a server failed; `code` is gRPC's, or BAD_ANSWER, DROPPED or NOT_TRUSTED."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def server_error(server: str, model: str, failure: Failure, secret: str | None = None) -> ServerError:
    """Return a failure as the error that a user reads; `secret`, the authorisation header, is hidden in it."""
    rule, remedy = MEANINGS.get(failure.code, ("failed", "see its log"))
    return ServerError(failure.code, f"{server}: {rule} ({failure.code}, {model}); {remedy}. "
                                     f"Received: {without(secret, shown(failure.reason))}")


def shown(text: str) -> str:
    """Return text of a server as one short line of printable characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"{line[:LONGEST_REASON]} ..." if len(line) > LONGEST_REASON else line or "nothing"


def without(secret: str | None, text: str) -> str:
    """Return `text` with the authorisation header, and its longer words, hidden."""
    for word in [secret, *secret.split()] if secret else []:
        if word and len(word) >= SHORTEST_SECRET:
            text = text.replace(word, "(hidden)")
    return text


@dataclass(frozen=True)
class Expected:
    """The expected answer to one LR picture of `height` x `width`; a `scale` of None allows any up to MAX_SCALE."""

    height: int
    width: int
    scale: int | None

    @property
    def most_values(self) -> int:
        """Largest number of uint8 values in the answer."""
        return 3 * self.height * self.width * (self.scale or MAX_SCALE) ** 2

    def check(self, shape: tuple[int, ...]) -> None:
        """Check that the shape of an answer is [1, scale*height, scale*width, 3].

        Raises:
            Failure: It is not.
        """
        scales = [self.scale] if self.scale else range(1, MAX_SCALE + 1)
        if not any(shape == (1, scale * self.height, scale * self.width, 3) for scale in scales):
            expected = f"[1, {scales[0] * self.height}, {scales[0] * self.width}, 3]"
            expected += f", or 2 to {MAX_SCALE} times its sides," if self.scale is None else ""
            raise Failure(BAD_ANSWER, f"sr of shape {list(shape)} where {expected} is expected")


@dataclass(frozen=True)
class About:
    """What a model says about itself; `max_pixels` is None if that is not known."""

    scale: int
    halo: int
    max_pixels: int | None = None


class Transport(Protocol):
    """A connection to one model of a server; threads may share it."""

    def predict(self, lr: np.ndarray, expected: Expected, version: int | None) -> np.ndarray:
        """Super-resolve uint8 [1, h, w, 3] -> uint8 [1, scale*h, scale*w, 3], or raise `Failure`."""

    def about(self, version: int | None) -> dict[str, Any]:
        """Return the answer of `about` for a picture of side 1, by name and not checked, or raise `Failure`."""

    def states(self, version: int | None) -> dict[int, str]:
        """Return the state of each version of the model that the server knows, or of one, or raise `Failure`."""

    def close(self) -> None:
        """Close the connection; pending requests fail."""


def most_bytes(values: int) -> int:
    """Return the largest size of an answer of so many uint8 values: raw, as PNG, as base64 of it, as varints."""
    return 2 * values + SLACK


def from_about(sr_side: Any, halo: Any, max_pixels: Any) -> About:
    """Check the answer of the signature `about` for a picture of side 1.

    Raises:
        Failure: A value is out of range.
    """
    numbers = (sr_side, halo, max_pixels)
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers) \
            or not (1 <= sr_side <= MAX_SCALE and 0 <= halo <= MAX_HALO and max_pixels >= 1):
        raise Failure(BAD_ANSWER, f"scale, halo and max_pixels of {numbers} where 1 to {MAX_SCALE}, 0 to {MAX_HALO} "
                                  "and 1 or more are expected")
    return About(sr_side, halo, max_pixels)


def from_content(shape: tuple[int, ...], content: bytes, expected: Expected) -> np.ndarray:
    """Return uint8 values that came as bytes as [1, H, W, 3].

    Raises:
        Failure: They are not what is expected.
    """
    expected.check(shape)
    if len(content) != math.prod(shape):
        raise Failure(BAD_ANSWER, f"sr of {len(content)} bytes where {math.prod(shape)} are expected")
    return np.frombuffer(content, np.uint8).reshape(shape)


def from_numbers(numbers: Any, expected: Expected, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return uint8 values that came as numbers, nested or, with `shape`, flat, as [1, H, W, 3].

    Raises:
        Failure: They are not what is expected.
    """
    if shape is not None:
        expected.check(shape)
    try:
        values = np.asarray(numbers)
        values = values if shape is None else values.reshape(shape)
    except ValueError as error:
        raise Failure(BAD_ANSWER, "sr of numbers that fill no [1, H, W, 3]") from error
    expected.check(values.shape)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise Failure(BAD_ANSWER, f"sr of {values.dtype} where whole numbers from 0 to 255 are expected")
    return values.astype(np.uint8)


def to_png(lr: np.ndarray) -> bytes:
    """Return uint8 [H, W, 3] as a PNG of low compression, since tissue hardly becomes smaller by more."""
    file = io.BytesIO()
    Image.fromarray(lr).save(file, "PNG", compress_level=1)
    return file.getvalue()


def from_png(data: bytes, expected: Expected) -> np.ndarray:
    """Return the pixels of a PNG as [1, H, W, 3].

    Raises:
        Failure: It is no PNG of 8-bit RGB, of another size than expected, or damaged.
    """
    width, height = _png_size(data)
    expected.check((1, height, width, 3))
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            # A PNG may hold a second header, which PIL uses.
            expected.check((1, image.height, image.width, len(image.getbands())))
            return np.asarray(image)[np.newaxis]
    except Failure:
        raise
    except Exception as error:  # decoders raise all kinds of errors on damaged bytes
        raise Failure(BAD_ANSWER, f"a damaged PNG: {error}") from error


def _png_size(data: bytes) -> tuple[int, int]:
    if not data.startswith(PNG_START) or len(data) < len(PNG_START) + PNG_HEADER.size:
        raise Failure(BAD_ANSWER, f"{len(data)} bytes that are no PNG")
    width, height, *kind = PNG_HEADER.unpack_from(data, len(PNG_START))
    if tuple(kind) != EIGHT_BIT_RGB:
        raise Failure(BAD_ANSWER, f"a PNG of {kind[0]} bits and colour type {kind[1]} where 8-bit RGB is expected")
    return width, height
