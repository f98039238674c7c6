"""A few test patches as every method made them: LR, bicubic, SR of chosen cells, HR, and what each scored.

Which patches are shown follows from their number alone, evenly spaced in the order of the shards and the same for every
cell; scores have no say in it. Which cells: of each method of the paper and each fraction of corrupted examples the
one with the method's own q, no variant, the kind and side that most cells have, and the lowest seed.

The pictures show slides: they belong beside the runs, and not where results are published.
"""
from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.config import DegradeOptions
from pipelines.dataset import evaluation_dataset
from pipelines.errors import require
from pipelines.files import atomic_path
from pipelines.pixels import to_uint8
from pipelines.shards import ShardSet, open_shards
from sr_keras.config import METHODS
from sr_keras.evaluation import METRICS, bicubic
from sr_keras.evaluation.scores import BICUBIC, SR, text
from sr_keras.model.loading import load_generator
from study.curves import curve_of
from study.results import Row

FRACTIONS = (0.0, 0.05, 0.3, 0.5)  # shown where there are cells of them; 5% and 30% are the paper's figure 4
SIDE = 256  # of what is shown of a patch: its centre
CAPTION = ("ms_ssim", "qilv", "rrmse")
# Of the sheet, in pixels.
DETAIL, ZOOM, GAP, LINE = 128, 2, 8, 18
PANEL = DETAIL * ZOOM
PITCH = PANEL + 2 * LINE
INK, FAINT = "#1d1d1f", "#5f5f66"

CellKey = tuple[str, float]  # method, fraction
Scores = dict[tuple[str, str], Row]  # by example id, and "bicubic" or "sr"


@dataclass(frozen=True)
class Panel:
    """One picture, uint8 [H, W, 3], its caption, and the cell that it is from."""

    image: np.ndarray
    caption: str = ""
    cell: str = ""


@dataclass(frozen=True)
class ShownPatch:
    """A patch: "LR", "Bicubic" and "HR" in `references`, SR by method and fraction in `cells`.

    `labels` names the methods that are there, in the paper's order.
    """

    example_id: str
    references: Mapping[str, Panel]
    cells: Mapping[CellKey, Panel]
    labels: Mapping[str, str]

    @property
    def fractions(self) -> list[float]:
        """The fractions that are there, lowest first."""
        return sorted({fraction for _, fraction in self.cells})


def panel_title(patch: ShownPatch, method: str, fraction: float) -> str:
    """Return what stands under a panel: the method, and on what it was trained."""
    return f"{patch.labels[method]}, " + (f"{fraction:.0%} corrupted" if fraction else "clean")


def chosen_cells(rows: Sequence[Row], fractions: Iterable[float] = FRACTIONS) -> dict[CellKey, Row]:
    """Return (method, fraction) -> a row of the cell to show, in the paper's order; those that are not there, not."""
    plain = [row for row in rows if row["method"] in METHODS and not row["variant"]
             and row["q"] == METHODS[row["method"]].q]
    corrupted = {row["cell"]: (row["kind"], row["side"]) for row in plain if row["fraction"]}
    usual = max(sorted(set(corrupted.values())), key=Counter(corrupted.values()).__getitem__, default=None)
    found: dict[CellKey, Row] = {}
    for row in sorted(plain, key=lambda row: (row["balance"] != "paper", row["seed"], row["cell"])):
        if not row["fraction"] or (row["kind"], row["side"]) == usual:
            found.setdefault((row["method"], row["fraction"]), row)
    wanted = ((method, fraction) for method in METHODS for fraction in fractions)
    return {key: found[key] for key in wanted if key in found}


