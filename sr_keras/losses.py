# SPDX-License-Identifier: Apache-2.0
"""The terms of the objective: functions of tensors [B, ...] that return one float32 value per image, [B].

    L_F = quasi_norm(sr - hr)                        L_S = structural(hr, sr)
    L_M = quasi_norm(encoder(sr) - encoder(hr))      L_D = adversarial_generator | adversarial_discriminator
    L_V = feature(vgg(hr), vgg(sr))                  L_C = consistency(lr, sr)

Images are float [B, H, W, C]: hr and lr in [0, 1], sr of any value. Computed in float32, also for float16 and bfloat16
inputs. All compile under XLA. Wrong shapes, integers and numbers out of range raise a ValueError. `QuasiNorm` and
`SSIMLoss` are L_F and L_S as Keras losses, for models of your own: `compile(loss=SSIMLoss())`.

The paper sums over pixels, channels and windows. The default here is the mean over all axes but the batch, so that the
balance of the terms does not depend on the size of a patch; `reduction="sum"` gives the printed form.

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

WINDOW = 5  # side of the neighbourhoods of L_S, in pixels


def quasi_norm(residual: tf.Tensor, q: float = 0.5, epsilon: float = 1e-4, reduction: str = "mean") -> tf.Tensor:
    """Return the regularised quasi-norm of a residual to the power q: mean of (residual^2 + epsilon)^(q/2).

    The gradient is q * residual * (residual^2 + epsilon)^(q/2 - 1). Below q = 2, residuals well above sqrt(epsilon)
    have the less weight the larger they are. At a residual of zero the gradient is 0 for every q.

    Args:
        residual: Float [B, ...]; sr - hr or the difference of their encodings.
        q: In (0, 2]. 0.5 is the paper's choice, 2 is squared error.
        epsilon: Positive, in squared units of the residual; 1e-4 treats 1% of the range as noise.
        reduction: "mean" or "sum".

    Returns:
        float32 [B]; epsilon^(q/2), not 0, at a residual of zero.

    Source: paper, section 2.2, "Robust Fidelity Loss" and "Robust Manifold-Based Loss".
    """
    require(0 < q <= 2, "q", "lie in (0, 2]", "0.5 is the paper's, 2 is squared error", q)
    require(epsilon > 0, "epsilon", "be positive", "1e-4 is the size of noise on [0, 1] images", epsilon)
    residual = _float32(residual, "residual")
    return _per_image((tf.square(residual) + epsilon) ** (q / 2), reduction)


@keras.saving.register_keras_serializable("sr_keras")
def structural(hr: tf.Tensor, sr: tf.Tensor, reduction: str = "mean") -> tf.Tensor:
    """Return the negative SSIM over all 5x5 neighbourhoods and channels; the mean is -1 for equal images.

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
    # [B, H-4, W-4], each value the mean over channels.
    similarity = tf.image.ssim(hr, sr, max_val=1.0, filter_size=WINDOW, return_index_map=True)
    channels = hr.shape[3] if reduction == "sum" else 1
    return -channels * _per_image(similarity, reduction)


def adversarial_generator(logits_sr: tf.Tensor) -> tf.Tensor:
    """Return -log D(sr), the generator's non-saturating loss.

    D is the sigmoid of the logits [B, ...], the probability of being HR. log(1 - D(sr)), as printed, has no gradient
    while D is certain; the paper trains with this heuristic too.

    Source: paper, section 2.2, last paragraph; Goodfellow et al. 2014, section 3.
    """
    return _per_image(tf.nn.softplus(-_float32(logits_sr, "logits_sr")), "mean")


def adversarial_discriminator(logits_hr: tf.Tensor, logits_sr: tf.Tensor) -> tf.Tensor:
    """Return -(log D(hr) + log(1 - D(sr))), the discriminator's loss; D is the sigmoid of the logits [B, ...].

    Source: paper, section 2.2, "Discriminator Loss", with the opposite sign.
    """
    return (_per_image(tf.nn.softplus(-_float32(logits_hr, "logits_hr")), "mean")
            + _per_image(tf.nn.softplus(_float32(logits_sr, "logits_sr")), "mean"))


def consistency(lr: tf.Tensor, sr: tf.Tensor, blur_sigma: float = 1.6, reduction: str = "mean") -> tf.Tensor:
    """Return the mean squared difference of `degrade(sr)` and lr: how far SR contradicts the scanned LR.

    L_F and L_S hardly see a drift of 0.01 over many pixels. Where hr is corrupted and lr is not, this is the only term
    that still holds the truth. `blur_sigma` is that of the degradation that made lr, in HR pixels. The sides of the
    images must be known when the graph is traced.

    Source: not in the paper; the constraint of iterative back-projection, Irani and Peleg 1991.
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
    """`quasi_norm` of y_pred - y_true as a Keras loss; `reduction` is Keras', over the images of a batch."""

    def __init__(self, q: float = 0.5, epsilon: float = 1e-4, name: str = "quasi_norm", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.q, self.epsilon = q, epsilon

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return quasi_norm(y_pred - y_true, self.q, self.epsilon)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "q": self.q, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("sr_keras")
class SSIMLoss(keras.losses.Loss):
    """`structural`, the negative SSIM of 5x5 neighbourhoods, as a Keras loss."""

    def __init__(self, name: str = "ssim_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return structural(y_true, y_pred)


def _float32(values: tf.Tensor, name: str) -> tf.Tensor:
    values = tf.convert_to_tensor(values)
    require(values.dtype.is_floating, name, "be floating point", "see pipelines.pixels.to_float", values.dtype.name)
    return tf.cast(values, tf.float32)


def _per_image(values: tf.Tensor, reduction: str) -> tf.Tensor:
    """Reduce all axes but the batch: [B, ...] -> [B]."""
    require(reduction in REDUCTIONS, "reduction", f"be one of {REDUCTIONS}", "mean is the default", reduction)
    reduce = tf.reduce_sum if reduction == "sum" else tf.reduce_mean
    return reduce(values, axis=range(1, values.shape.rank))
