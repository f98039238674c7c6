"""The flags of `sr_keras.train`, defined in one place and turned at once into options objects.

A method sets q and the weights of the terms; any of them given as a flag of its own overrides the method's.
"""
from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from absl import flags

from pipelines import console
from pipelines.flags import define_corrupt_flags, define_degrade_flags, define_patch_flags
from sr_keras.config import (
    BEST_BY,
    METHODS,
    PRECISIONS,
    REDUCTIONS,
    STRATEGIES,
    DataOptions,
    GeneratorOptions,
    Objective,
    StageOptions,
    TrainOptions,
)

_STAGES = {stage.name: stage for stage in TrainOptions(run="").stages}
_DEFAULT: dict[str, Any] = {
    field.name: field.default for options in (TrainOptions, DataOptions, GeneratorOptions) for field in fields(options)}


def define_train_flags(values: flags.FlagValues) -> None:
    """Define every flag of a training run."""
    define_patch_flags(values)
    define_degrade_flags(values)
    define_corrupt_flags(values)
    _define_data_flags(values)
    _define_objective_flags(values)
    _define_stage_flags(values)
    _define_run_flags(values)


def _define_data_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list("train_data", ["sample"], "Slides, folders of slides or tiles, or shards.", flag_values=values)
    flags.DEFINE_list("val_data", [], "The same, to choose the best epoch on; other slides than train_data's.",
                      flag_values=values)
    flags.DEFINE_list("test_data", [], "The same, to score what was chosen.", flag_values=values)
    for part, unless in (("val", "no val_data and no region"), ("test", "no val_data, test_data or region")):
        flags.DEFINE_float(f"{part}_fraction", _DEFAULT[f"{part}_fraction"],
                           f"Share of the slides to keep for {part} where {unless} is given.", flag_values=values)
    for part in ("train", "val", "test"):
        flags.DEFINE_list(f"{part}_region", None, f"x,y,width,height of the {part} part of a single slide, level 0.",
                          flag_values=values)
    flags.DEFINE_integer("eval_patch_size", _DEFAULT["eval_patch_size"],
                         "Side of a validation or test patch; MS-SSIM wants at least 161.", flag_values=values)
    flags.DEFINE_integer("workers", None, "Processes that read slides; one a core if left out.", flag_values=values)
    flags.DEFINE_boolean("strict", False, "Stop at the first patch or slide that can't be read.", flag_values=values)


def _define_objective_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_enum("method", _DEFAULT["method"], list(METHODS), "Preset of the objective.", flag_values=values)
    flags.DEFINE_float("q", None, "Quasi-norm, in (0, 2].", flag_values=values)
    flags.DEFINE_float("epsilon", None, "Regulariser of the quasi-norm.", flag_values=values)
    for name, term in (("m", "manifold"), ("s", "SSIM"), ("d", "adversarial"), ("v", "VGG19 feature"),
                       ("c", "LR consistency")):
        flags.DEFINE_float(f"lambda_{name}", None, f"Weight of the {term} term.", flag_values=values)
    flags.DEFINE_enum("loss_reduction", None, REDUCTIONS, "Mean over pixels, or the paper's sum.", flag_values=values)
    flags.DEFINE_string("vgg_weights", _DEFAULT["vgg_weights"], "VGG19 weights of srgan: imagenet, random or a file.",
                        flag_values=values)


def _define_stage_flags(values: flags.FlagValues) -> None:
    for stage in _STAGES.values():
        flags.DEFINE_integer(f"{stage.name}_epochs", stage.epochs, f"Epochs of the {stage.name} stage; 0 skips it.",
                             flag_values=values)
        flags.DEFINE_float(f"{stage.name}_learning_rate", stage.learning_rate,
                           f"First learning rate of the {stage.name} stage.", flag_values=values)
    flags.DEFINE_integer("rise_steps", _DEFAULT["rise_steps"],
                         "Steps over which a stage's learning rate rises; a tenth of the stage at most.",
                         flag_values=values)
    flags.DEFINE_float("discriminator_learning_rate", _DEFAULT["discriminator_learning_rate"],
                       "First learning rate of the discriminator.", flag_values=values)
    flags.DEFINE_string("autoencoder", None, "A trained autoencoder.keras to use instead of the stage.",
                        flag_values=values)
    flags.DEFINE_string("generator", None, "A trained model to go on from: a run, say, or a SavedModel.",
                        flag_values=values)
    flags.DEFINE_boolean("freeze_statistics", _DEFAULT["freeze_statistics"],
                         "Keep the generator's batch-norm statistics as they are: it learns what inference computes.",
                         flag_values=values)
    flags.DEFINE_integer("blocks", _DEFAULT["blocks"], "Residual blocks of the generator.", flag_values=values)
    flags.DEFINE_integer("filters", _DEFAULT["filters"], "Filters of the generator.", flag_values=values)
    flags.DEFINE_boolean("global_skip", _DEFAULT["global_skip"], "Add the network's output to the interpolated LR.",
                         flag_values=values)


