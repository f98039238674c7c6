# SPDX-License-Identifier: Apache-2.0
"""What an export reads from a training run: tissue to compare and calibrate with, and facts about the model.

Files are compared on patches of the run's val part, and int8 is calibrated with its train part. Without them
scikit-image's histology picture is used, which every installation has. Pictures are uint8 [B, H, W, 3]; they are few
and small, since a comparison should take seconds.
"""
from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.config import DegradeOptions, PatchOptions, Range, degradation
from pipelines.dataset import evaluation_dataset
from pipelines.degrade import degrade_example
from pipelines.files import read_json
from pipelines.patches import find_sources
from pipelines.pixels import to_float, to_uint8
from pipelines.sample import sample_picture
from pipelines.shards import ShardSet, is_shards, open_shards, write_shards
from pipelines.shards.records import batches_of, mpp_range
from sr_keras.model.facts import ModelFacts, Scores, run_facts, without_paths
from sr_keras.model.loading import LoadedGenerator
from sr_keras.training.run_folder import VERSIONS_FILE
from sr_keras.training.split import PARTS_FILE, open_part

BUILT_IN = "scikit-image's immunohistochemistry picture"
HEIGHT, WIDTH = 176, 208  # HR pixels, multiples of 8
LEAST_SIDE = 168  # the smallest multiple of 8 that MS-SSIM accepts
CORNERS = ((160, 240), (304, 48))  # (y, x) in the built-in picture: glands, and stroma between them
COMPARED = 2
CALIBRATED = 16
CALIBRATED_SIDE = 32  # LR pixels
EXTRACTED_SIDE = 128  # HR pixels a side of patches that are read for calibration


@dataclass(frozen=True)
class Tissue:
    """Pairs of pictures: `hr` uint8 [B, scale*h, scale*w, 3] and `lr` [B, h, w, 3]. `name` is shown to users."""

    name: str
    hr: np.ndarray
    lr: np.ndarray


