"""The terms of the objective, each one value per image.

    L_F = quasi_norm(sr - hr)                        L_S = structural(hr, sr)
    L_M = quasi_norm(encoder(sr) - encoder(hr))      L_D = adversarial_generator | adversarial_discriminator
    L_V = feature(vgg(hr), vgg(sr))              L_C = consistency(lr, sr)

Pure functions of tensors [B, ...] that return float32 [B]; whoever trains takes the mean over the batch. float16 and
bfloat16 inputs are computed in float32. All compile under XLA.

The paper sums over pixels, channels and windows. Here the mean is taken by default, so that the balance of the terms
does not hang on the size of a patch and an adversarial weight of 0.016 means something; `reduction="sum"` is the
printed form.

Source: Upadhyay and Awate, "Robust super-resolution GAN, with manifold-based and perception loss", ISBI 2019,
section 2.2, called "the paper" below.
"""
from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from pipelines.degrade import degrade
from pipelines.errors import require
from sr_keras.config import REDUCTIONS
from sr_keras.ssim_windows import ssim_map

WINDOW = 5  # pixels a side of the neighbourhoods of L_S


def quasi_norm(residual: tf.Tensor, q: float = 0.5, epsilon: float = 1e-4, reduction: str = "mean") -> tf.Tensor:
    """Return the regularised quasi-norm of a residual to the q-th power: mean of (residual^2 + epsilon)^(q/2).

    Its gradient, q * residual * (residual^2 + epsilon)^(q/2 - 1), is that of squared error at q = 2. Below 2, residuals
    well above sqrt(epsilon) weigh less the larger they are; at a residual of zero it is 0 for every q.

    Args:
        residual: Float [B, ...]; sr - hr or the difference of their encodings.
        q: In (0, 2]. 0.5 is what the paper found best, 2 is squared error.
        epsilon: Positive, in squared units of the residual: 1e-4 takes 1% of the range for noise.
        reduction: "mean" over everything but the batch, or the paper's "sum".

    Returns:
        float32 [B]; epsilon^(q/2) at a residual of zero, and not 0.

    Raises:
        ValueError: `q`, `epsilon` or `reduction` is none of these, or `residual` is not floating point.

    Source: paper, section 2.2, "Robust Fidelity Loss" and "Robust Manifold-Based Loss".
    """
    require(0 < q <= 2, "q", "lie in (0, 2]", "0.5 is the paper's, 2 is squared error", q)
    require(epsilon > 0, "epsilon", "be positive", "1e-4 is the size of noise on [0, 1] images", epsilon)
    residual = _float32(residual, "residual")
    return _per_image((tf.square(residual) + epsilon) ** (q / 2), reduction)


def structural(hr: tf.Tensor, sr: tf.Tensor, reduction: str = "mean") -> tf.Tensor:
    """Return the negative SSIM over all 5x5 neighbourhoods and channels, in [-1, 1] by default.

    The mean equals -tf.image.ssim(hr, sr, max_val=1.0, filter_size=5). With its gradient it takes a tenth of that
    function's time under XLA and as much in the graph executor, on a CPU: measured in windows.py.

    Args:
        hr: Float [B, H, W, C] in [0, 1], sides of 5 pixels or more.
        sr: The same shape; may leave [0, 1].
        reduction: "mean" over windows and channels, or the paper's "sum".

    Returns:
        float32 [B]; -1 for equal images.

    Raises:
        ValueError: Shapes differ or are not image batches, images are smaller than a window or not floating point, or
            `reduction` is unknown.

    Source: paper, section 2.2, "Perception-Based Loss"; Wang et al. 2004, equation 13.
    """
    hr, sr = _float32(hr, "hr"), _float32(sr, "sr")
    for name, images in (("hr", hr), ("sr", sr)):
        require(images.shape.rank == 4, name, "have shape [B, H, W, C]", "add a batch axis to a single image",
                images.shape)
    require(hr.shape.is_compatible_with(sr.shape), "sr", f"have the shape of hr, {hr.shape}",
            "crop or resize it", sr.shape)
    require(all(side is None or side >= WINDOW for side in hr.shape[1:3]), "hr", f"have sides of {WINDOW} or more",
            "give larger patches", hr.shape)
    return -_per_image(ssim_map(hr, sr, WINDOW), reduction)


