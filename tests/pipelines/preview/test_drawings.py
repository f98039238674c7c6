# SPDX-License-Identifier: Apache-2.0
"""A panel shows the centre, and the same place of LR as of HR.
The picture of corruptions: its labels tell the truth.
The picture of degradations: its captions tell the truth, and what is nearest to real LR comes out nearest.
Likeness: spectra and residuals against scipy, scikit-image and known transfer functions.
"""
from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image
from scipy import fft, ndimage, signal, stats
from skimage.transform import downscale_local_mean

from pipelines.config import DEGRADATIONS, DegradeOptions, degradation
from pipelines.degrade import degrade_example
from pipelines.patches import Patch
from pipelines.pixels import to_float
from pipelines.preview.drawings import (
    BANDS,
    RANGES,
    SHOWN,
    VARIANTS,
    Residual,
    band_powers,
    blockiness,
    caption,
    compare,
    corrupted,
    draw_corruptions,
    draw_degradations,
    likeness_table,
    likenesses,
    member,
    residual_of,
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
    spectrum = {name: np.mean(rows, axis=0)[:4] for name, rows in found.items()}
    np.testing.assert_array_equal(spectrum["real"], 0)
    assert np.abs(spectrum["pyramid"]).max() < 0.5
    assert spectrum["textbook"][-1] < -2


def test_pairs_of_another_scale_are_refused(patches):
    with pytest.raises(ValueError, match=r"^`scale` must be 4, that of the pairs"):
        likenesses(patches, {"textbook": degradation("textbook", scale=2)})


def grey(plane):
    return np.repeat(plane[..., np.newaxis], 3, axis=-1)


def white(seed=0, side=63, std=0.1):
    return np.random.default_rng(seed).normal(0.5, std, (side, side))


def jpeg(plane, quality):
    held = io.BytesIO()
    Image.fromarray((255 * plane).astype(np.uint8)).save(held, "JPEG", quality=quality)
    return np.asarray(Image.open(held)) / 255


# Spectrum


def test_white_noise_has_its_variance_in_every_band():
    powers = np.mean([band_powers(grey(white(seed))) for seed in range(20)], axis=0)
    np.testing.assert_allclose(powers, 0.01, rtol=0.1)


@pytest.mark.parametrize("shape", [(63, 63), (48, 70)])
def test_band_powers_equal_scipy(shape):
    image = np.random.default_rng(1).random((*shape, 3))
    plane = image.mean(axis=-1) - image.mean()
    windows = [signal.windows.hann(side + 2)[1:-1] for side in shape]
    window = windows[0][:, np.newaxis] * windows[1]
    power = np.abs(fft.fft2(plane * window)) ** 2 / (window**2).sum()
    rows, columns = (fft.fftfreq(side) for side in shape)
    for low, high, found in zip(BANDS, BANDS[1:], band_powers(image), strict=False):
        inside = [power[i, j] for i, f in enumerate(rows) for j, g in enumerate(columns)
                  if low <= np.hypot(f, g) < high]
        assert found == pytest.approx(np.mean(inside))


@pytest.mark.parametrize("sigma", [0.5, 0.8])
def test_blur_takes_from_each_band_what_its_transfer_function_says(sigma):
    frequency = np.hypot(*np.meshgrid(fft.fftfreq(256), fft.fftfreq(256)))
    transfer = np.exp(-2 * (np.pi * sigma * frequency) ** 2) ** 2
    sharp = white(side=256)
    soft = ndimage.fourier_gaussian(fft.fft2(sharp), sigma)
    ratio = band_powers(grey(fft.ifft2(soft).real)) / band_powers(grey(sharp))
    for low, high, found in zip(BANDS, BANDS[1:], ratio, strict=False):
        expected = transfer[(frequency >= low) & (frequency < high)].mean()
        assert 10 * np.log10(found) == pytest.approx(10 * np.log10(expected), abs=0.3)


def test_wave_is_in_the_band_of_its_frequency():
    for band, frequency in enumerate((0.08, 0.2, 0.3, 0.45)):
        wave = np.sin(2 * np.pi * frequency * np.arange(64)) * np.ones((64, 1))
        assert np.argmax(band_powers(grey(wave))) == band


def test_image_without_the_lowest_band_is_refused():
    with pytest.raises(ValueError, match=r"^`image` must have sides of at least 32 pixels"):
        band_powers(np.zeros((64, 31, 3)))


# Residual


@pytest.mark.parametrize("scale", [2, 4])
def test_residual_equals_scipy_and_scikit_image(scale):
    rng = np.random.default_rng(2)
    lr, hr = rng.random((40, 36, 3)) ** 3, rng.random((40 * scale, 36 * scale, 3))
    residual = (lr - downscale_local_mean(hr, (scale, scale, 1))).mean(axis=-1)
    found = residual_of(lr, hr)
    assert found.std == pytest.approx(255 * residual.std())
    assert found.kurtosis == pytest.approx(stats.kurtosis(residual.ravel()))
    beside = [np.corrcoef(a.ravel(), b.ravel())[0, 1]
              for a, b in ((residual[1:], residual[:-1]), (residual[:, 1:], residual[:, :-1]))]
    assert found.correlation == pytest.approx(np.mean(beside), abs=0.01)


def test_correlation_tells_noise_from_blur_and_sharpening():
    hr = np.zeros((256, 256, 3))
    soft = ndimage.gaussian_filter(white(side=64), 1.0)
    sharp = white(side=64) - ndimage.uniform_filter(white(side=64), 3)
    assert abs(residual_of(grey(white(side=64)), hr).correlation) < 0.05
    assert residual_of(grey(soft), hr).correlation > 0.5
    assert residual_of(grey(sharp), hr).correlation < -0.05


def test_mean_of_hr_itself_has_no_residual():
    hr = np.random.default_rng(3).random((64, 64, 3)).astype(np.float32)
    assert residual_of(downscale_local_mean(hr, (4, 4, 1)), hr) == Residual(0.0, 0.0, 0.0, 0.0)


# Blocks


def test_blockiness_of_noise_is_small_and_of_a_flat_plane_none():
    assert 0 < np.mean([blockiness(white(seed)) for seed in range(10)]) < 0.2
    assert blockiness(np.full((32, 32), 0.5)) == 0


def test_compression_makes_blocks_the_more_the_stronger(histology):
    plane = ndimage.gaussian_filter(histology[:128, :128].mean(axis=-1) / 255, 1.0)
    found = [blockiness(plane), *(blockiness(jpeg(plane, quality)) for quality in (60, 30, 10))]
    assert found == sorted(found)
    assert found[-1] > 3 * found[0]


def test_blocks_are_found_wherever_their_grid_begins(histology):
    plane = jpeg(histology[:136, :136].mean(axis=-1) / 255, 10)
    found = [blockiness(plane[row:row + 128, column:column + 128]) for row, column in ((0, 0), (3, 0), (0, 5), (7, 6))]
    assert max(found) < 1.1 * min(found)


# All together


def test_an_image_is_like_itself(histology):
    hr = histology[:256, :256] / 255
    lr = downscale_local_mean(hr, (4, 4, 1))
    same = compare(lr, lr, hr)
    np.testing.assert_array_equal(same[:4], 0)
    assert same[-1] == 0
    brighter = compare(lr + 2 / 255, lr, hr)
    assert brighter[-1] == pytest.approx(2)
    np.testing.assert_allclose(brighter[:4], 0, atol=1e-6)


def test_table_shows_means_and_deviations():
    one = np.array([1.0, 0.0, -1.0, -2.0, 4.0, 0.5, 0.1, 0.2, 9.0])
    other = np.array([3.0, 0.0, -1.0, -2.0, 6.0, 0.5, 0.1, 0.2, 9.0])
    lines = likeness_table({"real": [one], "scanner": [one, other]}).splitlines()
    assert lines[1].split()[-5:] == ["std", "kurtosis", "correlation", "blockiness", "difference"]
    assert lines[3].split()[:3] == ["scanner", "2.00", "(1.00)"]
    assert "5.00 (1.00)" in lines[3]
