# SPDX-License-Identifier: Apache-2.0
"""Pictures come back whole and in place, by gRPC and by REST, and whatever a server does wrong is said in one line."""
from __future__ import annotations

import logging
import random
import socket
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from pipelines.console import one_line
from pipelines.errors import UserError
from sr_keras.client import ServerError, SuperResolutionClient
from sr_keras.client.connection import DEFAULT_HALO

from .conftest import WAYS, png, repeated

pytestmark = pytest.mark.server
both = pytest.mark.parametrize("way", WAYS)
encodings = pytest.mark.parametrize("encoding", ["tensor", "bytes"])


def refusal(client: SuperResolutionClient, image: np.ndarray) -> ServerError:
    """Return what a client says when it can't; in one line, and the server's name first."""
    with pytest.raises(ServerError) as caught:
        client.super_resolve(image)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{client.server}: ")
    return caught.value


@pytest.fixture
def lr(histology) -> np.ndarray:
    return histology[:31, :43]


@both
@encodings
def test_picture_comes_back_whole_whatever_the_order(way, encoding, serve, connect, model, lr):
    model.delay = lambda number: random.Random(number).choice([0, 0.01, 0.03])
    client = connect(serve(way), scale=4, encoding=encoding, in_flight=3)
    seen = []
    sr = client.super_resolve(lr, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(sr, repeated(lr))
    assert sr.dtype == np.uint8
    assert seen == [(done, 20) for done in range(1, 21)]
    assert {asked["signature"] for asked in model.asked} == {"serving_default" if encoding == "tensor" else "encoded"}


@both
def test_encoding_is_the_faster_one_if_left_out(way, serve, connect, model, lr):
    connect(serve(way), scale=4).super_resolve(lr)
    assert {asked["signature"] for asked in model.asked} == {"serving_default" if way == "grpc" else "encoded"}


@both
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (12, 12), (13, 12)])
def test_smallest_pictures_are_pictures(way, shape, serve, connect, histology):
    lr = histology[:shape[0], :shape[1]]
    np.testing.assert_array_equal(connect(serve(way)).super_resolve(lr), repeated(lr))


@both
def test_no_more_requests_are_in_flight_than_asked_for_over_all_threads(way, serve, connect, model, lr):
    model.delay = lambda number: 0.02
    client = connect(serve(way), in_flight=3)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(client.super_resolve(lr))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    assert all((sr == repeated(lr)).all() for sr in found)
    assert model.most_at_once == 3


def test_no_more_of_an_image_is_read_than_is_in_flight(serve, connect, model, lr):
    class Counted:
        shape, dtype, read = lr.shape, lr.dtype, 0

        def __getitem__(self, window):
            self.read += 1
            return lr[window]

    image = Counted()
    pieces = connect(serve("rest"), in_flight=2).tiles(image)
    next(pieces)
    assert image.read == 2
    assert len(list(pieces)) == 19


def test_tiles_cover_an_image_that_no_memory_would_hold(serve, connect):
    image = np.broadcast_to(np.uint8([1, 2, 3]), (20_000, 20_000, 3))  # 3 bytes of memory
    client = connect(serve("grpc"), in_flight=2, max_sr_pixels=2**20)
    pieces = client.tiles(image)
    box, piece = next(pieces)
    assert piece.shape == (box.hr_height, box.hr_width, 3)
    pieces.close()


def test_picture_of_20000_a_side_is_refused_with_the_limit(serve, connect):
    image = np.broadcast_to(np.uint8(0), (20_000, 20_000, 3))
    with pytest.raises(ValueError, match=r"become 268435456 pixels or fewer \(`max_sr_pixels`\).*20000x20000 pixels"):
        connect(serve("grpc")).super_resolve(image)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8),
                                   np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_picture_is_refused_before_anything_is_sent(image, connect, dead_port):
    with pytest.raises(ValueError, match="`image` must"):
        connect(f"http://127.0.0.1:{dead_port}").super_resolve(image)


