# SPDX-License-Identifier: Apache-2.0
"""Input pipelines that produce (lr, hr) pairs, and the measurement of their speed.

An `Input` is a function that starts a pipeline: it returns an endless iterator whose items are numbers of patches. Work
before the first item, such as filling a shuffle buffer, is not timed. All pipelines are timed in turns within one run,
several times, and medians are compared: with other load on the machine, numbers of two runs cannot be compared.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import openslide
import tensorflow as tf
from PIL import Image
from skimage.filters import gaussian

from pipelines.config import CorruptOptions, DegradeOptions, PatchOptions
from pipelines.dataset import training_dataset
from pipelines.patches import Patch, Source, read_patches
from pipelines.shards import ShardSet, open_shards, write_shards
from pipelines.shards.records import decode

Input = Callable[[], Iterator[int]]

BATCH = 16
TURNS = 5
MAX_PATCHES = 512


@dataclass(frozen=True)
class Speed:
    """Medians over the turns: patches per second, and CPU milliseconds per patch, over all cores."""

    per_second: float
    cpu_ms: float


@dataclass(frozen=True)
class Material:
    """The same patches in three forms: the given slide or tiles, a folder of PNG tiles, and shards."""

    source: Source
    places: list[tuple[int, int]]
    options: PatchOptions
    tiles: Source
    shards: ShardSet


def prepare(sources: Sequence[Source], folder: Path, patch_size: int, seed: int = 0) -> Material:
    """Write at most MAX_PATCHES patches of the first slide to `folder`, as tiles and as shards."""
    options = PatchOptions(patch_size, sampling="random", max_patches=MAX_PATCHES, seed=seed)
    write_shards(sources[:1], folder / "shards", options, workers=1, progress=False)
    patches = [item for item in read_patches(sources[0], options) if isinstance(item, Patch)]
    paths = []
    (folder / "tiles").mkdir()
    for number, patch in enumerate(patches):
        paths.append(folder / "tiles" / f"{number:04d}.png")
        Image.fromarray(patch.pixels).save(paths[-1])
    places = [(patch.x, patch.y) for patch in patches]
    tiles = Source("tiles", tuple(paths), tiles=True)
    return Material(sources[0], places, options, tiles, open_shards(folder / "shards"))


def inputs(material: Material, degrade: DegradeOptions) -> dict[str, Input]:
    """Return the plain loop, the training dataset from shards on disk and in memory, and the extraction of shards.

    Beside another degradation the textbook's is timed too.
    """
    textbook = {} if degrade.is_textbook else {"shards, textbook": DegradeOptions(degrade.scale)}
    return {
        "plain loop": lambda: plain_loop(material, degrade),
        **{name: from_dataset(training_dataset(material.shards, batch_size=BATCH, degrade=made))
           for name, made in {"shards": degrade, **textbook}.items()},
        "shards, cache=memory": from_dataset(
            training_dataset(material.shards, batch_size=BATCH, degrade=degrade, cache="memory")),
        "extraction from PNG tiles": lambda: extraction(material.tiles, material.options),
        "extraction from the data": lambda: extraction(material.source, material.options),
    }


def stages(material: Material, degrade: DegradeOptions) -> dict[str, Input]:
    """Return pipelines that each add one step to the one before, by the name of the added step."""
    records = tf.data.TFRecordDataset([str(path) for path in material.shards.paths]).repeat()
    pixels = records.map(lambda record: decode(record)[2], num_parallel_calls=tf.data.AUTOTUNE)

    def training(**keywords) -> Input:
        return from_dataset(training_dataset(material.shards, batch_size=BATCH, degrade=degrade, **keywords))

    return {
        "read": from_dataset(records.batch(BATCH)),
        "decode": from_dataset(pixels.batch(BATCH)),
        "float, LR from HR": training(augment=False),
        "augmentation": training(),
        "corruption": training(corrupt=CorruptOptions(fraction=1.0)),
    }


def plain_loop(material: Material, degrade: DegradeOptions) -> Iterator[int]:
    """Make pairs in a plain Python loop: read, convert, blur all pixels, keep every `scale`-th."""
    size, path = material.options.patch_size, material.source.paths[0]
    slide = None if material.source.tiles or not openslide.OpenSlide.detect_format(path) else openslide.OpenSlide(path)
    for place, tile in cycle(zip(material.places, material.tiles.paths, strict=True)):
        image = Image.open(tile) if slide is None else slide.read_region(place, 0, (size, size))
        hr = np.asarray(image.convert("RGB"), np.float32) / 255
        _ = gaussian(hr, degrade.blur_sigma, channel_axis=-1)[::degrade.scale, ::degrade.scale], hr
        yield 1


def from_dataset(dataset: tf.data.Dataset) -> Input:
    """Return an input that reads batches of a dataset."""
    return lambda: (BATCH for _ in dataset)


def extraction(source: Source, options: PatchOptions) -> Iterator[int]:
    """Write shards of a slide repeatedly, a few patches each time."""
    few = replace(options, max_patches=min(64, MAX_PATCHES))
    while True:
        with TemporaryDirectory() as folder:
            yield write_shards([source], folder, few, workers=1, progress=False).patches


def raw_bytes_per_second(paths: Sequence[Path]) -> float:
    """Return how many bytes per second can be read from the warm page cache: the limit for any input."""
    def rate() -> float:
        start = time.perf_counter()
        count = sum(len(path.read_bytes()) for path in paths)
        return count / (time.perf_counter() - start)

    return median(rate() for _ in range(TURNS))


def time_in_turns(pipelines: Mapping[str, Input], seconds: float, turns: int = TURNS) -> dict[str, Speed]:
    """Time the pipelines in turns, for about `seconds` in total, and return the medians."""
    share = seconds / (turns * len(pipelines))
    laps: dict[str, list[Speed]] = {name: [] for name in pipelines}
    for name, start in islice(cycle(pipelines.items()), turns * len(pipelines)):
        laps[name].append(_lap(start(), share))
    return {name: Speed(median(lap.per_second for lap in some), median(lap.cpu_ms for lap in some))
            for name, some in laps.items()}


def _lap(items: Iterator[int], seconds: float) -> Speed:
    next(items)
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - start) < seconds or not count:
        count += next(items)
    return Speed(count / passed, 1e3 * (time.process_time() - cpu) / count)
