# SPDX-License-Identifier: Apache-2.0
"""Compare an input with what the model was made for, on a few windows of tissue, before it is super-resolved.

    found = inspect_input(lr, find_tissue(lr))
    for warning in find_mismatches(found, generator.facts):
        print(warning)                # "it is read at 0.5 microns per pixel, and the model is for 0.9 to 2.1: ..."

Resolution, stain, blur and compression are compared with the model's facts. Nothing is refused; there is a warning for
each property that is surely out of range.

Stain. Both dyes of H&E absorb green the most. In pixels whose optical density is higher in blue (DAB, silver) or in red
(Giemsa, methylene blue) by a margin, another dye is present. The share of all density in such pixels was measured:

    H&E, 1,330 tiles of 29 slides of many laboratories        at most 0.11, mean 0.001
    DAB; Giemsa; Warthin-Starry, 40 tiles each                0.18 to 1; 0.9 to 1; 0.95 to 1

OTHER_STAIN_LIMIT separates them without an error. Eosin alone, and immunohistochemistry that is hardly brown, look like
H&E.

Blur. The power of tissue falls with frequency as f^-b; a blur multiplies it by exp(-4 pi^2 sigma^2 f^2). Both are
fitted to the logarithm of the mean power of all windows, where it exceeds the noise of rounding to 8 bit:

    log P(f) = a - b log f - 4 pi^2 (sigma^2 + OFFSET) f^2        0.05 < f < 0.4 cycles a pixel

On 27 H&E slides of 20x to 40x (8 patches each, degraded to a quarter) an LR without blur gives 0.10 for the bracket at
the median, -0.16 to 0.44, and a blur adds its own sigma^2. So 0.6 pixels cannot be told from none. Compared with the
widest blur of the preset "scanner", 0.9 pixels, a sigma of 1.2 is noticed on 28 of 29 sets of patches and one of 0.8 on
none. JPEG of quality 75 changes little, noise hides blur (with noise of 0.01 a sigma of 1.2 reads as 0.85), and
sharpening by the scanner is not noticed.
"""
from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL.JpegImagePlugin import JpegImageFile

from pipelines.config import DegradeOptions
from pipelines.slide import MPP_TOLERANCE
from pipelines.tissue import black_surround
from sr_keras.model.facts import ModelFacts
from sr_keras.slides.lr_plane import HasTissue, LRPlane, sample_windows

WINDOWS, SIDE = 8, 128  # number of windows, and their side in LR pixels
UNCOMPRESSED_QUALITY = 90  # the lowest JPEG quality for a model that was trained without JPEG
QUALITY_MARGIN = 5  # uncertainty of the quality of other encoders than libjpeg
LITTLE_RESAMPLED = 1.5  # averaging more pixels than this, a side, removes most JPEG artefacts

HE, OTHER, DARK = "H&E", "not H&E", "dark field"
OTHER_STAIN_LIMIT = 0.15
STAINED = 0.25  # optical density of red, green and blue together
MARGINS = (1.05, 1.1)  # of red and of blue over green
LEAST_SHARE = 0.01  # of stained pixels; with fewer the stain is unknown
DARK_VALUE = 0.25 * 255

SQUARE = 64  # side of the squares whose spectra are averaged
BAND = (0.05, 0.4)
STEP = 0.02
OFFSET = 0.10
UNCERTAINTY = 0.36  # pixels^2: the largest error on the measured slides
TAPER = np.outer(np.hanning(SQUARE), np.hanning(SQUARE))
ROUNDING = np.square(TAPER).sum() / 36  # power of rounding three channels to 8 bit
ABOVE_ROUNDING, LEAST_BINS = 10, 6
LEAST_POWER = 1.0  # grey levels^2; flatter squares tell nothing

# Luminance table of libjpeg at quality 50 (ITU T.81, table K.1).
LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99])
SUBSAMPLINGS = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1"}
JPEG_START = b"\xff\xd8"
HEADER_BYTES = 2**17


@dataclass(frozen=True)
class Stain:
    """The kind of stain (HE, OTHER or DARK), and the share of optical density that the dyes of H&E do not explain."""

    kind: str
    other_share: float


@dataclass(frozen=True)
class Jpeg:
    """Quality on libjpeg's scale, 1 to 100, and chroma subsampling such as "4:2:0"; None if unknown."""

    quality: int
    subsampling: str | None


@dataclass(frozen=True)
class InputProperties:
    """Properties of an input; None where unknown.

    `blur` is sigma in LR pixels. `jpeg` is the compression of the level that is read, and `resampled` the number of its
    pixels to an LR pixel, a side.
    """

    mpp: float | None = None
    stain: Stain | None = None
    blur: float | None = None
    jpeg: Jpeg | None = None
    resampled: float = 1.0