@both
@pytest.mark.parametrize("as_numbers", [False, True])
def test_scale_and_halo_are_those_of_the_server_and_asked_once(way, as_numbers, serve, connect, model, lr):
    model.scale, model.halo, model.as_numbers = 2, 3, as_numbers
    client = connect(serve(way), halo=None)
    assert (client.scale, client.halo) == (2, 3)
    np.testing.assert_array_equal(client.super_resolve(lr), repeated(lr, 2))
    assert [asked["signature"] for asked in model.asked].count("about") == 1


@both
def test_what_was_given_is_not_asked(way, serve, connect, model, lr):
    model.halo = 5
    connect(serve(way), scale=4, halo=2).super_resolve(lr)
    assert len(model.asked) == 20
    model.asked.clear()
    client = connect(serve(way), scale=None, halo=1)
    assert (client.scale, client.halo) == (4, 1)
    assert [asked["signature"] for asked in model.asked] == ["about"]


@both
def test_server_that_does_not_say_its_scale_shows_it(way, serve, connect, model, lr):
    model.says, model.scale = False, 2
    client = connect(serve(way), halo=None, tile=100)
    assert (client.scale, client.halo) == (2, DEFAULT_HALO)
    np.testing.assert_array_equal(client.super_resolve(lr), repeated(lr, 2))
    assert len(model.asked) == 2 + 1
    assert client.slept == []


@both
@pytest.mark.parametrize(("name", "value"), [("scale", 9), ("scale", 0), ("halo", -1), ("halo", 2**20),
                                             ("max_pixels", 0)])
def test_model_that_says_what_can_not_be_is_refused(way, name, value, serve, connect, model, lr):
    setattr(model, name, value)
    assert "are expected" in str(refusal(connect(serve(way)), lr))


@both
def test_tile_that_the_model_would_refuse_is_not_sent(way, serve, connect, model, lr):
    model.max_pixels = 12 * 12 - 1
    client = connect(serve(way))
    with pytest.raises(ValueError, match=r"`tile` must have 143 pixels or fewer.*Received: tile=12"):
        client.super_resolve(lr)
    client.super_resolve(lr[:11])  # tiles are no larger than the picture
    model.halo = 6
    with pytest.raises(ValueError, match="`tile` must be more than twice the halo of 6"):
        connect(serve(way), halo=None).super_resolve(lr[:, :11])


@both
def test_all_tiles_go_to_the_version_that_was_newest_at_the_start(way, serve, connect, model, lr):
    client = connect(serve(way), scale=4)
    model.delay = lambda number: model.states.update({4: "AVAILABLE"}) or 0.0
    client.super_resolve(lr)
    assert {asked["version"] for asked in model.asked} == {3}
    model.asked.clear()
    client.super_resolve(lr)
    assert {asked["version"] for asked in model.asked} == {4}


@both
def test_version_asked_for_is_the_one_that_answers(way, serve, connect, model, lr):
    connect(serve(way), model_version=2).super_resolve(lr)
    assert {asked["version"] for asked in model.asked} == {2}


@both
def test_numbers_as_fields_are_read_too(way, serve, connect, model, lr):
    model.as_numbers = True
    np.testing.assert_array_equal(connect(serve(way), encoding="tensor").super_resolve(lr), repeated(lr))


@both
def test_health_is_the_state_of_each_version(way, serve, connect):
    server = serve(way)
    assert connect(server).health() == {1: "END", 2: "AVAILABLE", 3: "AVAILABLE", 4: "LOADING"}
    assert connect(server, model_version=2).health() == {2: "AVAILABLE"}


@both
def test_model_that_is_loading_is_waited_for_and_then_told(way, serve, connect):
    client = connect(serve(way), model_version=4)
    with pytest.raises(ServerError, match=r"not ready \(UNAVAILABLE, model 'demo' version 4\).*version 4 is LOADING"):
        client.health()
    assert len(client.slept) == 2


