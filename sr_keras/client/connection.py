# SPDX-License-Identifier: Apache-2.0
"""Super-resolve pictures of any size on a server: overlapping tiles, several requests at a time.

A picture is cut into windows by `sr_keras.model.tiles`. At most `in_flight` requests are pending, over all threads that
share a client, and no more tiles are held: a picture may be a memory map, and `tiles` yields results as they arrive.

If no version is given, all tiles of a picture go to the version that is newest when it begins. A server may change
versions meanwhile, and half a picture by each of two models would look like a finding.

Retries are ours, since those of the libraries lost something when they were tried: gRPC's service config stops at 5
attempts with one timeout for all, its wait_for_ready reports a dead server or a wrong certificate as a timeout, urllib3
reads 2 GB of the body of a 503 and waits 6 s for an answer that drips in under a timeout of 0.5 s.
"""
from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from pipelines.errors import UserError, require
from sr_keras.client import protocol
from sr_keras.client.rest_transport import RestTransport
from sr_keras.model.tiles import Box, Span, core_of, spans

AVAILABLE = "AVAILABLE"
DEFAULT_HALO = 40  # that of 16 blocks, the default of training, and enough for fewer
PROBE_SIDE = 8
FIRST_S, LONGEST_S = 0.5, 10.0  # waits between attempts
NO_SIGNATURE = ("INVALID_ARGUMENT", "FAILED_PRECONDITION")  # how TensorFlow Serving says that a model lacks one
Answer = TypeVar("Answer")
Progress = Callable[[int, int], None]  # called with (tiles done, all tiles)


@dataclass(frozen=True)
class About:
    """What is known of a model; `max_pixels` is None if that is not known."""

    scale: int
    halo: int
    max_pixels: int | None = None


