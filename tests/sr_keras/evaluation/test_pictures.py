# SPDX-License-Identifier: Apache-2.0
"""Pictures show pixels as they are: what is drawn can be read back from the file."""
from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from pipelines.degrade import degrade
from pipelines.pixels import quantise, to_float, to_uint8
from sr_keras.evaluation.conditions import CURVES, REAL
from sr_keras.evaluation.detail import NONE, Patch, SlideDetail
from sr_keras.evaluation.nuclei import Comparison, Nuclei
from sr_keras.evaluation.pictures import (
    GAP,
    MARGIN,
    draw_curves,
    draw_nuclei,
    most_detailed,
    pick,
    picture_sheet,
    side_by_side,
)
from sr_keras.evaluation.scored_patches import METHODS, score
from sr_keras.evaluation.tables import Gain, by_slide
from sr_keras.metrics import bicubic

TOP = MARGIN + 40  # of the panels of side_by_side


@pytest.fixture(scope="module")
def patch(histology):
    """lr, bicubic, sr, hr of one 64x96 patch."""
    hr = to_float(histology[np.newaxis, :64, 100:196])
    lr = quantise(degrade(hr)).numpy()
    rival = np.asarray(bicubic(lr, 4))
    return lr[0], rival[0], quantise((hr[0] + rival[0]) / 2), hr[0]


def test_rings_around_nuclei_have_one_size_in_microns_whatever_the_side_of_a_patch(tmp_path):
    def slide(side):
        white, lost = np.ones((side, side, 3)), Nuclei(np.array([[side / 2, side / 2]]), np.ones(1), np.ones(1))
        found = Comparison(np.empty((0, 2), int), np.array([0]), np.empty(0, int))
        patch = Patch("a", white, white, dict.fromkeys(METHODS, white), lost, dict.fromkeys(METHODS, NONE),
                      dict.fromkeys(METHODS, found))
        return SlideDetail("a", 0.5, 1.0, 1, [], {}, patch)

    draw_nuclei([slide(128), slide(64)], tmp_path / "x.png")
    panel = 384  # pixels, so that 10 microns are 60 of the first and 120 of the second
    rings = (np.abs(drawn(tmp_path / "x.png").astype(int) - (0, 0, 255)).max(2) < 60).any(1)
    first, second = (rings[MARGIN + 54 + i * (panel + 50):][:panel].nonzero()[0] for i in (0, 1))
    assert np.ptp(first) == pytest.approx(60, abs=4)
    assert np.ptp(second) == pytest.approx(120, abs=4)


