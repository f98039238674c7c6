# SPDX-License-Identifier: Apache-2.0
"""Prune the enlarging steps of a trained generator to the filters that its output uses most.

    python -m sr_keras.training.pruning --model=saved_models/srgan_sqe_x4 --tail_filters=16 --output=start.keras \\
        --train_data=shards
    sr-keras train --generator=start.keras --blocks=12 --filters=48 --tail_filters=16 --train_data=slides

The result computes less and is worse at first; training starts from it. The steps and the last convolution work at up
to the size of SR, so a filter there costs up to 16 times one of the trunk, which stays whole.

--train_data names folders of shards, which pipelines.extract writes. The tail alone is then fitted to what the whole
model makes of their LR, which is degraded as that model's was. The file is written at the end, so a run that was killed
has to begin again.

How much a filter is used: the standard deviation of its output on tissue, times the sum of the absolute weights that
read it. --pictures names a folder of LR tissue for that, of the stain and resolution that the model is for.

Source: Li et al. 2017, Pruning filters for efficient convnets; the deviation is added, since a filter that is constant
on tissue carries nothing.
"""
from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipelines import console
from pipelines.config import DegradeOptions
from pipelines.errors import require
from pipelines.files import atomic_path
from pipelines.options import GIVEN, POSITIVE, Options, Rule, basic, flags_of, read
from pipelines.pixels import to_float
from pipelines.sample import sample_picture

if TYPE_CHECKING:
    import keras

    from pipelines.shards import ShardSet

SIDE, PIECES = 48, 24  # of the tissue that is looked at: LR pixels a side, and how many
BATCH, CROP, LEARNING_RATE = 8, 96, 1e-3  # of the fit; the crop in HR pixels a side
LINE_STEPS = 250  # between two lines that say the error


@dataclass(frozen=True)
class PruneOptions(Options):
    """What is pruned, and to how many filters."""

    model: str = basic(None, "A run folder, a .keras generator or a SavedModel", "", GIVEN)
    tail_filters: int = basic(None, "Filters of each enlarging step to keep", "", GIVEN)
    output: str = basic(None, "The .keras file to write", "", GIVEN, Rule(
        "be a .keras file that does not exist", lambda name: Path(name).suffix == ".keras" and not Path(name).exists()))
    pictures: str | None = basic(None, "Folder of PNG pictures of LR tissue, or of pairs", "the sample if left out")
    train_data: tuple[str, ...] = basic((), "Shards to fit the pruned tail on", "without them it is not fitted")
    steps: int = basic(4000, f"Steps of the fit, each of {BATCH} crops", "0.2 to 0.3 s each on 2 cores", POSITIVE)


FLAGS = flags_of(PruneOptions)


def main() -> int:
    """Write the pruned generator, fitted if there are data, and print its cost and how far it is from the whole one."""
    output = Path(read(FLAGS, PruneOptions).output)
    lr = tissue(Path(FLAGS.pictures) if FLAGS.pictures else None)
    console.import_tensorflow()
    from pipelines.shards import open_shards
    from sr_keras.model.loading import load_generator, scale_of
    from sr_keras.model.streaming import as_keras
    from sr_keras.model.uncertainty_head import multiply_adds

    shards = open_shards(FLAGS.train_data) if FLAGS.train_data else None
    loaded = load_generator(FLAGS.model)
    whole = as_keras(loaded)
    pruned = prune(whole, FLAGS.tail_filters, lr)
    for name, model in (("whole", whole), ("pruned", pruned)):
        cost = multiply_adds({weight.path: weight.numpy() for weight in model.variables}, scale_of(model))
        print(f"{name}: {cost / 1e6:.3f} M multiply-adds for an LR pixel")
    print(f"PSNR of the pruned output against the whole one's: {likeness(pruned, whole, lr):.1f} dB")
    if shards:
        fit(pruned, whole, shards, loaded.facts.degradation or DegradeOptions(loaded.scale), FLAGS.steps)
        print(f"after the fit: {likeness(pruned, whole, lr):.1f} dB")
    with atomic_path(output) as temporary:
        pruned.save(temporary)
    print(f"written: {output}")
    return 0


def likeness(pruned: keras.Model, whole: keras.Model, lr: np.ndarray) -> float:
    """Return the PSNR in dB between what two generators make of lr float32 [B, h, w, 3]."""
    error = np.square(whole.predict(lr, 4, verbose=0) - pruned.predict(lr, 4, verbose=0)).mean()
    return -10 * math.log10(max(error, 1e-12))


