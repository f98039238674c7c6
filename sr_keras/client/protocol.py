# SPDX-License-Identifier: Apache-2.0
"""Where a server is, how to ask it, and what it may answer. All of it is checked.

A transport raises `Failure`; the client turns it into a `ServerError`, which names the server, the model and a remedy.

A server is not trusted: it may run another model, another version, or be broken. Nothing is decoded or copied before
its size is known to be right, since a small PNG can hold a picture that fills memory.
"""
from __future__ import annotations

import io
import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipelines.errors import UserError, require
from pipelines.options import POSITIVE, Options, Rule, option, within

TENSOR, BYTES = ENCODINGS = ("tensor", "bytes")
# Of the SavedModels that `sr_keras.export` writes; see `sr_keras.formats.signatures`.
SIGNATURES = {TENSOR: "serving_default", BYTES: "encoded"}
OUTPUTS = {TENSOR: "sr", BYTES: "sr_bytes"}
ABOUT, SIDE, SR_SIDE, HALO, MAX_PIXELS = "about", "side", "sr_side", "halo", "max_pixels"

HIDDEN = "(hidden)"
LONGEST_HEADER = 8192
MAX_SCALE, MAX_TILE, MAX_HALO = 8, 2048, 1023
MAX_TIMEOUT_S = 86_400  # a day
SLACK = 2**16
PNG_KIND, EIGHT_BIT_RGB = slice(24, 26), b"\x08\x02"  # bit depth and colour type in the header of a PNG
SCHEMES = {"grpc": 8500, "grpcs": 443, "http": 8501, "https": 443}  # with TensorFlow Serving's ports, or that of HTTPS

UNAVAILABLE = "UNAVAILABLE"
DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
CANCELLED = "CANCELLED"
# Our own codes: gRPC has none for these, or calls them UNAVAILABLE, which would be retried in vain.
BAD_ANSWER = "BAD_ANSWER"
DROPPED = "DROPPED"
NOT_TRUSTED = "NOT_TRUSTED"
LONGEST_REASON = 200
SHORTEST_SECRET = 8
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
    "UNIMPLEMENTED": ("has no such service", "check that it is a model server, and its port"),
    DROPPED: ("dropped the connection", "try again, or see its log"),
    NOT_TRUSTED: ("can't be trusted", "give the certificate of its authority as `ca_cert`, or check `server`"),
    BAD_ANSWER: ("did not answer with super-resolved pixels", "check `model_name`, and `scale` if given"),
}


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


def server_error(server: str, model: str, failure: Failure, secret: str) -> ServerError:
    """Return a failure as the error that a user reads.

    Of the server's text it has one short line of printable characters, without the secret and its longer words.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in failure.reason).split())
    line = f"{line[:LONGEST_REASON]} ..." if len(line) > LONGEST_REASON else line or "nothing"
    for word in (secret, *secret.split()):
        line = line.replace(word, HIDDEN) if len(word) >= SHORTEST_SECRET else line
    rule, remedy = MEANINGS.get(failure.code, ("failed", "see its log"))
    return ServerError(failure.code, f"{server}: {rule} ({failure.code}, {model}); {remedy}. Received: {line}")


@dataclass(frozen=True)
class ClientOptions(Options):
    """How to ask a server; the options are also flags of `sr-keras client`.

    A 1024x1024 answer is 3.1 MB as a tensor and 1.2 MB as PNG, but a server needs 0.05 s to write the PNG, so gRPC uses
    tensors. In JSON the tensor is 17 MB of text that takes a second to read, so REST uses PNG.

    Attributes:
        auth_header: Value of the Authorization header. It is not a flag, since `ps` would show it.
    """

    encoding: str | None = option(None, "How pixels are sent: raw (tensor) or as PNG (bytes)", "the faster one if left "
                                  "out: tensor by gRPC, bytes by REST", choices=ENCODINGS)
    scale: int | None = option(None, "SR side over LR side", "the server is asked if left out", within(1, MAX_SCALE))
    halo: int | None = option(None, "Overlap of tiles in LR pixels", "the server is asked if left out",
                              within(0, MAX_HALO))
    tile: int = option(256, "Side of a tile in LR pixels", "", within(1, MAX_TILE))
    in_flight: int = option(4, "Number of requests at a time", "", within(1, 64))
    timeout_s: float = option(60.0, "Seconds that each attempt may take, with its transfer", "", Rule(
        f"lie in (0, {MAX_TIMEOUT_S}], a day at most", lambda value: 0 < value <= MAX_TIMEOUT_S))
    retries: int = option(5, "Number of retries while the server is UNAVAILABLE", "they come after 0.5, 1, 2, 4, 8 s "
                          "and then every 10 s, each wait shortened at random by up to half", within(0, 20))
    ca_cert: str | Path | None = option(
        None, "PEM file of trusted certificates", "those of this system if left out")
    max_sr_pixels: int = option(2**28, "Largest number of output pixels", "", POSITIVE)
    auth_header: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        halo = self.halo or 0
        require(2 * halo < self.tile, "tile", f"be more than twice the halo of {halo}", "256 is the default", self.tile)


@dataclass(frozen=True)
class Address:
    """Where a server is; `text` is its name in errors."""

    text: str
    host: str
    port: int
    rest: bool
    tls: bool

    @property
    def local(self) -> bool:
        """Whether the server is on this machine."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False


