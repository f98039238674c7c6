# SPDX-License-Identifier: Apache-2.0
"""The files of a trust map: the map, its worst regions as GeoJSON, and a picture of both.

    case_trust.tif                 float32, the LR error of each square of the output, in grey levels of 255
    case_trust.on_output.geojson   regions with outliers, worst first, in pixels of the output
    case_trust.on_input.geojson    the same in level-0 pixels of the input, for QuPath with that slide open
    case_trust.overview.png        the input beside the map, the regions outlined and numbered
"""
from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import ndimage

from pipelines.files import atomic_path, write_text
from sr_keras.model.facts import in_words
from sr_keras.slides.trust_map import UNIT, TrustMap, trust_paths, write_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST = 32  # side of the smallest region, in pixels of the output: half a nucleus
REGIONS = 20
VERMILION = (213, 94, 0)
DPI = 150
CAPTION = """Compared at the size of the input's pixels. The input is assumed to be made by
{}.
Finer detail that the network invents is removed before the comparison: this map cannot show it."""

Point = tuple[int, int]
Transform = Callable[[float, float], tuple[float, float]]  # x and y of the output -> x and y of another image


class TrustRegion(NamedTuple):
    """A region of large LR error: its closed outline and its `area` in pixels of the output, and the errors."""

    ring: list[Point]
    largest: float
    rms: float
    area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom."""
        xs, ys = zip(*self.ring, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def write_trust(path: Path, trust: TrustMap, title: str, to_input: Transform) -> dict[str, Any]:
    """Write map, regions and overview, each atomically, and return what a report says of the map, for JSON.

    `to_input` gives the level-0 position of an output pixel in the input.
    """
    regions = worst_regions(trust)
    paths = trust_paths(path)
    write_map(paths[0], trust)
    write_text(paths[1], json.dumps(geojson(regions)) + "\n")
    write_text(paths[2], json.dumps(geojson(regions, to_input)) + "\n")
    write_overview(paths[3], trust, regions, title)
    fitted = trust.degradation
    return {"map": str(paths[0]), "on_output": str(paths[1]), "on_input": str(paths[2]), "overview": str(paths[3]),
            "unit": UNIT, "square": trust.square, "median": trust.quartiles[1], "threshold": trust.threshold,
            "usual": trust.usual and list(trust.usual), "unusual": trust.is_unusual,
            "degradation": fitted and {"words": in_words(fitted), **asdict(fitted)},
            "largest": float(trust.lr_error.max()), "far_share": float((trust.lr_error > trust.threshold).mean()),
            "worst": [{"hr_box": list(region.box), "largest": region.largest, "rms": region.rms} for region in regions]}


def worst_regions(trust: TrustMap, count: int = REGIONS) -> list[TrustRegion]:
    """Return the regions of outliers, the largest LR error first.

    Outliers with up to two squares between them form one region. Its outline has a margin of one square and no
    holes; `rms` and `area` are those of the outliers alone.
    """
    outliers = trust.lr_error > trust.threshold
    labels, found = ndimage.label(ndimage.binary_dilation(outliers, np.ones((3, 3))))
    if not found:
        return []
    own = np.where(outliers, labels, 0)
    numbers, counts = np.arange(1, found + 1), np.bincount(own.ravel(), minlength=found + 1)[1:]
    largest = np.asarray(ndimage.maximum(trust.lr_error, own, numbers))
    places, least = ndimage.find_objects(labels), math.ceil((SMALLEST / trust.square) ** 2)
    regions = []
    for i in [i for i in np.argsort(-largest, kind="stable") if counts[i] >= least][:count]:
        rows, columns = places[i]
        values = trust.lr_error[rows, columns][own[rows, columns] == i + 1].astype(np.float64)
        corners = outline(labels[rows, columns] == i + 1)
        ring = [(min((columns.start + x) * trust.square, trust.width),
                 min((rows.start + y) * trust.square, trust.height)) for x, y in corners]
        regions.append(TrustRegion(ring, float(largest[i]), float(np.sqrt(np.mean(values**2))),
                                   int(counts[i]) * trust.square**2))
    return regions


def outline(mask: np.ndarray) -> list[Point]:
    """Return the closed outline of a region, connected by sides, as corners (x, y); its holes are filled.

    It is counterclockwise by x and y, as RFC 7946 requires; on a screen, where y points down, clockwise.
    """
    inside = np.pad(ndimage.binary_fill_holes(mask), 1)
    following: dict[Point, Point] = {}
    # The open sides of all pixels, each from corner to corner. Only one starts at a corner: if two did, two pixels
    # would touch there by corners alone, and one of the two between them would be a hole.
    for (down, right), (x0, y0), (x1, y1) in (((-1, 0), (0, 0), (1, 0)), ((0, 1), (1, 0), (1, 1)),
                                              ((1, 0), (1, 1), (0, 1)), ((0, -1), (0, 1), (0, 0))):
        open_side = inside & ~np.roll(inside, (-down, -right), (0, 1))
        for y, x in (np.argwhere(open_side) - 1).tolist():
            following[x + x0, y + y0] = (x + x1, y + y1)
    path = [min(following)]
    while (point := following[path[-1]]) != path[0]:
        path.append(point)
    turns = [here for before, here, after in zip(path[-1:] + path[:-1], path, path[1:] + path[:1], strict=True)
             if (before[0] == here[0]) != (here[0] == after[0])]
    return [*turns, turns[0]]


def geojson(regions: list[TrustRegion], transform: Transform | None = None) -> dict[str, Any]:
    """Return regions as annotations that QuPath imports, in pixels of the output, or of another image."""
    def feature(number: int, region: TrustRegion) -> dict[str, Any]:
        ring = [[round(at, 2) for at in transform(*point)] if transform else list(point) for point in region.ring]
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "annotation",
                "name": f"{number}: departs by up to {region.largest:.1f}",
                "classification": {"name": "SR departs from LR", "color": list(VERMILION)},
                "measurements": {f"Departure, largest ({UNIT})": round(region.largest, 3),
                                 f"Departure, RMS ({UNIT})": round(region.rms, 3),
                                 "Departing area (pixels of the output)": region.area}}}

    return {"type": "FeatureCollection", "features": [feature(i + 1, region) for i, region in enumerate(regions)]}


def write_overview(path: Path, trust: TrustMap, regions: list[TrustRegion], title: str) -> None:
    """Draw the input beside the map as a PNG; the map's colours end at twice the threshold."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports the font cache that its first use builds
    from matplotlib.figure import Figure  # not pyplot, which needs a display and global state

    wide = trust.width > 2 * trust.height
    panel = min(6.0, 6.0 * trust.width / trust.height), min(6.0, 6.0 * trust.height / trust.width)
    panel = (2 * panel[0], max(1.0, 2 * panel[1])) if wide else panel
    size = (max(panel[0], 5.0) + 1.8, 2 * panel[1] + 1.8) if wide else (max(2 * panel[0], 6.0) + 1.8, panel[1] + 1.5)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    left, right = figure.subplots(*((2, 1) if wide else (1, 2)))
    unit, pixel = "pixels of the output", 1.0  # and the size of an output pixel in it
    if trust.mpp is not None:
        small = trust.mpp * max(trust.width, trust.height) < 2000
        unit, pixel = ("µm", trust.mpp) if small else ("mm", trust.mpp / 1000)
    rows, columns = trust.lr_error.shape
    place = {"extent": (0, columns * trust.square * pixel, rows * trust.square * pixel, 0)}
    left.imshow(trust.thumbnail, **place)
    image = right.imshow(trust.lr_error, cmap="cividis", vmin=0, vmax=2 * trust.threshold, **place)
    bar = figure.colorbar(image, ax=[left, right] if wide else right, extend="max", label=f"RMS in {UNIT}", aspect=30)
    bar.ax.axhline(trust.threshold, color="white", linewidth=2)
    for axes, name in ((left, "input"), (right, "difference between degraded output and input")):
        axes.set(title=name, xlim=(0, trust.width * pixel), ylim=(trust.height * pixel, 0), xlabel=unit)
        for number, region in enumerate(regions):
            _draw_region(axes, region, str(number + 1), pixel)
    usual = f" (usual: {trust.usual[0]:.1f} to {trust.usual[1]:.1f})" if trust.usual else ""
    unfamiliar = "; unfamiliar input" if trust.is_unusual else ""
    found = f"{len(regions)} worst regions above" if regions else "no region above"
    figure.suptitle(f"{title}: median in tissue {trust.quartiles[1]:.2f}{usual}{unfamiliar}; "
                    f"{found} {trust.threshold:.1f}", fontsize=10, wrap=True)
    figure.supxlabel(CAPTION.format(in_words(trust.degradation) if trust.degradation else "an unknown degradation"),
                     fontsize=7, color="0.3")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw_region(axes: Axes, region: TrustRegion, name: str, pixel: float) -> None:
    """Outline a region in white and black, visible on any background, with its name above or, at the top, below."""
    from matplotlib.patheffects import withStroke

    x, y = (np.array(region.ring) * pixel).T
    axes.plot(x, y, color="white", linewidth=1, path_effects=[withStroke(linewidth=2.5, foreground="black")])
    below = y.min() < 0.06 * axes.get_ylim()[0]
    axes.annotate(name, ((x.min() + x.max()) / 2, y.max() if below else y.min()), (0, -3 if below else 3),
                  textcoords="offset points", ha="center", va="top" if below else "bottom", color="white",
                  fontsize=9, fontweight="bold", path_effects=[withStroke(linewidth=2.5, foreground="black")])