def inspect_input(lr: LRPlane, has_tissue: HasTissue | None = None) -> InputProperties:
    """Measure the properties of a plane.

    Raises:
        SlideError: It is a picture that cannot be decoded.
    """
    windows = [lr[rows, columns] for rows, columns in sample_windows(lr.shape, WINDOWS, SIDE, has_tissue)]
    slide = lr.slide
    return InputProperties(lr.mpp, detect_stain(windows), estimate_blur(windows),
                           read_compression(slide.path, slide.level_dimensions[lr.level]),
                           lr.downsample / slide.level_downsamples[lr.level])


def find_mismatches(found: InputProperties, facts: ModelFacts) -> list[str]:
    """Return a warning for each property that is outside of what the model was made for."""
    if facts.lr_mpp is None and facts.stain is None and facts.degradation is None:
        return ["the model has no record of the input it is for, so the input cannot be checked"]
    warnings = [_check_resolution(found, facts), _check_stain(found, facts)]
    if facts.degradation is not None:
        warnings += [_check_blur(found, facts.degradation), _check_compression(found, facts.degradation)]
    return [warning for warning in warnings if warning]


def detect_stain(windows: Sequence[np.ndarray]) -> Stain | None:
    """Return the stain of windows uint8 [h, w, 3], all of one size, of one slide; None if there is hardly any."""
    image = np.concatenate(windows)
    pixels = image[~black_surround(image)]
    density = -np.log10((pixels + 1.0) / 256)
    total = density.sum(1)
    stained = total > STAINED
    if stained.mean() < LEAST_SHARE:
        return None
    red, green, blue = density[stained].T
    other = (red > MARGINS[0] * green) | (blue > MARGINS[1] * green)
    share = float(total[stained][other].sum() / total[stained].sum())
    dark = np.median(pixels.max(1)) < DARK_VALUE
    return Stain(DARK if dark else OTHER if share > OTHER_STAIN_LIMIT else HE, share)


def estimate_blur(windows: Sequence[np.ndarray]) -> float | None:
    """Return the blur of windows uint8 [h, w, 3] of tissue, as sigma in pixels; None if they are too small or flat."""
    surrounds = np.split(black_surround(np.concatenate(windows)), len(windows))
    squares = [window[y:y + SQUARE, x:x + SQUARE].mean(-1) for window, surround in zip(windows, surrounds, strict=True)
               for y in range(0, window.shape[0] - SQUARE + 1, SQUARE)
               for x in range(0, window.shape[1] - SQUARE + 1, SQUARE)
               if not surround[y:y + SQUARE, x:x + SQUARE].any()]  # its edge is no detail
    squares = [square - square.mean() for square in squares if square.var() > LEAST_POWER]
    if not squares:
        return None
    frequency, power = _spectrum(np.stack(squares))
    inside = (frequency > BAND[0]) & (frequency < BAND[1])
    inside &= (power > ABOVE_ROUNDING * ROUNDING) | (np.cumsum(inside) <= LEAST_BINS)
    f = frequency[inside]
    terms = np.stack([np.ones_like(f), -np.log(f), -4 * np.pi**2 * f**2], 1)
    variance = np.linalg.lstsq(terms, np.log(power[inside] + 1e-9), rcond=None)[0][2] - OFFSET
    return float(np.sqrt(max(0.0, variance)))


def blur_range(options: DegradeOptions) -> tuple[float, float]:
    """Return the least and the largest blur of a degradation, resampling included, as sigma in LR pixels."""
    blurs = {"none": (0.0, 0.0), "gaussian": options.range_of("blur_sigma"),
             "disc": tuple(radius / 2 for radius in options.disc_radius),
             "airy": (_airy(options, 0, 1, 1), _airy(options, 1, 0, 0))}
    averaged = (options.scale**2 - 1) / 12
    resampled = {"nth": 0.0, "box": averaged, "cascade": averaged, "bicubic": averaged, "lanczos": averaged}
    least = min(blurs[name][0] for name in options.blurs)**2 + min(resampled[name] for name in options.resamplings)
    most = max(blurs[name][1] for name in options.blurs)**2 + max(resampled[name] for name in options.resamplings)
    return float(np.sqrt(least)) / options.scale, float(np.sqrt(most)) / options.scale


