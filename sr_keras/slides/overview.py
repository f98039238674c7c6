"""The picture of a map of trust: the input beside how far the output departs from it, the worst regions numbered."""
from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.files import atomic_path
from sr_keras.model.facts import in_words
from sr_keras.slides.departure import UNIT, TrustMap
from sr_keras.slides.regions import Region

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
CAPTION = """Compared at the size of the input's pixels; the input is taken as
{}.
Detail that the network invents finer than that vanishes before it is compared: this map cannot show it."""


def write_overview(path: Path, trust: TrustMap, regions: list[Region], title: str) -> None:
    """Draw the input beside the map as a PNG; the map's colours end at twice the threshold."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # the first use builds a cache of fonts, and logs so
    from matplotlib.figure import Figure  # and not pyplot: no display, no global state

    wide = trust.width > 2 * trust.height
    panel = min(6.0, 6.0 * trust.width / trust.height), min(6.0, 6.0 * trust.height / trust.width)
    panel = (2 * panel[0], max(1.0, 2 * panel[1])) if wide else panel
    size = (max(panel[0], 5.0) + 1.8, 2 * panel[1] + 1.8) if wide else (max(2 * panel[0], 6.0) + 1.8, panel[1] + 1.5)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    left, right = figure.subplots(*((2, 1) if wide else (1, 2)))
    unit, pixel = _axis_unit(trust)
    rows, columns = trust.departure.shape
    place = {"extent": (0, columns * trust.square * pixel, rows * trust.square * pixel, 0)}
    left.imshow(trust.thumbnail, **place)
    image = right.imshow(trust.departure, cmap="cividis", vmin=0, vmax=2 * trust.threshold, **place)
    bar = figure.colorbar(image, ax=[left, right] if wide else right, extend="max", label=f"RMS in {UNIT}", aspect=30)
    bar.ax.axhline(trust.threshold, color="white", linewidth=2)
    for axes, name in ((left, "input"), (right, "how far the output departs from it")):
        axes.set(title=name, xlim=(0, trust.width * pixel), ylim=(trust.height * pixel, 0), xlabel=unit)
        for number, region in enumerate(regions):
            _mark(axes, region, str(number + 1), pixel)
    found = f"{len(regions)} worst regions beyond" if regions else "no region beyond"
    figure.suptitle(f"{title}: {trust.quartiles[1]:.2f} at the median of the tissue{_usual(trust)}; "
                    f"{found} {trust.threshold:.1f}", fontsize=10, wrap=True)
    figure.supxlabel(CAPTION.format(in_words(trust.degradation) if trust.degradation else "unknown"),
                     fontsize=7, color="0.3")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _usual(trust: TrustMap) -> str:
    if trust.usual is None:
        return ""
    low, high = trust.usual
    return f", {low:.1f} to {high:.1f} is usual{': unfamiliar input' if trust.is_unusual else ''}"


def _axis_unit(trust: TrustMap) -> tuple[str, float]:
    """Return what an axis is in, and how much of it a pixel of the output is."""
    if trust.mpp is None:
        return "pixels of the output", 1.0
    return ("µm", trust.mpp) if trust.mpp * max(trust.width, trust.height) < 2000 else ("mm", trust.mpp / 1000)


def _mark(axes: Axes, region: Region, name: str, pixel: float) -> None:
    """Outline a region, white in black, which shows on any ground; its name stands above, at the border below."""
    from matplotlib.patheffects import withStroke

    x, y = (np.array(region.ring) * pixel).T
    axes.plot(x, y, color="white", linewidth=1, path_effects=[withStroke(linewidth=2.5, foreground="black")])
    below = y.min() < 0.06 * axes.get_ylim()[0]
    axes.annotate(name, ((x.min() + x.max()) / 2, y.max() if below else y.min()), (0, -3 if below else 3),
                  textcoords="offset points", ha="center", va="top" if below else "bottom", color="white",
                  fontsize=9, fontweight="bold", path_effects=[withStroke(linewidth=2.5, foreground="black")])
