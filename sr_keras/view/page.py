# SPDX-License-Identifier: Apache-2.0
"""The page of one slide, as a Bokeh document: linked panels, a wipe, a magnifier, an overview, buttons.

Data coordinates are microns from the corner of the plane (LR pixels where the slide states no resolution), y downwards.
What the browser shows comes from `Look`: each change of the ranges moves it, each finished tile draws it again.
"""
from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from bokeh.document import Document
from bokeh.events import SelectionGeometry, Tap
from bokeh.layouts import column, gridplot, row
from bokeh.models import (
    BoxAnnotation,
    BoxSelectTool,
    Button,
    Checkbox,
    CustomJS,
    Div,
    Range1d,
    RangeSlider,
    SaveTool,
    Select,
)

from pipelines.console import one_line
from pipelines.sources import Region
from sr_keras.view import figures
from sr_keras.view.figures import LENS, LENS_ZOOM, NOT_FOR_DIAGNOSIS, PANEL
from sr_keras.view.looking import Box, Look
from sr_keras.view.scene import BICUBIC, LR, Scene
from sr_keras.view.tile_queue import Tiles

WAIT_MS = 40  # changes within this time are answered together
TRUST = ("Orange: where the model's uncertainty head, if it has one, expects larger errors; else where SR, degraded "
         "again, differs from LR by more than is usual, which cannot show detail finer than a pixel of LR.")
REGION_LABEL = "Super-resolve the marked region to a file"


