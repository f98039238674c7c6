# SPDX-License-Identifier: Apache-2.0
"""The files of a trust map: the map, its worst regions as GeoJSON, and a picture of both.

    case_trust.tif                 float32, what is shown of each square of the output, in grey levels of 255: the
                                   expected error, with the LR error as the second page; or the LR error alone
    case_trust.on_output.geojson   regions with outliers, worst first, in pixels of the output
    case_trust.on_input.geojson    the same in level-0 pixels of the input, for QuPath with that slide open
    case_trust.overview.png        the input beside the map, the regions outlined and numbered
"""
from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tifffile
from scipy import ndimage

from pipelines.files import atomic_path, fitting_name, write_text
from pipelines.pyramid.tiff import MICRONS_PER_CM
from sr_keras.model.facts import in_words
from sr_keras.slides.trust_map import UNIT, TrustMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST = 32  # side of the smallest region, in pixels of the output: half a nucleus
REGIONS = 20
VERMILION = (213, 94, 0)
DPI = 150
DESCRIPTION_START = '{"departure": '
CAPTION = """Compared at the size of the input's pixels. The input is assumed to be made by
{}.
Finer detail that the network invents is removed before the comparison: this map cannot show it."""
NOT_MEASURED = "\nHow well it predicts the real error of this model was not measured."
EXPECTED_CAPTION = """The mean error of each square that the model's uncertainty head expects for such input: an
estimate, not a measurement of this picture. It cannot show which detail the network invented.
0 is glass. The compression of the output adds to the error."""
PREDICTS = """
On validation slides {} predicts the real error of squares of 16 pixels with a rank correlation of {:.2f}
(area under the ROC for the worst tenth: {:.2f}); {}, with {:.2f} ({:.2f})."""
EXPECTED, DIFFERENCE = "the expected error", "the difference to the input"

Point = tuple[int, int]
Transform = Callable[[float, float], tuple[float, float]]  # x and y of the output -> x and y of another image


class TrustRegion(NamedTuple):
    """A region of large values: its closed outline and its `area` in pixels of the output, and the values."""

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
    write_text(paths[1], json.dumps(geojson(regions, expected=trust.expected is not None)) + "\n")
    write_text(paths[2], json.dumps(geojson(regions, to_input, trust.expected is not None)) + "\n")
    write_overview(paths[3], trust, regions, title)
    fitted = trust.degradation
    return {"map": str(paths[0]), "on_output": str(paths[1]), "on_input": str(paths[2]), "overview": str(paths[3]),
            "unit": UNIT, "shows": DIFFERENCE if trust.expected is None else EXPECTED, "predicts": predicts(trust),
            "square": trust.square, "median": trust.quartiles[1], "threshold": trust.threshold,
            "lr_median": trust.lr_median,
            "usual": trust.usual and list(trust.usual), "unusual": trust.is_unusual,
            "degradation": fitted and {"words": in_words(fitted), **asdict(fitted)},
            "largest": float(trust.shown.max()), "far_share": float((trust.shown > trust.threshold).mean()),
            "worst": [{"hr_box": list(region.box), "largest": region.largest, "rms": region.rms} for region in regions]}


def predicts(trust: TrustMap) -> dict[str, dict[str, float]] | None:
    """Return how well each map predicts the real error; None if it was not measured."""
    found = trust.measured
    return {EXPECTED: asdict(found.uncertainty), DIFFERENCE: asdict(found.departure)} if found else None


def caption(trust: TrustMap) -> str:
    """Return what stands below the overview: what is shown, and how well it predicts the real error."""
    known = predicts(trust)
    shown, other = (DIFFERENCE, EXPECTED) if trust.expected is None else (EXPECTED, DIFFERENCE)
    text = EXPECTED_CAPTION if trust.expected is not None else CAPTION.format(
        in_words(trust.degradation) if trust.degradation else "an unknown degradation")
    return text + (PREDICTS.format(shown, *known[shown].values(), other, *known[other].values()) if known else
                   NOT_MEASURED)


def worst_regions(trust: TrustMap, count: int = REGIONS) -> list[TrustRegion]:
    """Return the regions of outliers, the largest value first.

    Outliers with up to two squares between them form one region. Its outline has a margin of one square and no
    holes; `rms` and `area` are those of the outliers alone.
    """
    outliers = trust.shown > trust.threshold
    labels, found = ndimage.label(ndimage.binary_dilation(outliers, np.ones((3, 3))))
    if not found:
        return []
    own = np.where(outliers, labels, 0)
    numbers, counts = np.arange(1, found + 1), np.bincount(own.ravel(), minlength=found + 1)[1:]
    largest = np.asarray(ndimage.maximum(trust.shown, own, numbers))
    places, least = ndimage.find_objects(labels), math.ceil((SMALLEST / trust.square) ** 2)
    regions = []
    for i in [i for i in np.argsort(-largest, kind="stable") if counts[i] >= least][:count]:
        rows, columns = places[i]
        values = trust.shown[rows, columns][own[rows, columns] == i + 1].astype(np.float64)
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


