# SPDX-License-Identifier: Apache-2.0
"""Measure the speed of a training step, of a whole slide, or of a model in every export format.

    python -m benchmarks.model
    python -m benchmarks.model --blocks=8 --filters=32 --batch_size=8 --hr_size=96
    python -m benchmarks.model --rates --rounds=3
    python -m benchmarks.model --slide=case.svs --model=saved_models/demo --engine=litert
    python -m benchmarks.model --slide=large.svs --mpp=1.0 --memory=2 --rounds=1
    python -m benchmarks.model --slide_side=25000 --model=saved_models/demo --rounds=1
    python -m benchmarks.model --rates --slide=large.svs --mpp=1.0 --rounds=1
    python -m benchmarks.model --engines=all
    python -m benchmarks.model --engines=keras,litert:float16,onnx --model=runs/demo --rounds=3

Without --rates, --slide or --engines: the stages, executors and terms of a training step, and the same generator in
PyTorch if it is installed. See `benchmarks.training_step`.

--rates measures the inference of the engines that are installed, beside a matrix product. See
`benchmarks.engine_rates`. With a slide both tables are printed.

--slide measures a run of sr_keras.super_resolve from file to file, and the bare engine on one of its windows. See
`benchmarks.whole_slide`. --slide_side writes such a slide, glass with some tissue, with so many pixels a side; use it
to see that memory does not grow with the size.

--engines measures a model in every format and precision: latency and patches/s for batches of 1, 4 and 16 tiles of
--hr_size / --scale LR pixels, time to load, file size and memory. See `benchmarks.format_speed`. This takes minutes at
the default --rounds.
"""
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from absl import flags

from pipelines import console
from pipelines.errors import require
from sr_keras.config import SHIPPED_MODEL, GeneratorOptions
from sr_keras.model.runtimes import AUTO, ENGINE_CHOICES
from sr_keras.slides.window_plan import MEMORY_GIB

EXECUTORS = ["XLA", "graph"]

FLAGS = flags.FlagValues()
flags.DEFINE_multi_enum("executor", EXECUTORS, EXECUTORS, "What runs the steps; may be repeated.", flag_values=FLAGS)
flags.DEFINE_integer("scale", 4, "HR size / LR size.", flag_values=FLAGS)
flags.DEFINE_integer("blocks", 16, "Residual blocks of the generator.", flag_values=FLAGS)
flags.DEFINE_integer("filters", 64, "Filters of the generator.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 1, "Patches per step.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("hr_size", 256, "Side of an HR patch.", lower_bound=32, flag_values=FLAGS)
flags.DEFINE_enum("mixed_precision", None, ["bfloat16", "float16"], "16-bit arithmetic in the training step and the "
                  "matrix product.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 7, "Rounds to take the median of.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("slide", None, "A slide to super-resolve, instead of a training step.", flag_values=FLAGS)
flags.DEFINE_integer("slide_side", None, "Side in pixels of a slide to write and super-resolve, instead of a training "
                     "step.", lower_bound=512, flag_values=FLAGS)
flags.DEFINE_string("model", str(SHIPPED_MODEL), "The model for a slide and for --engines.", flag_values=FLAGS)
flags.DEFINE_boolean("rates", False, "Measure the engines on one window, instead of a training step.",
                     flag_values=FLAGS)
flags.DEFINE_list("engines", None, "Formats to measure, instead of a training step: all, or some of keras, "
                  "saved_model, litert, onnx and tensorrt. litert:int8 measures one precision.", flag_values=FLAGS)
flags.DEFINE_enum("engine", AUTO, list(ENGINE_CHOICES), "What runs the model on a slide; auto is the fastest by a "
                  "measurement.", flag_values=FLAGS)
flags.DEFINE_float("mpp", None, "Microns per pixel to read the slide at.", flag_values=FLAGS)
flags.DEFINE_float("memory", MEMORY_GIB, "Memory for the slide, in GiB; less makes windows smaller.", flag_values=FLAGS)


def main() -> int:
    """Measure what the flags ask for, and print a table."""
    if FLAGS.rates:
        return _rates()
    if FLAGS.engines is not None:
        return _engines()
    if _has_slide():
        return _slide()
    return _training_step()


def _has_slide() -> bool:
    return bool(FLAGS.slide or FLAGS.slide_side)


def _training_step() -> int:
    size = GeneratorOptions(FLAGS.scale, FLAGS.blocks, FLAGS.filters)
    require(FLAGS.hr_size % size.scale == 0 and FLAGS.hr_size % 4 == 0, "hr_size",
            f"be divisible by scale={size.scale} and by 4", "choose a multiple; the autoencoder halves it twice",
            FLAGS.hr_size)
    console.import_tensorflow()
    import keras

    from benchmarks import training_step

    if FLAGS.mixed_precision:
        keras.mixed_precision.set_global_policy(f"mixed_{FLAGS.mixed_precision}")
    print(f"{FLAGS.mixed_precision or 'float32'}, {FLAGS.batch_size} patch(es) of {FLAGS.hr_size}x{FLAGS.hr_size}, "
          f"scale {size.scale}, "
          f"{size.blocks} blocks of {size.filters} filters; median of {FLAGS.rounds} rounds\n")
    works = [work for work in training_step.all_works(size, FLAGS.batch_size, FLAGS.hr_size)
             if work.executor not in EXECUTORS or work.executor in FLAGS.executor]
    for line in training_step.report(works, training_step.measure(works, FLAGS.rounds), FLAGS.batch_size):
        print(line)
    return 0


def _slide() -> int:
    require(not (FLAGS.slide and FLAGS.slide_side), "slide_side", "be left out with --slide", "choose one of the two",
            FLAGS.slide_side)
    require(not FLAGS.slide or Path(FLAGS.slide).exists(), "slide", "exist", "check the spelling", FLAGS.slide)

    console.import_tensorflow()
    from benchmarks import whole_slide
    from sr_keras.model.engines import fastest, open_engine
    from sr_keras.slides import EnlargeOptions

    with tempfile.TemporaryDirectory() as folder:
        slide = Path(FLAGS.slide or whole_slide.make_slide(Path(folder) / "made.tif", FLAGS.slide_side))
        generator = open_engine(FLAGS.engine, FLAGS.model)
        if FLAGS.engine == AUTO:
            generator = fastest(generator)
        print(f"engine: {generator.why}")
        options = EnlargeOptions(mpp=FLAGS.mpp, memory=FLAGS.memory)
        rounds = [whole_slide.measure_round(generator, slide, options) for _ in range(FLAGS.rounds)]
    for line in whole_slide.report(rounds):
        print(line)
    return 0


def _rates() -> int:
    require(not FLAGS.engines, "rates", "be left out with --engines", "run one after the other", FLAGS.rates)
    if _has_slide():
        _slide()  # first, since it tells the memory of the process
        print()
    console.import_tensorflow()
    from benchmarks import engine_rates

    for line in engine_rates.report(engine_rates.measure(FLAGS.model, FLAGS.rounds)):
        print(line)
    return 0


def _engines() -> int:
    console.import_tensorflow()
    from benchmarks import format_speed

    require(not _has_slide(), "engines", "be left out with a slide", "run one after the other",
            ",".join(FLAGS.engines))
    found = format_speed.measure(Path(FLAGS.model), format_speed.parse_kinds(FLAGS.engines),
                                 FLAGS.hr_size // GeneratorOptions(FLAGS.scale).scale, FLAGS.rounds)
    for line in format_speed.report(found):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