@both
@pytest.mark.parametrize(("name", "version"), [("other", None), ("demo", 9)])
def test_wrong_model_or_version_is_told(way, name, version, serve, connect, lr):
    client = connect(serve(way), name, model_version=version)
    error = refusal(client, lr)
    assert error.code == "NOT_FOUND"
    assert "check `model_name` and `model_version`" in str(error)
    assert f"'{name}'" in str(error)
    with pytest.raises(ServerError, match="NOT_FOUND"):
        client.health()
    assert client.slept == []


@both
def test_server_that_is_down_is_tried_again_and_told(way, connect, dead_port, lr):
    client = connect(f"{'grpc' if way == 'grpc' else 'http'}://127.0.0.1:{dead_port}", retries=3)
    error = refusal(client, lr)
    assert error.code == "UNAVAILABLE"
    assert "start it, or check `server`" in str(error)
    assert len(client.slept) == 3


@both
def test_unavailable_twice_then_fine_is_fine(way, serve, connect, model, lr):
    model.refusals = [("UNAVAILABLE", "queue is full")] * 2
    client = connect(serve(way), scale=4)
    small = lr[:8, :8]
    np.testing.assert_array_equal(client.super_resolve(small), repeated(small))
    assert len(model.asked) == 3
    first, second = client.slept
    assert 0.25 <= first <= 0.5 <= second <= 1.0


@both
@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "INTERNAL", "DEADLINE_EXCEEDED",
                                  "UNAUTHENTICATED"])
def test_nothing_else_is_tried_again(way, code, serve, connect, model, lr):
    model.refusals = [(code, "the image isn't\none")]
    client = connect(serve(way), scale=4)
    error = refusal(client, lr[:8, :8])
    assert error.code == ("HTTP 500" if (way, code) == ("rest", "INTERNAL") else code)
    assert "the image isn" in str(error)
    assert (len(model.asked), client.slept) == (1, [])


@both
def test_slow_server_is_given_up_at_the_deadline(way, serve, connect, model, lr):
    client = connect(serve(way), scale=4, timeout_s=0.4)
    client.health()  # the first call of a channel takes longer
    model.delay = lambda number: 30.0
    started = time.monotonic()
    error = refusal(client, lr[:8, :8])
    assert time.monotonic() - started < 5
    assert error.code == "DEADLINE_EXCEEDED"
    assert "raise `timeout_s`" in str(error)
    assert len(model.asked) == 1


@both
def test_server_that_drops_mid_way_is_told(way, serve, cut_off, connect, lr):
    client = connect(cut_off(serve(way), 600), scale=4, encoding="tensor")
    error = refusal(client, lr[:12, :12])
    # To gRPC a connection that broke is UNAVAILABLE, and asking again does no harm; over REST it is told at once.
    assert (error.code, len(client.slept)) == (("UNAVAILABLE", 2) if way == "grpc" else ("DROPPED", 0))


@both
def test_server_that_speaks_another_language_is_told(way, listen, connect, lr):
    def babble(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"220 smtp.example.org ready\r\n" * 40)

    scheme = "grpc" if way == "grpc" else "http"
    error = refusal(connect(f"{scheme}://127.0.0.1:{listen(babble)}", timeout_s=3), lr)
    assert error.code == ("UNAVAILABLE" if way == "grpc" else "BAD_ANSWER")


@both
@encodings
@pytest.mark.parametrize("change", [lambda sr: sr[:, :-1], lambda sr: sr[:, ::2, ::2], lambda sr: sr[..., :1],
                                    lambda sr: sr.repeat(2, 1)])
def test_answer_of_another_shape_is_refused(way, encoding, change, serve, connect, model, lr):
    client = connect(serve(way), encoding=encoding, scale=4)
    model.change = change
    if encoding == "bytes":
        model.encode = lambda sr: png(sr if sr.shape[2] == 3 else sr[..., 0])
    error = refusal(client, lr)
    assert error.code == "BAD_ANSWER"
    assert "where" in str(error)