class Page:
    """A document that shows a scene, and what it does when somebody moves, clicks or leaves."""

    def __init__(self, document: Document, scene: Scene, key: int, tiles: Tiles,
                 save_region: Callable[[Scene, str, Region], Future[Path]]) -> None:
        """Build the document.

        Args:
            document: An empty one.
            scene: The slide.
            key: Its number among the slides of the server.
            tiles: What computes.
            save_region: Called with the name of a model and the marked region; returns a future of the path that is
                written.
        """
        self._document, self._scene, self._tiles, self._save_region = document, scene, tiles, save_region
        names = list(scene.layers)
        self._main = Look(scene, key, tiles, names)
        self._lens = Look(scene, key, tiles, [LR, BICUBIC, scene.enlarged[0]], trust=False)
        self._left = False
        self._due: set[Callable[[], None]] = set()
        self._mark: tuple[int, int, int, int] | None = None
        self._notes: list[str] = []
        self._build_ranges()
        self._warnings: list[str] = []
        self._sources = {name: figures.source(name) for name in names}
        self._trust_sources = {name: figures.source(f"trust in {name}") for name in scene.enlarged
                               if scene.layers[name].margin}
        self._lens_sources = {name: figures.source(f"magnified {name}") for name in self._lens.layers}
        self._chosen = Select(options=scene.enlarged, value=scene.enlarged[0], width=300, title="SR in the wipe",
                              visible=len(scene.enlarged) > 1)
        self._lens_box = BoxAnnotation(fill_alpha=0, line_color="black", line_alpha=1, left=0, right=0, top=0, bottom=0)
        self._marked = BoxAnnotation(fill_alpha=0, line_color="#00b050", line_alpha=1, line_width=2, visible=False)
        self._build()
        document.title = f"{scene.path.name} - sr_keras, {NOT_FOR_DIAGNOSIS}"
        document.on_session_destroyed(lambda context: self.leave())
        tiles.look(self, {object(): self._inspect}, partial(self._tell, self._draw))
        self._move_lens()
        self._move()

    def leave(self) -> None:
        """Compute nothing more, and close the files when nothing reads them."""
        self._left = True
        for viewer in (self, self._lens):
            self._tiles.forget(viewer)
        self._tiles.forget(self._main, self._scene.close)

    def _build_ranges(self) -> None:
        unit = self._scene.unit
        finest = unit / self._scene.finest  # a pixel of SR
        half_w, half_h = self._half_panel = [finest * side / 2 for side in PANEL]
        lens = self._half_lens = finest * LENS / LENS_ZOOM / 2
        x, y = self._nearest(*(unit * at for at in self._scene.first_place()))
        self._x = Range1d(x - half_w, x + half_w, min_interval=8 * finest, name="x")
        self._y = Range1d(y + half_h, y - half_h, min_interval=8 * finest, name="y")
        self._lens_x, self._lens_y = Range1d(x - lens, x + lens), Range1d(y + lens, y - lens)
        for ranges, move in (((self._x, self._y), self._move), ((self._lens_x, self._lens_y), self._move_lens)):
            for one in ranges:
                for end in ("start", "end"):
                    one.on_change(end, lambda attr, old, new, move=move: self._soon(move))

    def _build(self) -> None:
        panels = [self._panel(name) for name in self._sources]
        columns = 2 if len(panels) == 4 else 3
        grid = gridplot([panels[i:i + columns] for i in range(0, len(panels), columns)], toolbar_location="left",
                        toolbar_options={"logo": None})
        self._status = Div(name="status", text="")
        self._notes_div = Div(name="notes", text="", styles={"color": "#a04000"})
        save = Button(label="Save this view (PNG)", name="save")
        save.js_on_click(CustomJS(code=figures.SAVE, args={
            "view": grid, "name": f"{self._scene.lr.slide.slide_id}_view.png"}))
        self._region = Button(label=REGION_LABEL, name="region", disabled=True)
        self._region.on_click(self._start_region)
        wipe, controls = self._wipe()
        lenses = [self._magnifier(name) for name in self._lens.layers]
        magnifier = Div(text=f"<b>Magnifier</b> at the mouse: {LENS_ZOOM}x{LENS_ZOOM} of the screen for a pixel of SR")
        overview = figures.overview(self._scene, self._x, self._y)
        overview.on_event(Tap, lambda event: self.go(event.x, event.y))
        how_to_mark = Div(text="Mark a region by the box-select tool of the toolbar.")
        buttons = column(save, self._region, how_to_mark)
        below = row(wipe, column(magnifier, row(*lenses), row(column(*controls), buttons)),
                    column(Div(text="<b>Overview</b>: click to go there"), overview))
        self._document.add_root(column(figures.banner(self._scene), row(self._status, self._notes_div), grid, below))

    def _panel(self, name: str) -> Any:
        title = f"SR: {name}, {NOT_FOR_DIAGNOSIS}" if name in self._scene.enlarged else name
        sources = [self._sources[name], *([self._trust_sources[name]] if name in self._trust_sources else [])]
        panel = figures.panel(f"panel of {name}", title, self._x, self._y, sources,
                              [BoxSelectTool(persistent=True), SaveTool()], self._scene.lr.mpp is not None)
        for box in (self._lens_box, self._marked):
            panel.add_layout(box)
        panel.js_on_event("mousemove", CustomJS(code=figures.FOLLOW, args={
            "x_range": self._lens_x, "y_range": self._lens_y, "half": self._half_lens, "lens": self._lens_box}))
        panel.on_event(SelectionGeometry, self._select)
        return panel

    def _wipe(self) -> tuple[Any, list[Any]]:
        """Return the panel of the wipe, and the widgets that steer it and the trust map."""
        names = self._scene.enlarged
        slider = RangeSlider(start=0, end=100, value=(33, 67), step=0.5, show_value=False, width=300, name="wipe",
                             title="Wipe: LR | bicubic | SR")
        wiped = figures.source("wiped")
        panel = figures.panel("panel of the wipe", f"Wipe: LR | bicubic | SR, {NOT_FOR_DIAGNOSIS}", self._x, self._y,
                              [wiped], [SaveTool()], self._scene.lr.mpp is not None)
        compose = CustomJS(code=figures.WIPE, args={
            "slider": slider, "chosen": self._chosen, "x_range": self._x, "lr": self._sources[LR], "wipe": wiped,
            "bicubic": self._sources[BICUBIC], "names": {name: self._sources[name] for name in names}})
        for model, event in ((slider, "value"), (self._chosen, "value"), (self._x, "start"), (self._x, "end"),
                             *((source, "data") for source in self._sources.values())):
            model.js_on_change(event, compose)
        trust = Checkbox(label="Trust map over SR", active=True, name="trust")
        trust.on_change("active", lambda attr, old, new: self._show_trust(new))
        return panel, [slider, self._chosen, trust, Div(text=TRUST, width=300)]

    def _magnifier(self, name: str) -> Any:
        title = f"{name}, {NOT_FOR_DIAGNOSIS}" if name in self._scene.enlarged else name
        lens = figures.bare_figure(f"magnifier of {name}", title, self._lens_x, self._lens_y, (LENS, LENS),
                                   [self._lens_sources[name]])
        lens.title.text_font_size = "10px"
        return lens

    def go(self, x: float, y: float) -> None:
        """Show a place at the finest pixels; near the border of the slide, or beyond it, what is next to the border."""
        half_w, half_h = self._half_panel
        x, y = self._nearest(x, y)
        self._x.update(start=x - half_w, end=x + half_w)
        self._y.update(start=y + half_h, end=y - half_h)

    def _nearest(self, x: float, y: float) -> tuple[float, ...]:
        """Return the middle of the panel that lies on the slide and is nearest to a place."""
        sides = [self._scene.unit * side for side in self._scene.lr.shape[1::-1]]
        return tuple(min(max(at, half), side - half) if side > 2 * half else side / 2
                     for at, half, side in zip((x, y), self._half_panel, sides, strict=True))

    def _soon(self, what: Callable[[], None]) -> None:
        """Do something a little later, once for all that happens until then."""
        if what not in self._due:
            self._due.add(what)
            self._document.add_timeout_callback(partial(self._now, what), WAIT_MS)

    def _now(self, what: Callable[[], None]) -> None:
        self._due.discard(what)
        what()

    def _move(self) -> None:
        """Ask for what is looked at now, and draw what is known."""
        self._notes.clear()
        self._main.move(self._box(self._x, self._y), PANEL[0], partial(self._tell, self._draw))
        self._draw()

    def _move_lens(self) -> None:
        self._lens.move(self._box(self._lens_x, self._lens_y), LENS, partial(self._tell, self._draw_lens))
        self._draw_lens()

    def _box(self, x: Range1d, y: Range1d) -> Box:
        unit = self._scene.unit
        return x.start / unit, y.end / unit, x.end / unit, y.start / unit

    def _tell(self, draw: Callable[[], None], error: Exception | None) -> None:
        """Be told of a tile by the thread that computes them."""
        self._later(partial(self._told, draw, error))

    def _later(self, what: Callable[[], None]) -> None:
        """Do something in the server's loop, from another thread."""
        if not self._left:
            self._document.add_next_tick_callback(what)

    def _told(self, draw: Callable[[], None], error: Exception | None) -> None:
        if error is not None and one_line(error) not in self._notes:
            self._notes.append(one_line(error))
        self._soon(draw)

    def _draw_lens(self) -> None:
        pictures = self._lens.pictures()
        for name, source in self._lens_sources.items():
            figures.show(source, pictures.get(name), self._scene.unit)

    def _draw(self) -> None:
        unit, pictures = self._scene.unit, self._main.pictures()
        for name, source in self._sources.items():
            figures.show(source, pictures.get(name), unit)
        for name, source in self._trust_sources.items():
            figures.show(source, self._main.trust_picture(name) if self._main.trust else None, unit)
        waiting = self._main.waiting
        if self._main.is_overview:
            self._status.text = "reading the slide" if waiting else "the slide itself: zoom in to see bicubic and SR"
        else:
            self._status.text = f"{waiting} tiles to compute" if waiting else "all tiles are computed"
        unreadable = ["A place that cannot be read is shown white."] if self._scene.unreadable else []
        self._notes_div.text = "<br>".join(map(escape, [*self._notes, *unreadable, *self._warnings]))

    def _inspect(self) -> None:
        self._warnings = self._scene.warnings()

    def _show_trust(self, active: bool) -> None:
        self._main.trust = active
        self._move()

    def _select(self, event: SelectionGeometry) -> None:
        if event.final and event.geometry.get("type") == "rect":
            (x0, x1), (y0, y1) = (sorted((event.geometry[f"{axis}0"], event.geometry[f"{axis}1"])) for axis in "xy")
            self.mark(x0, y0, x1, y1)

    def mark(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Mark the LR pixels of a box of data coordinates, inside the plane."""
        unit, (height, width) = self._scene.unit, self._scene.lr.shape[:2]
        left, right = (min(max(0, round(x / unit)), width) for x in (x0, x1))
        top, bottom = (min(max(0, round(y / unit)), height) for y in (y0, y1))
        self._mark = (left, top, right - left, bottom - top) if left < right and top < bottom else None
        self._region.disabled = self._mark is None or not self._scene.generators
        self._marked.update(visible=self._mark is not None, left=left * unit, right=right * unit, top=top * unit,
                            bottom=bottom * unit)

    def _start_region(self) -> None:
        if self._mark is not None:
            chosen = self._chosen.value
            model = chosen if chosen in self._scene.generators else next(iter(self._scene.generators))
            self._region.update(disabled=True, label="Super-resolving the marked region ...")
            future = self._save_region(self._scene, model, self._scene.lr.l0_rectangle(*self._mark))
            future.add_done_callback(lambda done: self._later(partial(self._saved, done)))

    def _saved(self, done: Future[Path]) -> None:
        error = done.exception()
        self._notes = [f"written: {done.result()}" if error is None else one_line(error)]
        self._region.update(disabled=False, label=REGION_LABEL)
        self._draw()
