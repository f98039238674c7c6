# SPDX-License-Identifier: Apache-2.0
"""How close SR is to HR: functions of image batches that return one value per image, float32 [B].

    rrmse           relative error               0 is perfect, lower is better
    psnr            peak signal to noise, dB     inf is perfect, higher is better
    ssim, ms_ssim   structure, at one scale and at five; sensitive to noise      1 is perfect, higher is better
    qilv            distribution of local variance; sensitive to blur            1 is perfect, higher is better
    lr_consistency  error of SR after the degradation is applied to it again     0 is perfect, lower is better

Images are [B, H, W, 3], float in [0, 1], NumPy or tensors. Values outside [0, 1] are used as they are: score images
that were rounded to 8 bit (`pipelines.pixels.quantise`). Finite images never give NaN. Every function raises a
ValueError if its two images are not floats of one shape [B, H, W, 3].

`RRMSE`, `PSNR`, `SSIM`, `MSSSIM` and `QILV` are Keras metrics, `compile(metrics=[PSNR()])`: the mean of the function
over all images of an epoch.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipelines.degrade import degrade
from pipelines.errors import require
from pipelines.pixels import quantise

Images = Any  # np.ndarray or tf.Tensor
WINDOW = 11  # side of the Gaussian window (sigma 1.5) of SSIM, MS-SSIM and QILV
MS_SSIM_SIDE = (WINDOW - 1) * 2**4 + 1  # after four halvings one window must remain: 161
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in JPEG and in MATLAB's rgb2gray
QILV_C1, QILV_C2 = (0.01 * 255)**2, (0.03 * 255)**2
_SPACE = (1, 2, 3)


@keras.saving.register_keras_serializable("sr_keras")
def rrmse(hr: Images, sr: Images) -> tf.Tensor:
    """Return ||sr - hr||_F / ||hr||_F; 0 for equal images, inf for a black `hr` and another `sr`.

    Source: Upadhyay and Awate, ISBI 2019, section 3. Its values of 0.001 to 0.01 look like the square of this one:
    bicubic x4 on real H&E gives 0.05 to 0.18.
    """
    hr, sr = _pair(hr, sr)
    error, size = (tf.sqrt(tf.reduce_sum(tf.square(images), _SPACE)) for images in (sr - hr, hr))
    return tf.where(error == 0, 0.0, error / size)


@keras.saving.register_keras_serializable("sr_keras")
def psnr(hr: Images, sr: Images) -> tf.Tensor:
    """Return 10 log10(1 / mean squared error), in dB; inf for equal images."""
    return tf.image.psnr(*_pair(hr, sr), max_val=1.0)


@keras.saving.register_keras_serializable("sr_keras")
def ssim(hr: Images, sr: Images) -> tf.Tensor:
    """Return the mean structural similarity over windows and channels, in [-1, 1]; sides of 11 pixels or more.

    The same as scikit-image's with gaussian_weights, sigma 1.5 and use_sample_covariance=False.

    Source: Wang et al. 2004.
    """
    hr, sr = _pair(hr, sr, WINDOW)
    return tf.image.ssim(hr, sr, max_val=1.0)


@keras.saving.register_keras_serializable("sr_keras")
def ms_ssim(hr: Images, sr: Images) -> tf.Tensor:
    """Return the structural similarity over five scales, in [0, 1]; sides of 161 pixels or more.

    The weights are 0.0448, 0.2856, 0.3001, 0.2363 and 0.1333, from fine to coarse; factors below 0 count as 0.

    Source: Wang, Simoncelli and Bovik 2003, equation 7.
    """
    hr, sr = _pair(hr, sr, MS_SSIM_SIDE)
    return tf.image.ssim_multiscale(hr, sr, max_val=1.0)


@keras.saving.register_keras_serializable("sr_keras")
def qilv(hr: Images, sr: Images, peak: float = 255.0) -> tf.Tensor:
    """Return the quality index based on local variance, of the luma; sides of 11 pixels or more.

    With V the variance under each window, m, s and c the mean, deviation and covariance of two such maps:

        (2 m_V m_W + C1) (2 s_V s_W + C2) (c_VW + C2/2) / ((m_V^2 + m_W^2 + C1) (s_V^2 + s_W^2 + C2) (s_V s_W + C2/2))

    On the scale 0..peak, with C1 = (0.01*peak)^2 and C2 = (0.03*peak)^2; with a peak of 1, as others may have computed
    it, these constants exceed the variances. In [-1, 1]; 1 for equal images, and for any two flat ones.

    Source: Aja-Fernandez et al., "Image quality assessment based on local variance", EMBS 2006, with the constants of
    SSIM against division by zero.
    """
    hr, sr = _pair(hr, sr, WINDOW)
    # The variances stay on 0..255, with the constants that have the same effect there.
    c1, c2 = QILV_C1 * (255 / peak)**2, QILV_C2 * (255 / peak)**2
    v, w = _local_variance(_luma_255(hr)), _local_variance(_luma_255(sr))
    m_v, m_w = tf.reduce_mean(v, _SPACE, keepdims=True), tf.reduce_mean(w, _SPACE, keepdims=True)
    v, w = v - m_v, w - m_w
    m_v, m_w = m_v[:, 0, 0, 0], m_w[:, 0, 0, 0]
    var_v, var_w, covariance = (tf.reduce_mean(product, _SPACE) for product in (v * v, w * w, v * w))
    deviations = tf.sqrt(var_v) * tf.sqrt(var_w)
    return ((2 * m_v * m_w + c1) / (tf.square(m_v) + tf.square(m_w) + c1)
            * (2 * deviations + c2) / (var_v + var_w + c2)
            * (covariance + c2 / 2) / (deviations + c2 / 2))


def lr_consistency(lr: Images, sr: Images, scale: int = 4, blur_sigma: float = 1.6) -> tf.Tensor:
    """Return the root mean square of degrade(sr) - lr: how far SR contradicts the scanned LR.

    `scale` is HR side / LR side; `blur_sigma` is that of the degradation, in HR pixels. With an 8-bit LR a perfect SR
    scores 0.0011, the rounding error (1/255 / sqrt(12)).
    """
    lr, again = _pair(lr, degrade(_image(sr, "sr"), scale, blur_sigma), names=("lr", "degrade(sr)"))
    return tf.sqrt(tf.reduce_mean(tf.square(again - lr), _SPACE))


def bicubic(lr: Images, scale: int) -> tf.Tensor:
    """Enlarge lr [B, h, w, 3] by bicubic interpolation (Keys, a = -0.5), the baseline of every score.

    Pixel centres lie on halves, as in the degradation. The result, float32 [B, scale*h, scale*w, 3], is clipped and
    rounded to 8 bit.
    """
    lr = tf.convert_to_tensor(lr)
    return quantise(tf.image.resize(lr, [scale * lr.shape[1], scale * lr.shape[2]], "bicubic"))


class _PerImage(keras.metrics.MeanMetricWrapper):
    """A subclass names its function, and is loaded with a model by its own name."""

    _score: Callable[..., tf.Tensor]

    def __init_subclass__(cls, score: Callable[..., tf.Tensor]) -> None:
        super().__init_subclass__()
        cls._score = staticmethod(score)
        keras.saving.register_keras_serializable("sr_keras")(cls)

    def __init__(self, name: str | None = None, dtype: Any = None) -> None:
        super().__init__(self._score, name or self._score.__name__, dtype)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}


class RRMSE(_PerImage, score=rrmse):
    """Mean of `rrmse` over the images, as a Keras metric."""


class PSNR(_PerImage, score=psnr):
    """Mean of `psnr` over the images, as a Keras metric."""


class SSIM(_PerImage, score=ssim):
    """Mean of `ssim` over the images, as a Keras metric."""


class MSSSIM(_PerImage, score=ms_ssim):
    """Mean of `ms_ssim` over the images, as a Keras metric."""


class QILV(_PerImage, score=qilv):
    """Mean of `qilv` over the images, as a Keras metric."""


def _luma_255(images: tf.Tensor) -> tf.Tensor:
    return 255 * tf.reduce_sum(images * tf.constant(LUMA), axis=3, keepdims=True)


def _local_variance(luma: tf.Tensor) -> tf.Tensor:
    """Return the variance under each window: [B, H, W, 1] -> [B, H-10, W-10, 1]."""
    luma -= tf.reduce_mean(luma, _SPACE, keepdims=True)  # float32 is exact only near the origin
    return _local_mean(tf.square(luma)) - tf.square(_local_mean(luma))


def _local_mean(images: tf.Tensor) -> tf.Tensor:
    distance = np.arange(WINDOW) - (WINDOW - 1) / 2
    weights = np.exp(-distance**2 / (2 * 1.5**2))
    weights = tf.constant(weights / weights.sum(), tf.float32)
    down = tf.nn.conv2d(images, tf.reshape(weights, [WINDOW, 1, 1, 1]), 1, "VALID")
    return tf.nn.conv2d(down, tf.reshape(weights, [1, WINDOW, 1, 1]), 1, "VALID")


def _pair(hr: Images, sr: Images, side: int = 1, names: tuple[str, str] = ("hr", "sr")) -> tuple[tf.Tensor, tf.Tensor]:
    """Return both as float32 tensors, checked."""
    hr, sr = _image(hr, names[0]), _image(sr, names[1])
    require(hr.shape.is_compatible_with(sr.shape), names[1], f"have the shape of {names[0]}, {hr.shape}",
            "crop or resize one of them", sr.shape)
    require(all(known is None or known >= side for known in hr.shape[1:3]), names[0],
            f"have sides of {side} pixels or more", "score larger patches or leave this metric out", hr.shape)
    return hr, sr


def _image(images: Images, name: str) -> tf.Tensor:
    images = tf.convert_to_tensor(images)
    require(images.dtype.is_floating, name, "be float in [0, 1]",
            "divide 8-bit images by 255, see pipelines.pixels.to_float", images.dtype.name)
    require(images.shape.rank == 4 and images.shape[3] == 3, name, "have shape [B, H, W, 3]",
            "add a batch axis to a single image", images.shape)
    return tf.cast(images, tf.float32)
