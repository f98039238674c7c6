# SPDX-License-Identifier: Apache-2.0
"""Stain, blur and JPEG quality are measured as they were made, and input that a model is not for is recognised."""
from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage
from skimage.color import hed2rgb, rgb2hed

from pipelines.config import DEGRADATIONS, DegradeOptions, degradation
from pipelines.slide import open_slide
from sr_keras.model.facts import ModelFacts
from sr_keras.slides.inspection import (
    DARK,
    HE,
    OTHER,
    InputProperties,
    Jpeg,
    Stain,
    blur_range,
    detect_stain,
    estimate_blur,
    find_mismatches,
    inspect_input,
    read_compression,
    read_jpeg,
)
from sr_keras.slides.lr_plane import LRPlane, find_tissue

FACTS = ModelFacts(lr_mpp=(0.9, 2.1), stain="H&E", degradation=DEGRADATIONS["scanner"])
GOOD = InputProperties(1.0, Stain(HE, 0.0), 0.3, Jpeg(80, "4:2:0"))


SUBSAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}


def jpeg(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def as_he(brown: np.ndarray) -> np.ndarray:
    """Return scikit-image's picture with its DAB as eosin."""
    hed = rgb2hed(brown)
    return np.rint(255 * hed2rgb(np.stack([hed[..., 0], hed[..., 2], 0 * hed[..., 1]], -1))).astype(np.uint8)


# Warnings

def test_input_that_the_model_is_for_is_passed_in_silence():
    assert find_mismatches(GOOD, FACTS) == []
    assert find_mismatches(InputProperties(), FACTS) == []  # nothing can be told, nothing is said


@pytest.mark.parametrize(("seen", "says"), [
    ({"mpp": 0.5}, "it is read at 0.5 microns per pixel, and the model is for 0.9 to 2.1: read it with --mpp=1"),
    ({"mpp": 4.0}, "a finer scan is needed"),
    ({"stain": Stain(OTHER, 0.38)}, "does not look like H&E, which the model is for: 38% of its stain"),
    ({"stain": Stain(DARK, 0.0)}, "dark, as fluorescence is"),
    ({"blur": 1.5}, "a sigma of 1.5 of its pixels, and the model was trained on 0.9 at most"),
    ({"jpeg": Jpeg(30, None)}, "JPEG of quality 30, and the model was trained on 50 or better"),
])
def test_each_cause_is_a_line_of_its_own(seen, says):
    (line,) = find_mismatches(InputProperties(**{**vars(GOOD), **seen}), FACTS)
    assert says in line
    assert "\n" not in line
    assert len(find_mismatches(InputProperties(0.5, Stain(OTHER, 0.4), 1.5, Jpeg(30, None)), FACTS)) == 4


def test_resolution_that_no_whole_multiple_reaches_is_named_as_it_is():
    facts = ModelFacts(lr_mpp=(0.9, 0.95))
    assert "--mpp=0.9" in find_mismatches(InputProperties(0.4), facts)[0]
    assert "--mpp=0.92" in find_mismatches(InputProperties(0.23), facts)[0]


def test_little_beyond_the_limits_is_not_worth_a_line():
    assert find_mismatches(InputProperties(0.86, Stain(HE, 0.1), 0.9, Jpeg(46, None)), FACTS) == []


def test_model_of_another_stain_and_one_without_facts_do_not_judge_it():
    brown = InputProperties(1.0, Stain(OTHER, 0.9), 0.3, None)
    assert find_mismatches(brown, ModelFacts(lr_mpp=(0.9, 2.1), stain="IHC")) == []
    (line,) = find_mismatches(brown, ModelFacts())
    assert "no record of the input it is for" in line


def test_model_that_saw_no_jpeg_is_warned_of_it_unless_it_was_averaged_away():
    textbook = ModelFacts(degradation=DegradeOptions())
    (line,) = find_mismatches(InputProperties(jpeg=Jpeg(75, None)), textbook)
    assert "quality 75, and the model was trained on 90" in line
    assert find_mismatches(InputProperties(jpeg=Jpeg(75, None), resampled=4.0), textbook) == []


def test_input_sharper_than_any_that_the_model_saw_is_told():
    blurred_alone = ModelFacts(degradation=degradation("textbook", blur_sigma=(4.0, 6.0)))
    assert "sharper" in find_mismatches(InputProperties(blur=0.2), blurred_alone)[0]


# Real slides

@pytest.mark.parametrize(("name", "asked", "causes"), [
    ("CMU-1-Small-Region.svs", {"mpp": 1.0}, []), ("metaplasia-HE.tif", {"mpp": 1.0}, []),
    ("metaplasia-HE.tif", {"level": 2}, []), ("OS-1-detail.ome.tif", {"mpp": 0.9}, []),
    ("metaplasia-HE.tif", {"mpp": 0.5}, ["read it with --mpp=1.01"]),
    ("CMU-1-Small-Region.svs", {}, ["read it with --mpp=0.998", "JPEG of quality 30"]),
    ("fluorescence-DAPI.ndpi", {"mpp": 1.0}, ["as fluorescence is"]),
])
def test_real_slides_are_judged_rightly(name, asked, causes, shared_data):
    with open_slide(shared_data / "slides" / name) as slide:
        view = LRPlane(slide, **asked)
        seen = inspect_input(view, find_tissue(view))
    found = find_mismatches(seen, FACTS)
    assert len(found) == len(causes), found
    assert all(cause in line for cause, line in zip(causes, found, strict=True))
    assert json.loads(json.dumps(asdict(seen)))["mpp"] == view.mpp


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
    assert read_jpeg(data) == Jpeg(pytest.approx(quality, abs=1), SUBSAMPLINGS[subsampling])
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
