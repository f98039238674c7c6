# SPDX-License-Identifier: Apache-2.0
"""Score a generator beside bicubic, on every kind of LR that slides have, or on one.

    sr-keras evaluate --lr=standard --data=tiles/val,pairs/val --output=scores
    sr-keras evaluate --model=runs/demo --data=runs/demo --output=runs/demo/scores
    sr-keras evaluate --nuclei --perceptual --lr=pairs --data=pairs/val --output=scores
    sr-keras evaluate --data=my_slides --output=scores --mpp=0.5 --max_patches=100

The default model ships with the code.

--data is a run (its test slides, or its validation slides if it has no test slides), shards, or slides, images and
folders of tiles. Slides and images are first cut into patches in OUTPUT/data, according to the patch flags. Choose
slides that the model was not trained on.

--lr is the kind of LR. A model that is good on one kind can be worse than bicubic on another.

    standard   the whole list: blur, resampling, JPEG, noise, and the scanned LR of pairs in the data. OUTPUT gets
               standard.md (tables), standard.csv, standard.json and standard.png (curves of the gain over bicubic)
    pairs      the scanned LR of pairs
    NAME       one kind of the list (box, jpeg-80, ...) or a preset (scanner, pyramid)

By default it is the LR that the model was trained on. Runs and exported models record it; give --blur_sigma for a
.keras file. For one kind of LR, OUTPUT gets scores.csv (a row per patch and method), scores.md (the table) and
sheet.png (the best, median and worst patches).

--nuclei asks whether the nuclei of SR are those of HR; --perceptual adds perceptual distances. OUTPUT gets nuclei.md
(tables), nuclei.csv (a row per slide and method), nuclei.json (means, for the model card) and nuclei.png (the worst
patch of each slide, invented and lost nuclei marked). There --lr=standard means the scanned LR of pairs, if the data
has some, and the textbook's LR. The resolution of the slides must be known.

Results of the same model and data are replaced; those of others are not.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pipelines import console
from pipelines.config import DegradeOptions, PatchOptions, define_patch_flags, patch_options
from pipelines.errors import require, require_folder
from pipelines.files import write_csv, write_text
from pipelines.options import AT_LEAST_0, GIVEN, SEED, basic, flags_of, read
from sr_keras.config import ModelOptions
from sr_keras.evaluation.conditions import Condition, condition_named, standard_conditions, trained_condition
from sr_keras.model.facts import find_generator
from sr_keras.model.runtimes import ENGINE_CHOICES

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from pipelines.shards import ShardSet
    from sr_keras.evaluation.tables import Gain
    from sr_keras.model.loading import LoadedGenerator

FILES = TABLE_FILE, ROWS_FILE, SHEET_FILE = "scores.md", "scores.csv", "sheet.png"
NUCLEI_FILES = "nuclei.md", "nuclei.csv", "nuclei.json", "nuclei.png"
STANDARD_FILES = "standard.md", "standard.csv", "standard.json", "standard.png"
PER_SLIDE = 25  # patches of a slide for each kind of LR; about ten minutes on two cores with the shipped model


@dataclass(frozen=True)
class EvaluateOptions(ModelOptions):
    """What is scored, on what, and where the scores go."""

    data: tuple[str, ...] = basic((), "A run, shards, slides, images, or folders of slides or tiles; 'sample' is a "
                                  "slide that comes with this program", "", GIVEN)
    output: str = basic(None, "Folder for the scores", "", GIVEN)
    lr: str | None = basic(None, "Kind of LR: standard (the whole list), pairs (the scanned LR in the data), or a kind "
                           "by its name", "by default as in training")
    limit: int | None = basic(None, "Number of patches to score, the same from each slide if possible; 0 for all. With "
                              "--lr=standard or --nuclei it is the number for each slide and kind of LR",
                              f"by default {PER_SLIDE}", AT_LEAST_0)
    nuclei: bool = basic(False, "Score the nuclei of SR against those of HR instead")
    perceptual: bool = basic(False, "With --nuclei: perceptual distances too; needs the extra `perceptual`")
    seed: int = basic(0, "Seed of the random parts of LR", "", SEED)
    engine: str = basic("tensorflow", "What computes SR; auto takes LiteRT where there is no GPU. They agree within "
                        "one grey level of 255, so scores may differ in the last digits", choices=ENGINE_CHOICES)
    blur_sigma: float | None = basic(None, "Blur that the model was trained on, in HR pixels, if it has no record of "
                                     "it")


FLAGS = flags_of(EvaluateOptions)
define_patch_flags(FLAGS)


def main() -> int:
    """Check the flags, score, and print the table."""
    read(FLAGS, EvaluateOptions)
    require(FLAGS.lr is None or FLAGS.blur_sigma is None, "blur_sigma", "be left out with --lr",
            "remove one of the two", FLAGS.blur_sigma)
    require(FLAGS.nuclei or not FLAGS.perceptual, "perceptual", "be given with --nuclei", "add it", FLAGS.perceptual)
    output, standard = Path(FLAGS.output), FLAGS.lr == "standard"
    title = f"Model {FLAGS.model}, data {','.join(FLAGS.data)}{f', LR {FLAGS.lr}' if FLAGS.lr else ''}"
    for path in FLAGS.data:
        require(path == "sample" or Path(path).exists(), "data", "exist", "check the spelling", path)
    find_generator(FLAGS.model)  # a misspelt name is an error before TensorFlow starts
    files, run = ((NUCLEI_FILES, score_on_nuclei) if FLAGS.nuclei else
                  (STANDARD_FILES, score_on_standard) if standard else (FILES, score_on_one))
    check_output(output, title, files)
    run(output, title)
    return 0


def score_on_standard(output: Path, title: str) -> None:
    """Score on the whole list of LR kinds, write STANDARD_FILES, and print the table of gains."""
    console.import_tensorflow()
    from sr_keras.evaluation.pictures import draw_curves
    from sr_keras.evaluation.scored_patches import find_sets
    from sr_keras.evaluation.tables import standard_page, write_gains_csv, write_gains_json

    generator = _open_generator()
    scale, per_slide = generator.scale, _per_slide()
    sets = find_sets(FLAGS.data, output / "data", _few_patches(scale), scale)
    gains = score_standard(generator, sets, scale, per_slide, FLAGS.seed)
    slides = {slide_id for gain in gains for slide_id in gain.slides}
    heading = f"{title}: x{scale}, {len(slides)} slides, {per_slide or 'all'} patches a slide, seed {FLAGS.seed}."
    page, rows, programs, picture = paths = [output / name for name in STANDARD_FILES]
    tables = standard_page(gains)
    shown = tables.partition("\n\n**Gain in PSNR by slide")[0]
    write_text(page, f"{heading}\n\n{tables}")
    write_gains_csv(gains, rows)
    write_gains_json(gains, programs, {"model": FLAGS.model, "data": FLAGS.data, "scale": scale,
                                       "per_slide": per_slide, "seed": FLAGS.seed})
    draw_curves(gains, picture)
    print(f"\n{heading}\n\n{shown}\n\n{', '.join(map(str, paths))}")


def score_standard(upscale: Any, sets: Sequence[ShardSet], scale: int, per_slide: int | None,
                   seed: int = 0) -> list[Gain]:
    """Return the gain on every kind of LR of the standard list and of the curves.

    Args:
        upscale: lr float32 [B, h, w, 3] -> sr.
        sets: The patches; see `find_sets`. Real LR is scored if some of them have it.
        scale: Scale of the model.
        per_slide: Patches of each slide; None for all.
        seed: Seed of the random parts of LR. They depend on it and the example id alone: two models get the same LR.

    Raises:
        ValueError: Pairs are of another scale than the model.
    """
    from sr_keras.evaluation.scored_patches import limit_of, lr_dataset, score, sets_of
    from sr_keras.evaluation.tables import GAIN_METRICS, Gain, by_slide

    conditions = standard_conditions(scale, any(one.pairs.shards for one in sets))
    found = [(condition, one, limit_of(one, per_slide)) for condition in conditions
             for one in sets_of(condition, sets, scale)]
    rows: dict[Condition, list[dict[str, Any]]] = {}
    with tqdm(desc="scoring", unit="patch", total=sum(limit or one.count for _, one, limit in found)) as bar:
        for condition, one, limit in found:
            batches = _batches(lr_dataset(one, condition, scale, limit, seed), one, bar)
            rows.setdefault(condition, []).extend(score(upscale, batches, DegradeOptions(scale), GAIN_METRICS))
    return [Gain(condition, by_slide(scores)) for condition, scores in rows.items()]


def score_on_nuclei(output: Path, title: str) -> None:
    """Score nuclei, and perceptual distances if asked, write NUCLEI_FILES, and print the tables."""
    named = condition_named(FLAGS.lr) if FLAGS.lr not in (None, "standard") else None  # the name may be wrong

    console.import_tensorflow()
    import numpy as np

    from sr_keras.evaluation import detail
    from sr_keras.evaluation.pictures import draw_nuclei
    from sr_keras.evaluation.scored_patches import find_sets, limit_of, lr_dataset, sets_of
    from sr_keras.features import extractor

    extract, generator = extractor() if FLAGS.perceptual else None, _open_generator()
    scale = generator.scale
    sets = find_sets(FLAGS.data, output / "data", _few_patches(scale), scale)
    if FLAGS.lr == "standard":
        conditions = [one for one in standard_conditions(scale, any(one.pairs.shards for one in sets))
                      if one.name in ("pairs", "textbook")]
    else:
        conditions = [named.at_scale(scale) if named else trained_condition(
            trained_degrade(generator, FLAGS.blur_sigma))]
    slides, rows = {}, []
    for condition in conditions:
        found: list[detail.SlideDetail] = []
        for one in sets_of(condition, sets, scale):
            mpp, limit = detail.slide_mpp(one), limit_of(one, _per_slide())
            with tqdm(desc=f"scoring {condition.name}", unit="patch", total=limit or one.count) as bar:
                batches = _batches(lr_dataset(one, condition, scale, limit, FLAGS.seed), one, bar)
                found += detail.score_detail(generator, batches, mpp, scale, _lr_errors, extract)
        require(any(np.isfinite(slide.check) for slide in found), "data", "show nuclei, and the detector finds none in "
                "HR", "check that this is H&E and that its mpp is right", ",".join(FLAGS.data))
        slides[condition.label] = sorted(found, key=lambda slide: slide.slide_id)
        rows += detail.detail_rows(slides[condition.label], Path(FLAGS.model).name, condition.name)
    heading = (f"{title}: x{scale}, nuclei of {len({row['slide_id'] for row in rows})} slides, "
               f"{_per_slide() or 'all'} patches a slide, seed {FLAGS.seed}.")
    page, table, programs, picture = (output / name for name in NUCLEI_FILES)
    text = detail.detail_page(rows, slides)
    write_text(page, f"{heading}\n\n{text}")
    write_csv(rows, table)
    detail.write_detail_json(rows, programs)
    draw_nuclei(next(iter(slides.values())), picture)
    shown = text.partition("**By slide**")[0]
    print(f"\n{heading}\n\n{shown}{', '.join(str(output / name) for name in NUCLEI_FILES)}")


def _lr_errors(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Return the LR error of each pair of LR and SR of a slide, by the degradation that fits the slide."""
    from sr_keras.slides.trust_map import WINDOWS, fit_degradation, measure

    scale = pairs[0][1].shape[0] // pairs[0][0].shape[0]
    fitted = fit_degradation(pairs[::-(-len(pairs) // WINDOWS)], scale)
    return [measure(lr, sr, fitted).lr_error for lr, sr in pairs]


def score_on_one(output: Path, title: str) -> None:
    """Score on one kind of LR, write FILES, and print the table."""
    named = condition_named(FLAGS.lr) if FLAGS.lr else None  # the name may be wrong

    console.import_tensorflow()
    from sr_keras.evaluation.pictures import picture_sheet
    from sr_keras.evaluation.scored_patches import METRICS, find_shards, lr_dataset, pairs_of, score
    from sr_keras.evaluation.tables import markdown_table, slide_table, summarise

    generator = _open_generator()
    scale = generator.scale
    condition = named.at_scale(scale) if named else trained_condition(trained_degrade(generator, FLAGS.blur_sigma))
    shards = find_shards(FLAGS.data, output / "data", _patch_options(scale), scale)
    if condition.is_real:
        shards = pairs_of(shards, scale)
    dataset = lr_dataset(shards, condition, scale, FLAGS.limit or None, FLAGS.seed)
    names = set(METRICS) - ({"lr_consistency"} if condition.is_real else set())
    degrade = condition.degrade or DegradeOptions(scale)
    with tqdm(desc="scoring", unit="patch", total=min(FLAGS.limit or shards.count, shards.count)) as bar:
        rows = score(generator, _batches(dataset, shards, bar), degrade, names)
    summary = summarise(rows)
    table = f"{title}: x{scale}, {condition.label}, patches of {shards.patch_size} pixels.\n\n{markdown_table(summary)}"
    per_slide = f"\n**By slide, bicubic → SR**\n\n{slide_table(rows)}" if len(summary.patches) > 1 else ""
    write_text(output / TABLE_FILE, f"{table}{per_slide}")
    write_csv(rows, output / ROWS_FILE)
    picture_sheet(rows, dataset.as_numpy_iterator(), generator, output / SHEET_FILE, degrade)
    print(f"\n{table}\n{', '.join(str(output / name) for name in FILES)}")


def check_output(output: Path, title: str, files: Sequence[str]) -> None:
    """Refuse a folder with scores of another model or other data: the title of the table, the first file, tells.

    Raises:
        ValueError: There are other scores, or the path is not a folder.
    """
    require_folder(str(output))
    table = output / files[0]
    first = table.read_text(encoding="utf-8", errors="replace") if table.is_file() else ""
    existing = [name for name in files if (output / name).exists()]
    require(not existing or first.startswith(f"{title}: "), "output", "contain no scores of another model or other "
            "data", f"name another folder, or remove {', '.join(existing)} there", str(output))


def trained_degrade(generator: LoadedGenerator, blur_sigma: float | None) -> DegradeOptions:
    """Return the degradation that a generator was trained on; with `blur_sigma` if it has no record of it.

    Raises:
        ValueError: The generator was trained on another blur.
    """
    known, assumed = generator.facts.degradation, generator.degrade
    if blur_sigma is None:
        if known is None:
            print(f"{generator.path} has no record of its blur: {assumed.blur_sigma} HR pixels are assumed; set "
                  "--blur_sigma to change it")
        return assumed
    asked = replace(assumed, blur_sigma=blur_sigma)
    require(known in (None, asked), "blur_sigma", f"be {assumed.blur_sigma}, which {generator.path} was trained with",
            "leave it out", blur_sigma)
    return asked


def _per_slide() -> int | None:
    """Return how many patches of a slide are scored on several kinds of LR; None for all."""
    return (PER_SLIDE if FLAGS.limit is None else FLAGS.limit) or None


def _few_patches(scale: int) -> PatchOptions:
    """Return the options of patches that are cut, no more of them than are scored."""
    options = _patch_options(scale)
    return replace(options, max_patches=options.max_patches or _per_slide())


def _patch_options(scale: int) -> PatchOptions:
    """Return the options of patches that are cut; pairs from the levels of a slide have the scale of the model."""
    return replace(patch_options(FLAGS), scale=scale)


def _open_generator() -> LoadedGenerator:
    if FLAGS.engine == "tensorflow":
        from sr_keras.model.loading import load_generator

        return load_generator(FLAGS.model)
    from sr_keras.model.engines import open_engine

    return open_engine(FLAGS.engine, FLAGS.model)


def _batches(dataset: tf.data.Dataset, shards: ShardSet, bar: tqdm) -> Iterator[dict[str, Any]]:
    """Yield the batches of a dataset of shards, and show how far it is."""
    from pipelines.shards.records import batches_of

    for batch in batches_of(dataset, shards):
        yield batch
        bar.update(len(batch["lr"]))


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
