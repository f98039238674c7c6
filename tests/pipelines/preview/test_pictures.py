# SPDX-License-Identifier: Apache-2.0
"""A panel shows the centre, and the same place of LR as of HR.
The picture of corruptions: its labels tell the truth.
The picture of degradations: its captions tell the truth, and what is nearest to real LR comes out nearest.
"""
from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image

from pipelines.config import DEGRADATIONS, DegradeOptions, degradation
from pipelines.degrade import degrade_example
from pipelines.patches import Patch
from pipelines.pixels import to_float
from pipelines.preview.pictures import (
    RANGES,
    SHOWN,
    VARIANTS,
    caption,
    corrupted,
    draw_corruptions,
    draw_degradations,
    likenesses,
    member,
    show,
)


def shown(image, scale=1):
    axis = Figure().subplots()
    show(axis, image, scale)
    return np.asarray(axis.images[0].get_array())


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("side", [252, 256, 264, 64])
def test_lr_shows_the_place_that_hr_shows(side, scale):
    side -= side % scale
    hr = np.random.default_rng(0).random((side, side, 3))
    lr = hr.reshape(side // scale, scale, side // scale, scale, 3).mean(axis=(1, 3))
    of_hr, of_lr = shown(hr), shown(lr, scale)
    assert len(of_hr) == min(side, SHOWN)
    blocks = of_hr.reshape(len(of_lr), scale, len(of_lr), scale, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(of_lr, blocks)


def test_panel_shows_the_centre():
    marked = np.zeros((256, 256, 3))
    marked[112:144, 112:144] = 1
    assert shown(marked).sum() == marked.sum()
    assert shown(marked)[64:96, 64:96].min() == 1


@pytest.fixture(scope="module")
def hr(histology):
    return to_float(histology[:64, :64])


def sharpness(image):
    return np.abs(np.diff(image, axis=0)).mean()


def test_labels_say_what_the_seeds_do(hr):
    images = {name: corrupted(hr, name, 1.0).numpy() for name in VARIANTS}
    spread = {name: image.std() for name, image in images.items()}
    assert sharpness(images["noise"]) > 1.5 * sharpness(hr)
    assert sharpness(images["blur\ndefocus"]) < 0.5 * sharpness(hr)
    assert sharpness(images["blur\nGaussian"]) < 0.5 * sharpness(hr)
    np.testing.assert_allclose(images["contrast\nmore stain"], hr**2, atol=0.003)
    np.testing.assert_allclose(images["contrast\nless stain"], hr**0.5, atol=0.003)
    assert spread["contrast\nflat, bright"] < hr.std() < spread["contrast\nharsh, dark"]
    assert images["contrast\nharsh, dark"].mean() < hr.mean() < images["contrast\nflat, bright"].mean()


def test_a_point_shows_which_blur_is_the_disc():
    point = np.zeros((33, 33, 3), np.float32)
    point[16, 16] = 1
    peak = {name: float(tf.reduce_max(corrupted(point, name, 1.0))) for name in VARIANTS if "blur" in name}
    assert peak["blur\ndefocus"] < peak["blur\nGaussian"]


@pytest.mark.parametrize("scale", [2, 8])
def test_preview_has_a_panel_for_every_corruption_strength_and_side(hr, scale):
    figure = draw_corruptions(hr, DegradeOptions(scale=scale))
    above, below = figure.subfigs
    assert len(above.axes) == 3 * (1 + len(VARIANTS))
    assert len(below.axes) == 2 * (1 + 3 * 3)
    assert {axis.get_title() for axis in below.axes[:10]} >= {"clean", "noise\nside=lr", "contrast\nside=both"}
    lr, full = below.axes[0].images[0], below.axes[10].images[0]
    assert (full.get_array().shape[0], lr.get_array().shape[0]) == (64, 64 // scale)


def test_preview_shows_outliers_where_there_are_some(hr):
    above, below = draw_corruptions(hr, DegradeOptions(), tf.zeros([4, 64, 64, 3], tf.uint8)).subfigs
    assert len(above.axes) == 3 * (2 + len(VARIANTS))
    assert below.axes[12].get_title() == "outlier\nside=both"


def real_lr(hr):
    """Return what a pyramid's coarse level holds: PIL's mean over boxes and its JPEG."""
    held = io.BytesIO()
    Image.fromarray(hr).reduce(4).save(held, "JPEG", quality=80)
    return np.asarray(Image.open(held))


@pytest.fixture(scope="module")
def patches(histology):
    tiles = [histology[y:y + 256, x:x + 256] for y in (0, 256) for x in (0, 256)]
    return [Patch("slide", 0, 0, None, 1.0, tile, f"tile{i}", real_lr(tile)) for i, tile in enumerate(tiles)]


def test_member_is_one_of_the_family_with_nothing_left_to_draw():
    rng = np.random.default_rng(0)
    family = DEGRADATIONS["scanner"]
    members = [member(family, rng) for _ in range(60)]
    for name in RANGES:
        low, high = family.range_of(name)
        drawn = [one.range_of(name) for one in members]
        assert all(low <= least == most <= high for least, most in drawn), name
        assert len(set(drawn)) > 10, name
    for name in ("blurs", "resamplings", "jpeg_subsamplings"):
        assert {getattr(one, name)[0] for one in members} == set(getattr(family, name))
    assert {one.jpeg_passes for one in members} == {(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)}


def test_textbook_has_one_member_itself():
    assert member(DEGRADATIONS["textbook"], np.random.default_rng(0)) == DEGRADATIONS["textbook"]


def test_caption_says_what_is_done():
    assert caption(DEGRADATIONS["textbook"]) == "Gaussian 1.6, nth\nno noise\nno JPEG"
    fixed = degradation("scanner", blurs=("disc",), disc_radius=(2.0, 2.0), resamplings=("box",),
                        shot_noise=(0.01, 0.01), read_noise=(0.002, 0.002), sharpen=(0.3, 0.3),
                        jpeg_passes=(0.0, 0.0, 1.0), jpeg_quality=(80, 80), jpeg_subsamplings=("444",))
    assert caption(fixed) == "disc 2, box\nnoise 0.010+0.002, sharpen 0.3\nJPEG 80 4:4:4, twice"
    assert caption(degradation("textbook", blur_sigma=2.0, anisotropy=(3.0, 3.0))).startswith("Gaussian 2.7x0.89, nth")


def test_picture_has_hr_real_lr_and_each_column_for_each_patch(patches):
    columns = [("textbook", DEGRADATIONS["textbook"]), ("pyramid", DEGRADATIONS["pyramid"])]
    figure = draw_degradations(patches[:2], columns)
    titles = [axis.get_title(loc="left").split("\n")[0] for axis in figure.axes]
    assert titles[1:3] == ["LR, real", "textbook: Gaussian 1.6, nth"]
    assert titles[0] == titles[4] == "HR"
    assert titles[3].startswith("pyramid: no blur, cascade")
    hr = to_float(patches[0].pixels)
    expected = degrade_example(tf.constant(hr), DEGRADATIONS["textbook"], tf.constant([0, 0], tf.int64))
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), expected[12:52, 12:52])


def test_patch_without_real_lr_has_no_panel_of_it(patches):
    alone = Patch("slide", 0, 0, None, 1.0, patches[0].pixels, "tile")
    figure = draw_degradations([alone], [("textbook", DEGRADATIONS["textbook"])])
    assert [axis.get_title(loc="left")[:8] for axis in figure.axes] == ["HR\nslide", "textbook"]


def test_pyramid_comes_nearer_to_compressed_box_averages_than_the_textbook(patches):
    found = likenesses(patches, {name: DEGRADATIONS[name] for name in ("textbook", "pyramid")})
    assert {name: len(rows) for name, rows in found.items()} == {"real": 4, "textbook": 4, "pyramid": 4}
    spectrum = {name: np.mean([one.spectrum for one in rows], axis=0) for name, rows in found.items()}
    np.testing.assert_array_equal(spectrum["real"], 0)
    assert np.abs(spectrum["pyramid"]).max() < 0.5
    assert spectrum["textbook"][-1] < -2


def test_pairs_of_another_scale_are_refused(patches):
    with pytest.raises(ValueError, match=r"^`scale` must be 4, that of the pairs"):
        likenesses(patches, {"textbook": degradation("textbook", scale=2)})
