# SPDX-License-Identifier: Apache-2.0
"""The flags of `sr_keras.train`. A method is a preset of the loss; the flags of the loss replace its values."""
from __future__ import annotations

from absl import flags

from pipelines import console
from pipelines.config import CorruptOptions, define_degrade_flags, define_patch_flags
from pipelines.options import define, read
from sr_keras.config import METHODS, DataOptions, GeneratorOptions, Objective, StageOptions, TrainOptions

_STAGES = TrainOptions().stages


def define_train_flags(values: flags.FlagValues) -> None:
    """Define every flag of a training run."""
    define_patch_flags(values)
    define_degrade_flags(values)
    define(values, CorruptOptions)
    define(values, Objective, preset=True)
    for stage in _STAGES:
        define(values, stage, prefix=f"{stage.name}_")
    for options in (DataOptions, GeneratorOptions, TrainOptions):
        define(values, options)


def train_defaults() -> str:
    """Return every flag of `define_train_flags` with its default, one per line.

    A flag that an older run does not list had this value. Runs older than `--degradation` used the textbook's.
    """
    values = flags.FlagValues()
    define_train_flags(values)
    values["degradation"].value = "textbook"
    return console.resolved(values)


def train_options(values: flags.FlagValues) -> TrainOptions:
    """Return how to train."""
    stages = tuple(read(values, StageOptions, stage, f"{stage.name}_") for stage in _STAGES)
    return read(values, TrainOptions, stages=stages)


def data_options(values: flags.FlagValues) -> DataOptions:
    """Return where the data is."""
    return read(values, DataOptions)


def objective(values: flags.FlagValues) -> Objective:
    """Return the method's objective, with the given flags in place of its values."""
    return read(values, Objective, METHODS[values.method])


def generator_options(values: flags.FlagValues) -> GeneratorOptions:
    """Return the generator's size."""
    return read(values, GeneratorOptions)
