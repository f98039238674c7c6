"""Score a generator beside bicubic: a table, a CSV of every patch, and a picture of the best, median and worst.

    python -m sr_keras.evaluate --model=runs/demo --data=runs/demo --output=runs/demo/scores
    python -m sr_keras.evaluate --data=my_slides --output=scores --mpp=0.5 --max_patches=100

--model is the one that ships with the code where it is left out.

--data takes a run (its test part; its val part where it has no test), shards, or slides, images and folders of tiles,
which are first cut into patches in OUTPUT/data (the flags that say how apply to these alone). Choose slides that no
training patch came from. LR is made as in training: a run and an exported model say by which scale and blur; with a
.keras file on its own give its --blur_sigma.

OUTPUT gets scores.csv (a row per patch and method), scores.md (the table) and sheet.png. Those of the same model and
data are replaced; those of others are not.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from tqdm import tqdm

from pipelines import console
from pipelines.files import write_text
from pipelines.flags import define_patch_flags, patch_options
from pipelines.options import DegradeOptions, PatchOptions, require, require_folder
from sr_keras.options import SHIPPED_MODEL

if TYPE_CHECKING:
    import tensorflow as tf

    from pipelines.shards import ShardSet
    from sr_keras.models import LoadedGenerator

BATCH = 4
TABLE_FILE, ROWS_FILE, SHEET_FILE = "scores.md", "scores.csv", "sheet.png"
FLAGS = flags.FlagValues()
flags.DEFINE_string("model", str(SHIPPED_MODEL), "saved_models/NAME, a run folder, or a .keras generator.",
                    flag_values=FLAGS)
flags.DEFINE_list("data", [], "A run, shards, or slides, images, folders of slides or of tiles; 'sample'.",
                  flag_values=FLAGS)
flags.DEFINE_string("output", None, "Folder for the scores.", flag_values=FLAGS)
flags.DEFINE_integer("limit", None, "Score so many patches, from each slide the same number as far as it has them.",
                     flag_values=FLAGS)
flags.DEFINE_float("blur_sigma", None, "Blur the model was trained to undo, in HR pixels, where it does not say it.",
                   flag_values=FLAGS)
define_patch_flags(FLAGS)


def main() -> int:
    """Score, and print the table."""
    for name, example in (("model", "saved_models/srgan_sqe_x4"), ("data", "my_slides"), ("output", "scores")):
        require(bool(FLAGS[name].value), name, "be given", f"add --{name}={example}, say", FLAGS[name].value)
    require(FLAGS.limit is None or FLAGS.limit > 0, "limit", "be positive", "leave it out for all patches", FLAGS.limit)

    output, patches = Path(FLAGS.output), patch_options(FLAGS)
    title = f"Model {FLAGS.model}, data {','.join(FLAGS.data)}"
    for path in FLAGS.data:
        require(path == "sample" or Path(path).exists(), "data", "exist", "check the spelling", path)
    check_output(output, title)

    from sr_keras.models import load_generator

    generator = load_generator(FLAGS.model)
    degrade = trained_degrade(generator, FLAGS.blur_sigma)
    shards = find_shards(FLAGS.data, output / "data", patches, degrade.scale)
    table = evaluate(generator, shards, degrade, output, FLAGS.limit, title)
    print(f"\n{table}\n{output / ROWS_FILE}, {output / TABLE_FILE}, {output / SHEET_FILE}")
    return 0


def check_output(output: Path, title: str) -> None:
    """Refuse a folder whose scores are not those of `title`: the table, written first, says whose they are.

    Raises:
        ValueError: They are of another model or of other data, or it is no folder.
    """
    require_folder(str(output))
    table = output / TABLE_FILE
    said = table.read_text(encoding="utf-8", errors="replace") if table.is_file() else ""
    there = [name for name in (TABLE_FILE, ROWS_FILE, SHEET_FILE) if (output / name).exists()]
    require(not there or said.startswith(f"{title}: "), "output", "hold no scores of another model or other data",
            f"name another folder, or remove {', '.join(there)} there", str(output))


def trained_degrade(generator: LoadedGenerator, blur_sigma: float | None) -> DegradeOptions:
    """Return how LR was made that a generator was trained on; `blur_sigma` says it where the generator does not.

    Raises:
        ValueError: The generator says another blur.
    """
    known, assumed = generator.facts.degradation, generator.degrade
    if blur_sigma is None:
        if known is None:
            print(f"{generator.path} does not say its blur: {assumed.blur_sigma} HR pixels are taken; "
                  "--blur_sigma names another")
        return assumed
    asked = replace(assumed, blur_sigma=blur_sigma)
    require(known in (None, asked), "blur_sigma", f"be {assumed.blur_sigma}, which {generator.path} was trained with",
            "leave it out", blur_sigma)
    return asked


def find_shards(data: list[str], folder: Path, options: PatchOptions, scale: int) -> ShardSet:
    """Return the shards that `data` names, or those of its slides, written to `folder` as `options` say.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: There are no patches, shards are given beside slides, `folder` lies in one of slides, or patches
            are too small or do not divide by the scale.
    """
    from pipelines.patches import find_sources
    from pipelines.shards import is_shards, open_shards, write_shards
    from pipelines.sources import is_among
    from sr_keras.metrics import WINDOW
    from sr_keras.parts import PARTS_FILE, open_part

    if len(data) == 1 and (Path(data[0]) / PARTS_FILE).is_file():
        return open_part(Path(data[0]))
    given = [is_shards(path) for path in data]
    if all(given):
        return open_shards(data)
    require(not any(given), "data", "be shards or slides, not both", "score one after the other", ",".join(data))
    require(not is_among(folder, data), "output", "lie outside of the data: its pictures would be scored the next time",
            "name another folder", str(folder.parent))
    require(options.patch_size >= WINDOW, "patch_size", f"be {WINDOW} or more",
            "SSIM looks at windows of that side", options.patch_size)
    require(options.patch_size % scale == 0, "patch_size", f"be divisible by scale={scale}, the model's",
            "choose a multiple of it", options.patch_size)
    sources = find_sources(data)
    skipped = write_shards(sources, folder, options).skipped
    if skipped:
        print(f"{len(skipped)} patches or slides are left out, for one {skipped[0].slide_id}: {skipped[0].reason}")
    # Slides of an earlier evaluation into the same folder stay there, and out of this one.
    return open_shards(folder, {source.slide_id for source in sources})


def evaluate(upscale: Any, shards: ShardSet, degrade: DegradeOptions, output: Path, limit: int | None = None,
             title: str = "") -> str:
    """Score a model and bicubic, write scores.csv, scores.md and sheet.png, and return the table.

    Args:
        upscale: lr float32 [B, h, w, 3] -> sr.
        shards: The patches.
        degrade: How LR is made of them.
        output: Folder to write to.
        limit: Use so many patches.
        title: What scores.md shall say of the model and the data.
    """
    from pipelines.dataset import evaluation_dataset
    from pipelines.shards.record import damage_named
    from sr_keras.scores import markdown_table, picture_sheet, score, slide_table, summarise, write_csv

    dataset = evaluation_dataset(shards, batch_size=BATCH, degrade=degrade, limit=limit)
    with damage_named(shards.paths):
        rows = score(upscale, _counted(dataset, min(limit or shards.count, shards.count)), degrade)
    summary = summarise(rows)
    table = markdown_table(summary)
    made = f"{title}: x{degrade.scale}, blur of {degrade.blur_sigma} HR pixels, patches of {shards.patch_size} pixels."
    per_slide = f"\n**By slide, bicubic → SR**\n\n{slide_table(rows)}" if summary.slides > 1 else ""
    write_text(output / TABLE_FILE, f"{made}\n\n{table}{per_slide}")
    write_csv(rows, output / ROWS_FILE)
    picture_sheet(rows, dataset.as_numpy_iterator(), upscale, output / SHEET_FILE, degrade)
    return table


def _counted(dataset: tf.data.Dataset, count: int) -> Iterator[dict[str, Any]]:
    """Yield the batches under a progress bar of patches."""
    with tqdm(total=count, desc="scoring", unit="patch") as bar:
        for batch in dataset.as_numpy_iterator():
            yield batch
            bar.update(len(batch["lr"]))


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
