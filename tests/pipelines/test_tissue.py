# SPDX-License-Identifier: Apache-2.0
"""Where the tissue is, and where it is not."""
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage.color import rgb2hsv

from pipelines.slide import open_slide
from pipelines.tissue import PEN_WIDTH, black_surround, slide_mask, tissue_mask

GLASS = (240, 236, 241)
EOSIN = (215, 130, 180)
INKS = {"blue": (30, 60, 180), "green": (20, 120, 60), "black": (35, 32, 36), "red": (215, 30, 40)}


def section(side=300, background=GLASS, colour=EOSIN, seed=0):
    """A thumbnail with a round section in its middle, and noise all over; and where the section is."""
    y, x = np.mgrid[:side, :side] - side / 2
    tissue = np.hypot(x, y) < side / 4
    image = np.where(tissue[..., None], colour, background)
    noise = np.random.default_rng(seed).normal(0, 4, image.shape[:2])[..., None]
    return np.clip(image + noise, 0, 255).astype(np.uint8), tissue


def agreement(mask, expected):
    """Intersection over union."""
    return (mask & expected).sum() / (mask | expected).sum()


def uniform(colour, side=64, noise=3):
    image = np.full((side, side, 3), colour) + np.random.default_rng(0).normal(0, noise, (side, side, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


def test_section_on_glass_is_found():
    image, tissue = section()
    assert agreement(tissue_mask(image), tissue) > 0.95


@pytest.mark.parametrize("background", [(255, 255, 255), (240, 228, 239), (232, 231, 240), (241, 238, 230)])
@pytest.mark.parametrize("colour", [EOSIN, (90, 50, 120), (130, 80, 40), (30, 50, 160), (200, 215, 235)])
def test_any_stain_on_any_tint_of_glass_is_found(background, colour):
    image, tissue = section(background=background, colour=colour)
    assert agreement(tissue_mask(image), tissue) > 0.9


@pytest.mark.parametrize("colour", [(255, 255, 255), (240, 228, 239), (228, 226, 220), (200, 200, 200)])
@pytest.mark.parametrize("noise", [0, 1, 6])
def test_blank_glass_has_no_tissue(colour, noise):
    assert not tissue_mask(uniform(colour, noise=noise)).any()


@pytest.mark.parametrize("colour", [EOSIN, (90, 50, 120), (130, 80, 40), (20, 30, 150), (150, 30, 50)])
@pytest.mark.parametrize("noise", [0, 1, 6])
def test_thumbnail_full_of_tissue_is_all_tissue(colour, noise):
    assert tissue_mask(uniform(colour, noise=noise)).all()


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS)
def test_pen_is_no_tissue_and_costs_none(ink):
    image, tissue = section()
    drawn = Image.fromarray(image)
    width = int(3 * PEN_WIDTH / 8)
    ImageDraw.Draw(drawn).line([(10, 10), (290, 30)], fill=ink, width=width)
    mask = tissue_mask(np.asarray(drawn))
    assert not mask[:50].any()
    assert agreement(mask, tissue) > 0.95


@pytest.mark.parametrize("ink", ["blue", "green", "red"])
def test_ink_coloured_stain_is_tissue_where_it_is_most_of_it(ink):
    image, tissue = section(colour=INKS[ink])
    assert agreement(tissue_mask(image), tissue) > 0.95


def test_specks_are_dropped_and_small_holes_filled():
    image, tissue = section()
    image[10:12, 10:12] = EOSIN
    image[150:152, 150:152] = GLASS
    mask = tissue_mask(image)
    assert not mask[:40, :40].any()
    assert mask[140:160, 140:160].all()
    assert agreement(mask, tissue) > 0.95


def test_large_hole_stays_open():
    image, _ = section()
    image[130:170, 130:170] = GLASS
    assert not tissue_mask(image)[140:160, 140:160].any()


def test_sparse_nuclei_are_one_tissue_at_cell_scale_and_specks_from_afar():
    image = np.full((200, 200, 3), 240, np.uint8)
    for y in range(20, 180, 16):
        for x in range(20, 180, 16):
            image[y:y + 7, x:x + 7] = (90, 80, 170)
    assert tissue_mask(image, mpp=0.5)[30:160, 30:160].all()
    assert tissue_mask(image, mpp=4)[30:160, 30:160].mean() < 0.5


def test_fluorescence_is_what_glows():
    image = np.zeros((200, 200, 3), np.uint8)
    image[50:120, 60:140, 2] = 230
    expected = image[..., 2] > 0
    assert agreement(tissue_mask(image), expected) > 0.9


def test_black_thumbnail_has_no_tissue():
    assert not tissue_mask(np.zeros((50, 60, 3), np.uint8)).any()


def test_grey_image_is_judged_by_darkness(histology):
    grey = np.repeat(histology[..., :1], 3, axis=-1)
    image, tissue = section(background=(235, 235, 235), colour=(120, 120, 120))
    assert agreement(tissue_mask(image), tissue) > 0.95
    assert tissue_mask(grey, 0.5).mean() > 0.6
    assert not tissue_mask(uniform((230, 230, 230))).any()


def test_one_pixel_is_no_crash():
    assert tissue_mask(np.full((1, 1, 3), 255, np.uint8)).shape == (1, 1)


def test_immunohistochemistry_is_tissue_but_for_its_glass(histology):
    mask = tissue_mask(histology, 0.5)
    assert 0.9 < mask.mean() < 1
    assert not mask[305:375, 2:18].any()  # the glass at the left border
    assert mask[330:480, 180:240].all()  # pale stroma
    assert mask[rgb2hsv(histology)[..., 1] > 0.3].all()


@pytest.mark.parametrize(("slide", "low", "high"), [
    ("CMU-1-Small-Region.svs", 0.3, 0.45), ("OS-1-detail.ome.tif", 0.97, 1), ("fluorescence-DAPI.ndpi", 0.1, 0.6),
    ("metaplasia-HE.tif", 0.5, 0.7), ("tcga-cr-7395-01a-01-ts1.svs", 0.55, 0.7)])
def test_real_slides_have_the_tissue_an_eye_sees(shared_data, slide, low, high):
    with open_slide(shared_data / "slides" / slide) as opened:
        assert low < slide_mask(opened, 512).mean() <= high


@pytest.mark.parametrize("folder", ["train", "val", "outliers"])
def test_real_tiles_are_tissue(shared_data, folder):
    tiles = sorted((shared_data / "tiles" / folder).glob("*/*.jpeg"))[::25]
    shares = [tissue_mask(np.asarray(Image.open(tile).reduce(4)), 2.0).mean() for tile in tiles]
    assert np.mean(np.array(shares) >= 0.5) > 0.95


def test_colour_noise_of_one_level_leaves_a_grey_image_grey():
    grey = np.full((128, 128, 3), 240, np.uint8)
    grey[32:96, 32:96] = 130
    noise = np.random.default_rng(0).integers(-1, 2, grey.shape)
    mask = tissue_mask((grey + noise).astype(np.uint8))
    assert mask[36:92, 36:92].all()
    assert not mask[:24].any()


def in_black(image, share, black, shape, noise, seed=0):
    """The image in a larger black canvas, `share` of which is black, as a scanner or stitching leaves it."""
    rng, height = np.random.default_rng(seed), image.shape[0]
    side = round(height / (1 - share)**0.5)
    canvas = np.full((side, side, 3), black, float)
    at = (side - height) // 2
    canvas[at:at + height, at:at + height] = image
    if shape == "turned":
        picture = Image.fromarray(canvas.astype(np.uint8))
        canvas = np.asarray(picture.rotate(20, Image.Resampling.BILINEAR, fillcolor=black))
    if shape == "side":
        canvas = np.roll(canvas, (-at, -at), (0, 1))
    return np.clip(np.rint(canvas + rng.uniform(-noise, noise, canvas.shape)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", ["frame", "side", "turned"])
@pytest.mark.parametrize(("black", "noise"), [((0, 0, 0), 0), ((12, 10, 14), 1), ((0, 0, 0), 2)])
@pytest.mark.parametrize(("share", "background"), [(0.1, GLASS), (0.6, (232, 226, 240)), (0.9, GLASS)])
def test_black_surroundings_are_no_tissue_and_do_not_make_it_fluorescence(share, black, noise, shape, background):
    image, tissue = section(120, background=background)
    expected = in_black(np.repeat(tissue[..., None], 3, -1) * 255, share, (0, 0, 0), shape, 0)[..., 0] > 127
    assert agreement(tissue_mask(in_black(image, share, black, shape, noise)), expected) > 0.93


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_grey_and_full_tissue_in_black_surroundings_are_found(share):
    grey, tissue = section(background=(235, 235, 235), colour=(120, 120, 120))
    mask = tissue_mask(in_black(grey, share, (0, 0, 0), "side", 0))
    assert agreement(mask[:300, :300], tissue) > 0.95
    assert not mask[300:].any()
    full = tissue_mask(in_black(uniform(EOSIN, 300), share, (0, 0, 0), "side", 0))
    assert full[5:290, 5:290].all()
    assert not full[300:].any()


def glowing(colour, background, noise, broad, seed=0):
    """Blurred nuclei, or a broad section, that glow in a dark field; and where they are."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:300, :300]
    light = np.zeros((300, 300))
    for cx, cy in rng.uniform(40, 260, (4 if broad else 60, 2)):
        light = np.maximum(light, np.exp(-(((x - cx)**2 + (y - cy)**2) / (35 if broad else 6)**2)**2))
    image = background + light[..., None] * np.array(colour) + rng.normal(0, noise, (300, 300, 3))
    return np.clip(image, 0, 255).astype(np.uint8), light > 0.6


@pytest.mark.parametrize("colour", [(20, 40, 230), (10, 220, 30), (220, 0, 220), (230, 230, 230), (240, 120, 60)])
@pytest.mark.parametrize(("background", "noise"), [(0, 0), (6, 0), (10, 3)])
@pytest.mark.parametrize("broad", [False, True])
def test_glow_in_a_dark_field_has_no_surroundings(colour, background, noise, broad):
    image, lit = glowing(colour, background, noise, broad)
    assert not black_surround(image).any()
    mask = tissue_mask(image)
    assert mask[lit].all()
    assert not mask[:10].any()
