# SPDX-License-Identifier: Apache-2.0
"""Blur and resampling: HR [H, W, C] -> LR [H/scale, W/scale, C].

LR pixel i lies at HR coordinate `scale*i + (scale-1)/2`, the half-pixel convention of slides and of `tf.image.resize`.
For an even scale that is between two HR pixels, and kernels are sampled at half-integer distances. Edges are symmetric
(d c b a | a b c d | d c b a), as in `tf.pad(mode="SYMMETRIC")`; any side from `scale` up works.

`degrade` is the paper's way, a Gaussian and every `scale`-th pixel: lr[i] = sum_k g[k] hr[scale*i + first + k] along
each axis. Only the kept samples are computed, as a weighted sum of shifted phases (samples 0, scale, 2 scale, ...): for
a batch of 8x256x256x3 on 2 cores 0.7 ms in the graph executor; strided slices take 6 ms, a depthwise convolution 3.

`degraded` is a scanner's. A lens blurs (`point_spread`); a sensor or a program averages what falls into a coarser pixel
(`resampling`). Both are linear, so they are one kernel. A cascade rounds, so it is an exception: pyramids are made by
halving, each level rounded to 8 bit and averaged again. Measured for a crop of 96x96: see `benchmarks.pipeline`.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipelines.config import DegradeOptions, Range
from pipelines.errors import require
from pipelines.pixels import quantise

TRUNCATE = 4.0  # the taps reach at least this many sigma
CUBIC = -0.5  # Keys 1981; as in PIL and scikit-image
LANCZOS = 3
RINGS = 2.5  # an Airy pattern is cut at the third zero of 2 J1(v) / v, about so many times its first
# A quarter of the means of four 8-bit values end in a half, which libvips, the writer of most pyramids, rounds up. This
# is added to do the same, whatever the order of the sum.
HALF_UP = 0.002 / 255
LARGE = 128  # side in HR pixels of an image that is convolved in groups of pixels
LEAST_SIGMA = 1e-3  # for "no blur": at half-integer distances this is the mean of the central pixels


def degraded(hr: tf.Tensor, options: DegradeOptions, seed: tf.Tensor) -> tf.Tensor:
    """Blur and resample one image, float32 [H, W, C] in [0, 1] with sides divisible by the scale, as drawn by seed [2].

    Returns float32 [H/scale, W/scale, C]; it may leave [0, 1], since some kernels have negative lobes.
    """
    kinds = tf.random.stateless_uniform([2], seed)
    resampling = tf.cast(kinds[0] * len(options.resamplings), tf.int32)
    spread = tf.cast(kinds[1] * len(options.blurs), tf.int32)
    nth = tf.constant([name == "nth" for name in options.resamplings])
    other = next((place for place, name in enumerate(options.resamplings) if name != "nth"), None)
    if other is not None:  # every n-th pixel without blur would alias, and no camera has gaps between pixels
        sharp = tf.constant([blur == "none" for blur in options.blurs])[spread]
        resampling = tf.where(sharp & nth[resampling], other, resampling)
    halfway = nth[resampling]
    kernel, reach = point_spread(options, seed, spread, halfway)
    spans = np.array([_span(name, options.scale) for name in options.resamplings])
    kernel = _combined(kernel, options, resampling)
    side = 2 * reach + tf.constant(spans, tf.int32)[resampling]
    sides = [length // options.scale for length in hr.shape[:2]]

    def at_once() -> tf.Tensor:
        return tf.ensure_shape(convolve(hr, kernel, side, options.scale), [*sides, hr.shape[2]])

    def cascade() -> tf.Tensor:
        level = quantise(convolve(hr, kernel, side, 2) + HALF_UP)
        for _ in range(int(math.log2(options.scale)) - 1):
            level = quantise(tf.nn.avg_pool2d(level[tf.newaxis], 2, 2, "VALID")[0] + HALF_UP)
        return tf.ensure_shape(level, [*sides, hr.shape[2]])

    halved = [name == "cascade" for name in options.resamplings]
    if all(halved) or not any(halved):
        return cascade() if halved[0] else at_once()
    return tf.cond(tf.constant(halved)[resampling], cascade, at_once)


def point_spread(options: DegradeOptions, seed: tf.Tensor, kind: tf.Tensor,
                 halfway: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draw a point spread function: `kind` is an int scalar, an index of `options.blurs`, the seed an int tensor [2].

    Returns float32 [2R + 2, 2R + 2] with sum one, R the largest reach of `options`. Column k is at distance k - R - 1/2
    from the centre with `halfway` (bool scalar), else at k - R, and the last column is 0. And the reach of this one,
    int32.
    """
    most = largest_reach(options)
    offsets = tf.range(2 * most + 2, dtype=tf.float32) - (most + tf.where(halfway, 0.5, 0.0))
    inside = tf.cast(offsets <= most + 0.5, tf.float32)
    u = tf.random.stateless_uniform([5], tf.random.experimental.stateless_fold_in(seed, 1))
    draw = {name: between(options.range_of(name), u[k]) for k, name in enumerate(
        ("blur_sigma", "anisotropy", "disc_radius", "numerical_aperture", "wavelength"))}
    v = tf.random.stateless_uniform([2], tf.random.experimental.stateless_fold_in(seed, 2))
    mpp, angle = between(options.optics_mpp, v[0]), math.pi * v[1]
    down, right = offsets[:, tf.newaxis], offsets[tf.newaxis]
    shapes: dict[str, Callable[[], tuple[tf.Tensor, tf.Tensor]]] = {
        "none": lambda: _gaussian(down, right, 0.0, 1.0, angle),
        "gaussian": lambda: _gaussian(down, right, draw["blur_sigma"], draw["anisotropy"], angle),
        "disc": lambda: _disc(tf.sqrt(down**2 + right**2), draw["disc_radius"]),
        "airy": lambda: _airy(tf.sqrt(down**2 + right**2) * mpp, draw["numerical_aperture"] / draw["wavelength"], mpp),
    }
    branches = [shapes[name] for name in options.blurs]
    kernel, reach = branches[0]() if len(set(options.blurs)) == 1 else tf.switch_case(kind, branches)
    kernel *= inside[:, tf.newaxis] * inside
    return kernel / tf.reduce_sum(kernel), tf.minimum(tf.cast(tf.math.ceil(reach), tf.int32) + 1, most)


