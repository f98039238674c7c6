# SPDX-License-Identifier: Apache-2.0
"""A few test patches as each method reconstructs them: LR, bicubic, SR of some cells, HR, with scores.

The patches are evenly spaced in the order of the shards and the same for every cell; scores do not influence the
choice. Shown cells: for each method of the paper and each fraction, the cell with the method's own q, no variant, the
most frequent kind and side of corruption, and the lowest seed.

The pictures show slides: keep them with the runs, and do not publish them with the results.
"""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.dataset import evaluation_dataset
from pipelines.errors import require
from pipelines.files import atomic_path
from pipelines.pixels import to_uint8
from pipelines.shards import open_shards
from pipelines.shards.records import batches_of
from sr_keras.config import METHODS
from sr_keras.evaluation import METRICS, read_scores
from sr_keras.evaluation.patches import BICUBIC, SR, text
from sr_keras.metrics import bicubic
from sr_keras.model.loading import load_generator
from study.results import Row, curve_of
from study.training import Study

FRACTIONS = (0.0, 0.05, 0.3, 0.5)  # shown if there are such cells; 5% and 30% are those of the paper's figure 4
SIDE = 256  # of the centre of a patch that is shown
CAPTION = ("ms_ssim", "qilv", "rrmse")
DETAIL, ZOOM, GAP, LINE = 128, 2, 8, 18  # of the sheet, in pixels
PANEL = DETAIL * ZOOM
INK, FAINT = "#1d1d1f", "#5f5f66"

CellKey = tuple[str, float]  # method, fraction
Scores = dict[tuple[str, str], Row]  # by example id, and "bicubic" or "sr"


@dataclass(frozen=True)
class Panel:
    """A picture, uint8 [H, W, 3], its caption, and the name of its cell."""

    image: np.ndarray
    caption: str = ""
    cell: str = ""


@dataclass(frozen=True)
class ShownPatch:
    """A patch: "LR", "Bicubic" and "HR" in `references`, SR by method and fraction in `cells`.

    `labels` has the displayed name of each method, in the paper's order.
    """

    example_id: str
    references: Mapping[str, Panel]
    cells: Mapping[CellKey, Panel]
    labels: Mapping[str, str]

    def placed(self) -> dict[tuple[int, int], tuple[str, Panel | None]]:
        """Return (column, row) -> title and panel, None if not finished: references, then a column per method."""
        fractions = sorted({fraction for _, fraction in self.cells})
        found: dict[tuple[int, int], tuple[str, Panel | None]] = {
            (0, row): item for row, item in enumerate(self.references.items())}
        for column, (method, label) in enumerate(self.labels.items(), 1):
            for row, fraction in enumerate(fractions):
                title = f"{label}, " + (f"{fraction:.0%} corrupted" if fraction else "clean")
                found[column, row] = title, self.cells.get((method, fraction))
        return found


