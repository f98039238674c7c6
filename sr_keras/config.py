# SPDX-License-Identifier: Apache-2.0
"""Options of training, as frozen dataclasses that check themselves, and their flags. No TensorFlow.

The four methods of the paper are four values of one `Objective`; flags of the loss replace the values of a method.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from absl import flags

from pipelines import console
from pipelines.config import SCALES, CorruptOptions, DatasetOptions, define_degrade_flags, define_patch_flags
from pipelines.errors import require
from pipelines.options import (
    AT_LEAST_0,
    BELOW_1,
    FINITE,
    FINITE_OR_0,
    GIVEN,
    POSITIVE,
    SHARE,
    Options,
    Rule,
    basic,
    check,
    define,
    option,
    read,
    same_as,
)
from sr_keras import shipped_model

REDUCTIONS = ("mean", "sum")
# The validation score that chooses the best epoch, and whether a higher one is better. With "last" nothing is chosen,
# so the validation slides may be scored as test slides.
BEST_BY = {"last": True, "psnr": True, "rrmse": False, "ssim": True, "ms_ssim": True, "qilv": True}
SHIPPED_MODEL = shipped_model()
Box = tuple[int, int, int, int]


def _weight(default: float, term: str) -> Any:
    return option(default, f"Weight of the {term} term", "0 leaves the term out", FINITE_OR_0, group="loss")


@dataclass(frozen=True)
class ModelOptions(Options):
    """The model that a program reads."""

    model: str = basic(str(SHIPPED_MODEL), "saved_models/NAME, a run folder, or a .keras generator", "", GIVEN)


@dataclass(frozen=True)
class Objective(Options):
    """min_G max_D  L_F + lambda_m L_M + lambda_s L_S + lambda_d L_D + lambda_v L_V + lambda_c L_C.

    L_V, the VGG feature distance, is for the SRGAN baseline only. L_C is the difference between LR and degraded SR;
    no method of the paper has it. A term with weight 0 is not computed. Source: paper, section 2.2; L_V: Ledig et al.
    2017, equation 5.
    """

    q: float = option(0.5, "Power of the quasi-norm, in (0, 2]", "0.5 is the paper's, 2 is squared error",
                      Rule("lie in (0, 2]", lambda value: 0 < value <= 2), group="loss")
    epsilon: float = option(1e-4, "Regulariser of the quasi-norm", "1e-4 is the size of noise on [0, 1] images", FINITE,
                            group="loss")
    lambda_m: float = _weight(0.2, "manifold")
    lambda_s: float = _weight(2.0, "SSIM")
    lambda_d: float = _weight(0.016, "adversarial")
    lambda_v: float = _weight(0.0, "VGG feature")
    lambda_c: float = _weight(0.0, "LR consistency")
    reduction: str = option("mean", "Mean over the pixels, or the paper's sum", flag="loss_reduction",
                            choices=REDUCTIONS, group="loss")


METHODS: dict[str, Objective] = {
    # Ledig et al. 2017: features on a VGG19 rescaled by 1/12.75, which is a weight of 0.006; adversarial 1e-3.
    "srgan": Objective(q=2.0, lambda_m=0.0, lambda_s=0.0, lambda_d=1e-3, lambda_v=0.006),
    "srgan_e": Objective(q=2.0, lambda_s=0.0),
    "srgan_qe": Objective(q=0.5, lambda_s=0.0),
    "srgan_sqe": Objective(),
}


@dataclass(frozen=True)
class GeneratorOptions(Options):
    """The generator's size."""

    scale: int = option(4, "HR side / LR side", choices=SCALES, group="basic")
    blocks: int = option(16, "Residual blocks of the generator", "", POSITIVE, group="model")
    filters: int = option(64, "Filters of the generator", "", POSITIVE, group="model")
    global_skip: bool = option(True, "Add the network's output to the interpolated LR", "false is the paper's network",
                               group="model")
    tail_filters: int = option(0, "Filters of the enlarging steps, whose arithmetic is more than half of the network's",
                               "0 takes as many as `filters`", AT_LEAST_0, group="model")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tail_filters <= self.filters, "tail_filters", f"be filters={self.filters} at most",
                "lower it, or leave it out for as many", self.tail_filters)


@dataclass(frozen=True)
class StageOptions:
    """One stage of a run: its name is what its flags begin with. The learning rate rises, then falls to a hundredth."""

    name: str
    epochs: int = option(0, "Epochs of this stage", "0 skips it", AT_LEAST_0, group="basic")
    learning_rate: float = option(1e-3, "Highest learning rate of this stage", "1e-4 to 1e-3 is usual", FINITE)

    def __post_init__(self) -> None:
        check(self, prefix=f"{self.name}_")


def _data(default: tuple[str, ...], help: str, *rules: Rule) -> Any:
    return option(default, help, "'sample' is a slide that comes with this program" if rules else "", *rules,
                  group="basic")


def _fraction(use: str, unless: str) -> Any:
    return option(0.15, f"Share of the slides held out for {use} if no {unless} or region is given", "", BELOW_1,
                  group="data")


