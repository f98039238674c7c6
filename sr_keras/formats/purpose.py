"""What an exported model is said to be made for: what was given, else what its run shows, else nothing.

    facts = facts_of(Path("runs/mine"), scale=4, stain="H&E", trained_on="40 slides of breast")
    batches = measured_on(None, Path("runs/mine"), generator, patches=12)    # for `sr_keras.slides.trust_map`
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipelines.config import Range, degradation
from pipelines.dataset import evaluation_dataset
from pipelines.shards import ShardSet, open_shards
from pipelines.shards.records import decode_mpp
from sr_keras.formats.calibration import part_of
from sr_keras.model.facts import FLAGS_FILE, ModelFacts, of_flags
from sr_keras.model.loading import LoadedGenerator, run_flags
from sr_keras.training.run_folder import VERSIONS_FILE, read_json
from sr_keras.training.split import PARTS_FILE, open_part


def facts_of(run: Path, scale: int, *, lr_mpp: Range | None = None, stain: str | None = None,
             trained_on: str | None = None) -> ModelFacts:
    """Return the facts of the generator of a run.

    Args:
        run: Its folder, or whatever folder a generator lies in.
        scale: SR side over LR side.
        lr_mpp: Microns per pixel of the LR that it is for; by default those of its training patches.
        stain: What it is for.
        trained_on: The data, in words.

    Raises:
        ValueError: The run's flags or versions are damaged, or `lr_mpp` is no range.
    """
    facts = of_flags(run_flags(run), run / FLAGS_FILE)
    shards = part_of(run, "train")
    hr_mpp = read_mpp(shards) if shards and lr_mpp is None else None
    seen = (scale * hr_mpp[0], scale * hr_mpp[1]) if hr_mpp else None
    return replace(facts, lr_mpp=lr_mpp or seen or facts.lr_mpp, stain=stain, trained_on=trained_on,
                   versions=_versions(run))


def measured_on(data: str | None, run: Path, generator: LoadedGenerator, patches: int) -> Iterable[Mapping[str, Any]]:
    """Return batches of the slides that a model's usual departure is measured on.

    Real pairs say most: their LR is what scanners give. Where LR must be made, a model that was trained on a family is
    measured on what pyramids do.

    Args:
        data: A run or shards; None for the val part of `run`, or nothing where it is none.
        run: The folder of the run, or whatever folder the generator lies in.
        generator: The model.
        patches: How many of a slide, about.

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
    return evaluation_dataset(shards, degrade=made, limit=patches * len(shards.slide_ids)).as_numpy_iterator()


def read_mpp(shards: ShardSet) -> Range | None:
    """Return the least and the largest mpp of patches, of the first in each shard: a slide has one mpp."""
    found = [float(decode_mpp(record)) for path in shards.paths
             for record in tf.data.TFRecordDataset(str(path)).take(1)]
    known = [mpp for mpp in found if mpp > 0]
    return (min(known), max(known)) if known else None


def _versions(run: Path) -> dict[str, str] | None:
    """Return the versions that a run folder says it was trained with; None where it is no run."""
    path = run / VERSIONS_FILE
    return read_json(path, "remove it, and the card says that they are unknown") if path.is_file() else None