def chosen_cells(rows: Sequence[Row], fractions: Iterable[float] = FRACTIONS) -> dict[CellKey, Row]:
    """Return (method, fraction) -> a row of the cell to show, in the paper's order, without cells not in `rows`."""
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
    """Return the ids of `patches` patches, the same number from each slide, evenly spaced in the order of the rows."""
    slides: dict[str, dict[str, None]] = {}
    for row in scored:
        slides.setdefault(row["slide_id"], {})[row["example_id"]] = None
    each = max(1, patches // max(1, len(slides)))
    chosen = [list(ids)[int((i + 0.5) * len(ids) / min(each, len(ids)))]
              for ids in slides.values() for i in range(min(each, len(ids)))]
    return chosen[:patches]


def shown_patches(rows: Sequence[Row], study: Study, patches: int = 4,
                  fractions: Iterable[float] = FRACTIONS) -> list[ShownPatch]:
    """Super-resolve some test patches with the finished cells.

    Args:
        rows: Rows of the results.
        study: The study, with shards/test and cells/NAME in its work folder.
        patches: Number of patches, the same from each test slide.
        fractions: Fractions of the cells to show.

    Returns:
        The patches; none if no chosen cell has a run and scores.

    Raises:
        FileNotFoundError: There are no test shards.
        ValueError: A generator is damaged, or its scale is different.
    """
    chosen = {key: row for key, row in chosen_cells(rows, fractions).items()
              if (study.run(row["cell"]) / "generator.keras").exists() and study.scores(row["cell"]).exists()}
    if not chosen:
        return []
    cells = {key: row["cell"] for key, row in chosen.items()}
    scores = {key: _read_scores(study, cell) for key, cell in cells.items()}
    first = next(iter(scores.values()))
    ids = evenly_spaced(list(first.values()), patches)
    lr, hr = _read_pairs(study, ids)
    interpolated = bicubic(lr, study.degrade.scale).numpy()
    sr = {key: _super_resolve(study, cell, lr) for key, cell in cells.items()}
    labels = {method: curve_of(row).name for (method, _), row in chosen.items()}
    shown = []
    for i, name in enumerate(ids):
        references = {"LR": Panel(_centre(to_uint8(lr[i]), SIDE // study.degrade.scale)),
                      "Bicubic": Panel(_centre(to_uint8(interpolated[i]), SIDE), _caption(first, name, BICUBIC)),
                      "HR": Panel(_centre(to_uint8(hr[i]), SIDE))}
        panels = {key: Panel(_centre(sr[key][i], SIDE), _caption(scores[key], name, SR), cell)
                  for key, cell in cells.items()}
        shown.append(ShownPatch(name, references, panels, labels))
    return shown


def write_sheet(patches: Sequence[ShownPatch], path: str | os.PathLike[str]) -> None:
    """Draw the centres of patches to a .png file, atomically, each HR pixel as 2x2.

    Raises:
        ValueError: There is no patch.
    """
    from PIL import Image, ImageDraw

    require(bool(patches), "patches", "contain at least one", "wait for a cell to finish", len(patches))
    places = patches[0].placed()
    columns, rows = (1 + max(place[axis] for place in places) for axis in (0, 1))
    block = LINE + rows * (PANEL + 2 * LINE) + GAP
    sheet = Image.new("RGB", (GAP + columns * (PANEL + GAP), GAP + len(patches) * block), "white")
    draw = ImageDraw.Draw(sheet)
    for number, patch in enumerate(patches):
        top = GAP + number * block
        draw.text((GAP, top), patch.example_id, INK, font_size=13)
        for (column, row), (title, panel) in patch.placed().items():
            if panel is None:
                continue
            left, upper = GAP + column * (PANEL + GAP), top + LINE + row * (PANEL + 2 * LINE)
            scale = patch.references["HR"].image.shape[0] // panel.image.shape[0]
            detail = _centre(panel.image, DETAIL // scale)
            sheet.paste(Image.fromarray(detail.repeat(ZOOM * scale, 0).repeat(ZOOM * scale, 1)), (left, upper))
            draw.text((left, upper + PANEL + 1), title, INK, font_size=12)
            draw.text((left, upper + PANEL + LINE - 2), panel.caption, FAINT, font_size=11)
    with atomic_path(path) as temporary:
        sheet.save(temporary, optimize=True)


def _read_scores(study: Study, cell: str) -> Scores:
    return {(row["example_id"], row["method"]): row for row in read_scores(study.scores(cell))}


def _read_pairs(study: Study, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return lr and hr of some test patches, each [B, ...] in the order of the ids."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    shards = open_shards(study.work / "shards/test")
    for batch in batches_of(evaluation_dataset(shards, degrade=study.degrade), shards):
        name = text(batch["example_id"][0])
        if name in ids:
            found[name] = batch["lr"][0], batch["hr"][0]
        if len(found) == len(ids):
            break
    missing = [name for name in ids if name not in found]
    require(not missing, "shards", "contain the scored patches", "score the cells again", missing)
    lr, hr = zip(*(found[name] for name in ids), strict=True)
    return np.stack(lr), np.stack(hr)


def _super_resolve(study: Study, cell: str, lr: np.ndarray) -> np.ndarray:
    """Return sr uint8 [B, H, W, 3], one patch at a time to save memory."""
    generator = load_generator(study.run(cell) / "generator.keras", study.degrade.scale)
    return np.concatenate([generator(to_uint8(one[np.newaxis])) for one in lr])


def _centre(image: np.ndarray, side: int) -> np.ndarray:
    """Return the central side x side part, or the whole image if it is smaller."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
    return image[top:top + side, left:left + side]


def _caption(scores: Scores, example_id: str, method: str) -> str:
    row = scores.get((example_id, method), {})
    return "  ".join(f"{METRICS[name].label} {float(row[name]):.{METRICS[name].digits}f}"
                     for name in CAPTION if row.get(name))
