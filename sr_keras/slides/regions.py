"""Where SR departs far from what was scanned: the worst regions, outlined, as annotations that QuPath imports.

    regions = worst_regions(trust)                    # the largest departure first
    geojson(regions)                                  # polygons in pixels of the output
    geojson(regions, lambda x, y: (x / 4, y / 4))     # in pixels of the input, read at level 0
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from sr_keras.slides.departure import UNIT, TrustMap

SMALLEST = 32  # side of the smallest region, in pixels of the output: half a nucleus
REGIONS = 20
VERMILION = (213, 94, 0)

Point = tuple[int, int]
Place = Callable[[float, float], tuple[float, float]]  # x and y in another image


class Region(NamedTuple):
    """A region that departs: its outline, closed, in pixels of the output, and how far; `area` in pixels."""

    ring: list[Point]
    largest: float
    rms: float
    area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom."""
        xs, ys = zip(*self.ring, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def worst_regions(trust: TrustMap, count: int = REGIONS) -> list[Region]:
    """Return where SR departs further than `threshold`, the largest departure first.

    Squares with no more than two others between them are one region. It is outlined with a square of margin, and what
    it encloses belongs to it; `rms` and `area` are those of the squares beyond the threshold alone.
    """
    far = trust.departure > trust.threshold
    labels, found = ndimage.label(ndimage.binary_dilation(far, np.ones((3, 3))))
    if not found:
        return []
    own = np.where(far, labels, 0)
    numbers, counts = np.arange(1, found + 1), np.bincount(own.ravel(), minlength=found + 1)[1:]
    largest = np.asarray(ndimage.maximum(trust.departure, own, numbers))
    places, least = ndimage.find_objects(labels), math.ceil((SMALLEST / trust.square) ** 2)
    regions = []
    for i in [i for i in np.argsort(-largest, kind="stable") if counts[i] >= least][:count]:
        rows, columns = places[i]
        values = trust.departure[rows, columns][own[rows, columns] == i + 1].astype(np.float64)
        corners = outline(labels[rows, columns] == i + 1)
        ring = [(min((columns.start + x) * trust.square, trust.width),
                 min((rows.start + y) * trust.square, trust.height)) for x, y in corners]
        regions.append(Region(ring, float(largest[i]), float(np.sqrt(np.mean(values**2))),
                              int(counts[i]) * trust.square**2))
    return regions


def outline(mask: np.ndarray) -> list[Point]:
    """Return the corners (x, y) around what hangs together by sides, closed; its holes are filled.

    The way is counterclockwise by x and y, as RFC 7946 wants it; on a screen, where y points down, clockwise.
    """
    inside = np.pad(ndimage.binary_fill_holes(mask), 1)
    following: dict[Point, Point] = {}
    # Of each pixel the sides that have no neighbour. From a corner there is one way on: were there two, a pair of
    # pixels would touch there by their corners alone, and of the other pair one would be a hole.
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


def geojson(regions: list[Region], place: Place | None = None) -> dict[str, Any]:
    """Return regions as annotations that QuPath imports, in pixels of the output or wherever `place` puts these."""
    def feature(number: int, region: Region) -> dict[str, Any]:
        ring = [[round(at, 2) for at in place(*point)] if place else list(point) for point in region.ring]
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
