# SPDX-License-Identifier: Apache-2.0
"""Decoding of Zarr chunks within limits, since what a chunk claims, and what it expands to, may be anything.

`register` tells Zarr to use these decoders in place of its own: a chunk that expands beyond what its array says, or
Blosc data of another length than its header claims (c-blosc 1.21 would read on, and crash), raises a ValueError.
`check_codecs` refuses codecs that are not in the list, such as those that make objects.
"""
from __future__ import annotations

import asyncio
import bz2
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from pipelines.console import import_optional
from pipelines.errors import SlideError

IN_BOTH = ("blosc", "gzip", "zstd")  # compressors that version 3 has by these names; it has all as numcodecs.NAME
COMPRESSORS = (*IN_BOTH, "zlib", "bz2", "lz4")
# The others that picture data may go through. None of them makes more bytes than `WIDEST` times its input.
HARMLESS = ("adler32", "astype", "bitround", "bytes", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32",
            "jenkins_lookup3", "packbits", "quantize", "sharding_indexed", "shuffle", "transpose")
WIDEST = 8  # bytes into which filters of version 2 may turn one before it is compressed
SLACK = 2**16  # bytes beside the pixels: checksums, headers, the index of a shard
BLOSC_HEADER, BLOSC_EXPANDED, BLOSC_LENGTH = 16, slice(4, 8), slice(12, 16)  # bytes, and where its two sizes stand
GZIP_OR_ZLIB = 47  # of zlib's `wbits`: either header


def check_codecs(path: Path, level: Any) -> None:
    """Refuse an array whose chunks go through unknown codecs, and set the limits of the others, for version 2.

    Raises:
        SlideError: It has one that is not in the list.
    """
    names = []
    for codec in codecs_of(level):
        codec_id = getattr(codec, "codec_id", None)
        names.append(codec_id or codec.to_dict()["name"].removeprefix("numcodecs."))
        if codec_id in COMPRESSORS:
            codec._limit = limit_of(level.chunks, level.dtype, WIDEST)
    unknown = sorted(set(names).difference(COMPRESSORS, HARMLESS))
    if unknown:
        raise SlideError(f"{path}: its pixels are stored by codecs that are not read; write it again without them. "
                         f"Received: {', '.join(unknown)}")


def codecs_of(level: Any) -> list[Any]:
    """Return all codecs of an array, those within shards too."""
    found, waiting = [], [*level.filters, level.serializer, *level.compressors]
    while waiting:
        codec = waiting.pop()
        if codec is not None:
            found.append(codec)
            waiting += [*getattr(codec, "codecs", ()), *getattr(codec, "index_codecs", ())]
    return found


def limit_of(shape: tuple[int, ...], dtype: Any, wider: int = 1) -> int:
    """Return how many bytes a chunk may expand to, where a filter may have made its values `wider` times as large."""
    return int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize * wider + SLACK


@cache
def register() -> None:
    """Have Zarr decode within limits, in both versions of the format, in this process."""
    zarr, numcodecs = import_optional("zarr", "zarr"), import_optional("numcodecs", "zarr")
    registry, chosen = zarr.registry, {}
    for name in COMPRESSORS:
        bounded = _bounded(type(numcodecs.get_codec({"id": name})), name)
        numcodecs.register_codec(bounded)
        for key in (f"numcodecs.{name}", *((name,) if name in IN_BOTH else ())):
            of_3 = _bounded_in_version_3(registry.get_codec_class(key), key, bounded())
            registry.register_codec(key, of_3, qualname=of_3.__qualname__)
            chosen[key] = of_3.__qualname__
    zarr.config.set({"codecs": zarr.config.get("codecs") | chosen})


def _bounded(base: Any, name: str) -> Any:
    class Bounded(base):
        """For version 2 of the format."""

        codec_id = name
        _limit: int | None = None  # `check_codecs` sets that of an array; those of other programs have none

        def decode(self, buf: Any, out: Any = None) -> Any:
            return super().decode(buf, out) if self._limit is None else self.decode_within(self._limit, buf, out)

        def decode_within(self, limit: int, buf: Any, out: Any = None) -> Any:
            """Return what `buf` expands to, at most `limit` bytes."""
            return DECODERS[name](memoryview(buf).cast("B"), limit, partial(super().decode, buf, out))

    return Bounded


def _bounded_in_version_3(base: Any, key: str, default: Any) -> Any:
    from zarr.core.buffer.cpu import as_numpy_array_wrapper

    class Bounded(base):
        """For version 3, in which a codec is told of the array whose bytes it decodes."""

        async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
            codec = self._codec if key.startswith("numcodecs.") else default
            decode = partial(codec.decode_within, limit_of(chunk_spec.shape, chunk_spec.dtype.to_native_dtype()))
            return await asyncio.to_thread(as_numpy_array_wrapper, decode, chunk_bytes, chunk_spec.prototype)

    Bounded.__qualname__ = f"{__name__}.{key}"
    return Bounded


def _blosc(data: memoryview, limit: int, decode: Callable[[], Any]) -> Any:
    claimed = int.from_bytes(data[BLOSC_LENGTH], "little")
    if len(data) < BLOSC_HEADER or claimed != len(data):
        raise ValueError(f"Blosc data of {len(data)} bytes that claims {claimed}")
    _check(int.from_bytes(data[BLOSC_EXPANDED], "little"), limit)
    return decode()


def _lz4(data: memoryview, limit: int, decode: Callable[[], Any]) -> Any:
    _check(int.from_bytes(data[:4], "little"), limit)
    return decode()


def _zstd(data: memoryview, limit: int, _: Any) -> Any:
    return imagecodecs.zstd_decode(bytes(data), out=limit)


def _stream(make: Callable[[], Any], data: memoryview, limit: int, _: Any) -> bytes:
    """Decode one stream after another, as gzip and bz2 files may hold."""
    expanded, rest = b"", bytes(data)
    while rest:
        stream = make()
        expanded += stream.decompress(rest, limit + 1 - len(expanded))
        _check(len(expanded), limit)
        if not stream.eof:
            raise ValueError("compressed data that end too early")
        rest = stream.unused_data
    return expanded


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"compressed data that expand beyond the chunk, to more than {limit} bytes")


DECODERS: dict[str, Callable[[memoryview, int, Callable[[], Any]], Any]] = {
    "blosc": _blosc, "lz4": _lz4, "zstd": _zstd,
    "zlib": partial(_stream, partial(zlib.decompressobj, GZIP_OR_ZLIB)),
    "gzip": partial(_stream, partial(zlib.decompressobj, GZIP_OR_ZLIB)),
    "bz2": partial(_stream, bz2.BZ2Decompressor)}