def fit(pruned: keras.Model, whole: keras.Model, shards: ShardSet, degrade: DegradeOptions, steps: int) -> None:
    """Train the tail of a pruned generator to give what the whole one gives, by the squared error; the trunk stays.

    Args:
        pruned: From `prune`.
        whole: What it was pruned from.
        shards: Patches of tissue. If there are pairs, half of the examples have their scanned LR.
        degrade: How the LR of the others is made.
        steps: About how many, each of BATCH crops. The learning rate falls along a cosine.

    Raises:
        ValueError: The patches or pairs do not suit the scale.
    """
    import keras

    from pipelines.dataset import training_dataset

    pairs = training_dataset(shards, degrade=degrade, batch_size=BATCH, crop_size=min(CROP, shards.patch_size))
    lines = max(1, steps // LINE_STEPS)
    student = keras.Model(pruned.inputs[0], pruned.outputs[0])  # so that `pruned` is saved without an optimizer
    for layer in student.layers:
        layer.trainable = layer.name.startswith("up") or layer.name == "last"
    student.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps, alpha=0.01)),
                    loss="mse")
    student.fit(pairs.map(lambda lr, _: (lr, whole(lr, training=False))), epochs=lines, steps_per_epoch=steps // lines,
                verbose=2, shuffle=False)
    for layer in student.layers:
        layer.trainable = True


def prune(model: keras.Model, tail_filters: int, lr: np.ndarray) -> keras.Model:
    """Return a generator with fewer filters in its enlarging steps.

    Args:
        model: Made by `networks.generator`.
        tail_filters: How many to keep, at most as many as there are.
        lr: Tissue, float32 [B, h, w, 3] in [0, 1].

    Raises:
        ValueError: There are fewer.
    """
    import keras

    from sr_keras import networks

    weights = {weight.path: weight.numpy() for weight in model.variables}
    steps = sum(name.startswith("up") and name.endswith("_conv/kernel") for name in weights)
    there = weights["last/kernel"].shape[2]
    require(0 < tail_filters <= there, "tail_filters", f"be 1 to {there}, which the model has", "correct it",
            tail_filters)
    readers = [*(f"up{step}_conv" for step in range(2, steps + 1)), "last"]
    for step, reader in enumerate(readers, 1):
        seen = keras.Model(model.inputs[0], model.get_layer(f"up{step}_relu").output)
        read = weights[f"{reader}/kernel"]
        used = np.std(seen(lr, training=False), (0, 1, 2)) * np.abs(read).sum((0, 1, 3))
        kept = np.sort(np.argsort(-used, kind="stable")[:tail_filters])
        weights[f"{reader}/kernel"] = read[:, :, kept]
        for name in (f"up{step}_conv/kernel", f"up{step}_conv/bias"):  # its channels are four pixels of all filters
            pixels = weights[name].reshape(*weights[name].shape[:-1], 4, there)
            weights[name] = pixels[..., kept].reshape(*weights[name].shape[:-1], 4 * tail_filters)
    blocks = sum(name.endswith("_conv1/kernel") for name in weights)
    names = {layer.name for layer in model.layers}
    pruned = networks.generator(2**steps, blocks, weights["first/kernel"].shape[-1], "interpolated" in names,
                                tail_filters)
    for weight in pruned.variables:
        weight.assign(weights[weight.path])
    return pruned


def tissue(folder: Path | None) -> np.ndarray:
    """Return pieces of LR pictures of a folder, or of the sample at half its resolution: float32 [B, h, w, 3].

    Raises:
        ValueError: The folder has no PNG pictures of SIDE pixels or more.
        OSError: One cannot be read.
    """
    if folder is None:
        half = np.asarray(Image.fromarray(sample_picture()).reduce(2))
        cut = [half[y:y + SIDE, x:x + SIDE] for y in range(0, 240, SIDE) for x in range(0, 240, SIDE)]
        return to_float(np.stack(cut[:PIECES]))
    paths = sorted(folder.rglob("*_lr*.png")) or sorted(folder.rglob("*.png"))  # those of pairs lie beside their HR
    pictures = [np.asarray(Image.open(path).convert("RGB"))[:SIDE, :SIDE]
                for path in paths[::max(1, len(paths) // PIECES)]]
    pieces = [picture for picture in pictures if picture.shape[:2] == (SIDE, SIDE)]
    require(bool(pieces), "pictures", f"be a folder of PNG pictures of {SIDE} pixels or more a side",
            "name another, or leave it out", str(folder))
    return to_float(np.stack(pieces))


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
