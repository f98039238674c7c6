# SPDX-License-Identifier: Apache-2.0
"""The pieces of the page: figures, their images, and the scripts that run in the browser.

An image is the one row of a `ColumnDataSource`; data coordinates are those of `sr_keras.view.page`.
"""
from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from bokeh.models import BoxAnnotation, ColumnDataSource, Div, Metric, MetricLength, Range1d, ScaleBar, WheelZoomTool
from bokeh.plotting import figure

from sr_keras.view.looking import Picture
from sr_keras.view.scene import Scene

PANEL = (440, 330)  # width and height on the screen
LENS = 200  # side of a magnifier and of the overview on the screen
LENS_ZOOM = 4  # screen pixels for a pixel of SR, a side
NOT_FOR_DIAGNOSIS = "not for diagnosis"

# The wipe: columns of the screen up to the first handle show LR, up to the second bicubic, the others SR. All three
# cover the same box.
WIPE = """
const [from, to] = slider.value
const name = names[chosen.value] ?? names[Object.keys(names)[0]]
const whole = name.data.image?.[0]
if (whole == null || !lr.data.image?.length || !bicubic.data.image?.length) {
    wipe.setv({data: {image: [], x: [], y: [], dw: [], dh: []}}, {sync: false})
} else {
    const [h, w] = whole.shape, picture = new whole.constructor(h * w, [h, w])
    const {x, dw} = name.data
    const at = (share) => {
        const place = x_range.start + share / 100 * (x_range.end - x_range.start)
        return Math.min(w, Math.max(0, Math.round((place - x[0]) / dw[0] * w)))
    }
    const stops = [[lr, 0, at(from)], [bicubic, at(from), at(to)], [name, at(to), w]]
    for (const [source, first, last] of stops) {
        const pixels = source.data.image[0], [sh, sw] = pixels.shape
        for (let i = 0; i < h; i++) {
            const line = Math.floor(i * sh / h) * sw
            for (let j = first; j < last; j++)
                picture[i * w + j] = pixels[line + Math.floor(j * sw / w)]
        }
    }
    wipe.setv({data: {...name.data, image: [picture]}}, {sync: false})
}
"""
FOLLOW = """
const now = Date.now()
if (now - (window.sr_keras_moved ?? 0) > 60) {
    window.sr_keras_moved = now
    x_range.setv({start: cb_obj.x - half, end: cb_obj.x + half})
    y_range.setv({start: cb_obj.y + half, end: cb_obj.y - half})
    lens.setv({left: cb_obj.x - half, right: cb_obj.x + half, top: cb_obj.y - half, bottom: cb_obj.y + half},
              {sync: false})
}
"""
SAVE = """
const canvas = Bokeh.index.find_one(view).export("png", true).canvas
canvas.toBlob((blob) => {
    const link = document.createElement("a")
    link.href = URL.createObjectURL(blob)
    link.download = name
    link.click()
})
"""


def source(name: str) -> ColumnDataSource:
    """Return a source without an image."""
    return ColumnDataSource(as_data(None, 1), name=name)


def as_data(picture: Picture | None, unit: float) -> dict[str, list[Any]]:
    """Return the data of a source; y of the data points down, as the rows of a picture do."""
    if picture is None:
        return {"image": [], "x": [], "y": [], "dw": [], "dh": []}
    x0, y0, x1, y1 = (unit * side for side in picture.box)
    pixels = np.ascontiguousarray(picture.pixels).view(np.uint32)[..., 0]
    return {"image": [pixels], "x": [x0], "y": [y0], "dw": [x1 - x0], "dh": [y1 - y0]}


def show(one: ColumnDataSource, picture: Picture | None, unit: float) -> None:
    """Give a source another picture; nothing is sent to the browser if it is the same."""
    data, old = as_data(picture, unit), one.data
    if any(len(data[name]) != len(old[name]) or not all(map(np.array_equal, data[name], old[name])) for name in data):
        one.data = data


def bare_figure(name: str, title: str, x: Range1d, y: Range1d, size: tuple[int, int], sources: list[ColumnDataSource]
                ) -> Any:
    """Return a figure of images without axes and tools."""
    made = figure(name=name, title=title, x_range=x, y_range=y, frame_width=size[0], frame_height=size[1], tools="",
                  toolbar_location=None, background_fill_color="#d8d8d8")
    made.axis.visible = made.grid.visible = False
    made.title.text_font_size = "12px"
    made.title.visible = bool(title)
    for one in sources:
        made.image_rgba(image="image", x="x", y="y", dw="dw", dh="dh", source=one)
    return made


def panel(name: str, title: str, x: Range1d, y: Range1d, sources: list[ColumnDataSource], tools: list[Any],
          has_mpp: bool) -> Any:
    """Return a figure that pans and zooms, with tools and a scale bar."""
    made, wheel = bare_figure(name, title, x, y, PANEL, sources), WheelZoomTool()
    made.add_tools("pan", "box_zoom", wheel, *tools)
    made.toolbar.active_scroll, made.toolbar.logo, made.toolbar_location = wheel, None, "left"
    measured = {"unit": "µm", "dimensional": MetricLength()} if has_mpp else {
        "unit": "px", "dimensional": Metric(base_unit="px")}
    made.add_layout(ScaleBar(range=x, location="bottom_right", background_fill_alpha=0.7, padding=4, margin=6,
                             label_text_font_size="11px", **measured))
    return made


def overview(scene: Scene, x: Range1d, y: Range1d) -> Any:
    """Return the whole slide with a box at the ranges that are looked at."""
    unit, (height, width) = scene.unit, scene.lr.shape[:2]
    share = LENS / max(width, height)
    size = max(20, round(share * width)), max(20, round(share * height))
    thumbnail = np.dstack([scene.thumbnail, np.full(scene.thumbnail.shape[:2], 255, np.uint8)])
    whole = ColumnDataSource(as_data(Picture(thumbnail, (0, 0, width, height)), unit))
    made = bare_figure("overview", "", Range1d(0, unit * width), Range1d(unit * height, 0), size, [whole])
    seen = BoxAnnotation(left=x.start, right=x.end, top=y.end, bottom=y.start, fill_alpha=0, line_color="black",
                         line_alpha=1, line_width=2)
    for one, end, side in ((x, "start", "left"), (x, "end", "right"), (y, "end", "top"), (y, "start", "bottom")):
        one.js_link(end, seen, side)
    made.add_layout(seen)
    return made


def banner(scene: Scene) -> Div:
    """Return the line that stays on the screen: slide, resolution, models, and what they are not for."""
    height, width = scene.lr.shape[:2]
    mpp = f"{scene.lr.mpp:.4g} microns per pixel" if scene.lr.mpp else "no resolution metadata"
    text = (f'<a href="/" style="color:white">slides</a> &nbsp; <b>{escape(scene.path.name)}</b> '
            f"&nbsp; LR {width}x{height}, {mpp} &nbsp; <b>{escape(', '.join(scene.enlarged))}</b> &nbsp; "
            f'<b style="color:#ffd24d">research software, {NOT_FOR_DIAGNOSIS}</b>')
    return Div(name="banner", text=text, stylesheets=["""
        :host { position: sticky; top: 0; z-index: 10; background: #20304a; color: white; padding: 8px 12px;
                font-size: 14px; width: 100%; box-sizing: border-box; }"""])
