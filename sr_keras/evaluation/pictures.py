# SPDX-License-Identifier: Apache-2.0
"""Pictures of LR, bicubic, SR and HR, and curves of the gain on several kinds of LR.

Images are enlarged by whole factors and without interpolation, so that no blur is added. Places are (left, top, width,
height) in pixels, from the upper left of the picture.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.config import DegradeOptions
from pipelines.errors import require
from pipelines.files import atomic_path, side_product
from pipelines.pixels import quantise, to_float
from sr_keras.evaluation.conditions import CURVES, REAL, Condition
from sr_keras.evaluation.scored_patches import BICUBIC, METHODS, METRICS, SR, Row, score_images, text
from sr_keras.evaluation.tables import DIFFERENCE, Gain, metrics_of
from sr_keras.metrics import bicubic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sr_keras.evaluation.detail import SlideDetail

INK, FAINT, LINE, THIN = "#1d1d1f", "#5f5f66", "#0b6cc4", "#9cc4e8"
INVENTED, LOST, RING = "#ff7f00", "#0000ff", 10.0  # and the diameter of a ring in microns
ACCENT = "#00b050"  # a green that is not a colour of any stain
DPI = 100
MARGIN, GAP = 28, 14
SIDE, SHEET_SIDE = 320, 192  # least side of a panel, in pixels
PANEL = 420, 290  # width and height of a panel of curves
SHOWN = (("psnr",), ("ms_ssim", "qilv"))  # in a caption, by line
CURVE_METRICS = ("psnr", "ms_ssim", "qilv")
Place = tuple[float, float, float, float]


def side_by_side(lr: Any, bicubic: Any, sr: Any, hr: Any, path: str | os.PathLike[str],
                 inset: tuple[int, int, int] | None = None) -> None:
    """Draw LR, bicubic, SR and HR of one patch with the scores, and below each an enlarged inset.

    Args:
        lr: [h, w, 3], uint8 or float in [0, 1]; the others are [scale*h, scale*w, 3].
        bicubic: Enlarged by interpolation.
        sr: Enlarged by the model.
        hr: The truth.
        path: A .png file, written atomically.
        inset: (x, y, side) in HR pixels; None for the place with the most detail.

    Raises:
        ValueError: Sizes do not fit, or the inset is not inside the image.
    """
    images = [_float_image(image, name) for name, image in (("lr", lr), ("bicubic", bicubic), ("sr", sr), ("hr", hr))]
    height, width = images[3].shape[:2]
    scale = height // images[0].shape[0]
    whole = (scale * images[0].shape[0], scale * images[0].shape[1])
    require(all(image.shape[:2] == whole for image in images[1:]), "bicubic, sr, hr",
            "have one size, a whole multiple of lr's", "crop them", [image.shape for image in images])
    zoom = -(-SIDE // min(height, width))
    x, y, side = inset or most_detailed(images[3], _inset_side(min(height, width), scale, zoom), scale)
    require(0 <= x <= x + side <= width and 0 <= y <= y + side <= height and side > 0, "inset", "be inside the image",
            "give (x, y, side) in HR pixels", inset)
    titles = (f"LR  {width // scale} × {height // scale}", "Bicubic", "SR", f"HR  {width} × {height}")
    scores = [score_images(images[3][None], image[None], images[0][None], DegradeOptions(scale))
              for image in images[1:3]]
    shown = [_caption({name: value[0] for name, value in values.items()}) for values in scores]
    captions = ["", *shown, "ground truth"]
    images[0] = _repeated(images[0], scale)
    magnified = zoom * width // side * side
    top, below = MARGIN + 40, zoom * height + 84
    figure = _figure(2 * MARGIN + 4 * zoom * width + 3 * GAP, top + below + magnified + MARGIN)
    for i, image in enumerate(images):
        left = MARGIN + i * (zoom * width + GAP)
        _text(figure, left, top - 14, titles[i], size=19, weight="bold")
        _image(figure, image, (left, top, zoom * width, zoom * height))
        _frame(figure, (left + zoom * x, top + zoom * y, zoom * side, zoom * side))
        _text(figure, left, top + zoom * height + 27, captions[i], size=14, color=FAINT)
        place = (left + (zoom * width - magnified) / 2, top + below, magnified, magnified)
        _image(figure, image[y:y + side, x:x + side], place)
        _frame(figure, place)
    _save(figure, path)


def picture_sheet(rows: Sequence[Row], batches: Iterable[Mapping[str, Any]], upscale: Callable[[np.ndarray], Any],
                  path: str | os.PathLike[str], degrade: DegradeOptions | None = None) -> None:
    """Draw LR, bicubic, SR and HR of the best, median and worst patches by MS-SSIM (SSIM for small patches).

    `rows` are what `score` returned for `batches`, `upscale` and `degrade`; `path` is a .png, written atomically.
    """
    scale = (degrade or DegradeOptions()).scale
    metric = "ms_ssim" if "ms_ssim" in rows[0] else "ssim"
    kinds = pick(rows, metric)
    scores = {(row["example_id"], row["method"]): _caption(row) for row in rows if row["example_id"] in kinds}
    examples = {text(name): (np.asarray(lr), np.asarray(hr)) for batch in batches for name, lr, hr in zip(
        batch["example_id"], batch["lr"], batch["hr"], strict=True) if text(name) in kinds}
    side = next(iter(examples.values()))[1].shape[0]
    panel = -(-SHEET_SIDE // side) * side
    first, top, pitch = MARGIN + 98, MARGIN + 32, panel + 56
    figure = _figure(first + 4 * panel + 3 * GAP + MARGIN, top + len(kinds) * pitch + MARGIN - GAP)
    for i, title in enumerate(("LR", "Bicubic", "SR", "HR")):
        _text(figure, first + i * (panel + GAP), top - 12, title, size=14, weight="bold")
    shown = ""
    for j, (example_id, kind) in enumerate(kinds.items()):
        lr, hr = examples[example_id]
        images = (_repeated(lr, scale), bicubic(lr[None], scale)[0], quantise(np.asarray(upscale(lr[None])))[0], hr)
        captions = (_ending(example_id, panel), scores[example_id, BICUBIC], scores[example_id, SR], "")
        if kind != shown:
            _text(figure, MARGIN, top + j * pitch + 15, kind, size=14, weight="bold")
            _text(figure, MARGIN, top + j * pitch + 34, f"by {METRICS[metric].label}", size=9, color=FAINT)
            shown = kind
        for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
            left = first + i * (panel + GAP)
            _image(figure, image, (left, top + j * pitch, panel, panel))
            _text(figure, left, top + j * pitch + panel + 16, caption, size=8.5, color=FAINT)
    _save(figure, path)


def draw_curves(gains: Sequence[Gain], path: str | os.PathLike[str]) -> None:
    """Draw the gain over bicubic as a PNG, atomically: a column per curve, a row per metric.

    A thin line is a slide, the thick one the mean over slides. Bicubic is better below 0.
    """
    by_name = {gain.condition.name: gain for gain in gains}
    names = [name for name in CURVE_METRICS if name in metrics_of(gains)]
    figure = _figure(PANEL[0] * len(CURVES), PANEL[1] * len(names) + 60, layout="constrained")
    axes = figure.subplots(len(names), len(CURVES), squeeze=False, sharey="row", sharex="col")
    for row, name in zip(axes, names, strict=True):
        for panel, points in zip(row, CURVES.values(), strict=True):
            _draw_curve(panel, points, by_name, name)
        row[0].set_ylabel(f"gain in {METRICS[name].label}", color=INK)
    for panel, label in zip(axes[-1], CURVES, strict=True):
        panel.set_xlabel(label, color=INK)
    axes[0][0].legend(frameon=False, fontsize=8, labelcolor=FAINT, loc="upper left")
    figure.suptitle("Gain of SR over bicubic: above 0 is better than bicubic", color=INK, fontsize=12)
    _save(figure, path)


def draw_nuclei(slides: Sequence[SlideDetail], path: str | os.PathLike[str]) -> None:
    """Draw the worst patch of each slide as a PNG, atomically: lost nuclei on HR, invented ones on bicubic and SR."""
    side = max(slide.picture.hr.shape[0] for slide in slides)
    panel = -(-SIDE // side) * side
    top, pitch = MARGIN + 54, panel + 50
    figure = _figure(2 * MARGIN + 3 * panel + 2 * GAP, top + len(slides) * pitch + MARGIN - GAP)
    _text(figure, MARGIN, MARGIN + 8, "Nuclei that SR loses (blue, on HR), and nuclei that HR lacks (orange): the "
          "worst patch of each slide", size=13, weight="bold")
    for i, title in enumerate(("HR", "Bicubic", "SR")):
        _text(figure, MARGIN + i * (panel + GAP), top - 12, title, size=14, weight="bold")
    for j, slide in enumerate(slides):
        patch, found = slide.picture, slide.picture.found
        lost = patch.truth.places[found[SR].lost]
        panels = ((patch.hr, lost, LOST, _ending(patch.example_id, panel)),
                  *((patch.pictures[method], patch.nuclei[method].places[found[method].invented], INVENTED,
                     f"{len(found[method].same)} the same, {len(found[method].lost)} lost, "
                     f"{len(found[method].invented)} invented") for method in METHODS))
        for i, (picture, places, colour, caption) in enumerate(panels):
            place = (MARGIN + i * (panel + GAP), top + j * pitch, panel, panel)
            axes = _image(figure, picture, place)
            ring = RING / slide.mpp * panel / len(picture) * 72 / DPI  # in points
            axes.scatter(places[:, 1], places[:, 0], s=ring**2, linewidths=1.8, facecolors="none", edgecolors=colour)
            _text(figure, place[0], place[1] + panel + 18, caption, size=10, color=FAINT)
    _save(figure, path)


def pick(rows: Sequence[Row], metric: str, each: int = 2) -> dict[str, str]:
    """Return example id -> "best", "median" or "worst": `each` patches of every kind by SR's score, no patch twice."""
    ranked = sorted((row for row in rows if row["method"] == SR), key=lambda row: row[metric],
                    reverse=bool(METRICS[metric].higher_is_better))
    middle = max(0, (len(ranked) - each) // 2)
    chosen: dict[str, str] = {}
    for label, part in (("best", ranked[:each]), ("median", ranked[middle:middle + each]), ("worst", ranked[-each:])):
        for row in part:
            chosen.setdefault(row["example_id"], label)
    return chosen


def most_detailed(image: np.ndarray, side: int, step: int) -> tuple[int, int, int]:
    """Return (x, y, side) of the square with the largest mean gradient, its corner on a grid of `step` pixels.

    The gradient of optical density is used: stained structures count more than the edge of glass.
    """
    density = -np.log10(np.clip(image.mean(2), 1 / 255, 1))
    upto = np.pad(np.hypot(*np.gradient(density)).cumsum(0).cumsum(1), ((1, 0), (1, 0)))  # sums above and left
    sums = (upto[side:, side:] - upto[:-side, side:] - upto[side:, :-side] + upto[:-side, :-side])[::step, ::step]
    y, x = np.unravel_index(sums.argmax(), sums.shape)
    return int(x) * step, int(y) * step, side


def _draw_curve(panel: Axes, points: Sequence[tuple[float, Condition]], by_name: dict[str, Gain], metric: str) -> None:
    gains = [(value, by_name[condition.name]) for value, condition in points if condition.name in by_name]
    for number, slide_id in enumerate(sorted({slide_id for _, gain in gains for slide_id in gain.slides})):
        mine = [(value, gain.slides[slide_id].means[DIFFERENCE][metric]) for value, gain in gains
                if slide_id in gain.slides]
        panel.plot(*zip(*mine, strict=True), color=THIN, linewidth=1, label="a slide" if number == 0 else None)
    means = [(value, gain.mean(metric)) for value, gain in gains]
    panel.plot(*zip(*means, strict=True), color=LINE, linewidth=2.2, marker="o", markersize=4, label="mean over slides")
    panel.axhline(0, color=INK, linewidth=0.9)
    if REAL.name in by_name:
        panel.axhline(by_name[REAL.name].mean(metric), color=FAINT, linewidth=1, linestyle=(0, (4, 3)),
                      label="real pairs, mean")
    panel.set_xticks([value for value, _ in gains])
    panel.tick_params(colors=FAINT, labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _inset_side(side: int, scale: int, zoom: int) -> int:
    """Return a quarter to a third of a side, in whole LR pixels; if possible one that divides the enlarged side."""
    quarter = max(scale, side // 4 // scale * scale)
    whole = [inset for inset in range(quarter, side // 3 + 1, scale) if zoom * side % inset == 0]
    return max(whole, default=quarter)


def _float_image(image: Any, name: str) -> np.ndarray:
    image = np.asarray(image)
    require(image.ndim == 3 and image.shape[2] == 3, name, "have shape [H, W, 3]", "take one image of a batch",
            image.shape)
    return to_float(image) if image.dtype == np.uint8 else quantise(image)


def _caption(values: Mapping[str, Any]) -> str:
    def shown(name: str) -> str:
        label, _, unit = METRICS[name].label.partition(" (")
        return f"{label} {values[name]:.{METRICS[name].digits}f} {unit.rstrip(')')}".rstrip()

    return "\n".join("   ".join(shown(name if name in values else "ssim") for name in line) for line in SHOWN)


def _ending(words: str, width: int) -> str:
    """Return words, shortened at their beginning to fit a width in pixels."""
    most = width // 7
    return words if len(words) <= most else f"…{words[1 - most:]}"


def _repeated(image: np.ndarray, times: int) -> np.ndarray:
    return np.repeat(np.repeat(image, times, 0), times, 1)


def _figure(width: int, height: int, **options: Any) -> Figure:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports the font cache that its first use builds
    from matplotlib.figure import Figure  # not pyplot, which needs a display and global state

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white", **options)


def _box(figure: Figure, place: Place) -> Place:
    """Return a place in figure coordinates: fractions of its sides, from the lower left."""
    left, top, width, height = place
    across, down = (side * DPI for side in figure.get_size_inches())
    return left / across, 1 - (top + height) / down, width / across, height / down


def _image(figure: Figure, image: Any, place: Place) -> Axes:
    axes = figure.add_axes(_box(figure, place))
    axes.imshow(np.asarray(image), interpolation="nearest", aspect="auto", vmin=0, vmax=1)
    axes.set_axis_off()
    return axes


def _frame(figure: Figure, place: Place) -> None:
    from matplotlib.patches import Rectangle

    left, bottom, width, height = _box(figure, place)
    figure.add_artist(Rectangle((left, bottom), width, height, fill=False, edgecolor=ACCENT, linewidth=2.2))


def _text(figure: Figure, left: float, base: float, words: str, **style: Any) -> None:
    """Write text from `left`, with the baseline of the first line at `base`."""
    x, y, _, _ = _box(figure, (left, base, 0, 0))
    first, *rest = words.split("\n")
    figure.text(x, y, first, **{"color": INK, "family": "DejaVu Sans", **style})
    if rest:
        _text(figure, left, base + 1.9 * style["size"], "\n".join(rest), **style)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with side_product(path), atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI, pil_kwargs={"optimize": True})