class SuperResolutionClient:
    """A generator on a server, to be used in a `with`; threads may share it."""

    def __init__(self, server: str, model_name: str, *, model_version: int | None = None,
                 sleep: Callable[[float], object] | None = None, **options: Any) -> None:
        """Make a client; nothing is sent yet.

        Args:
            server: grpc://HOST:8500 or http://HOST:8501; grpcs:// or https:// for TLS.
            model_name: The model's name on the server.
            model_version: Its version; the newest if left out.
            sleep: Waits between attempts; by default a wait that ends when the client is closed.
            **options: Those of `ClientOptions`.

        Raises:
            ValueError: An argument is wrong.
            OSError: `ca_cert` can't be read.
            UserError: gRPC is asked for and not installed.
        """
        address = protocol.parse_address(server)
        require(bool(model_name) and not set(model_name) & set("/:"), "model_name", "be a name without / and :",
                "check the spelling", model_name)
        require(model_version is None or 0 <= model_version < 2**63, "model_version", "be 0 or more",
                "leave it out for the newest", model_version)
        self.options = protocol.ClientOptions(**options)
        require(address.tls or self.options.ca_cert is None, "server",
                "be grpcs:// or https:// where `ca_cert` is given", "without TLS there is no certificate",
                address.text)
        if self.options.auth_header is not None:
            protocol.check_auth_header(self.options.auth_header, address)
        self.server, self.model_name, self.model_version = address.text, model_name, model_version
        self._transport = _transport(address, model_name, self.options)
        self._about: About | None = None
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._sleep = sleep or self._closed.wait
        self._pool = ThreadPoolExecutor(self.options.in_flight, "sr_keras.client")

    def __enter__(self) -> SuperResolutionClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; pending requests are given up."""
        self._closed.set()
        self._transport.close()
        self._pool.shutdown(cancel_futures=True)

    @property
    def scale(self) -> int:
        """SR side over LR side; the server is asked once if it was not given."""
        return self._asked_about().scale

    @property
    def halo(self) -> int:
        """LR pixels around an SR pixel that it depends on; the server is asked once if it was not given."""
        return self._asked_about().halo

    def health(self) -> dict[int, str]:
        """Return the state of each version of the model, or of the given one; at least one is AVAILABLE.

        Raises:
            ServerError: The server, the model or the version does not exist, or is not ready.
        """
        return self._call(self._states)

    def super_resolve(self, image: np.ndarray, *, progress: Progress | None = None) -> np.ndarray:
        """Super-resolve a picture, uint8 [H, W, 3] -> uint8 [scale*H, scale*W, 3].

        Raises:
            ValueError: It is not such a picture, or too large for `max_sr_pixels`.
            ServerError: A request failed.
        """
        _check_image(image)
        height, width = image.shape[:2]
        self.check_size(height, width)
        sr = np.empty((self.scale * height, self.scale * width, 3), np.uint8)
        for box, piece in self.tiles(image, progress=progress):
            sr[box.hr_y:box.hr_y + box.hr_height, box.hr_x:box.hr_x + box.hr_width] = piece
        return sr

    def tiles(self, image: np.ndarray, *, progress: Progress | None = None) -> Iterator[tuple[Box, np.ndarray]]:
        """Yield the pieces of the output as they arrive, in any order; arguments as in `super_resolve`.

        Of `image` only `.shape`, `.dtype` and `image[y0:y1, x0:x1]` are used, and its size is not limited.

        Yields:
            Box, and the piece [hr_height, hr_width, 3] that belongs there. Boxes are disjoint and cover the output.
        """
        _check_image(image)
        about, tile = self._asked_about(), self.options.tile
        most = about.max_pixels
        require(most is None or min(tile, image.shape[0]) * min(tile, image.shape[1]) <= most, "tile",
                f"have {most} pixels or fewer, as the model allows", "make it smaller", tile)
        rows, columns = (spans(side, tile, about.halo) for side in image.shape[:2])
        scale, total = about.scale, len(rows) * len(columns)
        version = self.model_version
        if version is None and total > 1:
            version = max(found for found, state in self.health().items() if state == AVAILABLE)
        waiting = ((y, x) for y in rows for x in columns)
        asked: dict[Future[np.ndarray], tuple[Span, Span]] = {}
        done = 0
        try:
            while done < total:
                for y, x in islice(waiting, self.options.in_flight - len(asked)):
                    require(not self._closed.is_set(), "client", "be open", "use it in its `with` block", self.server)
                    lr = np.ascontiguousarray(image[y.window, x.window])[np.newaxis]
                    asked[self._pool.submit(self._predict, lr, scale, version)] = (y, x)
                for answered in wait(asked, return_when=FIRST_COMPLETED).done:
                    y, x = asked.pop(answered)
                    yield core_of(answered.result()[0], y, x, scale)
                    done += 1
                    if progress:
                        progress(done, total)
        finally:
            for future in asked:
                future.cancel()

    def check_size(self, height: int, width: int) -> None:
        """Check that a picture does not become larger than `max_sr_pixels`.

        Raises:
            ValueError: It does.
            ServerError: The server does not say its scale.
        """
        limit, scale = self.options.max_sr_pixels, self.scale
        require(scale**2 * height * width <= limit, "image", f"become {limit} pixels or fewer (`max_sr_pixels`)",
                "raise it, iterate over `tiles`, or write a .tif with sr-keras super-resolve",
                f"{width}x{height} pixels, times {scale} a side")

    def _predict(self, lr: np.ndarray, scale: int | None, version: int | None) -> np.ndarray:
        expected = protocol.Expected(lr.shape[1], lr.shape[2], scale)
        return self._call(lambda: self._transport.predict(lr, expected, version))

    def _asked_about(self) -> About:
        """Return what the options say of the model, and for the rest what the server says."""
        scale, halo = self.options.scale, self.options.halo
        with self._lock:
            if self._about is None and scale is not None and halo is not None:
                self._about = About(scale, halo)
            if self._about is None:
                found = self._call(self._says) or About(scale or self._probed_scale(), DEFAULT_HALO)
                self._about = About(scale or found.scale, found.halo if halo is None else halo, found.max_pixels)
            return self._about

    def _says(self) -> About | None:
        """Return what the model says about itself; None if it was not exported by sr_keras."""
        try:
            said = self._transport.about(self.model_version)
        except protocol.Failure as failure:
            if failure.code in NO_SIGNATURE:
                return None
            raise
        numbers: Any = tuple(said.get(name) for name in (protocol.SR_SIDE, protocol.HALO, protocol.MAX_PIXELS))
        scale, halo, max_pixels = numbers
        if not all(type(number) is int for number in numbers) \
                or not (1 <= scale <= protocol.MAX_SCALE and 0 <= halo <= protocol.MAX_HALO and max_pixels >= 1):
            raise protocol.Failure(protocol.BAD_ANSWER, f"scale, halo and max_pixels of {numbers} where 1 to "
                                   f"{protocol.MAX_SCALE}, 0 to {protocol.MAX_HALO} and 1 or more are expected")
        return About(scale, halo, max_pixels)

    def _probed_scale(self) -> int:
        grey = np.full((1, PROBE_SIDE, PROBE_SIDE, 3), 128, np.uint8)
        return self._predict(grey, None, self.model_version).shape[1] // PROBE_SIDE

    def _states(self) -> dict[int, str]:
        states = self._transport.states(self.model_version)
        if AVAILABLE not in states.values():
            shown = ", ".join(f"version {version} is {state}" for version, state in states.items())
            raise protocol.Failure(protocol.UNAVAILABLE, shown or "no version of the model")
        return states

    def _call(self, ask: Callable[[], Answer]) -> Answer:
        try:
            return retried(ask, self.options.retries, self._sleep)
        except protocol.Failure as failure:
            version = "" if self.model_version is None else f" version {self.model_version}"
            # Without its cause: a traceback would show the server's text in full, perhaps with the header.
            raise protocol.server_error(self.server, f"model {self.model_name!r}{version}", failure,
                               self.options.auth_header or "") from None


def retried(call: Callable[[], Answer], retries: int, sleep: Callable[[float], object],
            uniform: Callable[[float, float], float] = random.uniform) -> Answer:
    """Return `call()`, retried up to `retries` times while the server is UNAVAILABLE.

    No other failure is retried: a wrong request stays wrong, and one that timed out would only add to the server's
    load. The wait doubles from FIRST_S to LONGEST_S and is shortened at random by up to half, so that clients that
    failed together do not retry together.

    Raises:
        Failure: The last one.
    """
    for retry in range(retries):
        try:
            return call()
        except protocol.Failure as failure:
            if failure.code != protocol.UNAVAILABLE:
                raise
        sleep(min(LONGEST_S, FIRST_S * 2**retry) * uniform(0.5, 1.0))
    return call()


def _transport(address: protocol.Address, model_name: str, options: protocol.ClientOptions) -> protocol.Transport:
    if address.rest:
        return RestTransport(address, model_name, options.encoding or protocol.BYTES, options)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the error says it
    try:
        from sr_keras.client.grpc_transport import GrpcTransport
    except ImportError as error:
        raise UserError("`tensorflow-serving-api` must be installed for gRPC; run pip install '.[serving]', or name "
                        f"the server's http:// address. Received: {error}") from error
    return GrpcTransport(address, model_name, options.encoding or protocol.TENSOR, options)


def _check_image(image: np.ndarray) -> None:
    require(len(image.shape) == 3 and image.shape[2] == 3 and min(image.shape) > 0, "image",
            "have shape [H, W, 3], no side 0", "convert it to RGB", tuple(image.shape))
    require(image.dtype == np.uint8, "image", "be uint8", "pipelines.pixels.to_uint8 makes it so", str(image.dtype))