def adversarial_generator(logits_sr: tf.Tensor) -> tf.Tensor:
    """Return -log D(sr): the generator's non-saturating loss.

    Minimising log(1 - D(sr)), as printed, gives no gradient while D is sure; the paper trains by this heuristic too.

    Args:
        logits_sr: Float [B, ...]; D(sr) is their sigmoid, the probability of being HR.

    Returns:
        float32 [B], mean over what lies behind the batch axis; log 2 where D is undecided.

    Source: paper, section 2.2, last paragraph; Goodfellow et al. 2014, section 3.
    """
    return _per_image(tf.nn.softplus(-_float32(logits_sr, "logits_sr")), "mean")


def adversarial_discriminator(logits_hr: tf.Tensor, logits_sr: tf.Tensor) -> tf.Tensor:
    """Return -(log D(hr) + log(1 - D(sr))), what the discriminator minimises.

    Args:
        logits_hr: Float [B, ...]; D(hr) is their sigmoid.
        logits_sr: The same of sr.

    Returns:
        float32 [B], mean over what lies behind the batch axis; 2 log 2 where D is undecided.

    Source: paper, section 2.2, "Discriminator Loss", with the sign turned.
    """
    return (_per_image(tf.nn.softplus(-_float32(logits_hr, "logits_hr")), "mean")
            + _per_image(tf.nn.softplus(_float32(logits_sr, "logits_sr")), "mean"))


def consistency(lr: tf.Tensor, sr: tf.Tensor, blur_sigma: float = 1.6, reduction: str = "mean") -> tf.Tensor:
    """Return the mean squared difference of `degrade(sr)` and lr: what SR contradicts of what the scanner saw.

    L_F and L_S hardly feel it: a drift of 0.01 over many pixels is noise to a quasi-norm, and to SSIM the same
    structure. Where hr is spoilt and lr is not, it is the one term that still says the truth.

    Args:
        lr: Float [B, H/scale, W/scale, C] in [0, 1].
        sr: Float [B, H, W, C]; may leave [0, 1].
        blur_sigma: Of the degradation that made lr, in HR pixels.
        reduction: "mean" over LR pixels and channels, or their "sum".

    Returns:
        float32 [B].

    Raises:
        ValueError: The sides of sr are not those of lr times one number, or known only when the graph runs; one is not
            floating point, or `reduction` is unknown.

    Source: not the paper's. The constraint is that of iterative back-projection, Irani and Peleg 1991.
    """
    lr, sr = _float32(lr, "lr"), _float32(sr, "sr")
    require(None not in (*lr.shape[1:3], *sr.shape[1:3]), "lr", "have known sides", "give crops of one size", lr.shape)
    scale = sr.shape[1] // lr.shape[1]
    require(sr.shape[1:3] == [scale * side for side in lr.shape[1:3]], "sr",
            f"have the sides of lr {lr.shape} times one number", "crop or resize it", sr.shape)
    return _per_image(tf.square(degrade(sr, scale, blur_sigma) - lr), reduction)


def feature(features_hr: tf.Tensor, features_sr: tf.Tensor) -> tf.Tensor:
    """Return the mean squared difference of features, float [B, ...] -> float32 [B].

    Source: Ledig et al. 2017, equation 5, as a mean over all features.
    """
    return _per_image(tf.square(_float32(features_sr, "features_sr") - _float32(features_hr, "features_hr")), "mean")


@keras.saving.register_keras_serializable("sr_keras")
class QuasiNorm(keras.losses.Loss):
    """`quasi_norm` of y_pred - y_true as a Keras loss, averaged over the batch."""

    def __init__(self, q: float = 0.5, epsilon: float = 1e-4, name: str = "quasi_norm", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.q, self.epsilon = q, epsilon

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Return one value per image, [B]."""
        return quasi_norm(y_pred - y_true, self.q, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "q": self.q, "epsilon": self.epsilon}


def _float32(values: tf.Tensor, name: str) -> tf.Tensor:
    values = tf.convert_to_tensor(values)
    require(values.dtype.is_floating, name, "be floating point", "see pipelines.pixels.to_float", values.dtype.name)
    return tf.cast(values, tf.float32)


def _per_image(values: tf.Tensor, reduction: str) -> tf.Tensor:
    """Reduce everything but the batch axis: [B, ...] -> [B]."""
    require(reduction in REDUCTIONS, "reduction", f"be one of {REDUCTIONS}", "choose one of these", reduction)
    reduce = tf.reduce_sum if reduction == "sum" else tf.reduce_mean
    return reduce(values, axis=range(1, values.shape.rank))
