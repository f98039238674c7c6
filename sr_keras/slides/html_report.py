# SPDX-License-Identifier: Apache-2.0
"""The report that a person reads: one page of HTML beside an output, which needs no other file and no network.

    write_html(report, Path("case.svs"), Path("case_x4.tif"), options, generator)    # case_x4.tif.report.html

It shows warnings, the resolution, an overview, three places before and after at a zoom that the reader chooses, and
what the card of the model says that it must not be used for. The places are windows of tissue: the one that agrees
least with its input, one in the middle, and the one that agrees most, by the measure of `trust_map`. If there is a
trust map, its worst region is the first.
"""
from __future__ import annotations

import html
import io
import re
import sys
from base64 import b64encode
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from pipelines.config import SCALES
from pipelines.console import one_line
from pipelines.files import fitting_name, side_product, write_text
from pipelines.names import printable
from pipelines.slide import SlideError, open_slide
from sr_keras.model.facts import ModelFacts, in_words
from sr_keras.slides.lr_plane import LRPlane, find_tissue, sample_windows
from sr_keras.slides.reports import summary
from sr_keras.slides.trust_map import fit_degradation, measure, times
from sr_keras.slides.window_plan import EnlargeOptions
from sr_keras.templates import render

if TYPE_CHECKING:
    from sr_keras.model.loading import LoadedGenerator

OVERVIEW_SIDE = 1000
CANDIDATES, PLACES = 12, 3  # windows of tissue that are compared, and that are shown
SIDE = 512  # of a place, in pixels of the output
QUALITY = 92
CUTS, FULL = 4, 0.75  # a window is cut into so many parts a side; in a full one this share shows tissue
BARS = (100, 50, 20, 10, 5, 2, 1)  # lengths of scale bars in microns
MOST_ZOOM = 8
MISUSE = "What it must not be used for"  # a section of the card
UNKNOWN = "unknown"


class Place(NamedTuple):
    """Rows and columns of LR that are shown, and why."""

    rows: slice
    columns: slice
    why: str


def html_path(output: Path) -> Path:
    """Return the path of the page: beside the output, one for each output file."""
    return output.with_name(fitting_name("", output.name, ".report.html"))


def write_html(report: dict[str, Any], source: Path, output: Path, options: EnlargeOptions,
               generator: LoadedGenerator) -> None:
    """Write the page of an output from what `enlarge_file` returned; if that fails, warn: the output is finished."""
    path = html_path(output)
    try:
        if "lr" not in report:  # a run was killed before it wrote one
            raise ValueError(f"{output} has no JSON report for its page; write it again with --overwrite")
        page = _page(report, source, output, options, generator)
    except (OSError, SlideError, ValueError) as error:
        print(f"warning: {path} was not written: {one_line(error)}", file=sys.stderr)
    else:
        with side_product(path):
            write_text(path, page)


def limits_of(model: Path, scale: int) -> str:
    """Return what a model must not be used for, Markdown: as its card says, or else what every card says."""
    card = model / "README.md"
    text = card.read_text("utf-8", "replace") if card.is_file() else ""
    section = re.search(rf"^## {MISUSE}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return section[1] if section else render("limits.md", scale=scale)


def list_items(markdown: str) -> str:
    """Return a list in Markdown as the items of one in HTML; of other syntax it knows bold and code alone."""
    items = [" ".join(item.split()) for item in re.split(r"^- ", markdown, flags=re.MULTILINE) if item.strip()]
    lines = [re.sub(r"`(.+?)`", r"<code>\1</code>", re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(item)))
             for item in items]
    return "".join(f"<li>{line}</li>\n" for line in lines)


