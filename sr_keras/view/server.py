# SPDX-License-Identifier: Apache-2.0
"""The server: pages, thumbnails and the gallery of the slides that it was given, for this machine alone.

    /                   the gallery; with one slide, its page
    /view?slide=3       the page of a slide
    /thumbnail/3.png

It listens on 127.0.0.1. A request that names another host is refused, so that a web site whose name was made to point
at this machine reads nothing (DNS rebinding); so is whatever a page of another site loads, embeds or opens a WebSocket
to. Slides are asked for by number, never by path, and nothing is written but a marked region into the folder that was
given at the start.
"""
from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from html import escape
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.models import Div
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.util import bind_sockets
from PIL import Image
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.routing import AnyMatches, HostMatches, Rule, RuleRouter
from tornado.web import Application, ErrorHandler, HTTPError, RequestHandler

from pipelines.console import one_line
from pipelines.errors import UserError, require
from pipelines.files import fitting_name
from pipelines.slide import open_slide
from pipelines.sources import Region
from sr_keras.slides.enlarge import enlarge_file
from sr_keras.slides.window_plan import EnlargeOptions
from sr_keras.templates import render
from sr_keras.view.page import Page
from sr_keras.view.scene import THUMBNAIL, TILE, Bicubic, Scene
from sr_keras.view.tile_queue import Tiles

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
TILE_BYTES = 2**29
THUMBNAILS = 256  # that are kept
LONGEST_SHOWN = 50
UNUSED_MS = 30_000  # a browser that went away for so long is forgotten


def listen(port: int = 0) -> list[socket]:
    """Listen on a port of this machine alone; 0 is one that is free.

    Raises:
        ValueError: It is in use, or is not allowed.
    """
    try:
        return bind_sockets(HOST, port)[0]
    except OSError as error:
        raise ValueError("`port` must be free; choose another, or leave it out for one that is "
                         f"({error.strerror}). Received: port={port}") from error


class Viewer:
    """The server of some slides; `url` is its address."""

    def __init__(self, slides: Sequence[Path], generators: Sequence[Any], options: EnlargeOptions | None = None, *,
                 sockets: Sequence[socket] = (), finished: Path | None = None, output: Path = Path(),
                 tile_bytes: int = TILE_BYTES) -> None:
        """Prepare to serve.

        Args:
            slides: The only ones that can be looked at.
            generators: Models, from `sr_keras.model.engines.open_engine`; none if there is a finished output.
            options: They choose the plane that is read.
            sockets: From `listen`; by default a port that is free.
            finished: An output of the one slide, shown beside it.
            output: The folder for marked regions.
            tile_bytes: Memory for tiles.
        """
        self._slides, self._generators, self._options = list(slides), list(generators), options
        self._finished, self._output = finished, output
        for generator in [Bicubic(1), *generators]:  # what the first call allocates would keep the first click waiting
            side = TILE + 2 * generator.halo
            generator(np.zeros((1, side, side, 3), np.uint8))
        self.tiles, self._saver = Tiles(tile_bytes), ThreadPoolExecutor(1)
        sockets = sockets or listen()
        self.port = sockets[0].getsockname()[1]
        self.url = f"http://{HOST}:{self.port}/"
        application = BokehTornado(
            {"/view": self._show}, use_index=False, redirect_root=False,
            extra_patterns=[("/", _Gallery, {"slides": self._slides}),
                            (r"/thumbnail/(\d{1,9})\.png", _Thumbnail, {"slides": self._slides})],
            extra_websocket_origins=[f"{name}:{self.port}" for name in NAMES],
            unused_session_lifetime_milliseconds=UNUSED_MS, check_unused_sessions_milliseconds=UNUSED_MS)
        router = RuleRouter([Rule(_Allowed(f"(?:{'|'.join(map(re.escape, NAMES))})$"), application),
                             Rule(AnyMatches(), Application([(r".*", ErrorHandler, {"status_code": 403})]))])
        http = HTTPServer(router)
        http.add_sockets(sockets)
        self._server = BaseServer(IOLoop.current(), application, http)

    def run(self) -> None:
        """Serve until Ctrl-C, or `stop`."""
        self._server.start()
        try:
            with suppress(KeyboardInterrupt):  # Ctrl-C is how a viewer ends
                self._server.io_loop.start()
        finally:
            self._server.stop()
            self.tiles.close()
            self._saver.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """End `run` from another thread."""
        self._server.io_loop.add_callback(self._server.io_loop.stop)

    def fill(self, document: Document, asked: str) -> None:
        """Fill a document with the page of the slide whose number is asked for, or with a line that says why not."""
        try:
            known = [number for number in range(len(self._slides)) if str(number) == asked]
            require(bool(known), "slide", f"be one of the {len(self._slides)} that were given",
                    "choose one in the gallery", asked[:LONGEST_SHOWN])
            scene = Scene(self._slides[known[0]], self._generators, self._options, self._finished)
            try:
                Page(document, scene, known[0], self.tiles, self._save)
            except BaseException:
                scene.close()
                raise
        except (UserError, ValueError, OSError) as error:
            document.clear()
            document.add_root(Div(name="failure", text=f"<b>{escape(one_line(error))}</b>"))

    def _show(self, document: Document) -> None:
        context = document.session_context
        values = context.request.arguments.get("slide") if context and context.request else None
        self.fill(document, values[0].decode(errors="replace") if values else "0")

    def _save(self, scene: Scene, model: str, region: Region) -> Future[Path]:
        return self._saver.submit(save_region, scene, model, region, self._output)


