# SPDX-License-Identifier: Apache-2.0
"""What a server gives is uint8 of the size that is expected, or is refused before it costs memory."""
from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from sr_keras.client.protocol import Expected, Failure, from_content, from_numbers, from_png, to_png

DUE = Expected(2, 3, 4)
SR = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(1, 8, 12, 3)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def a_png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def refusal(call, *arguments) -> str:
    with pytest.raises(Failure) as caught:
        call(*arguments)
    assert caught.value.code == "BAD_ANSWER"
    return caught.value.reason


def test_what_is_due_comes_through():
    np.testing.assert_array_equal(from_content(SR.shape, SR.tobytes(), DUE), SR)
    np.testing.assert_array_equal(from_numbers(SR.tolist(), DUE), SR)
    np.testing.assert_array_equal(from_numbers(SR.ravel().tolist(), DUE, SR.shape), SR)
    np.testing.assert_array_equal(from_png(to_png(SR[0]), DUE), SR)


def test_any_whole_scale_up_to_8_is_due_where_none_is_known():
    unknown = Expected(2, 3, None)
    for scale in range(1, 9):
        unknown.check((1, 2 * scale, 3 * scale, 3))
    for shape in ((1, 18, 27, 3), (1, 4, 9, 3), (2, 4, 6, 3), (1, 4, 6, 1), (1, 4, 6), ()):
        assert str(list(shape)) in refusal(unknown.check, shape)
    assert unknown.most_values == 3 * 6 * 64


@pytest.mark.parametrize("shape", [(1, 8, 12, 4), (1, -8, -12, 3), (0,), (1, 2**40, 2**40, 3), (1, 8, 8, 3)])
def test_shape_is_refused_before_anything_is_made_of_it(shape):
    assert str(list(shape)) in refusal(from_content, shape, b"", DUE)
    assert str(list(shape)) in refusal(from_numbers, [7], DUE, shape)


def test_too_few_or_many_values_are_refused():
    for content in (b"", SR.tobytes()[:-1], SR.tobytes() + b"x"):
        assert f"{len(content)} bytes where 288" in refusal(from_content, SR.shape, content, DUE)
    # One value for all is a tensor's short form; what fills in the rest would let a server name any size.
    refusal(from_numbers, [7], DUE, SR.shape)


@pytest.mark.parametrize("bad", [-1, 256, 0.5, 1.0, True, "x", None, 2**70, [1], {}])
def test_values_that_are_no_uint8_are_refused(bad):
    numbers = SR.tolist()
    numbers[0][3][4][1] = bad
    if bad is not True:  # which is a 1 among numbers
        refusal(from_numbers, numbers, DUE)
    refusal(from_numbers, np.full(SR.shape, bad).tolist() if np.isscalar(bad) else bad, DUE)


def test_png_that_would_fill_memory_is_refused_by_its_header():
    bomb = a_png(header(20_000, 20_000), chunk(b"IDAT", zlib.compress(bytes(10_000_000), 9)))
    tracemalloc.start()
    assert "[1, 20000, 20000, 3] where [1, 8, 12, 3] is expected" in refusal(from_png, bomb, DUE)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_second_header_does_not_change_the_size():
    rows = zlib.compress(bytes(8 * (12 * 3 + 1)))
    with Image.open(io.BytesIO(a_png(header(12, 8), header(5000, 5000), chunk(b"IDAT", rows)))) as image:
        assert image.size == (5000, 5000)  # PIL believes it
    refusal(from_png, a_png(header(12, 8), header(5000, 5000), chunk(b"IDAT", rows)), DUE)


@pytest.mark.parametrize("data", [
    b"", b"\x89PNG", b"\xff\xd8\xff" + bytes(100), a_png(header(12, 8)), to_png(SR[0])[:-40],
    a_png(header(12, 8, 16)), a_png(header(12, 8, 8, 0)), a_png(header(12, 8, 8, 6)),
    a_png(header(12, 8), chunk(b"IDAT", b"no zlib")), a_png(header(12, 8), chunk(b"IDAT", zlib.compress(b"few")))])
def test_what_is_no_png_of_that_kind_is_refused(data):
    assert "PNG" in refusal(from_png, data, DUE)
