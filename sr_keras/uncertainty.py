# SPDX-License-Identifier: Apache-2.0
"""Train a head that predicts the uncertainty of each pixel, and measure how far it is to be believed.

    sr-keras uncertainty --model=saved_models/srgan_sqe_x4 --train_data=tiles/train,pairs/train \
        --val_data=tiles/val,pairs/val

The generator stays as it is. The head is written beside it, as the SavedModel `uncertainty/`, or to --output. It costs
at most 15% of the generator's multiply-adds. See docs/uncertainty.md; `sr_keras.model.uncertainty_head` is its use.

The slides of --train_data train the head, except for those of every fifth case (patient): they fit the one factor that
corrects its scales. A slide is a case, unless TCGA's names tell more. The slides of --val_data are only scored: how
many of their pixels lie in the intervals of 50, 90 and 95%, and how well the head and the LR error of the trust map
predict the real error of squares of 16 pixels. Choose slides that the generator was not trained on.

LR is made as for the generator's training; pairs also give their scanned LR.
"""
from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import optimize, stats
from scipy.special import gammainc
from tqdm import tqdm

from pipelines import console
from pipelines.config import define_patch_flags, patch_options
from pipelines.errors import require
from pipelines.files import atomic_path, remove
from pipelines.options import AT_LEAST_1, FINITE, GIVEN, SEED, Rule, flags_of, option, read
from pipelines.pixels import to_float, to_uint8
from pipelines.sources import tcga_case
from sr_keras.config import ModelOptions
from sr_keras.evaluation.conditions import REAL, trained_condition
from sr_keras.formats.saved_model import DEFAULT_MAX_PIXELS
from sr_keras.model.facts import find_generator
from sr_keras.slides.trust_map import WINDOWS, fit_degradation, measure

if TYPE_CHECKING:
    import keras

    from pipelines.shards import ShardSet
    from sr_keras.model.loading import LoadedGenerator
    from sr_keras.model.uncertainty_head import HeadFacts

MOST_COST = 0.15  # of the generator's multiply-adds
HELD_OUT = 5  # one case in so many of the training data fits the factor
MARGIN = 8  # LR pixels at the borders of a patch that are not scored: the generator does not see beyond them
EDGE = 2  # LR pixels at the borders of a crop that the head's convolutions fill with zeros
STRIDE, COUNTED = 3, 7  # one pixel in so many is trained on, and counted; odd, to reach every place under an LR pixel
SQUARE = 16  # SR pixels, as in the trust map
WORST = 0.1  # share of the squares that a map should find


@dataclass(frozen=True)
class HeadOptions(ModelOptions):
    """How a head is trained and scored."""

    train_data: tuple[str, ...] = option((), "Slides that train the head: slides, folders of slides or tiles, or "
                                         "shards", "name at least two slides", GIVEN, group="basic")
    val_data: tuple[str, ...] = option((), "Slides that are scored, others than those of train_data",
                                       "name at least one", GIVEN, group="basic")
    output: str | None = option(None, "Folder of the head", "by default uncertainty, beside the generator",
                                group="basic")
    overwrite: bool = option(False, "Replace an existing head", group="basic")
    per_slide: int = option(40, "Patches of a slide for each kind of LR", "", AT_LEAST_1, group="data")
    steps: int = option(4000, "Training steps", "a few thousand", AT_LEAST_1, group="model")
    batch_size: int = option(16, "Crops in a step", "", AT_LEAST_1, group="model")
    crop: int = option(32, "Side of a crop", "", Rule("be 8 or more", lambda side: side >= 8), group="model",
                       unit="LR pixels")
    head_filters: int = option(24, "Filters of the head's two convolutions", "", AT_LEAST_1, group="model")
    learning_rate: float = option(2e-3, "Highest learning rate", "it falls to 0 along a cosine", FINITE, group="model")
    seed: int = option(0, "Seed of the patches, the crops and the weights", "", SEED)


FLAGS = flags_of(HeadOptions)
define_patch_flags(FLAGS)


