# SPDX-License-Identifier: Apache-2.0
"""Stain, blur and JPEG quality are measured as they were made."""
from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage
from skimage.color import hed2rgb, rgb2hed

from pipelines.config import DEGRADATIONS, DegradeOptions
from pipelines.slide import open_slide
from sr_keras.slides.image_properties import (
    DARK,
    HE,
    OTHER,
    Jpeg,
    blur_range,
    detect_stain,
    estimate_blur,
    read_compression,
    read_jpeg,
)

SUBSAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


def jpeg(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def as_he(brown: np.ndarray) -> np.ndarray:
    """Return scikit-image's picture with its DAB as eosin."""
    hed = rgb2hed(brown)
    return np.rint(255 * hed2rgb(np.stack([hed[..., 0], hed[..., 2], 0 * hed[..., 1]], -1))).astype(np.uint8)


# Stain

def test_brown_is_not_he_and_the_same_tissue_in_pink_is(histology):
    assert detect_stain([histology]).kind == OTHER
    assert detect_stain([as_he(histology)]).kind == HE


def test_glow_on_black_is_dark_field_and_glass_is_nothing(histology):
    glow = np.where(histology < 120, 200, 4).astype(np.uint8)[..., ::-1] // np.uint8([6, 6, 1])
    assert detect_stain([glow]).kind == DARK
    assert detect_stain([np.full((64, 64, 3), 244, np.uint8)]) is None


@pytest.mark.parametrize("black", [0, 12])
def test_black_surroundings_are_neither_dark_field_nor_blur(histology, black):
    tissue = as_he(histology)[:128, :128]
    cut, lost = tissue.copy(), np.full_like(tissue, black)
    cut[40:] = black
    for windows in ([cut], [cut, cut, lost], [lost, tissue, lost]):
        assert detect_stain(windows).kind == HE
    assert estimate_blur([tissue, cut, lost]) == estimate_blur([tissue])


@pytest.mark.parametrize("part", ["tiles/val", "tiles/outliers", "pairs/val"])
def test_stain_of_real_tiles_is_known(part, shared_data):
    for case in sorted((shared_data / part).iterdir()):
        tiles = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(case.glob("*.jpeg"))[::50]]
        assert {detect_stain([tile]).kind for tile in tiles} == {OTHER if "outliers" in part else HE}, case.name


# Blur

def test_blur_is_measured_as_it_was_added(histology):
    lr = np.asarray(Image.fromarray(histology).reduce(2))
    sharp = estimate_blur([lr])
    assert sharp < 0.5
    for sigma in (0.8, 1.2, 2.0):
        blurred = np.rint(ndimage.gaussian_filter(lr.astype(float), (sigma, sigma, 0))).astype(np.uint8)
        assert estimate_blur([blurred]) == pytest.approx(np.hypot(sharp, sigma), rel=0.15)


def test_blur_of_what_is_small_or_flat_is_not_known():
    assert estimate_blur([np.zeros((63, 200, 3), np.uint8)]) is None
    assert estimate_blur([np.full((64, 64, 3), 128, np.uint8)]) is None


def test_range_of_blur_counts_kernels_and_resampling_in():
    assert blur_range(DegradeOptions(blur_sigma=1.6)) == pytest.approx((0.4, 0.4))
    assert blur_range(DEGRADATIONS["pyramid"]) == pytest.approx((np.sqrt(1.25) / 4,) * 2)
    low, high = blur_range(DEGRADATIONS["scanner"])
    assert low == 0
    assert 0.8 < high < 0.95


# Compression

@pytest.mark.parametrize("quality", [10, 30, 50, 75, 80, 90, 98])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_quality_and_subsampling_of_a_jpeg_are_read(histology, quality, subsampling, tmp_path):
    data = jpeg(histology[:64, :64], quality=quality, subsampling=subsampling)
    assert read_jpeg(data) == (pytest.approx(quality, abs=1), SUBSAMPLINGS[subsampling])
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_compression(tmp_path / "a.jpg", (64, 64)) == read_jpeg(data)


def test_level_of_a_slide_is_found_by_its_size(histology, tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for quality, side in ((90, 512), (40, 256)):
            tiff.write(histology[:side, :side], tile=(128, 128), photometric="ycbcr", subsampling=(2, 2),
                       compression="jpeg", compressionargs={"level": quality}, subfiletype=int(side < 512))
    assert read_compression(path, (512, 512)).quality == 90
    assert read_compression(path, (256, 256)).quality == 40
    assert read_compression(path, (128, 128)) is None


@pytest.mark.parametrize("content", [
    b"", b"\xff\xd8", b"\xff\xd8\xff\xdb\x00", b"II*\0", b"MM\0*\0\0\0\x08" + b"x" * 50, b"\x89PNG",
    b"\xff\xd8" + bytes(range(256)) * 4])
def test_damaged_and_other_files_say_nothing(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    assert read_compression(tmp_path / "a", (1, 1)) is None


def test_compression_of_real_slides_is_that_of_their_makers(shared_data):
    def of(name: str) -> Jpeg | None:
        path: Path = shared_data / "slides" / name
        with open_slide(path) as slide:
            return read_compression(path, slide.level_dimensions[0])

    assert of("metaplasia-HE.tif").quality == 80
    assert of("CMU-1-Small-Region.svs").quality == 30  # as its description says
    assert of("tcga-cr-7395-01a-01-ts1.svs") is None  # JPEG 2000
    assert of("fluorescence-DAPI.ndpi").quality > 20
