# SPDX-License-Identifier: Apache-2.0
"""Corruption: which examples, always the same ones, and what it does to them in physical terms."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage, stats

from pipelines.config import SIDES, CorruptOptions
from pipelines.corrupt import (
    CLEAN,
    EXPOSURE,
    HR_RADIUS,
    LR_RADIUS,
    PHOTONS,
    READ_NOISE,
    blur,
    contrast,
    corrupt_pair,
    corruption,
    load_outliers,
    noise,
)
from pipelines.degrade import degrade
from pipelines.pixels import quantise, to_float

IDS = np.array([f"slide-{i % 7}/{i}_{i * 3}" for i in range(2000)])
SEED = tf.constant([3, 5])
KINDS = ("noise", "blur", "contrast", "outlier")
FUNCTIONS = {"noise": noise, "blur": blur, "contrast": contrast}


def options_of(fraction=1.0, kinds=KINDS, side="hr", **strengths):
    return CorruptOptions(fraction=fraction, kinds=kinds, side=side, outlier_dir="given", **strengths)


def kinds_of(fraction, seed=0, ids=IDS, kinds=KINDS):
    return corruption(tf.constant(ids), seed, options_of(fraction, kinds))[0].numpy()


@pytest.fixture(scope="module")
def hr(histology):
    return to_float(tf.constant(histology[100:164, 100:164]))


def downsample(hr):
    return quantise(degrade(hr[tf.newaxis])[0])


@pytest.fixture(scope="module")
def lr(hr):
    return downsample(hr)


@pytest.fixture(scope="module")
def outliers():
    return tf.random.stateless_uniform([5, 80, 72, 3], [1, 1], 0, 256, tf.int32)


@pytest.fixture(scope="module")
def pair_of(hr, lr, outliers):
    def call(example_id, options, seed=0):
        return corrupt_pair(lr, hr, example_id, seed, options, downsample, tf.cast(outliers, tf.uint8))
    return call


# Which examples


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.8])
def test_share_of_corrupted_examples_is_the_fraction(fraction):
    share = np.mean(kinds_of(fraction) != CLEAN)
    assert abs(share - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / len(IDS))


def test_fraction_one_corrupts_all_and_zero_none():
    assert (kinds_of(1.0) != CLEAN).all()
    assert (kinds_of(0.0) == CLEAN).all()


def test_corrupted_sets_are_nested_and_keep_their_kind():
    fewer, more = kinds_of(0.1), kinds_of(0.3)
    np.testing.assert_array_equal(more[fewer != CLEAN], fewer[fewer != CLEAN])


def test_kinds_are_equally_likely_and_independent_of_being_chosen():
    for fraction in (0.3, 1.0):
        kinds = kinds_of(fraction)
        counts = np.bincount(kinds[kinds != CLEAN], minlength=len(KINDS))
        assert np.abs(counts - counts.sum() / 4).max() < 4 * np.sqrt(counts.sum() * 3 / 16)


def test_decision_depends_on_the_id_alone_and_not_on_its_neighbours():
    order = np.random.default_rng(0).permutation(len(IDS))
    np.testing.assert_array_equal(kinds_of(0.3, ids=IDS[order]), kinds_of(0.3)[order])
    one_by_one = [int(corruption(tf.constant(i), 0, options_of(0.3))[0]) for i in IDS[:50]]
    np.testing.assert_array_equal(one_by_one, kinds_of(0.3)[:50])


def test_decision_is_the_same_on_every_machine_and_in_every_version():
    kinds, seeds = corruption(tf.constant(["a/0_0", "a/0_256", "b/tile-7"]), 11, options_of(0.5))
    np.testing.assert_array_equal(kinds, [-1, 3, -1])
    np.testing.assert_array_equal(seeds, [[1709085862, 1234752046], [1082753196, 376742533], [1456528496, 756049634]])


def test_another_seed_corrupts_other_examples():
    one, other = kinds_of(0.5) != CLEAN, kinds_of(0.5, seed=1) != CLEAN
    assert 0.4 < np.mean(one == other) < 0.6


def test_image_seeds_differ_between_examples():
    seeds = corruption(tf.constant(IDS), 0, options_of())[1].numpy()
    assert len(np.unique(seeds, axis=0)) == len(IDS)


# The same, wherever


@pytest.mark.parametrize("side", SIDES)
def test_eager_and_map_agree_in_every_epoch_and_order(side, pair_of):
    options = options_of(0.7, side=side)
    ids = IDS[:24]
    eager = {i: [image.numpy() for image in pair_of(tf.constant(i), options)] for i in ids}
    dataset = tf.data.Dataset.from_tensor_slices(ids).shuffle(24, seed=1).repeat(2)
    seen = 0
    for i, lr, hr in dataset.map(lambda i: (i, *pair_of(i, options)), num_parallel_calls=2).as_numpy_iterator():
        np.testing.assert_array_equal(lr, eager[i.decode()][0])
        np.testing.assert_array_equal(hr, eager[i.decode()][1])
        seen += 1
    assert seen == 48


def test_shapes_stay_known_inside_map(pair_of):
    dataset = tf.data.Dataset.from_tensor_slices(IDS[:2]).map(lambda i: pair_of(i, options_of()))
    assert [spec.shape for spec in dataset.element_spec] == [(16, 16, 3), (64, 64, 3)]


def test_fraction_zero_leaves_the_graph_free_of_the_work(pair_of):
    function = tf.function(lambda i: pair_of(i, options_of(0.0)), input_signature=[tf.TensorSpec([], tf.string)])
    operations = {op.type for op in function.get_concrete_function().graph.get_operations()}
    assert not operations & {"StringToHashBucketStrong", "Case", "StatelessCase", "StatelessIf", "If", "RFFT2D"}


# Which side


@pytest.mark.parametrize("kind", KINDS)
def test_side_says_which_image_changes(kind, pair_of, lr, hr):
    def changed(side):
        new_lr, new_hr = pair_of(tf.constant("a/1"), options_of(kinds=(kind,), side=side))
        return bool(tf.reduce_any(new_lr != lr)), bool(tf.reduce_any(new_hr != hr))

    assert [changed(side) for side in ("lr", "hr", "both")] == [(True, False), (False, True), (True, True)]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_specimen_gives_the_lr_of_its_own_hr(kind, pair_of):
    new_lr, new_hr = pair_of(tf.constant("a/1"), options_of(kinds=(kind,), side="both"))
    np.testing.assert_array_equal(new_lr, quantise(degrade(new_hr[tf.newaxis])[0]))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_corrupted_images_hold_what_an_8_bit_file_can(kind, side, pair_of):
    for image in pair_of(tf.constant("a/1"), options_of(kinds=(kind,), side=side)):
        np.testing.assert_array_equal(image, quantise(image))


def test_clean_example_comes_back_untouched(pair_of, lr, hr):
    clean = IDS[np.flatnonzero(kinds_of(0.3) == CLEAN)[0]]
    new_lr, new_hr = pair_of(tf.constant(clean), options_of(0.3, side="both"))
    np.testing.assert_array_equal(new_lr, lr)
    np.testing.assert_array_equal(new_hr, hr)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_strength_zero_leaves_the_pair_as_it_is(kind, pair_of, lr, hr):
    for side in SIDES:
        options = options_of(kinds=(kind,), side=side, noise_strength=0.0, blur_strength=0.0, contrast_strength=0.0)
        new_lr, new_hr = pair_of(tf.constant("a/1"), options)
        np.testing.assert_array_equal(new_lr, lr)
        np.testing.assert_array_equal(new_hr, hr)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_stronger_is_further_from_the_truth(kind, hr):
    for seed in range(8):
        distances = [float(tf.norm(FUNCTIONS[kind](hr, strength, tf.constant([0, seed])) - hr))
                     for strength in (0.0, 0.5, 1.0, 2.0)]
        assert distances[0] == 0
        assert distances == sorted(distances), (seed, distances)


# Noise


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("value", [0.25, 0.5])
def test_noise_has_the_variance_of_shot_and_read_noise(value, strength):
    noisy = noise(tf.fill([128, 128, 3], value), 0.5 * strength, SEED).numpy()
    variance = (0.5 * strength) ** 2 * (value / PHOTONS + READ_NOISE**2)
    assert noisy.mean() == pytest.approx(value, abs=0.003)
    assert noisy.var() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize(("value", "strength"), [(0.02, 1.0), (0.3, 1.0), (0.9, 1.0), (0.1, 2.0)])
def test_noise_is_distributed_as_photon_counts_and_read_noise(value, strength):
    noisy = np.sort(noise(tf.fill([256, 256, 3], value), strength, SEED).numpy(), axis=None)
    photons = PHOTONS / strength**2
    counts = np.arange(stats.poisson.ppf(1 - 1e-9, value * photons) + 1)
    levels = np.linspace(0, 0.999, 500)
    exact = stats.norm.cdf((levels[:, np.newaxis] - counts / photons) / (READ_NOISE * strength)) @ stats.poisson.pmf(
        counts, value * photons)
    assert np.abs(np.searchsorted(noisy, levels, side="right") / noisy.size - exact).max() < 0.01


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 3, 3), (64, 64, 3)])
def test_noise_gives_each_pixel_its_own_value(shape):
    noisy = noise(tf.fill(shape, 0.5), 0.5, SEED).numpy()
    assert noisy.shape == shape
    assert len(np.unique(noisy)) > 0.99 * noisy.size


def test_noise_is_independent_between_pixels_and_colours():
    field = noise(tf.fill([128, 128, 3], 0.5), 1.0, SEED).numpy() - 0.5
    pairs = (field[1:], field[:-1]), (field[:, 1:], field[:, :-1]), (field[..., 1:], field[..., :-1])
    assert max(abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs) < 0.02


def test_noise_of_another_seed_is_another_field(hr):
    assert abs(np.corrcoef(tf.reshape(noise(hr, 1.0, SEED) - hr, [-1]),
                           tf.reshape(noise(hr, 1.0, SEED + 1) - hr, [-1]))[0, 1]) < 0.05


# Blur


@pytest.mark.parametrize(("radius", "strength"), [
    (HR_RADIUS, 1.0), (HR_RADIUS, 2.0), (HR_RADIUS, 0.3), (LR_RADIUS, 1.0), (LR_RADIUS, 0.5)])
def test_blur_is_a_disc_or_a_gaussian_of_one_width(radius, strength):
    point = np.zeros((65, 65, 3), np.float32)
    point[32, 32] = 1
    spread = {round(float(tf.reduce_max(blur(tf.constant(point), strength, tf.constant([0, s]), radius))), 6): s
              for s in range(12)}
    assert len(spread) == 2
    distance = np.hypot(*np.mgrid[-32:33, -32:33])
    for s in spread.values():
        kernel = blur(tf.constant(point), strength, tf.constant([0, s]), radius).numpy()[..., 0]
        assert kernel.sum() == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)
        if radius * strength > 3:
            width = np.sqrt((kernel * distance**2).sum() / 2)
            assert width == pytest.approx(radius * strength / 2, rel=0.05)


@pytest.mark.parametrize("sides", [(64, 64), (37, 50), (48, 21)])
def test_gaussian_blur_equals_scipy(sides, hr):
    hr = hr[:sides[0], :sides[1]]
    golden = ndimage.gaussian_filter(hr.numpy(), HR_RADIUS / 2, axes=(0, 1), mode="reflect", truncate=4.0)
    errors = [np.abs(blur(hr, 1.0, tf.constant([0, s])).numpy() - golden).max() for s in range(12)]
    assert min(errors) < 2e-4


@pytest.mark.parametrize("sides", [(64, 64), (37, 50), (48, 21)])
def test_defocus_blur_equals_a_convolution_with_the_disc(sides, hr):
    hr = hr[:sides[0], :sides[1]]
    offsets = np.arange(-6, 7)
    disc = np.clip(HR_RADIUS + 0.5 - np.hypot(offsets[:, np.newaxis], offsets), 0, 1)
    golden = ndimage.convolve(hr.numpy(), (disc / disc.sum())[..., np.newaxis], mode="reflect")
    errors = [np.abs(blur(hr, 1.0, tf.constant([0, s])).numpy() - golden).max() for s in range(12)]
    assert min(errors) < 1e-5


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 2, 3), (33, 17, 3)])
def test_blur_leaves_flat_images_flat_to_the_border(shape):
    for s in range(4):
        flat = blur(tf.fill(shape, 0.6), 2.0, tf.constant([0, s]))
        np.testing.assert_allclose(flat, np.full(shape, 0.6), atol=1e-5)


# Contrast


def contrasts(image, strength):
    """Return what 40 seeds make of an image, each once."""
    results = [contrast(tf.constant(image), strength, tf.constant([0, seed])).numpy() for seed in range(40)]
    return list({result.tobytes(): result for result in results}.values())


def test_contrast_scales_optical_density_or_exposes_wrongly():
    image = np.array([0.2, 0.4, 0.8, 0.5, 0.5, 0.5], np.float32).reshape(1, 2, 3)
    expected = [image**2, image**0.5] + [
        np.clip(0.5 + factor * (image - 0.5) + shift, 0, 1) for factor in (2, 0.5) for shift in (EXPOSURE, -EXPOSURE)]
    found = contrasts(image, 1.0)
    assert len(found) == len(expected)
    for one in expected:
        assert min(np.abs(one - other).max() for other in found) < 1e-6


def test_more_stain_keeps_white_glass_white_and_black_black():
    stained = [image for image in contrasts(np.array([0, 0, 0, 1, 1, 1, .5, .5, .5], np.float32).reshape(1, 3, 3), 1.0)
               if abs(image[0, 2, 0] - 0.25) < 1e-6]
    np.testing.assert_array_equal(stained[0][0, :2, 0], [0, 1])


# Outliers


def test_outlier_is_the_centre_of_a_tile_of_another_stain(pair_of, outliers):
    for side in ("hr", "both"):
        _, new_hr = pair_of(tf.constant("a/1"), options_of(kinds=("outlier",), side=side))
        centres = to_float(tf.cast(outliers[:, 8:72, 4:68], tf.uint8))
        assert np.count_nonzero([np.array_equal(new_hr, centre) for centre in centres]) == 1


def test_outlier_on_the_lr_side_is_degraded(pair_of, outliers):
    new_lr, _ = pair_of(tf.constant("a/1"), options_of(kinds=("outlier",), side="lr"))
    degraded = quantise(degrade(to_float(tf.cast(outliers[:, 8:72, 4:68], tf.uint8))))
    assert np.count_nonzero([np.array_equal(new_lr, image) for image in degraded]) == 1


def test_weaker_outlier_is_a_double_exposure(pair_of, hr):
    whole, half, none = (pair_of(tf.constant("a/1"), options_of(kinds=("outlier",), outlier_strength=strength))[1]
                         for strength in (1.0, 0.5, 0.0))
    np.testing.assert_allclose(half, (hr + whole) / 2, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(none, hr)


def test_all_outliers_are_used(pair_of):
    options = options_of(kinds=("outlier",))
    assert len({pair_of(tf.constant(i), options)[1].numpy().tobytes() for i in IDS[:60]}) == 5


def test_load_outliers_reads_centres_of_all_kinds_of_tiles(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    (tmp_path / "deep").mkdir()
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(rgb[..., 0]).save(tmp_path / "deep" / "grey.PNG")
    (tmp_path / "notes.txt").write_text("not an image")
    tiles = load_outliers(tmp_path, 32).numpy()
    np.testing.assert_array_equal(tiles[0], rgb[4:36, 9:41])
    np.testing.assert_array_equal(tiles[1], np.repeat(rgb[4:36, 9:41, :1], 3, axis=2))
    assert len(tiles) == 2


def test_outliers_that_cannot_be_read_are_named_and_linked_folders_are_searched(tmp_path, capsys):
    (tmp_path / "store").mkdir()
    (tmp_path / "outliers").mkdir()
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(tmp_path / "store" / "good.png")
    (tmp_path / "store" / "bad.png").write_bytes(b"\x89PNG")
    (tmp_path / "store" / "._good.png").write_bytes(b"what a Mac leaves behind")
    (tmp_path / "outliers" / "link").symlink_to(tmp_path / "store")
    assert load_outliers(tmp_path / "outliers", 32).numpy().tolist() == np.full((1, 32, 32, 3), 7).tolist()
    assert capsys.readouterr().out.startswith(f"skipped: {tmp_path}/outliers/link/bad.png: ")
    (tmp_path / "store" / "good.png").unlink()
    with pytest.raises(FileNotFoundError, match="`outlier_dir` must be a folder with images"):
        load_outliers(tmp_path / "outliers", 32)


def test_load_outliers_takes_a_bounded_number_from_all_over(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.corrupt.MAX_OUTLIERS", 3)
    for i in range(9):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    assert load_outliers(tmp_path, 4).numpy()[:, 0, 0, 0].tolist() == [0, 4, 8]


def test_load_outliers_names_the_folder_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^`outlier_dir` must .*Received: outlier_dir='.*nowhere'"):
        load_outliers(tmp_path / "nowhere", 4)


def test_load_outliers_names_the_tile_that_is_too_small(tmp_path):
    Image.fromarray(np.zeros((8, 4, 3), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"^`outlier_dir` must hold tiles of at least 5x5 .*small\.png of 4x8"):
        load_outliers(tmp_path, 5)


def test_outlier_kind_without_outliers_is_refused(lr, hr):
    with pytest.raises(ValueError, match=r"^`outliers` must be given"):
        corrupt_pair(lr, hr, tf.constant("a"), 0, options_of(), downsample)