def choose_places(lr: LRPlane, sr: LRPlane, scale: int, worst: tuple[int, ...] | None = None) -> list[Place]:
    """Return up to three windows of tissue, fewer if the plane is small.

    Args:
        lr: The input.
        sr: The output.
        scale: SR side over LR side.
        worst: Left, top, right and bottom of the trust map's worst region, in pixels of the output.
    """
    side = max(1, SIDE // scale)
    has_tissue = find_tissue(lr)

    def is_full(rows: slice, columns: slice) -> bool:
        return sum(has_tissue(*part) for part in product(_cut(rows), _cut(columns))) >= FULL * CUTS**2

    windows = sample_windows(lr.shape, CANDIDATES, side, is_full)
    if not any(is_full(*window) for window in windows):  # a small biopsy
        windows = sample_windows(lr.shape, CANDIDATES, side, has_tissue)
    if scale not in SCALES:  # what degrades SR again is defined for these
        return [Place(rows, columns, "tissue") for rows, columns in windows[:PLACES]]
    pairs = [(lr[window], sr[times(window[0], scale), times(window[1], scale)]) for window in windows]
    fitted = fit_degradation(pairs, scale)
    errors = [measure(*pair, fitted).lr_median for pair in pairs]
    order = np.argsort(errors)[::-1].tolist()
    words = {order[-1]: "agrees most with its input", order[len(order) // 2]: "agrees as most do",
             order[0]: "agrees least with its input"}
    places = []
    for i, why in reversed(words.items()):
        rows, columns = windows[i]
        places.append(Place(rows, columns, f"{why}, of {len(windows)} places with tissue: differs by {errors[i]:.1f} "
                            "of 255 at the median"))
    if worst:
        centre = (worst[1] + worst[3]) // 2, (worst[0] + worst[2]) // 2
        rows, columns = (_around(at // scale, side, length)
                         for at, length in zip(centre, lr.shape[:2], strict=True))
        places[0] = Place(rows, columns, "worst region of the trust map")
    return places


def _page(report: dict[str, Any], source: Path, output: Path, options: EnlargeOptions, generator: LoadedGenerator
          ) -> str:
    scale, described, trust = generator.scale, report["description"], report.get("trust")
    with open_slide(source, options.assume_mpp) as scanned, open_slide(output) as made:
        lr, sr = LRPlane(scanned, options.mpp, options.level, options.region), LRPlane(made)
        worst = trust["worst"][0]["hr_box"] if trust and trust["worst"] else None
        places = [_shown(place, lr, sr, scale) for place in choose_places(lr, sr, scale, worst)]
        overview = _picture(Image.fromarray(made.thumbnail(OVERVIEW_SIDE)))
    return render(
        "report.html", name=printable(described["source"]["file"]), output=printable(output.name), overview=overview,
        places=places, report=report, model=described["model"], software=described["software"],
        warnings=_warnings(report), trust=trust, trust_picture=_trust_picture(trust),
        intended=_intended(generator.facts), limits=list_items(limits_of(Path(generator.path), scale)),
        most_zoom=MOST_ZOOM, details=printable(summary(report)))


def _shown(place: Place, lr: LRPlane, sr: LRPlane, scale: int) -> dict[str, Any]:
    """Return what the page shows of a place: both pictures, where it is, its box in percent, and a scale bar."""
    rows, columns, why = place
    width, height = columns.stop - columns.start, rows.stop - rows.start
    before = Image.fromarray(lr[rows, columns]).resize((scale * width, scale * height), Image.Resampling.BICUBIC)
    after = Image.fromarray(sr[times(rows, scale), times(columns, scale)])
    microns = lr.mpp and width * lr.mpp
    l0_x, l0_y = lr.l0_point(columns.start, rows.start)
    return {"why": why, "before": _picture(before), "after": _picture(after), "size": after.size,
            "hr": (scale * columns.start, scale * rows.start), "l0": (round(l0_x), round(l0_y)), "microns": microns,
            "bar": next((length for length in BARS if microns and length < microns / MOST_ZOOM), None),
            "box": [100 * columns.start / lr.shape[1], 100 * rows.start / lr.shape[0],
                    100 * width / lr.shape[1], 100 * height / lr.shape[0]]}


def _warnings(report: dict[str, Any]) -> list[str]:
    """Return what the reader should know before the pictures."""
    found, bad, trust = list(report["input"]["unfamiliar"]), report["bad"], report.get("trust")
    if report["lr"]["mpp"] is None:
        found.append("its resolution is unknown and could not be compared with that of the input the model is for")
    if bad["places"]:
        found.append(f"{bad['share']:.2%} of it could not be read and is white: {bad['places']} places, which the JSON "
                     "report lists")
    if report["glass"] and report["work"]["glass_share"] == 1:
        found.append("no tissue was found, so all of it was interpolated")
    if trust and trust["unusual"]:
        found.append("the output differs from it more than is usual for this model")
    return found


def _intended(facts: ModelFacts) -> dict[str, str]:
    """Return what input the model is for."""
    return {"resolution": "{:.3g} to {:.3g} microns per pixel".format(*facts.lr_mpp) if facts.lr_mpp else UNKNOWN,
            "stain": facts.stain or UNKNOWN,
            "how its input was made": in_words(facts.degradation) if facts.degradation else UNKNOWN,
            "trained on": facts.trained_on or UNKNOWN}


def _trust_picture(trust: dict[str, Any] | None) -> str | None:
    """Return the overview of the trust map as a data URI; None if there is none."""
    if not trust or not Path(trust.get("overview", "")).is_file():
        return None
    with Image.open(trust["overview"]) as picture:
        return _picture(picture.convert("RGB"))


def _picture(image: Image.Image) -> str:
    """Return a picture as a data URI."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def _cut(part: slice) -> list[slice]:
    step = max(1, (part.stop - part.start) // CUTS)
    return [slice(start, min(start + step, part.stop)) for start in range(part.start, part.stop, step)]


def _around(centre: int, side: int, length: int) -> slice:
    """Return a range of `side` around a place of an axis, moved inside it."""
    start = max(0, min(centre - side // 2, length - side))
    return slice(start, min(length, start + side))