class Group(NamedTuple):
    """Patches of a slide with one kind of LR: what the trunk made, float16 [N, h, w, C], and uint8 images."""

    slide: str
    kind: str
    trunk: np.ndarray
    lr: np.ndarray
    sr: np.ndarray
    hr: np.ndarray


class Spread(NamedTuple):
    """What is kept of a group: |r| / a and b of some pixels, and of each square three numbers [N]."""

    slide: str
    kind: str
    relative: np.ndarray
    shape: np.ndarray
    error: np.ndarray  # mean of |HR - SR|, grey levels of 255
    expected: np.ndarray  # what the head expects it to be
    departure: np.ndarray  # the LR error


def main() -> int:
    """Train, calibrate, score and write a head, and print its table."""
    options, patches = read(FLAGS, HeadOptions), patch_options(FLAGS, seed=FLAGS.seed)
    for name in ("train_data", "val_data"):
        for path in getattr(options, name):
            require(path == "sample" or Path(path).exists(), name, "exist", "check the spelling", path)
    find_generator(FLAGS.model)

    console.import_tensorflow()
    import keras

    from sr_keras.evaluation.scored_patches import find_sets
    from sr_keras.formats.signatures import write_uncertainty
    from sr_keras.model.loading import load_generator
    from sr_keras.model.uncertainty_head import folder_of, table

    folder = Path(options.output) if options.output else folder_of(FLAGS.model)
    require(options.overwrite or not folder.exists(), "output", "not exist",
            "name another folder, or replace it by --overwrite", str(folder))
    keras.utils.set_random_seed(options.seed % 2**32)
    generator = load_generator(FLAGS.model)
    with tempfile.TemporaryDirectory() as temporary:
        patches = replace(patches, scale=generator.scale, max_patches=patches.max_patches or options.per_slide)
        train_sets, val_sets = (find_sets(data, Path(temporary) / name, patches, generator.scale) for data, name in
                                ((options.train_data, "train"), (options.val_data, "val")))
        check_sets(train_sets, val_sets, generator.scale)
        trained, scored = (read_groups(generator, sets, options) for sets in (train_sets, val_sets))
    network, cost = build(trained, generator, options)
    print(f"the head has {network.count_params():,} parameters and costs {cost:.1%} of the generator's multiply-adds",
          flush=True)
    fitted, held_out = split(trained)
    train(network, fitted, generator.scale, options)
    facts = facts_of(network, held_out, scored, generator, cost)
    with atomic_path(folder, folder=True) as temporary:
        write_uncertainty(generator, network, facts, temporary, max_pixels=DEFAULT_MAX_PIXELS)
        remove(folder)  # not before the new one is complete
    print(f"\n{table(facts)}\n\n{folder}")
    return 0


def check_sets(trained: Sequence[ShardSet], scored: Sequence[ShardSet], scale: int) -> None:
    """Raise a ValueError if a slide or case is in both, if one is not enough, or if patches are too small."""
    cases, others = ({tcga_case(slide) for one in sets for slide in one.slide_ids} for sets in (trained, scored))
    require(not cases & others, "val_data", "have other slides and cases than train_data", "remove them from one of "
            "the two", ", ".join(sorted(cases & others)))
    require(len(cases) > 1, "train_data", "have slides of two cases or more", "one of them fits the factor", len(cases))
    side, least = min(one.patch_size for one in (*trained, *scored)), scale * (2 * MARGIN + 8)
    require(side >= least, "patch_size", f"be {least} or more", "the borders are not scored", side)


