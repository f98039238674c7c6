"""Scores of patches, of a model and of bicubic beside it.

Everything is scored as the 8-bit image that a file would hold: a model cannot win by fractions of a grey level or by
values outside [0, 1] that no picture shows.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.config import DegradeOptions
from pipelines.errors import require
from pipelines.pixels import quantise
from sr_keras import metrics
from sr_keras.metrics import bicubic

BICUBIC, SR = METHODS = ("bicubic", "sr")
Row = dict[str, Any]  # example_id, slide_id, method, and a float per metric


@dataclass(frozen=True)
class Metric:
    """What a table needs to know of a metric."""

    label: str
    higher_is_better: bool
    digits: int


METRICS = {
    "psnr": Metric("PSNR (dB)", True, 2),
    "ssim": Metric("SSIM", True, 3),
    "ms_ssim": Metric("MS-SSIM", True, 3),
    "qilv": Metric("QILV", True, 3),
    "rrmse": Metric("RRMSE", False, 4),
    "lr_consistency": Metric("LR consistency", False, 4),
}


def score_images(hr: Any, sr: Any, lr: Any, degrade: DegradeOptions | None = None,
                 names: Collection[str] = tuple(METRICS)) -> dict[str, np.ndarray]:
    """Return metrics of sr against hr, each float32 [B]; MS-SSIM is left out where sides are under 161 pixels.

    Args:
        hr: Float [B, H, W, 3] in [0, 1].
        sr: The same.
        lr: Float [B, H/scale, W/scale, 3], what sr was made from.
        degrade: How lr was made. lr_consistency is left out where that is not the textbook's way, at some blur: only
            what draws nothing can be done again.
        names: Which metrics, of METRICS.

    Raises:
        ValueError: Shapes do not belong together, or images are smaller than an 11x11 window.
    """
    degrade = degrade or DegradeOptions()
    require(tuple(hr.shape) == tuple(sr.shape), "sr", f"have the shape of hr, {tuple(hr.shape)}",
            "take a model of this scale", tuple(sr.shape))
    require(tuple(hr.shape[1:3]) == tuple(degrade.scale * side for side in lr.shape[1:3]), "lr",
            f"be hr's sides over scale={degrade.scale}", "give the scale it was made with", tuple(lr.shape))
    lacking = {"ms_ssim"} if min(hr.shape[1:3]) < metrics.MS_SSIM_SIDE else set()
    blur_sigma = degrade.range_of("blur_sigma")[0] if degrade.is_textbook and "lr_consistency" in names else None
    chosen = tuple(name for name in METRICS if name in names and name not in lacking | {"lr_consistency"})
    values = _values(hr, sr, lr, chosen, degrade.scale, blur_sigma)
    return {name: value.numpy() for name, value in values.items()}


def score(upscale: Callable[[np.ndarray], Any], batches: Iterable[Mapping[str, Any]],
          degrade: DegradeOptions | None = None, names: Collection[str] = tuple(METRICS)) -> list[Row]:
    """Score a model and bicubic on every patch.

    Args:
        upscale: lr float32 [B, h, w, 3] in [0, 1] -> sr [B, scale*h, scale*w, 3], float; it is rounded to 8 bit here.
        batches: Dicts of example_id, slide_id [B], lr, hr, as `pipelines.dataset.evaluation_dataset` gives them.
        degrade: How lr was made.
        names: Which metrics, of METRICS.

    Returns:
        For each patch a row of "bicubic" and one of "sr": example_id, slide_id, method, and a float per metric.

    Raises:
        ValueError: There is no patch, or `upscale` has another scale than `degrade`.
    """
    degrade = degrade or DegradeOptions()
    rows: list[Row] = []
    for batch in batches:
        lr, hr = np.asarray(batch["lr"]), np.asarray(batch["hr"])
        images = {BICUBIC: bicubic(lr, degrade.scale), SR: quantise(np.asarray(upscale(lr)))}
        values = {method: score_images(hr, image, lr, degrade, names) for method, image in images.items()}
        for i, (example_id, slide_id) in enumerate(zip(batch["example_id"], batch["slide_id"], strict=True)):
            rows += [{"example_id": text(example_id), "slide_id": text(slide_id), "method": method,
                      **{name: float(value[i]) for name, value in values[method].items()}} for method in METHODS]
    require(bool(rows), "data", "hold at least one patch", "name other slides or lower min_tissue", 0)
    return rows


@tf.function(reduce_retracing=True, autograph=False)  # hundreds of small sums, which take long one by one
def _values(hr: Any, sr: Any, lr: Any, names: tuple[str, ...], scale: int, blur_sigma: float | None
            ) -> dict[str, tf.Tensor]:
    values = {name: getattr(metrics, name)(hr, sr) for name in names}
    if blur_sigma is None:
        return values
    return values | {"lr_consistency": metrics.lr_consistency(lr, sr, scale, blur_sigma)}


def text(value: Any) -> str:
    """Return a string of a dataset, bytes or a tensor, as str."""
    value = value.numpy() if isinstance(value, tf.Tensor) else value
    return value.decode() if isinstance(value, bytes) else str(value)