def read_compression(path: Path, level_size: tuple[int, int]) -> Jpeg | None:
    """Return the JPEG compression of a picture, or of the TIFF level of that width and height.

    None for other compressions, and for files that are damaged or of unknown formats.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
        if head.startswith(JPEG_START):
            return read_jpeg(head)
        return read_jpeg(_tiff_level_header(path, level_size)) if head[:2] in (b"II", b"MM") else None
    except Exception:  # decoders of damaged files raise errors of every kind
        return None


def read_jpeg(header: bytes) -> Jpeg:
    """Return what the header of a JPEG says; of quantisation tables that are not libjpeg's, the nearest quality."""
    with JpegImageFile(io.BytesIO(header)) as image:  # unlike Image.open it accepts images of any size
        percent = float(np.median(100 * np.array(image.quantization[image.layer[0][3]]) / LUMINANCE))
        sampling = image.layer[0][1:3] if len(image.layer) == 3 else None
    quality = (200 - percent) / 2 if percent <= 100 else 5000 / percent
    return Jpeg(round(min(100.0, max(1.0, quality))), SUBSAMPLINGS.get(sampling) if sampling else None)


def _airy(options: DegradeOptions, wavelength: int, aperture: int, mpp: int) -> float:
    """Return the sigma in HR pixels of the Gaussian nearest to an Airy pattern, at the given ends of the ranges."""
    return 0.21 * options.wavelength[wavelength] / options.numerical_aperture[aperture] / options.optics_mpp[mpp]


def _spectrum(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies in cycles a pixel and the mean power there: [N, SQUARE, SQUARE] -> two [K]."""
    power = np.square(np.abs(np.fft.fft2(squares * TAPER))).mean(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SQUARE), np.fft.fftfreq(SQUARE)))
    starts = np.arange(0.03, 0.5 - STEP, STEP)
    return starts + STEP / 2, np.array([power[(frequency >= low) & (frequency < low + STEP)].mean() for low in starts])


def _tiff_level_header(path: Path, level_size: tuple[int, int]) -> bytes:
    """Return the header of a JPEG tile from the middle of a TIFF level; empty if there is no such level."""
    with tifffile.TiffFile(path) as tiff:
        for page in (page for series in tiff.series for level in series.levels for page in level.pages[:1]):
            frame = page.keyframe
            if (frame.imagewidth, frame.imagelength) != level_size or frame.compression != tifffile.COMPRESSION.JPEG:
                continue
            if page.jpegheader:  # NDPI: complete, and apart from the data
                return page.jpegheader
            used = [i for i, count in enumerate(page.databytecounts) if count]
            middle = used[len(used) // 2]
            tiff.filehandle.seek(page.dataoffsets[middle])
            tile = tiff.filehandle.read(min(page.databytecounts[middle], HEADER_BYTES))
            # Tables that all tiles share end with an end marker; the tile begins with a start marker.
            return page.jpegtables[:-2] + tile[2:] if page.jpegtables else tile
    return b""


def _check_resolution(found: InputProperties, facts: ModelFacts) -> str | None:
    if found.mpp is None or facts.lr_mpp is None:
        return None
    low, high = facts.lr_mpp
    if low / (1 + MPP_TOLERANCE) <= found.mpp <= high * (1 + MPP_TOLERANCE):
        return None
    wanted = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    times = max(2, math.ceil(low / found.mpp))  # averages of whole pixels are best
    better = times * found.mpp if times * found.mpp <= high else low
    remedy = f"read it with --mpp={better:.3g}" if found.mpp < low else "a finer scan is needed"
    return f"it is read at {found.mpp:.3g} microns per pixel, and the model is for {wanted}: {remedy}"


def _check_stain(found: InputProperties, facts: ModelFacts) -> str | None:
    if found.stain is None or facts.stain != HE or found.stain.kind == HE:
        return None
    if found.stain.kind == DARK:
        return "it is dark, as fluorescence is, and the model is for H&E in bright field"
    return f"it does not look like H&E, which the model is for: {found.stain.other_share:.0%} of its stain is brown, " \
           "black or blue"


def _check_blur(found: InputProperties, options: DegradeOptions) -> str | None:
    if found.blur is None:
        return None
    low, high = blur_range(options)
    if found.blur**2 > high**2 + UNCERTAINTY:
        return f"it is blurred, as by a Gaussian with a sigma of {found.blur:.1f} of its pixels, and the model was " \
               f"trained on {high:.1f} at most: it may be out of focus or enlarged"
    if low**2 > found.blur**2 + UNCERTAINTY:
        return f"it is sharper than what the model was trained on, a blur with a sigma of {low:.1f} of its pixels or " \
               "more"
    return None


def _check_compression(found: InputProperties, options: DegradeOptions) -> str | None:
    if found.jpeg is None or found.resampled > LITTLE_RESAMPLED:
        return None
    least = options.jpeg_quality[0] if options.jpeg_passes[0] < 1 else UNCOMPRESSED_QUALITY
    if found.jpeg.quality >= least - QUALITY_MARGIN:
        return None
    return f"it is a JPEG of quality {found.jpeg.quality}, and the model was trained on {least:.0f} or better: JPEG " \
           "blocks may show"
