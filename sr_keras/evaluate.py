"""Score a generator beside bicubic: on every kind of LR that slides come with, or on one.

    python -m sr_keras.evaluate --lr=standard --data=tiles/val,pairs/val --output=scores
    python -m sr_keras.evaluate --model=runs/demo --data=runs/demo --output=runs/demo/scores
    python -m sr_keras.evaluate --data=my_slides --output=scores --mpp=0.5 --max_patches=100

--model is the one that ships with the code where it is left out.

--data takes a run (its test part; its val part where it has no test), shards, or slides, images and folders of tiles,
which are first cut into patches in OUTPUT/data (the flags that say how apply to these alone). Choose slides that no
training patch came from.

--lr says which LR the model is given. A model that is good on one kind can be worse than bicubic on another.

    standard   the whole list: blur, resampling, JPEG, noise, and the real LR of the pairs in the data. OUTPUT gets
               standard.md (the tables), standard.csv, standard.json and standard.png (curves of gain over bicubic)
    pairs      the real LR alone
    NAME       one kind of the list (box, jpeg-80, ...) or a preset that LR is drawn from (scanner, pyramid)

Without --lr it is the LR that the model was trained on: a run and an exported model say how it was made; with a .keras
file on its own give its --blur_sigma. For one kind of LR OUTPUT gets scores.csv (a row per patch and method), scores.md
(the table) and sheet.png (the best, median and worst patches).

Results of the same model and data are replaced; those of others are not.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from tqdm import tqdm

from pipelines import console
from pipelines.config import DegradeOptions, PatchOptions, check_seed
from pipelines.errors import require, require_folder
from pipelines.files import write_text
from pipelines.flags import define_patch_flags, patch_options
from sr_keras.config import SHIPPED_MODEL

if TYPE_CHECKING:
    import tensorflow as tf

    from pipelines.shards import ShardSet
    from sr_keras.evaluation.conditions import Condition
    from sr_keras.model.loading import LoadedGenerator

FILES = TABLE_FILE, ROWS_FILE, SHEET_FILE = "scores.md", "scores.csv", "sheet.png"
STANDARD_FILES = "standard.md", "standard.csv", "standard.json", "standard.png"
FLAGS = flags.FlagValues()
flags.DEFINE_string("model", str(SHIPPED_MODEL), "saved_models/NAME, a run folder, or a .keras generator.",
                    flag_values=FLAGS)
flags.DEFINE_list("data", [], "A run, shards, or slides, images, folders of slides or of tiles; 'sample'.",
                  flag_values=FLAGS)
flags.DEFINE_string("output", None, "Folder for the scores.", flag_values=FLAGS)
flags.DEFINE_string("lr", None, "Which LR: standard (the whole list), pairs (the real LR in the data), or a kind by "
                    "its name; as in training if left out.", flag_values=FLAGS)
flags.DEFINE_integer("limit", None, "Score so many patches, from each slide the same number as far as it has them; 0 "
                     "for all. With --lr=standard so many of each slide for each kind of LR, 25 if left out.",
                     flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Of what is random in LR.", flag_values=FLAGS)
flags.DEFINE_enum("engine", "tensorflow", ["tensorflow", "litert", "onnx", "auto"],
                  "What computes SR; auto is the fastest. They agree within one grey level of 255.", flag_values=FLAGS)
flags.DEFINE_float("blur_sigma", None, "Blur the model was trained to undo, in HR pixels, where it does not say it.",
                   flag_values=FLAGS)
define_patch_flags(FLAGS)


def main() -> int:
    """Score, and print the table."""
    for name, example in (("model", "saved_models/srgan_sqe_x4"), ("data", "my_slides"), ("output", "scores")):
        require(bool(FLAGS[name].value), name, "be given", f"add --{name}={example}, say", FLAGS[name].value)
    require(FLAGS.limit is None or FLAGS.limit >= 0, "limit", "be 0 or more", "0 takes all patches", FLAGS.limit)
    require(FLAGS.lr is None or FLAGS.blur_sigma is None, "blur_sigma", "be left out with --lr",
            "choose one of the two", FLAGS.blur_sigma)
    check_seed(FLAGS.seed)

    output, standard = Path(FLAGS.output), FLAGS.lr == "standard"
    title = f"Model {FLAGS.model}, data {','.join(FLAGS.data)}{f', LR {FLAGS.lr}' if FLAGS.lr else ''}"
    for path in FLAGS.data:
        require(path == "sample" or Path(path).exists(), "data", "exist", "check the spelling", path)
    check_output(output, title, STANDARD_FILES if standard else FILES)
    (score_on_standard if standard else score_on_one)(output, title)
    return 0


def score_on_standard(output: Path, title: str) -> None:
    """Score on the whole list of LR kinds, and print the compact table."""
    from sr_keras.evaluation.patches import find_sets
    from sr_keras.evaluation.standard import PER_SLIDE, READING, score_standard, write_standard

    generator = _generator()
    per_slide = (PER_SLIDE if FLAGS.limit is None else FLAGS.limit) or None
    patches = _patches(generator.scale)
    sets = find_sets(FLAGS.data, output / "data", replace(patches, max_patches=patches.max_patches or per_slide),
                     generator.scale)
    gains = score_standard(generator, sets, generator.scale, per_slide, FLAGS.seed)
    slides = {slide_id for gain in gains for slide_id in gain.slides}
    made = (f"{title}: x{generator.scale}, {len(slides)} slides, {per_slide or 'all'} patches a slide, "
            f"seed {FLAGS.seed}.")
    about = {"model": FLAGS.model, "data": FLAGS.data, "scale": generator.scale, "per_slide": per_slide,
             "seed": FLAGS.seed}
    print(f"\n{made}\n\n{write_standard(gains, [output / name for name in STANDARD_FILES], made, about)}\n{READING}\n\n"
          f"{', '.join(str(output / name) for name in STANDARD_FILES)}")


def score_on_one(output: Path, title: str) -> None:
    """Score on one kind of LR, and print the table."""
    from sr_keras.evaluation.conditions import condition_named, trained_condition
    from sr_keras.evaluation.patches import find_shards, pairs_of

    condition = condition_named(FLAGS.lr) if FLAGS.lr else None  # before the model: a wrong name is said at once
    generator = _generator()
    chosen = condition.at_scale(generator.scale) if condition else trained_condition(
        trained_degrade(generator, FLAGS.blur_sigma))
    shards = find_shards(FLAGS.data, output / "data", _patches(generator.scale), generator.scale)
    if chosen.is_real:
        shards = pairs_of(shards, generator.scale)
    table = evaluate(generator, shards, chosen, generator.scale, output, FLAGS.limit or None, title, FLAGS.seed)
    print(f"\n{table}\n{', '.join(str(output / name) for name in FILES)}")


def _patches(scale: int) -> PatchOptions:
    """Return which patches are cut; the real LR of a slide's own levels is that of the model's scale."""
    return replace(patch_options(FLAGS), scale=scale)


def _generator() -> LoadedGenerator:
    if FLAGS.engine == "tensorflow":
        from sr_keras.model.loading import load_generator

        return load_generator(FLAGS.model)
    from sr_keras.model.engines import open_engine

    return open_engine(FLAGS.engine, FLAGS.model)


def check_output(output: Path, title: str, files: Sequence[str]) -> None:
    """Refuse a folder whose scores are not those of `title`: the table, written first, says whose they are.

    Args:
        output: The folder.
        title: Of the model, the data and the LR.
        files: What will be written there, the table first.

    Raises:
        ValueError: They are of another model or of other data, or it is no folder.
    """
    require_folder(str(output))
    table = output / files[0]
    said = table.read_text(encoding="utf-8", errors="replace") if table.is_file() else ""
    there = [name for name in files if (output / name).exists()]
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


def evaluate(upscale: Any, shards: ShardSet, condition: Condition, scale: int, output: Path,
             limit: int | None = None, title: str = "", seed: int = 0) -> str:
    """Score a model and bicubic on one kind of LR, write FILES, and return the table.

    Args:
        upscale: lr float32 [B, h, w, 3] -> sr.
        shards: The patches.
        condition: Which LR.
        scale: Of the model.
        output: Folder to write to.
        limit: Use so many patches.
        title: What scores.md shall say of the model and the data.
        seed: Of what is random in LR.
    """
    from pipelines.shards.records import damage_named
    from sr_keras.evaluation import METRICS, markdown_table, picture_sheet, score, slide_table, summarise, write_csv
    from sr_keras.evaluation.patches import lr_dataset

    dataset = lr_dataset(shards, condition, scale, limit, seed)
    names = set(METRICS) - ({"lr_consistency"} if condition.is_real else set())
    degrade = condition.degrade or DegradeOptions(scale)
    with damage_named(shards.paths):
        rows = score(upscale, _counted(dataset, min(limit or shards.count, shards.count)), degrade, names)
    summary = summarise(rows)
    table = markdown_table(summary)
    made = f"{title}: x{scale}, {condition.label}, patches of {shards.patch_size} pixels."
    per_slide = f"\n**By slide, bicubic → SR**\n\n{slide_table(rows)}" if summary.slides > 1 else ""
    write_text(output / TABLE_FILE, f"{made}\n\n{table}{per_slide}")
    write_csv(rows, output / ROWS_FILE)
    picture_sheet(rows, dataset.as_numpy_iterator(), upscale, output / SHEET_FILE, degrade)
    return f"{made}\n\n{table}"


def _counted(dataset: tf.data.Dataset, count: int) -> Iterator[dict[str, Any]]:
    """Yield the batches under a progress bar of patches."""
    with tqdm(total=count, desc="scoring", unit="patch") as bar:
        for batch in dataset.as_numpy_iterator():
            yield batch
            bar.update(len(batch["lr"]))


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
