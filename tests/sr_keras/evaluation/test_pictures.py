# SPDX-License-Identifier: Apache-2.0
"""Pictures show pixels as they are: what is drawn can be read back from the file."""
from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from pipelines.degrade import degrade
from pipelines.pixels import quantise, to_float, to_uint8
from sr_keras.evaluation import bicubic, picture_sheet, score, side_by_side
from sr_keras.evaluation.pictures import GAP, MARGIN, most_detailed

TOP = MARGIN + 40  # of the panels of side_by_side


@pytest.fixture(scope="module")
def patch(histology):
    """lr, bicubic, sr, hr of one 64x96 patch."""
    hr = to_float(histology[np.newaxis, :64, 100:196])
    lr = quantise(degrade(hr)).numpy()
    rival = np.asarray(bicubic(lr, 4))
    return lr[0], rival[0], quantise((hr[0] + rival[0]) / 2), hr[0]


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
