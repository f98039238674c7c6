# SPDX-License-Identifier: Apache-2.0
"""Two readers give one answer: files of random layouts are read as they were made, and as others read them.

`SR_KERAS_LAYOUTS` sets how many files of each kind are tried (60).
"""
from __future__ import annotations

import os
from contextlib import suppress

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageOps

from pipelines.pixels import as_rgb
from pipelines.slide import open_slide

COUNT = int(os.environ.get("SR_KERAS_LAYOUTS", "60"))
LOSSLESS = (None, "zlib", "adobe_deflate", "lzw", "packbits", "zstd", "lzma")
PREDICTED = ("zlib", "adobe_deflate", "lzw", "zstd", "lzma")
JPEG_ERROR = 5.0  # mean grey levels between two decoders that enlarge colour differently
OWN_ERROR = 8.0  # mean grey levels that compression costs
ROUNDED = 2  # grey levels, where transparency is multiplied in
CM = 1e4  # microns


def draw(rng, *values):
    return values[rng.integers(len(values))]


def piece(histology, rng, samples, dtype, smallest=20):
    """A part of the picture: [h, w, samples], the last of two or four is a slope of transparency."""
    width, height = (int(side) for side in rng.integers(smallest, 300, 2))
    x, y = rng.integers(0, 512 - width), rng.integers(0, 512 - height)
    pixels = histology[y:y + height, x:x + width, :1 if samples < 3 else 3]
    if samples in (2, 4):
        slope = np.clip(np.linspace(-100, 400, width), 0, 255).astype(np.uint8)
        pixels = np.concatenate([pixels, np.broadcast_to(slope[:, None], (height, width, 1))], -1)
    return pixels.astype(np.uint16) * 257 if dtype == "uint16" else pixels > 128 if dtype == "bool" else pixels


def upright(pixels, orientation):
    """Pixels as viewers show them, RGB on white."""
    image = Image.fromarray(as_rgb(pixels, "generated"))
    image.getexif()[274] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def random_layout(rng):
    """How a TIFF is stored."""
    layout = {"samples": int(draw(rng, 1, 2, 3, 3, 3, 4)), "dtype": "uint8", "codec": draw(rng, "jpeg", *LOSSLESS),
              "byteorder": draw(rng, "<", ">"), "bigtiff": draw(rng, True, False), "tiled": draw(rng, True, False),
              "pyramid": draw(rng, None, "pages", "subifds"), "unit": draw(rng, "CENTIMETER", "INCH", "NONE"),
              "mpp": float(rng.uniform(0.1, 10)), "orientation": int(draw(rng, 1, 1, 1, *range(2, 9))),
              "photometric": "rgb", "premultiplied": draw(rng, True, False), "planar": draw(rng, "contig", "separate")}
    if layout["codec"] == "jpeg":
        layout |= {"samples": draw(rng, 1, 3), "planar": "contig"}
    else:
        layout["dtype"] = draw(rng, "uint8", "uint16", "bool" if layout["samples"] == 1 else "uint8")
    if layout["samples"] < 3:
        layout["photometric"] = draw(rng, "minisblack", "miniswhite" if layout["samples"] == 1 and layout["codec"] !=
                                     "jpeg" else "minisblack")
    if layout["samples"] == 1:
        layout["planar"] = "contig"
    return layout