def geojson(regions: list[TrustRegion], transform: Transform | None = None, expected: bool = False) -> dict[str, Any]:
    """Return regions as annotations that QuPath imports, in pixels of the output, or of another image.

    `expected` says that they are regions of large expected error.
    """
    about, title, value = ("expected error up to", "SR may be wrong", "Expected error") if expected else (
        "departs by up to", "SR departs from LR", "Departure")

    def feature(number: int, region: TrustRegion) -> dict[str, Any]:
        ring = [[round(at, 2) for at in transform(*point)] if transform else list(point) for point in region.ring]
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "annotation",
                "name": f"{number}: {about} {region.largest:.1f}",
                "classification": {"name": title, "color": list(VERMILION)},
                "measurements": {f"{value}, largest ({UNIT})": round(region.largest, 3),
                                 f"{value}, RMS ({UNIT})": round(region.rms, 3),
                                 f"{'Area' if expected else 'Departing area'} (pixels of the output)": region.area}}}

    return {"type": "FeatureCollection", "features": [feature(i + 1, region) for i, region in enumerate(regions)]}


def write_overview(path: Path, trust: TrustMap, regions: list[TrustRegion], title: str) -> None:
    """Draw the input beside the map as a PNG.

    The map's colours end at twice the threshold; those of the expected error, which has few outliers, at the threshold.
    """
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
    rows, columns = trust.shown.shape
    place = {"extent": (0, columns * trust.square * pixel, rows * trust.square * pixel, 0)}
    left.imshow(trust.thumbnail, **place)
    map_title, label, most = "difference between degraded output and input", f"RMS in {UNIT}", 2 * trust.threshold
    if trust.expected is not None:
        map_title, label, most = "expected error", f"mean of |HR - SR| in {UNIT}", trust.threshold
    image = right.imshow(trust.shown, cmap="cividis", vmin=0, vmax=most, **place)
    bar = figure.colorbar(image, ax=[left, right] if wide else right, extend="max", label=label, aspect=30)
    bar.ax.axhline(trust.threshold, color="white", linewidth=2)
    for axes, name in ((left, "input"), (right, map_title)):
        axes.set(title=name, xlim=(0, trust.width * pixel), ylim=(trust.height * pixel, 0), xlabel=unit)
        for number, region in enumerate(regions):
            _draw_region(axes, region, str(number + 1), pixel)
    usual = f" (usual: {trust.usual[0]:.1f} to {trust.usual[1]:.1f})" if trust.usual and trust.expected is None else ""
    unfamiliar = "; unfamiliar input" if trust.is_unusual else ""
    found = f"{len(regions)} worst regions above" if regions else "no region above"
    figure.suptitle(f"{title}: median in tissue {trust.quartiles[1]:.2f}{usual}{unfamiliar}; "
                    f"{found} {trust.threshold:.1f}", fontsize=10, wrap=True)
    figure.supxlabel(caption(trust), fontsize=7, color="0.3")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def trust_paths(path: Path) -> tuple[Path, Path, Path, Path]:
    """Return the paths of map, regions on the output, regions on the input, and overview, from that of the map."""
    on_output, on_input = (path.with_name(fitting_name("", path.stem, f".on_{image}.geojson"))
                           for image in ("output", "input"))
    return path, on_output, on_input, path.with_name(fitting_name("", path.stem, ".overview.png"))


def write_map(path: Path, trust: TrustMap) -> None:
    """Write what is shown as a tiled TIFF of one float32 channel, with the mpp of a square.

    The LR error is on the second page if the expected error is shown.
    """
    about = {"departure": f"RMS of degrade(sr) - lr, in {UNIT}"}
    if trust.expected is not None:
        about = {"departure": f"{about['departure']}; the second page",
                 "expected": f"mean of |HR - SR| that is expected, in {UNIT}; the first page"}
    description = json.dumps({**about, "square": trust.square, "width": trust.width, "height": trust.height})
    resolution: dict[str, Any] = {}
    if trust.mpp is not None:
        resolution = {"resolution": (MICRONS_PER_CM / (trust.mpp * trust.square),) * 2, "resolutionunit": "CENTIMETER"}
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary) as tiff:
        for page in [trust.shown] if trust.expected is None else [trust.shown, trust.lr_error]:
            tiff.write(page, photometric="minisblack", tile=(256, 256), metadata=None, software=False,
                       compression="adobe_deflate", description=description, **resolution)


def is_trust_map(path: Path) -> bool:
    """Whether `write_map` wrote a file."""
    if not os.path.isfile(path):  # opening a pipe would wait for its writer
        return False
    try:
        with tifffile.TiffFile(path) as tiff:
            return tiff.pages[0].description.startswith(DESCRIPTION_START)
    except Exception:  # decoders of damaged files raise errors of every kind
        return False


def _draw_region(axes: Axes, region: TrustRegion, name: str, pixel: float) -> None:
    """Outline a region in white and black, visible on any background, with its name above or, at the top, below."""
    from matplotlib.patheffects import withStroke

    x, y = (np.array(region.ring) * pixel).T
    axes.plot(x, y, color="white", linewidth=1, path_effects=[withStroke(linewidth=2.5, foreground="black")])
    below = y.min() < 0.06 * axes.get_ylim()[0]
    axes.annotate(name, ((x.min() + x.max()) / 2, y.max() if below else y.min()), (0, -3 if below else 3),
                  textcoords="offset points", ha="center", va="top" if below else "bottom", color="white",
                  fontsize=9, fontweight="bold", path_effects=[withStroke(linewidth=2.5, foreground="black")])