def _define_run_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("run", "runs/new", "Folder of the run.", flag_values=values)
    flags.DEFINE_boolean("resume", False, "Go on where the run stopped; starts it where there is none.",
                         flag_values=values)
    flags.DEFINE_integer("batch_size", _DEFAULT["batch_size"], "Patches in a step.", flag_values=values)
    flags.DEFINE_integer("crop_size", None, "Side of the random crop of a patch to train on; all of it if left out.",
                         flag_values=values)
    flags.DEFINE_float("shrink", _DEFAULT["shrink"],
                       "Take half of the crops up to so many times larger, and shrink them: other microns per pixel.",
                       flag_values=values)
    flags.DEFINE_float("pair_share", _DEFAULT["pair_share"],
                       "Share of the examples that take the LR that was scanned, where the data hold pairs.",
                       flag_values=values)
    flags.DEFINE_float("recolour", _DEFAULT["recolour"],
                       "Share of the examples whose LR is made that get the colours of some other stain.",
                       flag_values=values)
    flags.DEFINE_integer("steps_per_epoch", None, "Steps in an epoch; one pass over the patches if left out.",
                         flag_values=values)
    flags.DEFINE_integer("val_patches", _DEFAULT["val_patches"], "Validation patches an epoch.", flag_values=values)
    flags.DEFINE_enum("best_by", _DEFAULT["best_by"], list(BEST_BY),
                      "Validation score that chooses the best epoch; or the last one.", flag_values=values)
    flags.DEFINE_float("ema_decay", _DEFAULT["ema_decay"], "Decay of the generator's moving average; 0 for none.",
                       flag_values=values)
    flags.DEFINE_enum("mixed_precision", None, [p for p in PRECISIONS if p], "16-bit arithmetic.", flag_values=values)
    flags.DEFINE_boolean("jit_compile", _DEFAULT["jit_compile"],
                         "Compile the steps with XLA; where it is faster, on a GPU, if left out.", flag_values=values)
    flags.DEFINE_enum("strategy", _DEFAULT["strategy"], STRATEGIES, "mirrored: all GPUs of this machine.",
                      flag_values=values)
    flags.DEFINE_boolean("deterministic", False, "Same seed, same weights, bit for bit.", flag_values=values)
    flags.DEFINE_string("cache", _DEFAULT["cache"],
                        "'memory' keeps patches in memory, a path copies shards to that folder, of a faster disk say.",
                        flag_values=values)
    flags.DEFINE_integer("seed", _DEFAULT["seed"], "Fixes the split, the order, the corruption and the weights.",
                         flag_values=values)
    flags.DEFINE_integer("keep_checkpoints", _DEFAULT["keep_checkpoints"], "Last checkpoints to keep beside the best.",
                         flag_values=values)


def train_defaults() -> str:
    """Return every flag of `define_train_flags` with its default, one a line.

    Flags that were written down before a flag was there mean its default. Before there was a choice of degradations all
    LR was the textbook's.
    """
    values = flags.FlagValues()
    define_train_flags(values)
    values["degradation"].value = "textbook"
    return console.resolved(values)


def train_options(values: flags.FlagValues) -> TrainOptions:
    """Return how to train."""
    given = values.flag_values_dict()
    stages = tuple(StageOptions(name, given[f"{name}_epochs"], given[f"{name}_learning_rate"]) for name in _STAGES)
    same = {field.name: given[field.name] for field in fields(TrainOptions) if field.name != "stages"}
    return TrainOptions(stages=stages, **same)


def data_options(values: flags.FlagValues) -> DataOptions:
    """Return where the data is."""
    given = values.flag_values_dict()
    same = {field.name: given[field.name] for field in fields(DataOptions)}
    for part in ("train", "val", "test"):
        same[f"{part}_data"] = tuple(same[f"{part}_data"])
        same[f"{part}_region"] = _region(f"{part}_region", same[f"{part}_region"])
    return DataOptions(**same)


def objective(values: flags.FlagValues) -> Objective:
    """Return the method's objective with the flags that were given in place of its own values."""
    given = {**values.flag_values_dict(), "reduction": values.loss_reduction}
    chosen = {field.name: given[field.name] for field in fields(Objective) if given[field.name] is not None}
    return replace(METHODS[values.method], **chosen)


def generator_options(values: flags.FlagValues) -> GeneratorOptions:
    """Return the generator's size."""
    return GeneratorOptions(scale=int(values.scale), blocks=values.blocks, filters=values.filters,
                            global_skip=values.global_skip)


def _region(name: str, parts: list[str] | None) -> tuple[int, int, int, int] | None:
    if not parts:
        return None
    try:
        x, y, width, height = (int(part) for part in parts)
    except ValueError as error:
        raise ValueError(f"`{name}` must be four whole numbers; write x,y,width,height. "
                         f"Received: {name}={','.join(parts)!r}") from error
    return x, y, width, height
