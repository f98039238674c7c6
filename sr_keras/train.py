"""Train a super-resolution model on slides: autoencoder, generator warm-up, adversarial stage.

    python -m sr_keras.train --flagfile=sr_keras/flagfiles/demo.flags
    python -m sr_keras.train --train_data=my_slides --run=runs/mine
    python -m sr_keras.train --flagfile=runs/mine/flags.txt --resume

Slides are parted into train, val and test by slide. What the run leaves behind is described in sr_keras/runs.py.
"""
from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from pipelines import console
from pipelines.flags import corrupt_options, degrade_options, patch_options
from pipelines.options import require
from sr_keras.flags import data_options, define_train_flags, generator_options, objective, train_options

FLAGS = flags.FlagValues()
define_train_flags(FLAGS)


def main() -> int:
    # Every option is checked before TensorFlow is loaded: a mistake is answered at once.
    options, data, patches = train_options(FLAGS), data_options(FLAGS), patch_options(FLAGS, seed=FLAGS.seed)
    degrade, corrupt = degrade_options(FLAGS), corrupt_options(FLAGS)
    loss, size = objective(FLAGS), generator_options(FLAGS)
    _check_sizes(options.crop_size or patches.patch_size, data.eval_patch_size, degrade.scale, options.best_by)

    import keras
    import tensorflow as tf

    from sr_keras.parts import prepare
    from sr_keras.runs import open_run
    from sr_keras.stages import Plan, train_stages

    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    if options.mixed_precision:
        keras.mixed_precision.set_global_policy(f"mixed_{options.mixed_precision}")
    run = Path(options.run)
    open_run(run, console.resolved(FLAGS), FLAGS.resume)
    parts = prepare(data, patches, run, options.seed)
    best = train_stages(Plan(run, options, loss, size, degrade, corrupt, parts["train"], parts["val"]))
    print(f"\nthe generator: {best}\n"
          f"score it:      python -m sr_keras.evaluate --model={run} --data={run} --output={run}/scores\n"
          f"export it:     python -m sr_keras.export --model={run} --name={run.name}")
    return 0


def _check_sizes(crop: int, evaluated: int, scale: int, best_by: str) -> None:
    for name, value in (("crop_size", crop), ("eval_patch_size", evaluated)):
        require(value % scale == 0, name, f"be divisible by scale={scale}", "choose a multiple", value)
        require(value % 4 == 0, name, "be divisible by 4", "the autoencoder halves it twice", value)
    require(best_by != "ms_ssim" or evaluated >= 161, "eval_patch_size", "be 161 or more for best_by=ms_ssim",
            "choose another score or larger patches", evaluated)


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
