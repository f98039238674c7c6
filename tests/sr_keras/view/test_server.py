# SPDX-License-Identifier: Apache-2.0
"""The server shows the slides that it was given to this machine, and nothing to anybody else."""
from __future__ import annotations

import asyncio
import http.client
import io
import re
import shutil
import socket
import time
from dataclasses import replace

import numpy as np
import openslide
import pytest
from bokeh.client import pull_session
from bokeh.document import Document
from PIL import Image
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from benchmarks.viewer import serving
from pipelines.slide import open_slide
from sr_keras.slides import EnlargeOptions, enlarge_file
from sr_keras.view import server
from sr_keras.view.scene import Scene
from sr_keras.view.server import listen, save_region

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def slides(sample_slide, tmp_path_factory):
    """A slide, another with signs of HTML in its name, and a file that is none."""
    folder = tmp_path_factory.mktemp("given")
    text = folder / "text.svs"
    text.write_text("nothing")
    return [sample_slide, shutil.copy(sample_slide, folder / "a <b> & c.tif"), text]


@pytest.fixture(scope="module")
def viewer(slides, loaded):
    with serving(slides, [loaded]) as running:
        yield running


def get(viewer, path: str, host: str | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=300)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{viewer.port}"} | headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "x127.0.0.1", "[::1]"])
@pytest.mark.parametrize("path", ["/", "/view?slide=0", "/thumbnail/0.png", "/static/js/bokeh.min.js", "/view/ws"])
def test_request_that_names_another_host_is_refused(viewer, host, path):
    assert get(viewer, path, host)[0] == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_request_by_either_name_of_this_machine_is_answered(viewer, name):
    assert get(viewer, "/", f"{name}:{viewer.port}")[0] == 200


@pytest.mark.parametrize(("site", "target", "status"), [
    ("cross-site", "image", 403), ("cross-site", "iframe", 403), ("cross-site", "script", 403),
    ("same-site", "empty", 403), ("cross-site", "document", 200), ("same-origin", "script", 200),
    ("none", "document", 200)])
@pytest.mark.parametrize("path", ["/", "/view?slide=0", "/view/autoload.js?bokeh-autoload-element=x"])
def test_page_of_another_site_may_link_here_and_no_more(viewer, path, site, target, status):
    before = len(viewer._server.get_sessions("/view"))
    assert get(viewer, path, **{"Sec-Fetch-Site": site, "Sec-Fetch-Dest": target})[0] == status
    assert status == 200 or len(viewer._server.get_sessions("/view")) == before


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "https://localhost.evil.example"])
def test_socket_opened_by_a_page_of_another_site_is_refused(viewer, origin):
    async def connect():
        await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{viewer.port}/view/ws", headers={"Origin": origin},
                                            connect_timeout=300))

    with pytest.raises(HTTPClientError, match="403"):
        asyncio.run(connect())


def test_only_this_machine_is_listened_to():
    sockets = listen()
    assert {one.getsockname()[0] for one in sockets} == {"127.0.0.1"}
    for one in sockets:
        one.close()


def test_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"`port` must be free; choose another.* Received: port={port}"):
            listen(port)


def test_gallery_names_every_slide_once_and_its_thumbnail_is_the_slide(viewer, slides, histology):
    page = get(viewer, "/")[2].decode()
    assert page.count("<img ") == 3
    assert "a &lt;b&gt; &amp; c.tif" in page
    assert "not for diagnosis" in page
    status, headers, png = get(viewer, "/thumbnail/0.png")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    mean = histology.reshape(256, 2, 256, 2, 3).mean((1, 3))
    assert np.abs(np.asarray(Image.open(io.BytesIO(png))) - mean).mean() < 2


@pytest.mark.parametrize("path", [
    "/thumbnail/3.png", "/thumbnail/-1.png", "/thumbnail/999999999999.png", "/thumbnail/2.png", "/thumbnail/..%2f0.png",
    "/thumbnail/%2fetc%2fpasswd.png", "/static/../server.py", "/static/%2e%2e/%2e%2e/etc/passwd"])
def test_anything_else_is_not_found(viewer, path):
    assert get(viewer, path)[0] in (403, 404)


@pytest.mark.parametrize("asked", ["3", "-1", "0.5", "x", "", "/etc/passwd", "\u0663", "9" * 5000])
def test_slide_outside_of_the_given_ones_is_refused_in_one_line(viewer, asked):
    document = Document()
    viewer.fill(document, asked)
    [failure] = document.roots
    assert failure.text.startswith("<b>`slide` must be one of the 3 that were given; choose one in the gallery.")


def test_slide_that_cannot_be_read_is_named_on_its_page(viewer, slides):
    document = Document()
    viewer.fill(document, "2")
    [failure] = document.roots
    assert "text.svs: is not a slide or image that can be read" in failure.text


def test_one_slide_needs_no_gallery(sample_slide, loaded):
    with serving([sample_slide], [loaded]) as viewer:
        status, headers, _ = get(viewer, "/")
    assert (status, headers["Location"]) == (302, "/view?slide=0")


def test_script_comes_from_the_server_itself(viewer):
    page = get(viewer, "/view?slide=0")[2].decode()
    assert re.findall(r'(?:src|href)="(https?:)?//', page) == []
    assert get(viewer, "/static/js/bokeh.min.js")[0] == 200


def test_marked_region_is_what_a_run_of_that_region_writes(sample_slide, loaded, tmp_path):
    region = (100, 50, 60, 40)
    with Scene(sample_slide, [loaded, loaded], EnlargeOptions(lossless=True)) as scene:
        path, other = (save_region(scene, f"small ({number})", region, tmp_path / "new") for number in (1, 2))
        assert path.name == "immunohistochemistry_100_50_60_40_small (1).tif"
        assert other.name == "immunohistochemistry_100_50_60_40_small (2).tif"
        enlarge_file(loaded, sample_slide, tmp_path / "run.tif", replace(scene.options, region=region))
        with openslide.OpenSlide(path) as one, openslide.OpenSlide(tmp_path / "run.tif") as other:
            assert one.dimensions == (240, 160)
            np.testing.assert_array_equal(*(slide.read_region((0, 0), 0, (240, 160)) for slide in (one, other)))
        with pytest.raises(ValueError, match="`output` must not exist; this region was written before by this model"):
            save_region(scene, "small (1)", region, tmp_path / "new")
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.125)


def test_browser_that_goes_away_is_forgotten_and_its_files_are_closed(sample_slide, loaded, monkeypatch):
    closed, close = [], Scene.close
    monkeypatch.setattr(server, "UNUSED_MS", 200)
    monkeypatch.setattr(Scene, "close", lambda scene: closed.append(scene) or close(scene))
    with serving([sample_slide], [loaded]) as viewer:
        session = pull_session(url=f"{viewer.url}view", arguments={"slide": "0"})
        assert len(viewer._server.get_sessions("/view")) == 1
        wait(lambda: viewer.tiles.computed > 3)
        assert not closed
        session.close()
        wait(lambda: not viewer._server.get_sessions("/view"))
        wait(lambda: not viewer.tiles._wishes)
        before = viewer.tiles.computed
        time.sleep(0.3)
        assert viewer.tiles.computed == before
        assert len(closed) == 1


def wait(holds):
    end = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
