# SPDX-License-Identifier: Apache-2.0
"""Two scans of one glass, from files to files: a scan made by a known transform is found back."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pipelines.register.scans import register_scans
from pipelines.scan_pairs import Registration, read_registration
from pipelines.slide import open_slide

from .conftest import HR_MPP, distances, second_scan, similarity, write_scan

MATRIX = similarity(3.97, 0.7, 12.3, -3.6)
SIDE, PATCH = 380, 48
# (x, y) of what is wrong on the second scan.
BLANK, TORN, DEFOCUSED, FOLDED = (96, 240), (240, 96), (96, 96), (240, 240)
WRONG = 96
SLOW = pytest.mark.slow


@dataclass
class Outcome:
    """What came of one registration."""

    found: Registration
    folder: object


@pytest.fixture(scope="module")
def scans(tmp_path_factory, tissue, hr_path):
    """A second scan with a blank, a torn, a defocused and a folded square, registered."""
    folder = tmp_path_factory.mktemp("scans")
    lr = second_scan(tissue, MATRIX, SIDE, SIDE)
    (x, y), size = BLANK, WRONG
    lr[y:y + size, x:x + size] = 245
    x, y = TORN
    lr[y:y + size, x:x + size] = np.roll(lr[y:y + size, x:x + size], (24, 17), (0, 1))[::-1]
    x, y = DEFOCUSED
    lr[y:y + size, x:x + size] = ndimage.gaussian_filter(lr[y:y + size, x:x + size], (2, 2, 0))
    x, y = FOLDED  # light passes through the tissue and through what lies beside it, turned over
    beside = second_scan(tissue, MATRIX, SIDE, SIDE)[y:y + size, x - size:x][:, ::-1] / 245
    lr[y:y + size, x:x + size] = np.clip(np.rint(lr[y:y + size, x:x + size] * beside), 0, 255)
    write_scan(folder / "scan10x.tif", lr, HR_MPP * 3.97)
    found = register_scans(folder / "scan10x.tif", hr_path, folder / "pairs.json", PATCH, 2000, progress=False)
    return Outcome(found, folder)


def within(item, corner):
    """Whether a patch lies in one of the squares that are wrong."""
    return all(low <= value <= low + WRONG - PATCH for value, low in zip((item.x, item.y), corner, strict=True))


def test_known_transform_is_found_back_within_half_a_pixel_of_hr(scans):
    assert np.median(distances(scans.found, MATRIX)) < 0.25
    assert np.percentile(distances(scans.found, MATRIX), 95) < 0.5
    assert scans.found.quality["hr_pixels_per_lr_pixel"] == pytest.approx(3.97, abs=2e-3)
    assert scans.found.quality["rotation_degrees"] == pytest.approx(0.7, abs=0.02)
    assert (scans.found.scale, scans.found.quality["mirrored"]) == (4, False)


def test_residual_that_is_told_is_of_the_size_of_the_error(scans):
    error = np.median(distances(scans.found, MATRIX))
    assert error / 3 < scans.found.quality["median_residual_hr_pixels"] < max(10 * error, 0.5)


@pytest.mark.parametrize(("corner", "reasons"), [
    (BLANK, {"blank"}), (TORN, {"does not match"}), (DEFOCUSED, {"lr out of focus"}),
    (FOLDED, {"does not match", "lr out of focus"})])
def test_patches_that_are_blank_torn_out_of_focus_or_folded_are_left_out_and_why_is_told(scans, corner, reasons):
    assert not [fit for fit in scans.found.patches if within(fit, corner)]
    given = {item.reason for item in scans.found.rejected if within(item, corner)}
    assert given
    assert given <= reasons


def test_most_of_the_sound_patches_are_accepted(scans):
    sound = [item for item in scans.found.rejected if item.reason not in ("outside", "blank")
             and not any(_touches(item, corner) for corner in (BLANK, TORN, DEFOCUSED, FOLDED))]
    assert len(sound) <= 0.1 * len(scans.found.patches)


def _touches(item, corner):
    return all(low - PATCH < value < low + WRONG for value, low in zip((item.x, item.y), corner, strict=True))


def test_page_holds_what_was_found_and_a_picture_lies_beside(scans):
    again = read_registration(scans.folder / "pairs.json")
    assert again == scans.found
    assert (again.lr.name, again.hr.name) == ("scan10x.tif", "scan40x.tif")
    assert again.lr.mpp == pytest.approx(HR_MPP * 3.97, rel=1e-3)
    assert sorted(path.name for path in scans.folder.iterdir()) == ["pairs.json", "pairs.png", "scan10x.tif"]
    with Image.open(scans.folder / "pairs.png") as picture:
        assert min(picture.size) > 500


@pytest.mark.parametrize(("matrix", "mpp"), [
    pytest.param(similarity(3.97, 90.7, 1530.3, 12.4), HR_MPP * 3.97, id="quarter turn", marks=SLOW),
    pytest.param(similarity(4.1, 180.0, 1531.2, 1533.9), None, id="upside down, mpp unknown", marks=SLOW),
    pytest.param(similarity(3.97, -0.7, 1528.7, 20.2, mirrored=True), HR_MPP * 3.97, id="face down"),
    pytest.param(similarity(1.98, -3.0, -10.0, 60.0), HR_MPP * 1.98, id="scale 2", marks=SLOW),
])
def test_turned_and_mirrored_scans_are_found_back(tmp_path, tissue, hr_path, matrix, mpp):
    side = 360 if abs(np.linalg.det(matrix[:, :2])) > 9 else 700
    lr = write_scan(tmp_path / "lr.tif", second_scan(tissue, matrix, side, side), mpp)
    found = register_scans(lr, hr_path, tmp_path / "pairs.json", 64, 20, progress=False)
    assert np.median(distances(found, matrix)) < 0.5
    assert found.quality["mirrored"] == (np.linalg.det(matrix[:, :2]) < 0)


@pytest.mark.slow
def test_smooth_distortion_is_followed_by_each_patch(tmp_path, tissue, hr_path):
    """A stage that is not straight: up to 3 LR pixels that no affine transform has."""
    straight = second_scan(tissue, MATRIX, SIDE, SIDE, noise=0)
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    bend = 3 * np.sin(2 * np.pi * y / SIDE)
    bent = np.stack([ndimage.map_coordinates(straight[..., i].astype(float), [y, x + bend], order=3, mode="nearest")
                     for i in range(3)], axis=-1)
    lr = write_scan(tmp_path / "lr.tif", np.clip(bent, 0, 255).astype(np.uint8), HR_MPP * 3.97)
    found = register_scans(lr, hr_path, tmp_path / "pairs.json", 32, 2000, progress=False)
    centres = np.array([(fit.x, fit.y) for fit in found.patches]) + 15.5
    is_at = (centres + np.stack([3 * np.sin(2 * np.pi * centres[:, 1] / SIDE), 0 * centres[:, 1]], axis=1)) \
        @ MATRIX[:, :2].T + MATRIX[:, 2]
    lies = centres @ found.matrix[:, :2].T + found.matrix[:, 2]
    own = lies + np.array([fit.shift for fit in found.patches])
    assert np.median(np.hypot(*(own - is_at).T)) < 0.5 < np.median(np.hypot(*(lies - is_at).T))


@pytest.mark.parametrize("other", ["cut up", "fluorescence"])
def test_scans_of_different_glass_are_refused_and_nothing_is_written(tmp_path, tissue, hr_path, other):
    if other == "cut up":  # the same colours and nuclei, 64 pixels each in another place
        blocks = tissue.reshape(24, 64, 24, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)
        shuffled = blocks[np.random.default_rng(3).permutation(len(blocks))]
        image = shuffled.reshape(24, 24, 64, 64, 3).swapaxes(1, 2).reshape(tissue.shape)
    else:
        image = np.zeros_like(tissue)
        image[..., 2] = 255 - tissue[::-1, :, 0]
    write_scan(tmp_path / "lr.tif", second_scan(image, MATRIX, SIDE, SIDE), HR_MPP * 3.97)
    with pytest.raises(ValueError, match=r"`lr` and `hr` must be two scans of the same glass.*Received: lr=.*lr\.tif"):
        register_scans(tmp_path / "lr.tif", hr_path, tmp_path / "pairs.json", PATCH, 50, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["lr.tif"]


@pytest.mark.parametrize("scale", [1.0, pytest.param(3.0, marks=SLOW), pytest.param(0.5, marks=SLOW)])
def test_scale_that_is_none_of_ours_is_told_with_what_was_measured(tmp_path, tissue, hr_path, scale):
    side = round(1400 / max(scale, 1))
    lr = write_scan(tmp_path / "lr.tif", second_scan(tissue, similarity(scale, 0, 20, 10), side, side))
    with pytest.raises(ValueError, match=rf"`hr` must have about 2, 4 or 8 times .* here it is {scale:.2g}"):
        register_scans(lr, hr_path, tmp_path / "pairs.json", PATCH, 50, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("slide", ["CMU-1-Small-Region.svs", "metaplasia-HE.tif"])
def test_second_scan_of_a_real_slide_is_found_back(tmp_path, shared_data, slide):
    with open_slide(shared_data / "slides" / slide) as hr:
        left, top, width, height = (0, 0, 2220, 2967) if slide.startswith("CMU") else (4000, 2000, 6000, 6000)
        matrix = similarity(3.97, 0.7, left + 20.3, top - 10.6)
        image = hr.read_region(left, top, 0, width, height)
        lr = second_scan(image, matrix - [[0, 0, left], [0, 0, top]], int(width / 4.1), int(height / 4.1))
        path = write_scan(tmp_path / "lr.tif", lr, hr.mpp * 3.97)
    found = register_scans(path, shared_data / "slides" / slide, tmp_path / "pairs.json", 64, 100, progress=False)
    assert np.median(distances(found, matrix)) < 0.25
    assert len(found.patches) >= 10


def test_too_few_patches_are_told_with_what_gives_more(scans, hr_path, tmp_path):
    with pytest.raises(ValueError, match=r"4 are needed: lower --patch_size or raise --max_patches"):
        register_scans(scans.folder / "scan10x.tif", hr_path, tmp_path / "pairs.json", 300, 2000, progress=False)
