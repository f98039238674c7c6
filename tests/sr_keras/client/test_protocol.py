# SPDX-License-Identifier: Apache-2.0
"""A slip of the keys is told before anything is sent; an answer is uint8 of the size that is expected, or refused."""
from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from sr_keras.client import ClientOptions, SuperResolutionClient
from sr_keras.client.protocol import Expected, Failure, from_numbers, from_png, parse_address, to_png

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
    np.testing.assert_array_equal(from_numbers(SR.ravel(), DUE, SR.shape), SR)
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
    assert str(list(shape)) in refusal(from_numbers, [7], DUE, shape)


@pytest.mark.parametrize("values", [[], SR.ravel()[:-1], [*SR.ravel(), 7]])
def test_too_few_or_many_values_are_refused(values):
    assert "does not fill [1, 8, 12, 3]" in refusal(from_numbers, values, DUE, SR.shape)


def test_one_value_does_not_stand_for_all():
    """It may in a tensor's short form; but then a server could name any size."""
    refusal(from_numbers, [7], DUE, SR.shape)


@pytest.mark.parametrize("bad", [-1, 256, 0.5, 1.0, True, "x", None, 2**70, [1], {}])
def test_values_that_are_no_uint8_are_refused(bad):
    numbers = SR.tolist()
    numbers[0][3][4][1] = bad
    if bad is not True:  # which is a 1 among numbers
        refusal(from_numbers, numbers, DUE)
    refusal(from_numbers, np.full(SR.shape, bad).tolist() if np.isscalar(bad) else bad, DUE)


def test_png_that_would_fill_memory_is_refused_by_its_header():
    bomb = a_png(header(9_000, 9_000), chunk(b"IDAT", zlib.compress(bytes(10_000_000), 9)))
    tracemalloc.start()
    assert "[1, 9000, 9000, 3] where [1, 8, 12, 3] is expected" in refusal(from_png, bomb, DUE)
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


# Options

@pytest.mark.parametrize(("server", "found"), [
    ("grpc://host", ("host", 8500, False, False)), ("http://host:80/", ("host", 80, True, False)),
    ("grpcs://host", ("host", 443, False, True)), ("https://[::1]:8443", ("::1", 8443, True, True))])
def test_address_says_how_to_speak(server, found):
    address = parse_address(server)
    assert (address.host, address.port, address.rest, address.tls) == found


@pytest.mark.parametrize("server", ["", "host:8500", "ftp://host", "grpc://", "http://host:0", "http://host:99999",
                                    "http://host/v1", "http://host?x=1", "http://[::1", "http://host:port",
                                    "http://me:pa55w0rd@host"])
def test_what_is_no_address_is_refused(server):
    with pytest.raises(ValueError, match="`server` must be SCHEME://HOST:PORT") as caught:
        parse_address(server)
    assert "pa55w0rd" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [
    ("encoding", "jpeg"), ("scale", 0), ("scale", 9), ("halo", -1), ("halo", 2000), ("tile", 0), ("tile", 5000),
    ("in_flight", 0), ("in_flight", 1000), ("timeout_s", 0.0), ("timeout_s", float("inf")), ("timeout_s", 1e300),
    ("timeout_s", float("nan")), ("retries", -1),
    ("retries", 1000), ("max_sr_pixels", 0)])
def test_option_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        ClientOptions(**{name: value})


def test_tile_has_room_for_the_halo_on_both_sides():
    ClientOptions(halo=40, tile=81)
    with pytest.raises(ValueError, match=r"`tile` must be more than twice the halo of 40.*Received: tile=80"):
        ClientOptions(halo=40, tile=80)


@pytest.mark.parametrize(("name", "version"), [("", None), ("a/b", None), ("a:b", None)])
def test_name_that_no_server_knows_is_refused(name, version):
    with pytest.raises(ValueError, match="`model_name` must"):
        SuperResolutionClient("http://localhost", name)


def test_certificate_without_tls_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="`server` must be grpcs:// or https://"):
        SuperResolutionClient("http://localhost", "demo", ca_cert=tmp_path / "ca.pem")


def test_certificate_that_is_not_there_names_the_argument(tmp_path):
    for server in ("https://localhost", "grpcs://localhost"):
        with pytest.raises(FileNotFoundError, match=r"`ca_cert` must name a file .*Received: ca_cert='.*none'"):
            SuperResolutionClient(server, "demo", ca_cert=tmp_path / "none")


def test_version_below_zero_is_refused():
    with pytest.raises(ValueError, match="`model_version` must"):
        SuperResolutionClient("http://localhost", "demo", model_version=-1)


@pytest.mark.parametrize("header", ["", "Bearer s3cr3t\r\nX: y", "Bearer s3cr3t\n", "Bearer s3cr3té", " s3cr3t",
                                    "s3cr3t" * 2000])
def test_header_that_can_not_be_sent_is_refused_and_not_repeated(header):
    with pytest.raises(ValueError, match="`auth_header` must") as caught:
        SuperResolutionClient("http://localhost", "demo", auth_header=header)
    assert "s3cr3t" not in str(caught.value)


def test_header_does_not_go_over_a_network_in_the_clear():
    for server in ("http://sr.example.org", "grpc://10.0.0.1:8500"):
        with pytest.raises(ValueError, match="`auth_header` must go over TLS"):
            SuperResolutionClient(server, "demo", auth_header="Bearer s3cr3t")
    for server in ("http://127.0.0.1", "http://localhost", "http://[::1]", "https://sr.example.org"):
        SuperResolutionClient(server, "demo", auth_header="Bearer s3cr3t").close()
