# SPDX-License-Identifier: Apache-2.0
"""Where a server is and how to ask it; all of it is checked before anything is sent."""
from __future__ import annotations

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from pipelines.errors import require

TENSOR, BYTES = "tensor", "bytes"
ENCODINGS = (TENSOR, BYTES)
AUTH_VARIABLE = "SR_KERAS_AUTH_HEADER"
LONGEST_HEADER = 8192
HIDDEN = "(hidden)"
MAX_SCALE = 8
MAX_TILE = 2048
MAX_HALO = 1023
# That of 16 blocks, the default of training, and enough for fewer.
DEFAULT_HALO = 40
MAX_IN_FLIGHT = 64
MAX_RETRIES = 20
MAX_TIMEOUT_S = 86_400.0  # a day


class Scheme(NamedTuple):
    """A protocol; `port` is TensorFlow Serving's default, or that of HTTPS for TLS."""

    rest: bool
    tls: bool
    port: int


SCHEMES = {"grpc": Scheme(False, False, 8500), "grpcs": Scheme(False, True, 443),
           "http": Scheme(True, False, 8501), "https": Scheme(True, True, 443)}


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


@dataclass(frozen=True)
class ClientOptions:
    """How to ask a server.

    Attributes:
        encoding: "tensor" sends raw pixels, "bytes" PNG; None is the faster one. A 1024x1024 answer is 3.1 MB as a
            tensor and 1.2 MB as PNG, but a server needs 0.05 s to write the PNG, so gRPC uses tensors. In JSON the
            tensor is 17 MB of text that takes a second to read, so REST uses PNG.
        scale: SR side over LR side. None asks the server by its signature `about`, or by an 8x8 picture.
        halo: LR pixels around an SR pixel that it depends on. None asks for `about`, or is DEFAULT_HALO.
        tile: Largest side of what is sent.
        in_flight: Number of pending requests at a time.
        timeout_s: Of each attempt, including transfer.
        retries: While the server is UNAVAILABLE, after 0.5, 1, 2, 4, 8 s and then every 10 s, each wait shortened at
            random by up to half.
        ca_cert: PEM file of trusted certificates; None for those of this system.
        auth_header: Value of the Authorization header.
        max_sr_pixels: Largest number of output pixels.
    """

    encoding: str | None = None
    scale: int | None = None
    halo: int | None = None
    tile: int = 256
    in_flight: int = 4
    timeout_s: float = 60.0
    retries: int = 5
    ca_cert: str | Path | None = None
    auth_header: str | None = None
    max_sr_pixels: int = 2**28

    def __post_init__(self) -> None:
        require(self.encoding in (None, *ENCODINGS), "encoding", f"be one of {ENCODINGS}",
                "leave it out for the faster one", self.encoding)
        require(self.scale is None or 1 <= self.scale <= MAX_SCALE, "scale", f"lie in [1, {MAX_SCALE}]",
                "leave it out to ask the server", self.scale)
        require(self.halo is None or 0 <= self.halo <= MAX_HALO, "halo", f"lie in [0, {MAX_HALO}]",
                "leave it out to ask the server", self.halo)
        halo = self.halo or 0
        require(2 * halo < self.tile <= MAX_TILE, "tile",
                f"be more than twice the halo of {halo}, and {MAX_TILE} at most", "256 is the default", self.tile)
        require(1 <= self.in_flight <= MAX_IN_FLIGHT, "in_flight", f"lie in [1, {MAX_IN_FLIGHT}]", "4 is the default",
                self.in_flight)
        require(0 < self.timeout_s <= MAX_TIMEOUT_S, "timeout_s", f"lie in (0, {MAX_TIMEOUT_S:.0f}], a day at most",
                "60 is the default", self.timeout_s)
        require(0 <= self.retries <= MAX_RETRIES, "retries", f"lie in [0, {MAX_RETRIES}]", "5 is the default",
                self.retries)
        require(self.max_sr_pixels > 0, "max_sr_pixels", "be positive", "leave it out for 2**28", self.max_sr_pixels)


def parse_address(server: str) -> Address:
    """Parse grpc://HOST:PORT or http://HOST:PORT, with an s for TLS.

    Raises:
        ValueError: It is no such address.
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
    scheme = SCHEMES[parts.scheme]
    return Address(server.rstrip("/"), str(host), port or scheme.port, scheme.rest, scheme.tls)


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


def read_auth_header(path: str | Path | None) -> str | None:
    """Return the header in a file, else in the environment, else None. It is no flag, since `ps` would show it.

    Raises:
        OSError: The file can't be read.
        ValueError: It is no text.
    """
    if path is None:
        return os.environ.get(AUTH_VARIABLE) or None
    return _read("auth_header_file", path, LONGEST_HEADER + 2).decode("ascii", errors="replace").strip()


def trust(ca_cert: str | Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts the certificates of a PEM file, or those of this system.

    Raises:
        OSError: There is no such file.
        ValueError: It holds no certificate.
    """
    if ca_cert is None:
        return ssl.create_default_context()
    _read("ca_cert", ca_cert, 1)  # OpenSSL does not name a missing file
    try:
        return ssl.create_default_context(cafile=str(ca_cert))
    except ssl.SSLError as error:
        raise ValueError("`ca_cert` must be a PEM file of certificates; export it as one. "
                         f"Received: ca_cert={str(ca_cert)!r}") from error


def _read(name: str, path: str | Path, most: int) -> bytes:
    """Return the first bytes of a file that an argument names."""
    try:
        with Path(path).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise type(error)(f"`{name}` must name a file that can be read; check the spelling ({error.strerror}). "
                          f"Received: {name}={str(path)!r}") from error