def stored(pixels, layout):
    """Pixels as a TIFF holds them."""
    if layout["photometric"] == "miniswhite":
        pixels = ~pixels
    if pixels.shape[-1] in (2, 4) and layout["premultiplied"]:
        whole, alpha = np.iinfo(pixels.dtype).max, pixels[..., -1:].astype(np.uint64)
        pixels = np.concatenate([((pixels[..., :-1] * alpha + whole // 2) // whole).astype(pixels.dtype),
                                 pixels[..., -1:]], -1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else (
        np.moveaxis(pixels, -1, 0) if layout["planar"] == "separate" else pixels)


def write_tiff(path, levels, layout, rng):
    options = {"photometric": layout["photometric"], "compression": layout["codec"], "metadata": None}
    if layout["tiled"]:
        options["tile"] = tuple(int(side) for side in 16 * rng.integers(1, 9, 2))
    else:
        options["rowsperstrip"] = int(8 * rng.integers(1, 40))
    if layout["codec"] in PREDICTED and layout["dtype"] != "bool":
        options["predictor"] = draw(rng, True, False)
    if layout["codec"] == "jpeg":
        options["compressionargs"] = {"level": 95} | draw(rng, {}, {"outcolorspace": "rgb"})
        if layout["samples"] == 3 and len(options["compressionargs"]) == 1:  # stored as YCbCr
            options["subsampling"] = draw(rng, (1, 1), (2, 1), (2, 2))
    if layout["samples"] > 1:
        options["planarconfig"] = layout["planar"]
    if layout["samples"] in (2, 4):
        options["extrasamples"] = ["assocalpha" if layout["premultiplied"] else "unassalpha"]
    if layout["dtype"] == "bool":
        options["bitspersample"] = 1
    if layout["orientation"] != 1:
        options["extratags"] = [(274, 3, 1, layout["orientation"], True)]
    with tifffile.TiffWriter(path, bigtiff=layout["bigtiff"], byteorder=layout["byteorder"]) as tiff:
        for i, pixels in enumerate(levels):
            place = {"subfiletype": int(i > 0)}
            if layout["unit"] != "NONE":
                per_unit = CM / layout["mpp"] / 2**i * (2.54 if layout["unit"] == "INCH" else 1)
                place |= {"resolution": (per_unit, per_unit), "resolutionunit": layout["unit"]}
            if i == 0 and layout["pyramid"] == "subifds":
                place["subifds"] = len(levels) - 1
            tiff.write(stored(pixels, layout), **options, **place)


def by_openslide(path, layout):
    """What OpenSlide shows of each level, where it is known to be right."""
    wrong = (layout["orientation"] != 1 or layout["samples"] in (2, 4) or layout["dtype"] != "uint8"
             or layout["photometric"] == "miniswhite" or layout["pyramid"] == "subifds" or not layout["codec"])
    if wrong or not openslide.OpenSlide.detect_format(path):
        return None
    with suppress(openslide.OpenSlideError), openslide.OpenSlide(path) as slide:  # it lacks some compressions
        return [np.asarray(slide.read_region((0, 0), level, size))[..., :3]
                for level, size in enumerate(slide.level_dimensions)]
    return None


def by_tifffile(path, layout):
    """What tifffile decodes of each level, made upright."""
    with tifffile.TiffFile(path) as tiff:
        found = [level.asarray() for level in tiff.series[0].levels]
    if layout["planar"] == "separate":
        found = [np.moveaxis(pixels, 0, -1) for pixels in found]
    found = [~pixels if layout["photometric"] == "miniswhite" else pixels for pixels in found]
    return None if layout["premultiplied"] and layout["samples"] in (2, 4) else [
        upright(pixels, layout["orientation"]) for pixels in found]


def check_windows(slide, level, expected, rng, tolerance=0):
    """Compare windows of a level with the expected pixels; those of level 0 lie in part outside, where it is white."""
    margin, (height, width) = 0 if level else 20, expected.shape[:2]
    around = np.pad(expected, ((margin, margin), (margin, margin), (0, 0)), constant_values=255).astype(int)
    for _ in range(4):
        x, y = (int(rng.integers(-margin, side)) for side in (width, height))
        w, h = (int(rng.integers(1, side + margin - at + 1)) for side, at in ((width, x), (height, y)))
        found = slide.read_level(level, x, y, w, h) if level else slide.read_region(x, y, 0, w, h)
        error = np.abs(found - around[y + margin:y + margin + h, x + margin:x + margin + w])
        if isinstance(tolerance, float):  # of the mean; a few pixels at edges differ more
            assert error.mean() <= tolerance or w * h < 200
        else:
            assert error.max() <= tolerance


@pytest.mark.parametrize("number", range(COUNT))
def test_tiffs_of_any_layout_are_read_as_they_were_made_and_as_others_read_them(histology, tmp_path, number):
    rng = np.random.default_rng([0, number])
    layout = random_layout(rng)
    levels = [piece(histology, rng, layout["samples"], layout["dtype"])]
    while layout["pyramid"] and len(levels) < 3:
        levels.append(levels[-1][::2, ::2])
    path = tmp_path / "a.tif"
    write_tiff(path, levels, layout, rng)
    made = [upright(pixels, layout["orientation"]) for pixels in levels]
    lossy = layout["codec"] == "jpeg"
    others = [(made, OWN_ERROR if lossy else ROUNDED if layout["samples"] in (2, 4) else 0)]
    others += [(read, JPEG_ERROR if lossy else ROUNDED if layout["samples"] in (2, 4) else 0)
               for read in (by_openslide(path, layout), by_tifffile(path, layout)) if read]
    with open_slide(path) as slide:
        assert slide.level_dimensions == tuple((pixels.shape[1], pixels.shape[0]) for pixels in made), layout
        assert slide.mpp == (None if layout["unit"] == "NONE" else pytest.approx(layout["mpp"], rel=1e-3)), layout
        for read, tolerance in others:
            assert len(read) == len(made), layout
            for level, pixels in enumerate(read):
                assert pixels.shape == made[level].shape, layout
                check_windows(slide, level, pixels, rng, tolerance)


def random_picture(histology, rng, path):
    """A PNG, JPEG, BMP or TIFF by PIL, and what a second decoder makes of it."""
    mode = draw(rng, "1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK")
    samples = {"L": 1, "I;16": 1, "1": 1, "LA": 2, "RGBA": 4}.get(mode, 3)
    pixels = piece(histology, rng, samples, {"I;16": "uint16", "1": "bool"}.get(mode, "uint8"), smallest=1)
    image = Image.fromarray(pixels if samples > 1 else pixels[..., 0])
    image = image.quantize(16) if mode == "P" else image.convert(mode) if mode == "CMYK" else image
    kinds = {"1": "PNG BMP TIFF", "L": "PNG JPEG BMP TIFF", "LA": "PNG TIFF", "P": "PNG BMP TIFF", "I;16": "PNG TIFF",
             "RGB": "PNG JPEG BMP TIFF", "RGBA": "PNG TIFF", "CMYK": "JPEG TIFF"}
    kind, orientation, options = draw(rng, *kinds[mode].split()), int(draw(rng, 1, 1, *range(2, 9))), {}
    if kind in ("PNG", "JPEG"):
        exif = Image.Exif()
        exif[274] = orientation
        options = {"exif": exif}
    else:
        orientation = 1
    if kind == "PNG" and mode in ("L", "P", "RGB") and draw(rng, True, False):
        options["transparency"] = {"L": int(pixels[0, 0, 0]), "P": 3, "RGB": tuple(map(int, pixels[0, 0]))}[mode]
    if kind == "TIFF":
        options["compression"] = draw(rng, None, "tiff_lzw", "tiff_adobe_deflate", "packbits",
                                      "jpeg" if mode in ("L", "RGB") else "tiff_lzw")
    image.save(path, kind, **options)
    if mode == "CMYK":
        return upright(np.asarray(image.convert("RGB")), orientation), OWN_ERROR
    if kind == "JPEG" or options.get("compression") == "jpeg":
        decoded = imagecodecs.jpeg8_decode(path.read_bytes()) if kind == "JPEG" else tifffile.imread(path)
        return upright(decoded, orientation), JPEG_ERROR
    if mode == "P" or "transparency" in options:
        decoded = imagecodecs.png_decode(path.read_bytes()) if kind == "PNG" else np.asarray(image.convert("RGB"))
        return upright(decoded, orientation), 0
    return upright(pixels, orientation), 0


@pytest.mark.parametrize("number", range(COUNT))
def test_pictures_of_any_mode_are_read_as_they_were_made_and_as_others_read_them(histology, tmp_path, number):
    rng, path = np.random.default_rng([1, number]), tmp_path / "a.png"  # content decides, not the name
    expected, tolerance = random_picture(histology, rng, path)
    with open_slide(path) as slide:
        assert slide.level_dimensions == ((expected.shape[1], expected.shape[0]),)
        assert slide.mpp is None
        check_windows(slide, 0, expected, rng, tolerance)
