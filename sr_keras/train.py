# SPDX-License-Identifier: Apache-2.0
"""Train a super-resolution model on slides: autoencoder, generator warm-up, adversarial stage.

    sr-keras train --flagfile=sr_keras/flagfiles/demo.flags
    sr-keras train --train_data=my_slides --run=runs/mine
    sr-keras train --flagfile=runs/mine/flags.txt --resume
    sr-keras train --train_data=my_slides --run=runs/mine --ray=auto

`python -m sr_keras.train --flagfile=...` is the same program.
Whole slides are split into training, validation and test sets; with fewer than
three slides, each is cut into bands instead. The files of a run are listed in
sr_keras/training/run_folder.py.
"""
from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from absl import flags

from pipelines import console
from pipelines.cluster import CPUS, Cluster
from pipelines.config import CorruptOptions, DegradeOptions, corrupt_options, degrade_options, patch_options
from pipelines.errors import require
from pipelines.files import read_text
from sr_keras.config import (
    GeneratorOptions,
    Objective,
    TrainOptions,
    data_options,
    define_train_flags,
    generator_options,
    objective,
    train_defaults,
    train_options,
)
from sr_keras.model.facts import FLAGS_FILE, ModelFacts, write_run_facts
from sr_keras.training.machines import Team, joined, read_team
from sr_keras.training.run_folder import check_run, open_run, read_metrics

FLAGS = flags.FlagValues()
define_train_flags(FLAGS)


def main() -> int:
    """Train, and print how to score and export the result."""
    # All options are checked before TensorFlow is loaded, and all inputs before the run folder is created: a mistake
    # is reported at once, and the corrected command is a new run.
    _keep_degradation()
    options, data, patches = train_options(FLAGS), data_options(FLAGS), patch_options(FLAGS, seed=FLAGS.seed)
    degrade, corrupt = degrade_options(FLAGS), corrupt_options(FLAGS)
    loss, size = objective(FLAGS), generator_options(FLAGS)
    _check_stages(options, loss, degrade)
    _check_paths(options)
    if FLAGS.ray:
        return _train_on_ray(options)
    team = read_team(os.environ.get("TF_CONFIG")) if options.strategy == "multi_worker" else Team()

    if team.leads:  # before the data is looked at, which differs with the flags
        check_run(Path(options.run), console.resolved(FLAGS), FLAGS.resume, train_defaults())

    from sr_keras.training.split import PARTS_FILE, find_parts, open_part, patch_size, read_parts

    found = find_parts(data, patches, options.seed)
    whole, evaluated, _ = (patch_size(part, slides, data, patches) for part, slides in found.items())
    _check_sizes(options, whole, evaluated, degrade.scale)

    with joined(team, console.resolved(FLAGS), options.worker_wait_s) as all_answered:
        console.import_tensorflow()
        import keras
        import tensorflow as tf

        from sr_keras.training.plan import Plan
        from sr_keras.training.several import replica_batch, strategy_of, wait_for_all
        from sr_keras.training.stages import train_stages

        if options.deterministic:
            tf.config.experimental.enable_op_determinism()
        strategy = strategy_of(options.strategy)  # before TensorFlow computes anything
        wait_for_all(strategy)
        all_answered()
        replica_batch(options.batch_size, strategy)
        if options.mixed_precision:
            keras.mixed_precision.set_global_policy(f"mixed_{options.mixed_precision}")
        _try_files(options, loss, size, corrupt, options.crop_size or whole)
        run = Path(options.run)
        if team.leads:
            open_run(run, console.resolved(FLAGS), FLAGS.resume, train_defaults())
            mpp = patches.mpp and patches.mpp * degrade.scale
            write_run_facts(run, ModelFacts(lr_mpp=(mpp, mpp) if mpp else None, degradation=degrade,
                                            filters=size.filters, tail_filters=size.tail_filters or size.filters,
                                            flags=(run / FLAGS_FILE).read_text(encoding="utf-8")))
            parts = read_parts(found, data, patches, run)
        wait_for_all(strategy)
        if not team.leads:
            require((run / PARTS_FILE).exists(), "run", "be a folder that all workers see under this name",
                    "use shared storage", str(run.absolute()))
            parts = {part: open_part(run, part) for part in ("train", "val")}
        best = train_stages(Plan(run, options, loss, size, degrade, corrupt, parts["train"], parts["val"], team.leads))
    if team.leads:
        _print_end(run, best)
    return 0


def _print_end(run: Path, best: Path) -> None:
    quoted, name = shlex.quote(str(run)), shlex.quote(run.name)
    print(f"\nthe generator: {best}\n"
          f"score it:      sr-keras evaluate --model={quoted} --data={quoted} --output={quoted}/scores\n"
          f"export it:     sr-keras export --model={quoted} --name={name}")