def save_region(scene: Scene, model: str, region: Region, folder: Path) -> Path:
    """Super-resolve a region of level 0 into a new file of a folder, as `super_resolve` does, and return its path.

    Args:
        scene: The slide.
        model: The name of one of its models.
        region: In pixels of level 0.
        folder: Where to write; it is created.

    Raises:
        SlideError, ValueError, OSError: As `enlarge_file`; the file exists already.
    """
    place = "_".join(map(str, region))
    path = folder / fitting_name("", scene.lr.slide.slide_id, f"_{place}_{model}.tif")
    require(not path.exists(), "output", "not exist", "this region was written before by this model", str(path))
    folder.mkdir(parents=True, exist_ok=True)
    enlarge_file(scene.generators[model], scene.path, path, replace(scene.options, region=region))
    return path


@lru_cache(THUMBNAILS)
def thumbnail(path: Path) -> bytes:
    """Return the thumbnail of a slide as PNG.

    Raises:
        SlideError: It cannot be read.
    """
    file = io.BytesIO()
    with open_slide(path) as slide:
        Image.fromarray(slide.thumbnail(THUMBNAIL // 2)).save(file, "PNG")
    return file.getvalue()


class _Allowed(HostMatches):
    """A request that names this machine, and that no page of another site makes; a link to here may be followed."""

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        asked = request.headers.get
        from_elsewhere = asked("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        return None if from_elsewhere and asked("Sec-Fetch-Dest") != "document" else super().match(request)


class _Gallery(RequestHandler):
    def initialize(self, slides: Sequence[Path]) -> None:
        self._slides = slides

    def get(self) -> None:
        if len(self._slides) == 1:
            self.redirect("/view?slide=0")
        else:
            self.write(render("gallery.html", names=[path.name for path in self._slides]))


class _Thumbnail(RequestHandler):
    def initialize(self, slides: Sequence[Path]) -> None:
        self._slides = slides

    async def get(self, number: str) -> None:
        try:
            png = await asyncio.to_thread(thumbnail, self._slides[int(number)])
        except (IndexError, UserError, OSError) as error:
            raise HTTPError(404) from error
        self.set_header("Content-Type", "image/png")
        self.write(png)