def read_groups(generator: LoadedGenerator, sets: Sequence[ShardSet], options: HeadOptions) -> list[Group]:
    """Run the generator on patches: real LR of pairs, and made LR of every slide."""
    from pipelines.shards.records import batches_of
    from sr_keras.evaluation.scored_patches import limit_of, lr_dataset, sets_of, text
    from sr_keras.model.uncertainty_head import with_trunk

    scale, run = generator.scale, with_trunk(generator)
    found: dict[tuple[str, str], list[tuple[np.ndarray, ...]]] = defaultdict(list)
    conditions = [*([REAL] if any(one.pairs.shards for one in sets) else []), trained_condition(generator.degrade)]
    parts = [(condition, one) for condition in conditions for one in sets_of(condition, sets, scale)]
    with tqdm(desc="super-resolving", unit="patch",
              total=sum(limit_of(one, options.per_slide) or 0 for _, one in parts)) as bar:
        for condition, one in parts:
            dataset = lr_dataset(one, condition, scale, limit_of(one, options.per_slide), options.seed)
            for batch in batches_of(dataset, one):
                lr, hr = to_uint8(np.asarray(batch["lr"])), to_uint8(np.asarray(batch["hr"]))
                middle, sr = run.predict_on_batch(to_float(lr))
                images = middle.astype(np.float16), lr, to_uint8(sr), hr
                for slide, *arrays in zip(batch["slide_id"], *images, strict=True):
                    found[text(slide), condition.label].append(tuple(arrays))
                bar.update(len(lr))
    return [Group(*key, *map(np.stack, zip(*arrays, strict=True))) for key, arrays in sorted(found.items())]


def build(groups: Sequence[Group], generator: LoadedGenerator, options: HeadOptions) -> tuple[keras.Model, float]:
    """Return a head, and its multiply-adds over those of the generator."""
    from sr_keras.model.loading import read_weights
    from sr_keras.model.uncertainty_head import head, multiply_adds

    side = min(min(group.lr.shape[1:3]) for group in groups)
    network = head(np.concatenate([group.trunk[:4, :side, :side] for group in groups]), generator.scale,
                   options.head_filters)
    own, whole = (multiply_adds(weights, generator.scale) for weights in (
        {weight.path: weight.numpy() for weight in network.weights}, read_weights(generator.path)))
    require(own <= MOST_COST * whole, "head_filters", f"keep the head below {MOST_COST:.0%} of the generator's "
            "multiply-adds", "lower it", f"{options.head_filters}, {own / whole:.1%}")
    return network, own / whole