def drawn(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_side_by_side_draws_every_pixel_as_it_is(patch, tmp_path):
    lr, rival, sr, hr = patch
    side_by_side(lr, rival, sr, hr, tmp_path / "picture.png", inset=(8, 4, 20))
    picture, zoom = drawn(tmp_path / "picture.png"), 5  # 64 pixels become 320
    nearest = np.repeat(np.repeat(lr, 4, 0), 4, 1)
    for i, image in enumerate((nearest, rival, sr, hr)):
        left = MARGIN + i * (zoom * 96 + GAP)
        panel = picture[TOP:TOP + zoom * 64, left:left + zoom * 96][zoom // 2::zoom, zoom // 2::zoom]
        difference = np.abs(panel.astype(int) - to_uint8(image)).max(2)
        # All but the frame around the inset.
        assert (difference > 1).sum() <= 4 * 22
        assert difference[30:].max() <= 1


def test_side_by_side_enlarges_the_inset(patch, tmp_path):
    lr, rival, sr, hr = patch
    side_by_side(lr, rival, sr, hr, tmp_path / "picture.png", inset=(8, 4, 20))
    picture, zoom = drawn(tmp_path / "picture.png"), 24  # 480 / 20
    top, left = TOP + 5 * 64 + 84, MARGIN + 3 * (480 + GAP)
    inset = picture[top:top + 480, left:left + 480][zoom // 2::zoom, zoom // 2::zoom]
    np.testing.assert_allclose(inset.astype(int), to_uint8(hr[4:24, 8:28]), atol=1)


def test_side_by_side_takes_8_bit_and_floats_alike(patch, tmp_path):
    side_by_side(*patch, tmp_path / "float.png")
    side_by_side(*(to_uint8(image) for image in patch), tmp_path / "bytes.png")
    np.testing.assert_array_equal(drawn(tmp_path / "float.png"), drawn(tmp_path / "bytes.png"))


@pytest.mark.parametrize("inset", [(-4, 0, 20), (80, 0, 20), (0, 50, 20), (0, 0, 0)])
def test_side_by_side_refuses_an_inset_outside(inset, patch, tmp_path):
    with pytest.raises(ValueError, match="`inset` must be inside"):
        side_by_side(*patch, tmp_path / "picture.png", inset=inset)
    assert not list(tmp_path.iterdir())


def test_side_by_side_refuses_images_that_do_not_belong_together(patch, tmp_path):
    lr, rival, sr, hr = patch
    with pytest.raises(ValueError, match="whole multiple"):
        side_by_side(lr, rival[:-4], sr, hr, tmp_path / "picture.png")
    with pytest.raises(ValueError, match=r"`lr` must have shape \[H, W, 3\]"):
        side_by_side(lr[None], rival, sr, hr, tmp_path / "picture.png")


def test_most_detailed_finds_the_texture():
    image = np.full((64, 64, 3), 0.8)
    image[24:40, 40:56] = np.random.default_rng(0).random((16, 16, 1))
    assert most_detailed(image, 16, 4) == (40, 24, 16)
    assert most_detailed(np.ones((16, 16, 3)), 16, 4) == (0, 0, 16)


@pytest.mark.parametrize("count", [1, 7])
def test_sheet_has_a_row_for_each_picked_patch_and_logs_nothing(count, histology, tmp_path, caplog):
    hr = to_float(np.stack([histology[48 * i:48 * i + 48, :48] for i in range(count)]))
    lr = quantise(degrade(hr)).numpy()
    batches = [{"example_id": np.array([f"slide/{i}".encode() for i in range(count)]),
                "slide_id": np.array([b"slide"] * count), "lr": lr, "hr": hr}]
    rows = score(lambda images: bicubic(images, 4), batches)
    with caplog.at_level(logging.INFO):
        picture_sheet(rows, batches, lambda images: bicubic(images, 4), tmp_path / "sheet.png")
    height, width, _ = drawn(tmp_path / "sheet.png").shape
    panel = 192  # four times 48
    assert width == MARGIN + 98 + 4 * panel + 3 * GAP + MARGIN
    assert height == MARGIN + 32 + min(count, 6) * (panel + 56) + MARGIN - GAP
    assert not caplog.records


def rows_of(bicubic, sr, slides):
    """A row per patch and method with these PSNRs."""
    return [{"example_id": f"{slide}/{i}", "slide_id": slide, "method": method, "psnr": float(value), "qilv": 0.5,
             "rrmse": 1 / value}
            for i, (one, two, slide) in enumerate(zip(bicubic, sr, slides, strict=True))
            for method, value in (("bicubic", one), ("sr", two))]


def test_pick_names_best_median_and_worst_by_sr():
    values = [5, 1, 9, 3, 7, 2, 8]
    rows = rows_of(values[::-1], values, ["a"] * 7)
    assert pick(rows, "psnr", each=1) == {"a/2": "best", "a/0": "median", "a/1": "worst"}
    assert pick(rows, "rrmse", each=1) == {"a/2": "best", "a/0": "median", "a/1": "worst"}  # lower is better


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_pick_of_few_patches_takes_each_once(count):
    assert len(pick(rows_of(range(1, count + 1), range(1, count + 1), ["a"] * count), "psnr")) == count


def test_picture_shows_a_panel_per_curve_and_metric(tmp_path):
    found = {condition.name: condition for points in CURVES.values() for _, condition in points}
    gains = [Gain(condition, by_slide(rows_of([20, 22], [21 + i, 21 - i], "ab")))
             for i, condition in enumerate((*found.values(), REAL))]
    draw_curves(gains, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        width, height = image.size
        pixels = np.asarray(image.convert("RGB"))
    assert width == 3 * 420
    assert height == 2 * 290 + 60  # MS-SSIM has no row where it was not measured
    ink = (pixels < 200).any(2)
    for row in range(2):
        for column in range(3):
            panel = ink[60 + row * 280:300 + row * 280, 60 + column * 420:400 + column * 420]
            assert panel.mean() > 0.005, (row, column)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
