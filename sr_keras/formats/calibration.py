"""Real tissue for an export: what forms are compared on, and what int8 is calibrated with.

A run has patches of its own, read when it was trained: those of its val part are compared, those of its train part
calibrate. Without them, scikit-image's histology picture serves, which every installation has. Pictures are uint8
[B, H, W, 3]; few and small ones, since a gate should take seconds.
"""
from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import tensorflow as tf

from pipelines.config import DegradeOptions, PatchOptions
from pipelines.dataset import evaluation_dataset
from pipelines.degrade import degrade_example
from pipelines.patches import find_sources
from pipelines.pixels import to_float, to_uint8
from pipelines.shards import ShardSet, is_shards, open_shards, write_shards
from sr_keras.training.split import PARTS_FILE, open_part

BUILT_IN = "scikit-image's immunohistochemistry picture"
HEIGHT, WIDTH = 176, 208  # HR pixels, multiples of 8
LEAST_SIDE = 168  # the least multiple of 8 that MS-SSIM takes
CORNERS = ((160, 240), (304, 48))  # (y, x) in the built-in picture: glands, and stroma between them
COMPARED = 2
CALIBRATED = 16
CALIBRATED_SIDE = 32  # LR pixels
EXTRACTED_SIDE = 128  # HR pixels a side of patches that are read for calibration


@dataclass(frozen=True)
class Tissue:
    """Pictures in pairs: `hr` uint8 [B, scale*h, scale*w, 3] and `lr` [B, h, w, 3], what a scanner would see of it."""

    name: str
    hr: np.ndarray
    lr: np.ndarray


def compared_tissue(run: Path | None, options: DegradeOptions) -> Tissue:
    """Return what forms are compared on: two patches of the run's val part, or of the built-in picture.

    The latter also where those patches are too small for MS-SSIM.

    Args:
        run: the folder of the run, or whatever folder the generator lies in; None for none.
        options: how LR is made.
    """
    shards = part_of(run, "val")
    if shards is None or shards.patch_size < LEAST_SIDE:
        image = skimage.data.immunohistochemistry()
        hr = np.stack([image[y:y + HEIGHT, x:x + WIDTH] for y, x in CORNERS])
        return Tissue(BUILT_IN, hr, _lr(hr, options))
    hr, lr = _pairs(shards, options, COMPARED)
    height, width = (min(most, hr.shape[1]) // 8 * 8 for most in (HEIGHT, WIDTH))
    return Tissue(f"patches of {', '.join(shards.slide_ids)}, the run's validation slides", hr[:, :height, :width],
                  lr[:, :height // options.scale, :width // options.scale])


def calibration_tissue(data: str | None, run: Path | None, options: DegradeOptions) -> Tissue:
    """Return what int8 is calibrated with.

    Args:
        data: a run, shards, or slides and folders of tiles; None for the train part of `run`, or the built-in picture.
        run: as for `compared_tissue`.
        options: how LR is made.

    Raises:
        FileNotFoundError: `data` does not exist.
        ValueError: It holds no patch, or patches that do not divide by the scale.
    """
    shards = part_of(run, "train") if data is None else _named(Path(data))
    if shards is not None:
        return _calibration(shards, options, data or "the run's training slides")
    if data is not None:
        with tempfile.TemporaryDirectory() as folder:
            write_shards(find_sources(data, name="calibration_data"), folder,
                         PatchOptions(EXTRACTED_SIDE, max_patches=CALIBRATED), name="calibration_data")
            return _calibration(open_shards(folder), options, data)
    image = skimage.data.immunohistochemistry()
    side = image.shape[0] // 4
    hr = np.stack([image[y:y + side, x:x + side] for y in range(0, 4 * side, side) for x in range(0, 4 * side, side)])
    return _small(Tissue(BUILT_IN, hr, _lr(hr, options)), options)


def _calibration(shards: ShardSet, options: DegradeOptions, name: str) -> Tissue:
    return _small(Tissue(name, *_pairs(shards, options, CALIBRATED)), options)


def _small(tissue: Tissue, options: DegradeOptions) -> Tissue:
    side = CALIBRATED_SIDE
    return Tissue(tissue.name, tissue.hr[:, :options.scale * side, :options.scale * side], tissue.lr[:, :side, :side])


def _named(data: Path) -> ShardSet | None:
    if (data / PARTS_FILE).is_file():
        return open_part(data, "train")
    return open_shards(data) if is_shards(data) else None


def part_of(run: Path | None, part: str) -> ShardSet | None:
    """Return the shards of a part of a run; None where there is no run, or its patches lie there no more."""
    if run is None or not (run / PARTS_FILE).is_file():
        return None
    try:
        return open_part(run, part)
    except FileNotFoundError:  # moved or deleted since; whoever asks says which tissue was taken
        return None


def _pairs(shards: ShardSet, options: DegradeOptions, count: int) -> tuple[np.ndarray, np.ndarray]:
    batch = next(evaluation_dataset(shards, batch_size=count, degrade=options, limit=count).as_numpy_iterator())
    return to_uint8(batch["hr"]), to_uint8(batch["lr"])


def _lr(hr: np.ndarray, options: DegradeOptions) -> np.ndarray:
    """Degrade each picture by a draw of its own."""
    return np.stack([to_uint8(degrade_example(to_float(one), options, tf.constant([0, i])).numpy())
                     for i, one in enumerate(hr)])