def compared_tissue(run: Path | None, options: DegradeOptions) -> Tissue:
    """Return what files are compared on: two patches of the run's val part, or of the built-in picture.

    The built-in picture is also used where the run's patches are too small for MS-SSIM.

    Args:
        run: The folder of the run, or any folder a generator lies in; None for none.
        options: How LR is made.
    """
    shards = part_of(run, "val")
    if shards is None or shards.patch_size < LEAST_SIDE:
        image = sample_picture()
        hr = np.stack([image[y:y + HEIGHT, x:x + WIDTH] for y, x in CORNERS])
        return Tissue(BUILT_IN, hr, _lr(hr, options))
    hr, lr = _pairs(shards, options, COMPARED)
    height, width = (min(most, hr.shape[1]) // 8 * 8 for most in (HEIGHT, WIDTH))
    return Tissue(f"patches of {', '.join(shards.slide_ids)}, the run's validation slides", hr[:, :height, :width],
                  lr[:, :height // options.scale, :width // options.scale])


def calibration_tissue(data: str | None, run: Path | None, options: DegradeOptions) -> Tissue:
    """Return what int8 is calibrated with.

    Args:
        data: A run, shards, or slides and folders of tiles; None for the train part of `run`, or the built-in picture.
        run: As for `compared_tissue`.
        options: How LR is made.

    Raises:
        FileNotFoundError: `data` does not exist.
        ValueError: It holds no patch, or patches that do not divide by the scale.
    """
    shards = part_of(run, "train") if data is None else _named(Path(data))
    if shards is not None:
        return _calibration(shards, options, "the run's training slides" if data is None else None)
    if data is not None:
        with tempfile.TemporaryDirectory() as folder:
            write_shards(find_sources(data, name="calibration_data"), folder,
                         PatchOptions(EXTRACTED_SIDE, max_patches=CALIBRATED), name="calibration_data")
            return _calibration(open_shards(folder), options, None)
    image = sample_picture()
    side = image.shape[0] // 4
    hr = np.stack([image[y:y + side, x:x + side] for y in range(0, 4 * side, side) for x in range(0, 4 * side, side)])
    return _small(Tissue(BUILT_IN, hr, _lr(hr, options)), options)


def departure_batches(data: str | None, run: Path, generator: LoadedGenerator,
                      patches: int) -> Iterable[Mapping[str, Any]]:
    """Return batches of the slides that a model's usual departure is measured on.

    Real pairs are best: their LR is what scanners produce. Where LR must be made, a model that was trained on a family
    of degradations is measured on those of slide pyramids.

    Args:
        data: A run or shards; None for the val part of `run`, or nothing if it is not a run.
        run: The folder of the run, or any folder the generator lies in.
        generator: The model.
        patches: About how many of a slide.

    Raises:
        FileNotFoundError: `data` does not exist.
        ValueError: It holds no patches.
    """
    if data is None:
        shards = part_of(run, "val")
    else:
        shards = open_part(Path(data), "val") if (Path(data) / PARTS_FILE).is_file() else open_shards(data)
    if shards is None:
        return []
    made = generator.degrade if generator.degrade.is_textbook else degradation("pyramid", scale=generator.scale)
    return batches_of(evaluation_dataset(shards, degrade=made, limit=patches * len(shards.slide_ids)), shards)


def facts_of(run: Path, scale: int, *, lr_mpp: Range | None = None, stain: str | None = None,
             trained_on: str | None = None, filters: int | None = None, scores: Scores | None = None,
             nuclei: Scores | None = None) -> ModelFacts:
    """Return the facts of the generator of a run, without paths of this machine.

    Args:
        run: Its folder, or any folder a generator lies in.
        scale: SR side over LR side.
        lr_mpp: Microns per pixel of the LR that it is for; by default those of its training patches.
        stain: The stain that it is for.
        trained_on: The training data, in words.
        filters: Of its convolutions.
        scores: Gain over bicubic, by kind of LR and by score.
        nuclei: Scores of nuclei, likewise.

    Raises:
        ValueError: The run's files are damaged, or `lr_mpp` is not a range.
    """
    facts = run_facts(run)
    shards = part_of(run, "train")
    hr_mpp = mpp_range(shards) if shards and lr_mpp is None else None
    seen = (scale * hr_mpp[0], scale * hr_mpp[1]) if hr_mpp else None
    path = run / VERSIONS_FILE
    versions = read_json(path, dict[str, str], "remove it: the model card then lists no versions") \
        if path.exists() else None
    return replace(facts, lr_mpp=lr_mpp or seen or facts.lr_mpp, stain=stain, trained_on=trained_on,
                   flags=without_paths(facts.flags) if facts.flags else None, versions=versions,
                   filters=filters or facts.filters, scores=scores, nuclei=nuclei)


def part_of(run: Path | None, part: str) -> ShardSet | None:
    """Return the shards of a part of a run; None if it is not a run, or its shards were moved or deleted."""
    if run is None or not (run / PARTS_FILE).is_file():
        return None
    try:
        return open_part(run, part)
    except FileNotFoundError:  # what is used instead is named in the result
        return None


def _calibration(shards: ShardSet, options: DegradeOptions, name: str | None) -> Tissue:
    return _small(Tissue(name or f"patches of {', '.join(shards.slide_ids)}",
                         *_pairs(shards, options, CALIBRATED)), options)


def _small(tissue: Tissue, options: DegradeOptions) -> Tissue:
    side = CALIBRATED_SIDE
    return Tissue(tissue.name, tissue.hr[:, :options.scale * side, :options.scale * side], tissue.lr[:, :side, :side])


def _named(data: Path) -> ShardSet | None:
    if (data / PARTS_FILE).is_file():
        return open_part(data, "train")
    return open_shards(data) if is_shards(data) else None


def _pairs(shards: ShardSet, options: DegradeOptions, count: int) -> tuple[np.ndarray, np.ndarray]:
    batch = next(batches_of(evaluation_dataset(shards, batch_size=count, degrade=options, limit=count), shards))
    return to_uint8(batch["hr"]), to_uint8(batch["lr"])


def _lr(hr: np.ndarray, options: DegradeOptions) -> np.ndarray:
    """Degrade each picture with random values of its own."""
    return np.stack([to_uint8(degrade_example(to_float(one), options, tf.constant([0, i])).numpy())
                     for i, one in enumerate(hr)])