def split(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Return the groups that train the head, and those of every fifth case, which fit the factor."""
    held_out = sorted({tcga_case(group.slide) for group in groups})[::HELD_OUT]
    return ([group for group in groups if tcga_case(group.slide) not in held_out],
            [group for group in groups if tcga_case(group.slide) in held_out])


def train(network: keras.Model, groups: Sequence[Group], scale: int, options: HeadOptions) -> None:
    """Minimise the negative log likelihood on random crops; each group gives as many."""
    import keras
    import tensorflow as tf

    from sr_keras.model.uncertainty_head import negative_log_likelihood

    side = min(options.crop, *(min(group.lr.shape[1:3]) for group in groups))

    def crops() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(options.seed)
        while True:
            group = groups[int(rng.integers(len(groups)))]
            i, y, x = (rng.integers(most) for most in (len(group.lr), *(n - side + 1 for n in group.lr.shape[1:3])))
            inside = i, slice(scale * y, scale * (y + side)), slice(scale * x, scale * (x + side))
            yield (group.trunk[i, y:y + side, x:x + side].astype(np.float32),
                   group.hr[inside].astype(np.float32) - group.sr[inside])

    @tf.autograph.experimental.do_not_convert
    def loss(residual: tf.Tensor, logs: tf.Tensor) -> tf.Tensor:
        core = slice(EDGE * scale, -EDGE * scale, STRIDE)
        return negative_log_likelihood(residual[:, core, core], logs[:, core, core])

    signature = (tf.TensorSpec([side, side, groups[0].trunk.shape[-1]]), tf.TensorSpec([scale * side, scale * side, 3]))
    data = tf.data.Dataset.from_generator(crops, output_signature=signature).batch(options.batch_size).prefetch(2)
    network.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)),
                    loss)
    epochs = min(10, options.steps)
    network.fit(data, shuffle=False, steps_per_epoch=options.steps // epochs, epochs=epochs, verbose=2)


def facts_of(network: keras.Model, held_out: Sequence[Group], scored: Sequence[Group], generator: LoadedGenerator,
             cost: float) -> HeadFacts:
    """Fit the factor on held-out slides, and return it with what is measured on the scored ones."""
    from sr_keras.model.loading import read_weights
    from sr_keras.model.uncertainty_head import LEVELS, Coverage, HeadFacts, Prediction, digest

    factor = fit_factor([spread(network, group, generator.scale) for group in held_out], LEVELS)
    spreads = [spread(network, group, generator.scale) for group in scored]
    coverage = [Coverage(one.slide, one.kind, covered(one, 1.0, LEVELS), covered(one, factor, LEVELS))
                for one in spreads]
    head, departure = (Prediction(*np.mean([predicts(getattr(one, name), one.error) for one in spreads], 0).tolist())
                       for name in ("expected", "departure"))
    return HeadFacts(digest(read_weights(generator.path)), factor, cost, head, departure, coverage)


def spread(network: keras.Model, group: Group, scale: int) -> Spread:
    """Run a head on a group."""
    from sr_keras.model.uncertainty_head import mean_error

    degrade = fit_degradation(zip(group.lr[:WINDOWS], group.sr[:WINDOWS], strict=True), scale)
    least, squares = MARGIN * scale // SQUARE, min(group.sr.shape[1:3]) // SQUARE
    core = slice(least * SQUARE, (squares - least) * SQUARE)
    kept: list[tuple[np.ndarray, ...]] = []
    for trunk, lr, sr, hr in zip(*group[2:], strict=True):
        logs = network(trunk[np.newaxis].astype(np.float32), training=False)
        residual = np.abs(hr.astype(np.float32) - sr)[core, core]
        expected = np.asarray(mean_error(logs))[0, core, core]
        spreads = np.exp(np.asarray(logs))[0, core, core]
        departure = measure(lr, sr, degrade).lr_error[least:squares - least, least:squares - least]
        kept.append(((residual / spreads[..., :3])[::COUNTED, ::COUNTED].ravel(),
                     spreads[::COUNTED, ::COUNTED, 3:].ravel(), _squares(residual), _squares(expected),
                     departure.ravel()))
    return Spread(group.slide, group.kind, *map(np.concatenate, zip(*kept, strict=True)))


def _squares(values: np.ndarray) -> np.ndarray:
    """Return the means over squares of [H, W, C], in one row."""
    height, width, channels = values.shape
    return values.reshape(height // SQUARE, SQUARE, width // SQUARE, SQUARE, channels).mean((1, 3, 4)).ravel()


def covered(one: Spread, factor: float, levels: Sequence[float]) -> tuple[float, ...]:
    """Return the share of pixels in the interval of each level, with the scales multiplied by `factor`."""
    within = gammainc(1 / one.shape, (one.relative / factor) ** one.shape)  # P(|r| is smaller)
    return tuple(float((within <= level).mean()) for level in levels)


def fit_factor(spreads: Sequence[Spread], levels: Sequence[float]) -> float:
    """Return the factor that brings the coverage, the mean over groups, nearest to the levels, squared."""
    def misses(log_factor: float) -> float:
        found = np.mean([covered(one, float(np.exp(log_factor)), levels) for one in spreads], 0)
        return float(np.square(found - levels).sum())

    return float(np.exp(optimize.minimize_scalar(misses, bounds=(-1.5, 1.5), method="bounded",
                                                 options={"xatol": 1e-3}).x))


def predicts(given: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """Return Spearman's rank correlation with the error, and the area under the ROC for the worst tenth of it."""
    from sr_keras.evaluation.detail import area_under_roc

    worst = error > np.quantile(error, 1 - WORST)
    if not worst.any() or np.ptp(given) == 0:  # nothing to find, or nothing said
        return 0.0, 0.5
    return float(stats.spearmanr(given, error).statistic), area_under_roc(given[worst], given[~worst])


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