def _region(use: str) -> Any:
    return option(None, f"Part of a single slide to {use} on", "write x,y,width,height", unit="level-0 pixels",
                  group="data")


@dataclass(frozen=True)
class DataOptions(Options):
    """Where the slides are, and which are held out.

    Without `val_data` the slides of `train_data` are split by the two fractions. A region is (x, y, width, height) in
    level-0 pixels of a single slide.
    """

    train_data: tuple[str, ...] = _data(("sample",), "Slides, folders of slides or tiles, or shards", GIVEN)
    val_data: tuple[str, ...] = _data((), "Slides that choose the best epoch; others than those of train_data")
    test_data: tuple[str, ...] = _data(
        (), "Slides that score the chosen model; others than those of train_data and val_data")
    val_fraction: float = _fraction("validation", "val_data")
    test_fraction: float = _fraction("testing", "val_data, test_data")
    case_pattern: str | None = option(
        None, "Regular expression with one group: the case (patient) in the name of a slide. Slides of one case stay "
        "together", r"^(P\d+) for P017_HE.svs; by default TCGA's pattern", group="data")
    cases: str | None = option(None, "CSV file with lines slide,case, instead of case_pattern", group="data")
    train_region: Box | None = _region("train")
    val_region: Box | None = _region("validate")
    test_region: Box | None = _region("test")
    eval_patch_size: int = option(256, "Side of a validation or test patch", "MS-SSIM needs at least 161", POSITIVE,
                                  unit="pixels", group="data")
    workers: int | None = option(None, "Processes that read slides", "by default one per core")
    max_skipped: float = option(0.5, "Largest share of the slides and tiles that may give no patch",
                                "1 trains on what is left, however little", SHARE, group="data")
    strict: bool = option(False, "Stop at the first patch or slide that cannot be read", group="data")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.val_fraction + self.test_fraction < 1, "val_fraction + test_fraction", "stay below 1",
                "leave slides to train on", self.val_fraction + self.test_fraction)


@dataclass(frozen=True)
class TrainOptions(Options):
    """How the three stages are trained."""

    run: str = basic("runs/new", "Folder of the run")
    resume: bool = basic(False, "Continue a run that was stopped; start it if there is none")
    ray: str | None = basic(None, "Train on all machines of a Ray cluster: auto for the one that this machine belongs "
                            "to, or HOST:PORT. Needs the extra 'cluster'")
    method: str = option("srgan_sqe", "Preset of the loss", choices=tuple(METHODS), group="basic")
    stages: tuple[StageOptions, ...] = (
        StageOptions("autoencoder", 5, 1e-3), StageOptions("warmup", 50, 1e-3), StageOptions("adversarial", 50, 1e-4))
    discriminator_learning_rate: float = option(1e-4, "Highest learning rate of the discriminator", "", FINITE)
    batch_size: int = same_as(DatasetOptions, "batch_size")
    crop_size: int | None = same_as(DatasetOptions, "crop_size")
    shrink: float = same_as(DatasetOptions, "shrink")
    pair_share: float = same_as(DatasetOptions, "pair_share")
    recolour: float = same_as(DatasetOptions, "recolour")
    steps_per_epoch: int | None = same_as(DatasetOptions, "steps_per_epoch")
    val_patches: int = option(32, "Validation patches in an epoch", "", POSITIVE)
    best_by: str = option("ssim", "Validation score that chooses the best epoch; last takes the last epoch",
                          choices=tuple(BEST_BY))
    ema_decay: float = option(0.999, "Decay of the generator's moving average", "0 turns the average off", BELOW_1)
    mixed_precision: str | None = option(None, "16-bit arithmetic", "by default float32",
                                         choices=("bfloat16", "float16"))
    jit_compile: bool | None = option(None, "Compile the steps with XLA", "by default on a GPU, where it is faster")
    strategy: str = option("none", "mirrored trains on all GPUs of this machine, multi_worker on the machines that "
                           "TF_CONFIG names", choices=("none", "mirrored", "multi_worker"))
    worker_wait_s: float = option(300.0, "Time for the other workers of multi_worker to answer", "", FINITE,
                                  unit="seconds")
    deterministic: bool = option(False, "Give bit-identical weights for the same seed")
    cache: str = same_as(DatasetOptions, "cache")
    seed: int = same_as(DatasetOptions, "seed")
    rise_steps: int = option(100, "Steps over which the learning rate of a stage rises, at most a tenth of the stage",
                             "100 keeps the first steps short", AT_LEAST_0)
    keep_checkpoints: int = option(3, "Last checkpoints to keep beside the best one", "", POSITIVE)
    autoencoder: str | None = option(None, "A trained autoencoder.keras; its stage is skipped", group="model")
    generator: str | None = option(None, "A trained model to start from: a run, a .keras file or a SavedModel",
                                   group="model")
    freeze_statistics: bool = option(False, "Keep the generator's batch-norm statistics fixed, so that it trains as it "
                                     "infers", group="model")
    vgg_weights: str = option("imagenet", "VGG weights for srgan: imagenet (VGG19), hed (VGG16 fine-tuned for edges; "
                              "extra perceptual) or a file of VGG19's weights", group="loss")


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