def largest_reach(options: DegradeOptions) -> int:
    """Return how many HR pixels from its centre the widest point spread of `options` reaches."""
    longest = options.range_of("blur_sigma")[1] * (math.sqrt(2) if options.anisotropy[1] > 1 else 1)
    reaches = {"none": 0.0, "gaussian": TRUNCATE * longest, "disc": options.disc_radius[1] + 0.5,
               "airy": RINGS * 0.61 * options.wavelength[1] / options.numerical_aperture[0] / options.optics_mpp[0]}
    return math.ceil(max(reaches[name] for name in options.blurs)) + 1


def resampling_taps(name: str, distance: np.ndarray, scale: int) -> np.ndarray:
    """Return the weights of HR pixels at `distance` from the centre of an LR pixel, not normalised.

    "nth" takes the point spread as it is, which was sampled half a pixel further. "box" is the mean of scale x scale
    pixels, "cascade" of 2 x 2 (its first step); "bicubic" and "lanczos" are antialiased, with kernels stretched by the
    scale, as in PIL and tf.image.resize(antialias=True).
    """
    if name == "nth":
        return (np.abs(distance + 0.5) < 0.1).astype(float)
    x = np.abs(distance) / (2 if name == "cascade" else scale)
    if name in ("box", "cascade"):
        return (x < 0.5).astype(float)
    if name == "lanczos":
        return np.where(x < LANCZOS, np.sinc(x) * np.sinc(x / LANCZOS), 0)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x**2 + 1
    far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def convolve(image: tf.Tensor, kernel: tf.Tensor, side: tf.Tensor, stride: int) -> tf.Tensor:
    """Correlate float32 [H, W, C] with the central part of a kernel, edges mirrored, and keep every `stride`-th sample.

    The kernel is float32 [T, T], T a multiple of twice the stride, so that its centre lies between pixels like that of
    an output pixel. `side`, an int scalar, is the side of the part that is used. The stride is 2, 4 or 8.
    """
    cut = tf.maximum((kernel.shape[0] - side) // stride, 0) * (stride // 2)
    kernel = kernel[cut:kernel.shape[0] - cut, cut:kernel.shape[0] - cut]
    kernel /= tf.reduce_sum(kernel)
    taps, (height, width, channels) = tf.shape(kernel)[0], image.shape
    # A convolution with few output channels takes as long as one with 16. In a large image each position gives a group
    # of 2 x 2 pixels, each channel of each an output, from blocks of `stride * group` HR pixels a side.
    group = 2 if max(height, width) > LARGE else 1
    block = stride * group
    blocks = (taps + 2 * block - stride - 1) // block
    border, room = (taps - stride) // 2, blocks * block - taps
    places = [(stride * row, stride * column) for row in range(group) for column in range(group)]
    shifted = tf.stack([tf.pad(kernel, [[row, room - row], [column, room - column]]) for row, column in places], -1)
    weights = tf.transpose(tf.reshape(shifted, [blocks, block, blocks, block, -1]), [0, 2, 1, 3, 4])
    weights = tf.reshape(weights, [blocks, blocks, block**2, 1, group**2, 1]) * tf.eye(channels)[:, tf.newaxis]
    weights = tf.reshape(weights, [blocks, blocks, block**2 * channels, group**2 * channels])
    for axis, length in enumerate((height, width)):
        after = (-(-length // block) + blocks - 1) * block - length - border
        image = extend_symmetric(image, axis, border, after)
    lr = tf.nn.conv2d(tf.nn.space_to_depth(image[tf.newaxis], block), weights, 1, "VALID")
    lr = tf.ensure_shape(lr, [1, -(-height // block), -(-width // block), group**2 * channels])
    lr = tf.nn.depth_to_space(lr, group) if group > 1 else lr
    return lr[0, :height // stride, :width // stride]


def _combined(spread: tf.Tensor, options: DegradeOptions, resampling: tf.Tensor) -> tf.Tensor:
    """Return the kernel of point spread and resampling, [T, T], T a multiple of twice the scale."""
    places = spread.shape[0]
    most, total = places // 2 - 1, places + max(_span(name, options.scale) for name in options.resamplings)
    total += -total % (2 * options.scale)
    out = np.arange(total) - (total - 1) / 2
    distance = out[:, np.newaxis] - (np.arange(places) - most)
    maps = [resampling_taps(name, distance, options.scale) for name in options.resamplings]
    chosen = tf.constant(np.stack(maps), tf.float32)[resampling]
    return chosen @ spread @ tf.transpose(chosen)


def _span(name: str, scale: int) -> int:
    """Return how many HR pixels a resampling covers besides the two central ones."""
    return {"nth": 2, "box": scale, "cascade": 2, "bicubic": 4 * scale, "lanczos": 2 * LANCZOS * scale}[name]


def _gaussian(down: tf.Tensor, right: tf.Tensor, sigma: tf.Tensor | float, anisotropy: tf.Tensor | float,
              angle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return exp(-d^2 / 2) for the distance d in sigmas; the mean square of the two sigmas is sigma^2."""
    sigma = tf.maximum(sigma, LEAST_SIGMA)
    shorter = sigma * tf.sqrt(2 / (1 + tf.square(anisotropy)))
    along = (tf.cos(angle) * right + tf.sin(angle) * down) / (shorter * anisotropy)
    across = (tf.cos(angle) * down - tf.sin(angle) * right) / shorter
    exponent = (along**2 + across**2) / 2
    # The nearest tap weighs 1, so that a tiny sigma does not underflow.
    return tf.exp(tf.reduce_min(exponent) - exponent), TRUNCATE * shorter * anisotropy


def _disc(distance: tf.Tensor, radius: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the share of each pixel inside the disc, by its distance from the rim; a point at radius 0."""
    disc = tf.clip_by_value(radius + 0.5 - distance, 0.0, 1.0)
    nearest = tf.cast(distance <= tf.reduce_min(distance) + 1e-3, tf.float32)  # of a disc inside a pixel
    return tf.where(tf.reduce_sum(disc) > 0, disc, nearest), radius + 0.5


def _airy(microns: tf.Tensor, na_per_micron: tf.Tensor, mpp: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (2 J1(v) / v)^2 with v = 2 pi NA r / wavelength: the image of a point by a perfect lens.

    Source: Born and Wolf, Principles of Optics, section 8.5.2.
    """
    v = tf.maximum(2 * math.pi * na_per_micron * microns, 1e-3)
    return tf.square(2 * tf.math.special.bessel_j1(v) / v), RINGS * 0.61 / na_per_micron / mpp


def between(bounds: Range, u: tf.Tensor) -> tf.Tensor:
    """Return the value at u in [0, 1) between low and high."""
    return bounds[0] + u * (bounds[1] - bounds[0])


def degrade(hr: tf.Tensor | np.ndarray, scale: int = 4, blur_sigma: float = 1.6) -> tf.Tensor:
    """Return the LR image of a `scale` times coarser scanner.

    Args:
        hr: Float [B, H, W, C]; H and W divisible by `scale`.
        scale: HR side / LR side, 1 or more.
        blur_sigma: Standard deviation of the blur in HR pixels. 0 is the mean of the central pixels (2x2 for an even
            scale, one for an odd), so that the result stays centred.

    Returns:
        [B, H/scale, W/scale, C] with the dtype of `hr`.

    Raises:
        ValueError: `hr` is not a float image batch, or its sides are not divisible by `scale`
            (tf.errors.InvalidArgumentError if the sides are known only in the graph).
    """
    require(scale >= 1, "scale", "be 1 or more", "it is HR side / LR side", scale)
    require(0 <= blur_sigma < math.inf, "blur_sigma", "be 0 or more and finite", "give it in HR pixels, 0 for no blur",
            blur_sigma)
    hr = tf.convert_to_tensor(hr)
    require(hr.dtype.is_floating, "hr", "be floating point", "see pipelines.pixels.to_float", hr.dtype.name)
    require(hr.shape.rank == 4, "hr", "have shape [B, H, W, C]", "add a batch axis to a single image", hr.shape)
    first, weights = taps(scale, blur_sigma)
    rows = _blurred_slices(hr, 1, scale, first, weights)
    return _blurred_slices(rows, 2, scale, first, weights)


def taps(scale: int, blur_sigma: float) -> tuple[int, np.ndarray]:
    """Return `first` and the weights: LR pixel i is the weighted sum of HR pixels scale*i + first + (0, 1, ...)."""
    centre = (scale - 1) / 2
    reach = math.ceil(TRUNCATE * blur_sigma + centre % 1)
    first = math.ceil(centre) - reach
    distance = np.arange(first, 2 * centre - first + 1) - centre
    exponent = distance**2 / (2 * max(blur_sigma, 1e-3) ** 2)
    weights = np.exp(exponent.min() - exponent)  # the nearest tap weighs 1, so that a tiny sigma does not underflow
    return first, weights / weights.sum()


def _blurred_slices(images: tf.Tensor, axis: int, scale: int, first: int, weights: np.ndarray) -> tf.Tensor:
    """Blur along `axis` and keep every `scale`-th sample."""
    side = images.shape[axis]
    if side is None:
        side = tf.shape(images)[axis]
        divisible = tf.debugging.assert_equal(side % scale, 0, f"`hr` must have sides divisible by scale={scale}")
        with tf.control_dependencies([divisible] if divisible is not None else []):
            images = tf.identity(images)  # else the reshape may fail first, with a worse message
    else:
        require(side > 0 and side % scale == 0, "hr", f"have sides divisible by scale={scale}", "crop it", images.shape)
    before = math.ceil(max(-first, 0) / scale) * scale
    after = math.ceil(max(first + len(weights) - scale, 0) / scale) * scale
    extended = extend_symmetric(images, axis, before, after)
    shape = tf.shape(extended)
    split = tf.concat([shape[:axis], [shape[axis] // scale, scale], shape[axis + 1:]], 0)
    phases = tf.unstack(tf.reshape(extended, split), num=scale, axis=axis + 1)
    kept = side // scale
    terms = []
    for k, weight in enumerate(weights):
        start, phase = divmod(before + first + k, scale)
        window = phases[phase][:, start:start + kept] if axis == 1 else phases[phase][:, :, start:start + kept]
        terms.append(tf.cast(weight, images.dtype) * window)
    return tf.add_n(terms)


def extend_symmetric(images: tf.Tensor, axis: int, before: int, after: int) -> tf.Tensor:
    """Mirror the borders outwards along `axis`; unlike tf.pad, also by more than the image's side."""
    side = tf.shape(images)[axis] if images.shape[axis] is None else images.shape[axis]

    def border(start: tf.Tensor | int, count: int) -> tf.Tensor:
        position = (start + tf.range(count)) % (2 * side)
        return tf.gather(images, tf.minimum(position, 2 * side - 1 - position), axis=axis)

    return tf.concat([border(-before, before), images, border(side, after)], axis)
