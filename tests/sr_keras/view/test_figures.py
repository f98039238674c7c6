# SPDX-License-Identifier: Apache-2.0
"""Images lie where their pixels are, and are sent once."""
from __future__ import annotations

import numpy as np
from bokeh.models import Range1d

from sr_keras.view import figures
from sr_keras.view.looking import Picture


def picture(value: int = 1) -> Picture:
    pixels = np.full((6, 8, 4), value, np.uint8)
    pixels[0, 1] = 10, 20, 30, 255
    return Picture(pixels, (16, 8, 24, 14))


def test_image_has_the_colours_and_the_place_in_microns():
    data = figures.as_data(picture(), 0.5)
    assert (data["x"], data["y"], data["dw"], data["dh"]) == ([8], [4], [4], [3])
    assert data["image"][0][0, 1] == 10 + 20 * 256 + 30 * 256**2 + 255 * 256**3  # R, G, B, A from the lowest byte


def test_picture_is_sent_only_if_it_is_another():
    sent = []
    source = figures.source("small")
    source.on_change("data", lambda attr, old, new: sent.append(len(new["image"])))
    for shown in (None, picture(), picture(), picture(2), picture(2)._replace(box=(0, 8, 8, 14)), None, None):
        figures.show(source, shown, 0.5)
    assert sent == [1, 1, 1, 0]


def test_scale_bar_is_in_microns_or_in_pixels_where_the_slide_has_no_resolution():
    for has_mpp, unit in ((True, "µm"), (False, "px")):
        panel = figures.panel("panel", "SR", Range1d(0, 1), Range1d(1, 0), [], [], has_mpp)
        [bar] = [one for one in panel.center if type(one).__name__ == "ScaleBar"]
        assert bar.unit == unit
        assert bar.dimensional.is_known(unit)


def test_overview_marks_what_is_looked_at(scene):
    x, y = Range1d(10, 50), Range1d(80, 50)
    overview = figures.overview(scene, x, y)
    [box] = [one for one in overview.center if type(one).__name__ == "BoxAnnotation"]
    assert (box.left, box.right, box.top, box.bottom) == (10, 50, 50, 80)
    assert (overview.x_range.end, overview.y_range.start) == (256, 256)  # microns: 512 pixels of 0.5
