"""What a training run can be asked to do, as frozen dataclasses. No absl, no TensorFlow: floor 0.

The four methods of the paper are values of one `Objective`, not code of their own.
"""
from __future__ import annotations

from dataclasses import dataclass
from math import inf

from pipelines.config import SCALES, check_seed
from pipelines.errors import require
from sr_keras.shipped import shipped_model

REDUCTIONS = ("mean", "sum")
# The validation score that decides which epoch is the best, and whether more of it is better. By "last" nothing is
# chosen: the validation slides may then be scored as if they were test slides.
BEST_BY = {"last": True, "psnr": True, "rrmse": False, "ssim": True, "ms_ssim": True, "qilv": True}
PRECISIONS = (None, "bfloat16", "float16")
STRATEGIES = ("none", "mirrored")
SHIPPED_MODEL = shipped_model()


@dataclass(frozen=True)
class Objective:
    """min_G max_D  L_F + lambda_m L_M + lambda_s L_S + lambda_d L_D + lambda_v L_V + lambda_c L_C.

    L_V, the VGG19 feature distance, belongs to the SRGAN baseline alone, and L_C, how far SR contradicts LR, to no
    method of the paper: it is there to be added. A weight of zero means that the term is not computed. Source: paper,
    section 2.2; L_V: Ledig et al. 2017, equation 5.
    """

    q: float = 0.5
    epsilon: float = 1e-4
    lambda_m: float = 0.2
    lambda_s: float = 2.0
    lambda_d: float = 0.016
    lambda_v: float = 0.0
    lambda_c: float = 0.0
    reduction: str = "mean"

    def __post_init__(self) -> None:
        require(0 < self.q <= 2, "q", "lie in (0, 2]", "0.5 is the paper's, 2 is squared error", self.q)
        require(0 < self.epsilon < inf, "epsilon", "be positive and finite",
                "1e-4 is the size of noise on [0, 1] images", self.epsilon)
        for name in ("lambda_m", "lambda_s", "lambda_d", "lambda_v", "lambda_c"):
            value = getattr(self, name)
            require(0 <= value < inf, name, "be 0 or more and finite", "0 leaves the term out", value)
        require(self.reduction in REDUCTIONS, "loss_reduction", f"be one of {REDUCTIONS}", "choose one of these",
                self.reduction)


METHODS: dict[str, Objective] = {
    # Ledig et al. 2017: features on a VGG19 rescaled by 1/12.75, which is a weight of 0.006; adversarial 1e-3.
    "srgan": Objective(q=2.0, lambda_m=0.0, lambda_s=0.0, lambda_d=1e-3, lambda_v=0.006),
    "srgan_e": Objective(q=2.0, lambda_s=0.0),
    "srgan_qe": Objective(q=0.5, lambda_s=0.0),
    "srgan_sqe": Objective(),
}


@dataclass(frozen=True)
class GeneratorOptions:
    """The generator's size. `global_skip` adds its output to the interpolated LR; without it, the paper's network."""

    scale: int = 4
    blocks: int = 16
    filters: int = 64
    global_skip: bool = True

    def __post_init__(self) -> None:
        require(self.scale in SCALES, "scale", f"be one of {SCALES}", "choose one of these", self.scale)
        require(self.blocks > 0, "blocks", "be positive", "16 is the default", self.blocks)
        require(self.filters > 0, "filters", "be positive", "64 is the default", self.filters)


@dataclass(frozen=True)
class StageOptions:
    """One stage of a run. `epochs` of 0 skips it; the learning rate rises, then falls to a hundredth."""

    name: str
    epochs: int
    learning_rate: float

    def __post_init__(self) -> None:
        require(self.epochs >= 0, f"{self.name}_epochs", "be 0 or more", "0 skips the stage", self.epochs)
        require(0 < self.learning_rate < inf, f"{self.name}_learning_rate", "be positive and finite",
                "1e-3 is a good start", self.learning_rate)