def evenly_spaced(scored: Sequence[Row], patches: int) -> list[str]:
    """Return the ids of so many patches, from each slide as many, evenly spaced in the order of the rows."""
    slides: dict[str, dict[str, None]] = {}
    for row in scored:
        slides.setdefault(row["slide_id"], {})[row["example_id"]] = None
    each = max(1, patches // max(1, len(slides)))
    chosen = [list(ids)[int((i + 0.5) * len(ids) / min(each, len(ids)))]
              for ids in slides.values() for i in range(min(each, len(ids)))]
    return chosen[:patches]


def shown_patches(rows: Sequence[Row], work: str | Path, degrade: DegradeOptions | None = None, patches: int = 4,
                  fractions: Iterable[float] = FRACTIONS) -> list[ShownPatch]:
    """Super-resolve some test patches with the cells that are finished.

    Args:
        rows: Of the results.
        work: The study's folder, with shards/test and cells/NAME.
        degrade: How LR is made.
        patches: How many; from each test slide as many.
        fractions: Of the cells to show.

    Returns:
        The patches; none where no chosen cell has its run and scores in `work`.

    Raises:
        FileNotFoundError: There are no test shards.
        ValueError: A generator is damaged or of another scale.
    """
    work, degrade = Path(work), degrade or DegradeOptions()
    cells = {key: row for key, row in chosen_cells(rows, fractions).items()
             if _generator(work, row["cell"]).exists() and _scores_path(work, row["cell"]).exists()}
    if not cells:
        return []
    scores = {row["cell"]: _read_scores(work, row["cell"]) for row in cells.values()}
    first = next(iter(scores.values()))
    ids = evenly_spaced(list(first.values()), patches)
    lr, hr = _pairs(open_shards(work / "shards" / "test"), degrade, ids)
    rival = bicubic(lr, degrade.scale).numpy()
    made = {key: _upscaled(_generator(work, row["cell"]), lr, degrade.scale) for key, row in cells.items()}

    def shown(i: int, name: str) -> ShownPatch:
        references = {"LR": Panel(_centre(to_uint8(lr[i]), SIDE // degrade.scale)),
                      "Bicubic": Panel(_centre(to_uint8(rival[i])), _caption(first, name, BICUBIC)),
                      "HR": Panel(_centre(to_uint8(hr[i])))}
        panels = {key: Panel(_centre(made[key][i]), _caption(scores[row["cell"]], name, SR), row["cell"])
                  for key, row in cells.items()}
        return ShownPatch(name, references, panels, {key[0]: curve_of(row).name for key, row in cells.items()})

    return [shown(i, name) for i, name in enumerate(ids)]


def write_sheet(patches: Sequence[ShownPatch], path: str | os.PathLike[str]) -> None:
    """Draw the centres of patches, every pixel as 2x2: references, then a column a method and a row a fraction.

    Args:
        patches: From `shown_patches`.
        path: A .png file, written atomically.

    Raises:
        ValueError: There is no patch.
    """
    from PIL import Image, ImageDraw

    require(bool(patches), "patches", "hold at least one", "wait for a cell to be finished", len(patches))
    first = patches[0]
    block = LINE + max(len(first.references), len(first.fractions)) * PITCH + GAP
    sheet = Image.new("RGB", (GAP + (1 + len(first.labels)) * (PANEL + GAP), GAP + len(patches) * block), "white")
    draw = ImageDraw.Draw(sheet)
    for number, patch in enumerate(patches):
        top = GAP + number * block
        draw.text((GAP, top), patch.example_id, INK, font_size=13)
        for (column, row), (title, panel) in _placed(patch).items():
            left, upper = GAP + column * (PANEL + GAP), top + LINE + row * PITCH
            scale = patch.references["HR"].image.shape[0] // panel.image.shape[0]
            sheet.paste(Image.fromarray(_detail(panel.image, scale)), (left, upper))
            draw.text((left, upper + PANEL + 1), title, INK, font_size=12)
            draw.text((left, upper + PANEL + LINE - 2), panel.caption, FAINT, font_size=11)
    with atomic_path(path) as temporary:
        sheet.save(temporary, optimize=True)


def _placed(patch: ShownPatch) -> dict[tuple[int, int], tuple[str, Panel]]:
    """Return title and panel by (column, row)."""
    references = {(0, i): item for i, item in enumerate(patch.references.items())}
    methods, fractions = list(patch.labels), patch.fractions
    return references | {
        (1 + methods.index(method), fractions.index(fraction)):
        (panel_title(patch, method, fraction), panel)
        for (method, fraction), panel in patch.cells.items()}


def _detail(image: np.ndarray, scale: int) -> np.ndarray:
    """Return the centre of a picture with every pixel of HR, or what stands for it, as ZOOM x ZOOM."""
    part = _centre(image, DETAIL // scale)
    return np.repeat(np.repeat(part, ZOOM * scale, 0), ZOOM * scale, 1)


def _generator(work: Path, cell: str) -> Path:
    return work / "cells" / cell / "run" / "generator.keras"


def _scores_path(work: Path, cell: str) -> Path:
    return work / "cells" / cell / "scores" / "scores.csv"


def _read_scores(work: Path, cell: str) -> Scores:
    with open(_scores_path(work, cell), newline="", encoding="utf-8") as handle:
        return {(row["example_id"], row["method"]): row for row in csv.DictReader(handle)}


def _pairs(shards: ShardSet, degrade: DegradeOptions, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return lr and hr of some patches, each [B, ...] in the order of the ids."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for batch in evaluation_dataset(shards, degrade=degrade).as_numpy_iterator():
        name = text(batch["example_id"][0])
        if name in ids:
            found[name] = batch["lr"][0], batch["hr"][0]
        if len(found) == len(ids):
            break
    missing = [name for name in ids if name not in found]
    require(not missing, "shards", "hold the patches that were scored", "score the cells again", missing)
    lr, hr = zip(*(found[name] for name in ids), strict=True)
    return np.stack(lr), np.stack(hr)


def _upscaled(path: Path, lr: np.ndarray, scale: int) -> np.ndarray:
    """Return sr uint8 [B, H, W, 3], one patch after the other: a large generator takes memory."""
    generator = load_generator(path, scale)
    return np.concatenate([generator(to_uint8(one[np.newaxis])) for one in lr])


def _centre(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Return the central side x side part, or as much of it as there is."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
    return image[top:top + side, left:left + side]


def _caption(scores: Scores, example_id: str, method: str) -> str:
    row = scores.get((example_id, method), {})
    return "  ".join(f"{METRICS[name].label} {float(row[name]):.{METRICS[name].digits}f}"
                     for name in CAPTION if row.get(name))