def _train_on_ray(options: TrainOptions) -> int:
    """Start a worker on each GPU of a Ray cluster, or on some cores each, and print the epochs that end."""
    from sr_keras.train import train_in_worker  # by the name that other machines know

    run, given = Path(options.run), [line for line in console.resolved(FLAGS).splitlines()
                                     if not line.startswith("--ray=")]
    shown = len(read_metrics(run)) if FLAGS.resume else 0

    def print_epochs() -> None:
        nonlocal shown
        for row in (rows := read_metrics(run))[shown:]:
            scores = [f"{name} {row[name]}" for name in ("loss", "val_psnr", "val_ssim") if row.get(name)]
            print(f"{row['stage']}, epoch {row['epoch']}: {', '.join(scores)}", flush=True)
        shown = max(shown, len(rows))

    with Cluster(FLAGS.ray, gpu=True, cpus=CPUS) as cluster:
        print(f"{cluster.workers} workers train", flush=True)

        def jobs_of(places: list[str]) -> list[Any]:
            return [([*given, "--strategy=multi_worker", *(["--resume"] if FLAGS.resume else [])], cluster.threads,
                     json.dumps({"cluster": {"worker": places}, "task": {"type": "worker", "index": index}}))
                    for index in range(len(places))]

        cluster.run_together(train_in_worker, jobs_of, print_epochs)
    _print_end(run, run / "generator.keras")
    return 0


def train_in_worker(job: tuple[list[str], int | None, str], report: Callable[[int], None]) -> int:
    """Be a worker in a process of Ray: set TF_CONFIG, parse the flags, and train."""
    given, threads, tf_config = job
    os.environ["TF_CONFIG"] = tf_config
    if threads:
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)
    console.quiet_tensorflow()
    console.parse(["train", *given], FLAGS)
    return main()


def _keep_degradation() -> None:
    """Keep the textbook degradation of a run that was started before --degradation existed."""
    written = Path(FLAGS.run or "") / FLAGS_FILE
    if FLAGS.resume and written.is_file() and "--degradation=" not in read_text(written, "restore a copy of it"):
        FLAGS["degradation"].value = "textbook"


def _check_stages(options: TrainOptions, loss: Objective, degrade: DegradeOptions) -> None:
    autoencoder, *others = options.stages
    require(bool(autoencoder.epochs or options.autoencoder or not loss.lambda_m), "autoencoder_epochs",
            "be positive for the manifold term", "raise it, or give --autoencoder=FILE or --lambda_m=0",
            autoencoder.epochs)
    require(bool(options.generator) or any(stage.epochs for stage in others), "warmup_epochs",
            "be positive if adversarial_epochs is 0", "raise one of the two", 0)
    require(not loss.lambda_c or degrade.is_textbook, "lambda_c", "be 0 unless LR is made by the textbook degradation",
            "give --degradation=textbook, or leave lambda_c out", loss.lambda_c)


def _check_paths(options: TrainOptions) -> None:
    require(bool(options.run) and not Path(options.run).is_file(), "run", "be the name of a folder",
            "give, for example, --run=runs/mine", options.run)
    autoencoder, generator = options.autoencoder, options.generator
    require(autoencoder is None or (Path(autoencoder).is_file() and Path(autoencoder).suffix == ".keras"),
            "autoencoder", "be a .keras file", "give, for example, runs/mine/autoencoder.keras", autoencoder)
    require(generator is None or Path(generator).exists(), "generator", "be a run, a .keras file or a SavedModel",
            "give, for example, runs/mine or saved_models/srgan_sqe_x4", generator)


def _check_sizes(options: TrainOptions, whole: int, evaluated: int, scale: int) -> None:
    crop = options.crop_size
    require(crop is None or crop <= whole, "crop_size", f"be {whole} or less, the side of a patch",
            "leave it out for the whole patch", crop)
    most = whole / (crop or whole)
    require(options.shrink <= most, "shrink", f"be {most:.4g} or less, patch size / crop size",
            "lower shrink or crop_size", options.shrink)
    trained = ("crop_size", crop, 5) if crop else ("patch_size", whole, 5)
    for name, value, window in (trained, ("eval_patch_size", evaluated, 11)):
        require(value % scale == 0, name, f"be divisible by scale={scale}", "choose a multiple", value)
        require(value % 4 == 0, name, "be divisible by 4", "the autoencoder halves it twice", value)
        require(value >= window, name, f"be {window} or more", "SSIM has windows of that side", value)
    require(options.best_by != "ms_ssim" or evaluated >= 161, "eval_patch_size", "be 161 or more for best_by=ms_ssim",
            "choose another score or larger patches", evaluated)


def _try_files(options: TrainOptions, loss: Objective, size: GeneratorOptions, corrupt: CorruptOptions,
               crop: int) -> None:
    """Read every file that the flags name, because a stage may need it only after hours."""
    from pipelines.corrupt import load_outliers
    from sr_keras import networks
    from sr_keras.features import vgg_features
    from sr_keras.model.loading import load_weights
    from sr_keras.training.plan import start_from

    if options.generator:
        start_from(networks.generator(*astuple(size)), Path(options.generator))
    if options.autoencoder and loss.lambda_m:
        load_weights(networks.autoencoder(), Path(options.autoencoder))
    if loss.lambda_v and options.stages[-1].epochs:
        vgg_features(options.vgg_weights)
    if corrupt.fraction and "outlier" in corrupt.kinds and corrupt.outlier_dir:
        load_outliers(corrupt.outlier_dir, crop)


if __name__ == "__main__":
    sys.exit(console.run(main, FLAGS, __doc__))