@dataclass(frozen=True)
class DataOptions:
    """Where the slides are and how they are parted. Anything given is a slide, a folder, shards, or 'sample'.

    With no `val_data` the slides of `train_data` are parted by the two fractions. A region is (x, y, width,
    height) in level-0 pixels and cuts the one slide it is given for.
    """

    train_data: tuple[str, ...]
    val_data: tuple[str, ...] = ()
    test_data: tuple[str, ...] = ()
    val_fraction: float = 0.15
    test_fraction: float = 0.15
    train_region: tuple[int, int, int, int] | None = None
    val_region: tuple[int, int, int, int] | None = None
    test_region: tuple[int, int, int, int] | None = None
    eval_patch_size: int = 256
    workers: int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        require(bool(self.train_data), "train_data", "name slides, folders or shards",
                "'sample' is the slide that is always there", self.train_data)
        for name in ("val_fraction", "test_fraction"):
            require(0 <= getattr(self, name) < 1, name, "lie in [0, 1)", "0.15 is the default", getattr(self, name))
        require(self.val_fraction + self.test_fraction < 1, "val_fraction + test_fraction", "stay below 1",
                "leave slides to train on", self.val_fraction + self.test_fraction)
        require(self.eval_patch_size > 0, "eval_patch_size", "be positive", "MS-SSIM wants at least 161",
                self.eval_patch_size)


@dataclass(frozen=True)
class TrainOptions:
    """How the three stages are trained."""

    run: str
    method: str = "srgan_sqe"
    stages: tuple[StageOptions, ...] = (
        StageOptions("autoencoder", 5, 1e-3), StageOptions("warmup", 50, 1e-3), StageOptions("adversarial", 50, 1e-4))
    discriminator_learning_rate: float = 1e-4
    batch_size: int = 16
    crop_size: int | None = None
    shrink: float = 1.0
    pair_share: float = 0.5
    recolour: float = 0.0
    steps_per_epoch: int | None = None
    val_patches: int = 32
    best_by: str = "ssim"
    ema_decay: float = 0.999
    mixed_precision: str | None = None
    jit_compile: bool | None = None
    strategy: str = "none"
    deterministic: bool = False
    cache: str = "none"
    seed: int = 0
    rise_steps: int = 100
    keep_checkpoints: int = 3
    autoencoder: str | None = None
    generator: str | None = None
    freeze_statistics: bool = False
    vgg_weights: str = "imagenet"

    def __post_init__(self) -> None:
        require(self.method in METHODS, "method", f"be one of {tuple(METHODS)}", "choose one of these", self.method)
        require(self.batch_size > 0, "batch_size", "be positive", "16 is the default", self.batch_size)
        require(self.crop_size is None or self.crop_size > 0, "crop_size", "be positive",
                "leave it out for the whole patch", self.crop_size)
        require(self.shrink >= 1, "shrink", "be 1 or more", "1 is none", self.shrink)
        require(0 <= self.pair_share <= 1, "pair_share", "lie in [0, 1]", "0.5 is half of the examples",
                self.pair_share)
        require(0 <= self.recolour <= 1, "recolour", "lie in [0, 1]", "0 leaves all colours", self.recolour)
        require(self.steps_per_epoch is None or self.steps_per_epoch > 0, "steps_per_epoch", "be positive",
                "leave it out for one pass over the patches", self.steps_per_epoch)
        require(self.val_patches > 0, "val_patches", "be positive", "32 is the default", self.val_patches)
        require(self.best_by in BEST_BY, "best_by", f"be one of {tuple(BEST_BY)}", "choose one of these", self.best_by)
        require(0 <= self.ema_decay < 1, "ema_decay", "lie in [0, 1)", "0 turns the average off", self.ema_decay)
        require(self.mixed_precision in PRECISIONS, "mixed_precision", f"be one of {PRECISIONS[1:]}",
                "leave it out for float32", self.mixed_precision)
        require(self.strategy in STRATEGIES, "strategy", f"be one of {STRATEGIES}", "choose one of these",
                self.strategy)
        require(self.rise_steps >= 0, "rise_steps", "be 0 or more", "100 keeps the first steps short", self.rise_steps)
        require(self.keep_checkpoints > 0, "keep_checkpoints", "be positive", "3 is the default", self.keep_checkpoints)
        require(0 < self.discriminator_learning_rate < inf, "discriminator_learning_rate", "be positive and finite",
                "1e-4 is the default", self.discriminator_learning_rate)
        check_seed(self.seed)