@both
def test_scale_beyond_reason_is_refused(way, serve, connect, model, lr):
    model.says, model.scale = False, 9
    assert "[72, 72" in str(refusal(connect(serve(way)), lr)).replace("[1, 72", "[72")


@both
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_answer_of_another_dtype_is_refused(way, dtype, serve, connect, model, lr):
    client = connect(serve(way), encoding="tensor", scale=4)
    model.change = lambda sr: sr.astype(dtype) * 2 + (dtype == np.float32) / 2
    error = refusal(client, lr)
    assert error.code == "BAD_ANSWER"
    assert ("DT_" in str(error)) == (way == "grpc")


@both
@encodings
def test_answer_that_is_too_long_is_not_read(way, encoding, serve, connect, model, lr):
    client = connect(serve(way), encoding=encoding, scale=4)
    model.change = lambda sr: sr.repeat(4, 1).repeat(4, 2)
    model.encode = lambda sr: png(np.random.default_rng(0).integers(0, 256, sr.shape, dtype=np.uint8))
    error = refusal(client, lr)
    assert error.code == "BAD_ANSWER"
    assert "larger than max" in str(error) or "bytes that are possible" in str(error)


@both
def test_answer_that_is_no_png_is_refused(way, serve, connect, model, lr):
    client = connect(serve(way), encoding="bytes", scale=4)
    model.encode = lambda sr: b"GIF89a" + bytes(100)
    assert "bytes that are no PNG" in str(refusal(client, lr))


def test_model_without_the_output_is_told(serve, connect, model, lr):
    client = connect(serve("grpc"), scale=4)
    model.output = "probabilities"
    assert "outputs ['probabilities'] where 'sr' is expected" in str(refusal(client, lr))


@both
def test_proxy_of_the_environment_is_not_asked(way, serve, connect, dead_port, lr, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{dead_port}")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    np.testing.assert_array_equal(connect(serve(way)).super_resolve(lr), repeated(lr))


@both
def test_header_is_sent_and_shown_nowhere(way, serve, connect, model, lr, caplog, capfd):
    secret = "Bearer s3cr3t-t0k3n"
    with caplog.at_level(logging.DEBUG):
        client = connect(serve(way), scale=4, auth_header=secret)
        client.super_resolve(lr[:8, :8])
        model.refusals = [("UNAUTHENTICATED", f"no such token: {secret.split()[1]}")]
        error = refusal(client, lr[:8, :8])
    assert [asked["auth"] for asked in model.asked] == [secret] * 2
    assert "(hidden)" in str(error)
    assert error.__cause__ is None
    for text in (str(error), repr(client), caplog.text, *capfd.readouterr()):
        assert "s3cr3t" not in text


@both
def test_close_gives_up_what_is_under_way(way, serve, connect, model, lr):
    client = connect(serve(way), scale=4, in_flight=2)
    client.health()
    model.delay = lambda number: 30.0
    pieces = client.tiles(lr)
    thread = threading.Timer(0.3, client.close)
    thread.start()
    started = time.monotonic()
    with pytest.raises((ServerError, UserError, ValueError), match=r"CANCELLED|closed|open"):
        list(pieces)
    assert time.monotonic() - started < 5
    with pytest.raises((ServerError, ValueError)):
        client.super_resolve(lr)


def test_without_the_extra_grpc_names_it_and_rest_works(serve, connect, lr, monkeypatch):
    address = serve("rest")
    monkeypatch.delitem(sys.modules, "sr_keras.client.grpc_transport", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(UserError, match=r"pip install '\.\[serving\]'") as caught:
        SuperResolutionClient("grpc://localhost:8500", "demo")
    assert "\n" not in one_line(caught.value)
    np.testing.assert_array_equal(connect(address).super_resolve(lr), repeated(lr))


def test_png_travels_without_loss(serve, connect, model):
    lr = np.random.default_rng(3).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    for way in WAYS:
        np.testing.assert_array_equal(connect(serve(way), encoding="bytes").super_resolve(lr), repeated(lr))
    assert Image.MAX_IMAGE_PIXELS  # nobody switched PIL's own limit off
