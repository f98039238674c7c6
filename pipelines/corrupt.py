# SPDX-License-Identifier: Apache-2.0
"""What an uncurated training set contains: noise, blur, wrong contrast, and tiles of another stain.

Which examples are bad, and how, depends only on (seed, example id): not on the epoch, the order of reading or the
batch. An example that is corrupted at one fraction is corrupted in the same way at every larger one.

Images are single, float32 [H, W, 3] in [0, 1], with 1 for glass; values are proportional to light. `seed` of an image
function is an int tensor [2]; the same seed gives the same image, eagerly and inside `Dataset.map`. Strength 0 changes
nothing, 1 is a plainly bad slide, 2 is hopeless. `sr-keras preview` draws them.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf
from scipy.fft import next_fast_len

from pipelines.config import CorruptOptions
from pipelines.degrade import extend_symmetric
from pipelines.degrade.family import normal
from pipelines.errors import require
from pipelines.names import walk
from pipelines.pixels import quantise, to_float
from pipelines.slide import SlideError, open_slide

CLEAN = -1  # the kind of a good example
PHOTONS = 200.0  # shot noise at strength 1: photons per colour that white collects (a good scan: above 5000)
READ_NOISE = 0.04  # standard deviation at strength 1, of full scale (a good scan: below 0.005)
HR_RADIUS = 5.0  # of the defocus disc at strength 1, in HR pixels
LR_RADIUS = 1.5  # the same for LR, in LR pixels
# Brightness at strength 1, of full scale. With 0.15 and half the contrast, half of the 8-bit values would lie between
# two others, and their rounding would depend on the order of a compiler's sum.
EXPOSURE = 0.16
OUTLIER_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MAX_OUTLIERS = 256  # a tile of 256x256 takes 196 kB of memory
_BUCKETS = 2**31 - 1


def corrupt_pair(
    lr: tf.Tensor, hr: tf.Tensor, example_id: tf.Tensor, seed: int, options: CorruptOptions,
    downsample: Callable[[tf.Tensor], tf.Tensor], outliers: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the pair with its bad side, or unchanged if the example is a good one.

    With side "hr" only the target is bad, with "lr" only the scan; with "both" `hr` is corrupted and `lr` made from it.
    Corrupted images come back in 8-bit steps.

    Args:
        lr: Float32 [h, w, 3] in [0, 1].
        hr: Float32 [scale*h, scale*w, 3] in [0, 1].
        example_id: String scalar; the same for the same patch in every epoch.
        seed: Seed of the run; a Python integer.
        options: Fraction, kinds, side and strengths.
        downsample: hr [H, W, 3] -> lr, to make `lr` again.
        outliers: uint8 [N, H, W, 3] from `load_outliers`; needed for the kind "outlier".

    Returns:
        `lr` and `hr`, with the same shapes.

    Raises:
        ValueError: The kind "outlier" needs outliers.
    """
    if options.fraction == 0:
        return lr, hr
    require("outlier" not in options.kinds or outliers is not None,
            "outliers", "be given for the kind 'outlier'", "see load_outliers", outliers)
    target, radius = (lr, LR_RADIUS) if options.side == "lr" else (hr, HR_RADIUS)
    kind, image_seed = corruption(example_id, seed, options)

    def other_stain() -> tf.Tensor:
        number = tf.random.stateless_uniform([], image_seed, 0, tf.shape(outliers)[0], tf.int32)
        shape = tf.shape(hr)
        top, left = tf.unstack((tf.shape(outliers)[1:3] - shape[:2]) // 2)
        tile = to_float(tf.gather(outliers, number)[top:top + shape[0], left:left + shape[1]])
        return outlier(target, options.outlier_strength, downsample(tile) if options.side == "lr" else tile)

    corrupted = {
        "noise": lambda: noise(target, options.noise_strength, image_seed),
        "blur": lambda: blur(target, options.blur_strength, image_seed, radius),
        "contrast": lambda: contrast(target, options.contrast_strength, image_seed),
        "outlier": other_stain,
    }

    def pair_of(name: str) -> tuple[tf.Tensor, tf.Tensor]:
        bad = tf.ensure_shape(quantise(corrupted[name]()), target.shape)
        if options.side == "lr":
            return bad, hr
        return (downsample(bad) if options.side == "both" else lr), bad

    return tf.switch_case(kind + 1, [lambda: (lr, hr), *(partial(pair_of, name) for name in options.kinds)])


def corruption(example_id: tf.Tensor, seed: int, options: CorruptOptions) -> tuple[tf.Tensor, tf.Tensor]:
    """Decide what happens to examples (strings of any shape), from (seed, example id) only.

    Returns int32 of the same shape: the index of the kind in `options.kinds`, or CLEAN; and int32 [..., 2], the seed
    for the image functions.
    """
    share, choice, *image_seed = (
        tf.strings.to_hash_bucket_strong(example_id, _BUCKETS, key=[seed, salt]) for salt in range(4))
    kind = choice * len(options.kinds) // _BUCKETS
    bad = tf.cast(share, tf.float64) < options.fraction * _BUCKETS
    return tf.cast(tf.where(bad, kind, CLEAN), tf.int32), tf.cast(tf.stack(image_seed, -1), tf.int32)


def noise(image: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Add Poisson shot noise and Gaussian read noise, as of a dim lamp and a warm camera.

    The standard deviation is strength * sqrt(value / PHOTONS + READ_NOISE^2) before clipping: 0.08 on white at strength
    1. Both are drawn as one Gaussian of that variance. Its cumulative distribution is within 0.0033 of the exact one at
    strength 1 and 0.0065 at 2. Poisson counts take 17 ms more.
    """
    if strength == 0:
        return image
    variance = image * (strength**2 / PHOTONS) + (READ_NOISE * strength) ** 2
    return tf.clip_by_value(image + tf.sqrt(variance) * normal(tf.shape(image), seed), 0.0, 1.0)


def blur(image: tf.Tensor, strength: float, seed: tf.Tensor, radius: float = HR_RADIUS) -> tf.Tensor:
    """Put the image out of focus: a defocus disc for half of the seeds, a Gaussian for the others.

    The disc has radius `radius * strength` pixels; the Gaussian's sigma is half of that, the same standard deviation.
    Edges are symmetric. The sides must be known when the graph is built. Computed by FFT, since a depthwise convolution
    takes 25 ms for 256x256x3. The upper and lower half of the image are the real and imaginary part of one transform,
    since an inverse transform to real values takes twice the time of a complex one.
    """
    if strength == 0:
        return image
    kernels = _kernels(radius * strength)
    border = len(kernels[0]) - 1
    height, width = image.shape[:2]
    half = -(-height // 2)
    rows, columns = (next_fast_len(side + border, real=True) for side in (half, width))  # up to 1.5 times faster
    spectra = [np.fft.fft2(kernel, (rows, columns)).astype(np.complex64) for kernel in kernels]
    extended = extend_symmetric(image, 0, border // 2, half + rows - height - border // 2)
    extended = extend_symmetric(extended, 1, border // 2, columns - width - border // 2)
    planes = tf.transpose(tf.complex(extended[:rows], extended[half:half + rows]), [2, 0, 1])
    defocused = tf.random.stateless_uniform([1], seed)[0] < 0.5
    spectrum = tf.signal.fft2d(planes) * tf.cond(defocused, *(partial(tf.constant, s) for s in spectra))
    # The kernel starts at index 0 instead of at its centre, and so the result lies `border` further down and right.
    halves = tf.transpose(tf.signal.ifft2d(spectrum)[:, border:border + half, border:border + width], [1, 2, 0])
    blurred = tf.concat([tf.math.real(halves), tf.math.imag(halves)[:height - half]], 0)
    return tf.clip_by_value(blurred, 0.0, 1.0)


def contrast(image: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Stain, or expose, the slide wrongly: half of the seeds each, in either direction.

    Stain: the optical density, -log(image), is multiplied by 2^strength or 2^-strength, which is as much more or less
    stain (Beer-Lambert law); glass stays white. Exposure: the contrast about mid-grey is multiplied by 2^strength or
    2^-strength, and EXPOSURE * strength is added or subtracted.
    """
    if strength == 0:
        return image
    staining, more, lighter = tf.unstack(tf.random.stateless_uniform([3], seed) < 0.5)
    factor = tf.where(more, 2.0**strength, 2.0**-strength)
    offset = 0.5 * (1 - factor) + EXPOSURE * strength * tf.where(lighter, 1.0, -1.0)
    # exp and log take a fifth of tf.pow's time. Black stays black: its logarithm is -inf, and exp(-inf) is 0.
    return tf.cond(staining, lambda: tf.exp(factor * tf.math.log(image)),
                   lambda: tf.clip_by_value(factor * image + offset, 0.0, 1.0))


def outlier(image: tf.Tensor, strength: float, tile: tf.Tensor) -> tf.Tensor:
    """Replace an image by a tile of another stain; below strength 1 mix the two, as a double exposure."""
    return tile if strength == 1 else image + strength * (tile - image)


def load_outliers(folder: str | Path, size: int) -> tf.Tensor:
    """Return tiles of another stain: at most MAX_OUTLIERS, evenly spread over the sorted files, centres of size x size.

    Tiles that cannot be read are named and left out.

    Returns:
        uint8 [N, size, size, 3].

    Raises:
        FileNotFoundError: The folder does not exist or has no image that can be read.
        ValueError: A tile is smaller than `size`.
    """
    paths = sorted(inner / name for inner, names in walk(Path(folder)) for name in names
                   if Path(name).suffix.lower() in OUTLIER_SUFFIXES) if Path(folder).is_dir() else []
    tiles = []
    for i in np.unique(np.linspace(0, len(paths) - 1, MAX_OUTLIERS).round().astype(int)) if paths else ():
        try:
            tiles.append(_centre(paths[i], size))
        except SlideError as error:
            print(f"skipped: {error}")
    if not tiles:
        raise FileNotFoundError("`outlier_dir` must be a folder with images in it; give tiles of another stain. "
                                f"Received: outlier_dir={str(folder)!r}")
    return tf.constant(np.stack(tiles))  # tf.stack takes 100 ms an array


def _centre(path: Path, size: int) -> np.ndarray:
    with open_slide(path) as tile:
        width, height = tile.dimensions
        require(min(width, height) >= size, "outlier_dir", f"hold tiles of at least {size}x{size} pixels",
                "remove smaller ones", f"{path} of {width}x{height}")
        return tile.read_region((width - size) // 2, (height - size) // 2, 0, size, size)


def _kernels(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the disc and the Gaussian of the same standard deviation, float32, odd-sided, with sum one."""
    reach = max(math.ceil(2 * radius), 1)  # four sigma of the Gaussian
    offsets = np.arange(-reach, reach + 1)
    distance = np.hypot(offsets[:, np.newaxis], offsets)
    disc = np.clip(radius + 0.5 - distance, 0, 1)  # a pixel on the rim counts by the share of it that is inside
    gaussian = np.exp(-distance**2 / (2 * (radius / 2) ** 2))
    return (disc / disc.sum()).astype(np.float32), (gaussian / gaussian.sum()).astype(np.float32)