def parse_address(server: str) -> Address:
    """Parse grpc://HOST:PORT or http://HOST:PORT, with an s for TLS.

    Raises:
        ValueError: It is not such an address.
    """
    hidden = re.sub(r"//.*@", f"//{HIDDEN}@", server)  # a password is not repeated
    try:
        parts = urlsplit(server)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    plain = not (parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/"))
    require(parts.scheme in SCHEMES and bool(host) and plain and port != 0, "server",
            f"be SCHEME://HOST:PORT with one of {', '.join(SCHEMES)}",
            "TensorFlow Serving listens at grpc://HOST:8500 and http://HOST:8501", hidden)
    return Address(server.rstrip("/"), str(host), port or SCHEMES[parts.scheme], parts.scheme.startswith("http"),
                   parts.scheme.endswith("s"))


def check_auth_header(header: str, address: Address) -> None:
    """Check that a header can be sent, and only over TLS or to this machine; no error repeats it.

    Raises:
        ValueError: It is not one line of printable ASCII, or goes over a network without TLS.
    """
    fits = header.isascii() and header.isprintable() and header.strip() == header != "" \
        and len(header) <= LONGEST_HEADER
    require(fits, "auth_header", "be one line of printable ASCII", "write 'Bearer TOKEN'", HIDDEN)
    require(address.tls or address.local, "auth_header", "go over TLS", "name a grpcs:// or https:// server",
            address.text)


def trust(ca_cert: str | Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts the certificates of a PEM file, or those of this system.

    Raises:
        OSError: There is no such file.
        ValueError: It holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_cert)
    except ssl.SSLError as error:
        raise ValueError("`ca_cert` must be a PEM file of certificates; export it as one. "
                         f"Received: ca_cert={str(ca_cert)!r}") from error
    except OSError as error:  # it does not name the file
        raise unreadable("ca_cert", str(ca_cert), error) from error


def unreadable(name: str, path: str, error: OSError) -> OSError:
    """Return the error of a file that an argument names, with both names."""
    return type(error)(f"`{name}` must name a file that can be read; check the spelling ({error.strerror}). "
                       f"Received: {name}={path!r}")


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

    @property
    def most_bytes(self) -> int:
        """Largest size of the answer: raw, as PNG, as base64 of it, as varints."""
        return 2 * self.most_values + SLACK

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


class Transport(Protocol):
    """A connection to one model of a server; threads may share it. Its methods raise `Failure`."""

    def predict(self, lr: np.ndarray, expected: Expected, version: int | None) -> np.ndarray:
        """Super-resolve uint8 [1, h, w, 3] -> uint8 [1, scale*h, scale*w, 3]."""

    def about(self, version: int | None) -> dict[str, Any]:
        """Return the answer of `about` for a picture of side 1, by name and not checked."""

    def states(self, version: int | None) -> dict[int, str]:
        """Return the state of each version of the model that the server knows, or of one."""

    def close(self) -> None:
        """Close all connections; pending requests fail."""


def from_numbers(numbers: Any, expected: Expected, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return uint8 values that came nested or, with `shape`, flat as [1, H, W, 3].

    Raises:
        Failure: They are not what is expected.
    """
    if shape is not None:
        expected.check(shape)
    try:
        values = np.asarray(numbers)
        values = values if shape is None else values.reshape(shape)
    except ValueError as error:
        raise Failure(BAD_ANSWER, f"sr that does not fill {list(shape or ['1', 'H', 'W', '3'])}") from error
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
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:  # which reads the header alone
            if data[PNG_KIND] != EIGHT_BIT_RGB:
                raise Failure(BAD_ANSWER, f"a PNG of mode {image.mode} where 8-bit RGB is expected")
            expected.check((1, image.height, image.width, len(image.getbands())))
            return np.asarray(image)[np.newaxis]
    except UnidentifiedImageError as error:
        raise Failure(BAD_ANSWER, f"{len(data)} bytes that are no PNG") from error
    except Failure:
        raise
    except Exception as error:  # decoders raise all kinds of errors on damaged bytes
        raise Failure(BAD_ANSWER, f"a damaged PNG: {error}") from error
