# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.config import CorruptOptions, DegradeOptions, PatchOptions, degradation
from pipelines.dataset import evaluation_dataset, training_dataset
from pipelines.degrade import degrade
from pipelines.patches import Patch, Source, find_sources
from pipelines.pixels import quantise
from pipelines.shards import open_shards, write_shards, writing

SIDE, COUNT = 32, 24


def write(data, folder, size=SIDE):
    write_shards(find_sources(data), folder, PatchOptions(patch_size=size, min_tissue=0.0), workers=1, progress=False)
    return folder


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Three slides of eight patches; patch n is of the one colour (10n, 100, 255 - 10n), so that it can be told."""
    root = tmp_path_factory.mktemp("plain")
    for number in range(COUNT):
        colour = (10 * number, 100, 255 - 10 * number)
        save(root / f"data/slide{number // 8}/{number:02d}.png", np.full((SIDE, SIDE, 3), colour))
    return write(root / "data", root / "shards")


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """One patch whose pixel (y, x) has the colour (y, x, 0)."""
    root = tmp_path_factory.mktemp("ramp")
    y, x = np.mgrid[:SIDE, :SIDE]
    save(root / "data/ramp/one.png", np.stack([y, x, 0 * x], -1))
    return write(root / "data", root / "shards")


@pytest.fixture(scope="module")
def tissue(tmp_path_factory, tile_folder):
    """Two slides of eight 128x128 patches of tissue."""
    return write(tile_folder, tmp_path_factory.mktemp("tissue") / "shards", 128)


def batches(count, *arguments, **keywords):
    return [(lr.numpy(), hr.numpy()) for lr, hr in training_dataset(*arguments, **keywords).take(count)]


def numbers(images):
    """Which patches of `plain` these are."""
    return np.rint(images[:, 0, 0, 0] * 25.5).astype(int).tolist()


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b) for pair, twin in zip(one, other, strict=True) for a, b in zip(pair, twin, strict=True))


def test_batches_have_known_shapes_and_eight_bit_values(tissue):
    dataset = training_dataset(tissue, batch_size=3, crop_size=64, degrade=DegradeOptions(scale=2))
    assert [spec.shape.as_list() for spec in dataset.element_spec] == [[3, 32, 32, 3], [3, 64, 64, 3]]
    for images in next(iter(dataset)):
        assert images.dtype == tf.float32
        np.testing.assert_allclose(images * 255, np.rint(images * 255), atol=1e-4)
        assert 0 <= np.min(images) < 0.5 < np.max(images) <= 1


@pytest.mark.parametrize("options", [DegradeOptions(), DegradeOptions(scale=8, blur_sigma=0.0)])
def test_lr_is_hr_degraded_and_rounded(tissue, options):
    for lr, hr in batches(3, tissue, batch_size=4, crop_size=64, degrade=options):
        expected = quantise(degrade(hr, options.scale, options.blur_sigma).numpy())
        # Summed in another order, a value on the border of two steps may fall to the other side.
        assert np.mean(lr != expected) < 1e-3
        np.testing.assert_allclose(lr, expected, atol=1.01 / 255)


def test_every_patch_comes_once_before_one_comes_twice(plain):
    seen = [n for lr, _ in batches(12, plain, batch_size=4) for n in numbers(lr)]
    assert sorted(seen[:COUNT]) == sorted(seen[COUNT:]) == list(range(COUNT))
    assert seen[:COUNT] != seen[COUNT:]
    assert seen[:COUNT] != list(range(COUNT))


@pytest.mark.parametrize("keywords", [
    {"cache": "memory"}, {"crop_size": 64, "shrink": 1.5}, {"crop_size": 16, "recolour": 0.5},
    {"shuffle_buffer": 3, "crop_size": 16}, {"steps_per_epoch": 2}, {"steps_per_epoch": 9},
    {"min_tissue": 0.01, "slides": ["slide-a"], "corrupt": CorruptOptions(fraction=0.5)}])
def test_a_run_that_starts_at_epoch_k_is_bit_for_bit_the_uninterrupted_one(tissue, keywords):
    steps = keywords.setdefault("steps_per_epoch", 3)
    tf.random.set_seed(1)
    straight = batches(3 * steps, tissue, batch_size=4, **keywords)
    tf.random.set_seed(2)  # the program's own seed must not matter
    resumed = batches(2 * steps, tissue, batch_size=4, first_epoch=1, **keywords)
    assert same(resumed, straight[steps:])
    assert not same(straight[:steps], straight[steps:2 * steps])
    assert not same(batches(steps, tissue, batch_size=4, seed=1, **keywords), straight[:steps])


def test_dataset_of_some_epochs_ends_by_itself_and_is_the_start_of_the_infinite_one(plain):
    some = training_dataset(plain, batch_size=5, first_epoch=1, epochs=2)
    assert some.cardinality() == 2 * (COUNT // 5)
    assert same([(lr.numpy(), hr.numpy()) for lr, hr in some], batches(8, plain, batch_size=5, first_epoch=1))
    assert training_dataset(plain, batch_size=5).cardinality() == tf.data.INFINITE_CARDINALITY
    with pytest.raises(ValueError, match="`epochs` must be positive"):
        training_dataset(plain, epochs=0)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_shares_of_machines_are_together_the_batches_of_one(pairs, tissue, cache):
    chosen = {"batch_size": 6, "crop_size": 16, "seed": 5, "first_epoch": 1, "cache": cache,
              "corrupt": CorruptOptions(fraction=0.5)}
    folders = [tissue, pairs]
    shares = [batches(3, folders, share=(part, 3), **chosen) for part in range(3)]
    for whole, *parts in zip(batches(3, folders, **chosen), *shares, strict=True):
        for images, theirs in zip(whole, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(theirs), images)


def test_eight_orientations_come_and_keep_pixels_in_place(ramp):
    original = np.stack([*np.mgrid[:SIDE, :SIDE], np.zeros((SIDE, SIDE))], -1) / 255
    turned = [np.rot90(image, k) for image in (original, original[:, ::-1]) for k in range(4)]
    seen = set()
    for _, hr in batches(20, ramp, batch_size=4):
        for image in hr:
            seen |= {k for k, expected in enumerate(turned) if np.allclose(image, expected, atol=1e-6)}
    assert seen == set(range(8))


def test_without_augmentation_patches_stay_as_they_are(ramp):
    hr = np.concatenate([hr for _, hr in batches(5, ramp, batch_size=2, augment=False)])
    assert np.ptp(hr, axis=0).max() == 0


def test_recoloured_examples_are_a_share_of_all_in_other_channels_and_densities(tissue):
    plain, other = (np.concatenate([hr for _, hr in batches(20, tissue, batch_size=8, crop_size=16, recolour=share)])
                    for share in (0.0, 0.25))
    changed = (plain != other).any(axis=(1, 2, 3))
    assert 0.15 < changed.mean() < 0.35
    orders = set()
    for before, after in zip(plain[changed], other[changed], strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            before, after = -np.log(before), -np.log(after)  # optical densities
        order = max(itertools.permutations(range(3)), key=lambda order: sum(
            np.corrcoef(before[..., one].ravel(), after[..., channel].ravel())[0, 1]
            for channel, one in enumerate(order)))
        ratios = after.sum((0, 1)) / before.sum((0, 1))[list(order)]
        assert (ratios > 1 / 1.7).all()
        assert (ratios < 1.7).all()
        orders.add(order)
    assert len(orders) > 3


def test_half_of_the_crops_are_shrunk_evenly_up_to_the_limit(ramp):
    steps = []  # of the ramp from pixel to pixel: by how much a crop was shrunk
    for _, hr in batches(60, ramp, batch_size=8, crop_size=16, augment=False, shrink=2.0):
        across, down = np.diff(hr[..., 1] * 255, axis=2).mean((1, 2)), np.diff(hr[..., 0] * 255, axis=1).mean((1, 2))
        np.testing.assert_allclose(across, down, atol=0.07)  # one unit of 8 bit over 15 steps
        steps.extend(across)
    steps = np.array(steps)
    shrunk = steps[steps > 1.01]
    assert 0.4 < len(shrunk) / len(steps) < 0.6
    assert 1.9 < shrunk.max() < 2.05
    assert 1.4 < shrunk.mean() < 1.6


def test_a_shrunk_crop_is_the_mean_over_the_area_of_each_pixel(tmp_path):
    squares = (np.indices((16, 16)).sum(0) % 2)[..., None] * [200, 100, 40]
    save(tmp_path / "data/slide/tile.png", np.repeat(np.repeat(squares, 2, 0), 2, 1))  # of two pixels a side
    shards = write(tmp_path / "data", tmp_path / "shards")
    for _, hr in batches(30, shards, batch_size=4, crop_size=16, shrink=2.0):
        # Whatever the factor, the mean of black and colour is kept to a square's share of the crop.
        np.testing.assert_allclose(hr.mean((1, 2)) * 255, [[100, 50, 20]] * 4, rtol=0.15)


def test_crops_lie_anywhere_in_the_patch(ramp):
    corners = set()
    for _, hr in batches(100, ramp, batch_size=4, crop_size=24, augment=False):
        for image in np.rint(hr * 255).astype(int):
            top, left = image[0, 0, :2]
            np.testing.assert_array_equal(image[..., :2], np.moveaxis(np.mgrid[top:top + 24, left:left + 24], 0, -1))
            corners.add((int(top), int(left)))
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(9))


def test_corruption_is_the_same_in_every_epoch_and_order(plain):
    options = CorruptOptions(fraction=0.5)
    targets = []
    for keywords in ({}, {"first_epoch": 5}, {"cache": "memory"}, {"shuffle_buffer": 1}, {"slides": ["slide1"]}):
        pairs = batches(6, plain, batch_size=4, corrupt=options, augment=False, **keywords)
        # Side "hr": LR stays clean and tells which patch it is.
        targets.append({n: image for lr, hr in pairs for n, image in zip(numbers(lr), hr, strict=True)})
    for other in targets[1:]:
        assert all(np.array_equal(image, targets[0][n]) for n, image in other.items())
    clean = sum(np.ptp(image) <= 1 and np.allclose(image[0, 0, 1], 100 / 255) for image in targets[0].values())
    assert 4 <= clean <= 20


def test_outliers_are_tiles_of_the_folder(plain, tmp_path):
    save(tmp_path / "other.png", np.full((SIDE, SIDE, 3), (7, 8, 9)))
    options = CorruptOptions(fraction=1.0, kinds=("outlier",), outlier_dir=str(tmp_path))
    (_, hr), = batches(1, plain, batch_size=4, corrupt=options)
    np.testing.assert_allclose(hr * 255, np.broadcast_to([7, 8, 9], hr.shape), atol=1e-4)


MEMORY = """
import re, sys
from pathlib import Path
from pipelines.dataset import training_dataset
from pipelines.shards import open_shards

def peak(folder, cache):
    shards = open_shards(folder)
    dataset = training_dataset(shards, batch_size=8, crop_size=32, cache=cache, shuffle_buffer=16)
    for _ in dataset.take(shards.count // 8):
        pass
    # Not getrusage's ru_maxrss: a child's starts from the peak of its parent.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10

few, many = sys.argv[1:]
print(peak(few, "none"), peak(many, "none"), peak(many, "memory"))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_patches_unless_they_are_cached_in_it(tmp_path, monkeypatch):
    """64 patches are 12 MiB and 512 are 96."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    folders = {8: tmp_path / "few", 64: tmp_path / "many"}
    for count, folder in folders.items():
        monkeypatch.setattr(writing, "read_patches", lambda source, options, count=count: (
            Patch(source.slide_id, n, 0, None, 1.0, pixels, str(n)) for n in range(count)))
        write_shards([Source(f"slide{n}", ()) for n in range(8)], folder, PatchOptions(), workers=1, progress=False)
    said = subprocess.run([sys.executable, "-c", MEMORY, *folders.values()], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[2])
    few, many, cached = (int(peak) for peak in said.stdout.split())
    assert many - few < 32
    assert cached - few > 64


def test_memory_cache_needs_the_disk_no_more(tmp_path, tissue):
    copy = tmp_path / "shards"
    copy.mkdir()
    for path in tissue.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    dataset = training_dataset(copy, batch_size=4, cache="memory")
    for path in copy.iterdir():
        path.unlink()
    assert len(list(dataset.take(12))) == 12


def test_memory_cache_that_cannot_fit_is_refused(tissue, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 800)
    with pytest.raises(ValueError, match="`cache` must fit into this machine's memory"):
        training_dataset(tissue, batch_size=4, cache="memory")


def test_cache_folder_changes_where_but_not_what(tmp_path, tissue):
    assert same(batches(4, tissue, batch_size=4, cache=tmp_path / "fast"), batches(4, tissue, batch_size=4))
    assert len(list((tmp_path / "fast").iterdir())) == 2


def test_a_batch_may_be_larger_than_the_data(plain):
    (lr, _), = batches(1, plain, batch_size=60)
    assert {numbers(lr).count(n) for n in range(COUNT)} == {2, 3}


def test_slides_and_tissue_choose_patches(plain, tissue):
    seen = {n for lr, _ in batches(8, plain, batch_size=2, slides=["slide0", "slide2"]) for n in numbers(lr)}
    assert seen == {*range(8), *range(16, 24)}
    shares = sorted(itertools.chain.from_iterable(shard.tissue for shard in open_shards(tissue).shards))
    middle = shares[len(shares) // 2]
    wanted = sum(share >= middle for share in shares)
    first, second = batches(2, tissue, batch_size=wanted, min_tissue=middle, augment=False)
    assert len(np.unique(first[1], axis=0)) == wanted
    assert np.array_equal(np.unique(first[1], axis=0), np.unique(second[1], axis=0))


@pytest.mark.parametrize(("keywords", "message"), [
    ({"crop_size": 30}, "`crop_size` must be divisible by scale=4"),
    ({"crop_size": 64}, "`crop_size` must lie in 1 to 32"),
    ({"slides": ["nobody"]}, "`slides` must"),
    ({"min_tissue": 1.1}, "`min_tissue` must leave at least one patch"),
    ({"batch_size": 0}, "`batch_size` must"),
    ({"steps_per_epoch": 0}, "`steps_per_epoch` must"),
    ({"batch_size": 6, "share": (0, 4)}, "`batch_size` must be divisible by 4 machines"),
    ({"first_epoch": -1}, "`first_epoch` must"),
    ({"shuffle_buffer": 0}, "`shuffle_buffer` must"),
    ({"seed": -1}, "`seed` must"),
    ({"recolour": 1.1}, "`recolour` must lie in"),
    ({"shrink": 0.9}, "`shrink` must be 1 or more"),
    ({"shrink": 2.1, "crop_size": 16}, "`shrink` must lie in 1 to 2,"),
])
def test_wrong_arguments_are_refused(plain, keywords, message):
    with pytest.raises(ValueError, match=message):
        training_dataset(plain, **{"batch_size": 2, **keywords})


def test_patch_size_must_divide_by_scale(tmp_path):
    save(tmp_path / "data/slide/tile.png", np.zeros((20, 20, 3)))
    shards = write(tmp_path / "data", tmp_path / "shards", 20)
    for dataset in (training_dataset, evaluation_dataset):
        with pytest.raises(ValueError, match="`patch_size` must be divisible by scale=8"):
            dataset(shards, batch_size=1, degrade=DegradeOptions(scale=8))


def test_evaluation_gives_each_patch_once_in_a_fixed_order(plain):
    found = list(evaluation_dataset(plain, batch_size=5))
    assert [len(batch["lr"]) for batch in found] == [5, 5, 5, 5, 4]
    assert [n for batch in found for n in numbers(batch["hr"].numpy())] == list(range(COUNT))
    ids = [name.decode() for batch in found for name in batch["example_id"].numpy()]
    assert ids == [f"slide{n // 8}/{n:02d}" for n in range(COUNT)]
    assert [name.decode() for batch in found for name in batch["slide_id"].numpy()] == [name[:6] for name in ids]
    assert found[0]["lr"].shape == (5, SIDE // 4, SIDE // 4, 3)


@pytest.mark.parametrize(("limit", "shares"), [(7, [2, 2, 3]), (2, [1, 1]), (100, [8, 8, 8])])
def test_evaluation_limit_is_shared_by_the_slides(plain, limit, shares):
    slides = [name for batch in evaluation_dataset(plain, limit=limit) for name in batch["slide_id"].numpy()]
    assert sorted(slides.count(slide) for slide in set(slides)) == shares


def test_no_python_runs_inside(tissue, tmp_path):
    save(tmp_path / "other.png", np.zeros((128, 128, 3)))
    options = CorruptOptions(fraction=1.0, kinds=("noise", "blur", "contrast", "outlier"), outlier_dir=str(tmp_path))
    family = degradation("scanner")
    for dataset in (training_dataset(tissue, batch_size=2, crop_size=64, corrupt=options, min_tissue=0.1),
                    training_dataset(tissue, batch_size=2, crop_size=64, degrade=family, recolour=0.5, shrink=1.5),
                    evaluation_dataset(tissue), evaluation_dataset(tissue, degrade=family)):
        graph = tf.raw_ops.DatasetToGraphV2(input_dataset=dataset._variant_tensor).numpy()
        assert b"TFRecordDataset" in graph
        assert b"PyFunc" not in graph


def test_order_is_kept_whatever_is_faster(tissue):
    for dataset in (training_dataset(tissue, batch_size=2), evaluation_dataset(tissue)):
        assert dataset.options().deterministic is True


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, histology):
    """A slide of three pairs whose LR is the mean of 4x4 HR pixels, half as bright: no degradation makes such a one."""
    root = tmp_path_factory.mktemp("pairs")
    for number in range(3):
        hr = np.ascontiguousarray(histology[:128, 128 * number:128 * number + 128])
        save(root / f"data/scanned/{number}.png", hr)
        save(root / f"data/scanned/{number}_lr00.png", np.rint(hr.reshape(32, 4, 32, 4, 3).mean((1, 3)) / 2))
    return write(root / "data", root / "shards", 128)


def is_scanned(lr, hr):
    """Tell for each example whether its LR is the darker mean that `pairs` hold."""
    mean = hr.reshape(len(hr), *lr.shape[1:2], 4, lr.shape[2], 4, 3).mean((2, 4))
    return np.abs(mean / 2 - lr).max((1, 2, 3)) < 1.01 / 255


def test_lr_of_a_pair_is_cropped_and_turned_with_its_hr(pairs):
    for lr, hr in batches(4, pairs, batch_size=4, crop_size=64, pair_share=1.0):
        assert lr.shape == (4, 16, 16, 3)
        assert is_scanned(lr, hr).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_share_of_examples_takes_the_lr_that_was_scanned(pairs, share):
    taken = [is_scanned(lr, hr) for lr, hr in batches(
        25, pairs, batch_size=8, crop_size=32, pair_share=share, degrade=degradation("pyramid"))]
    assert abs(np.mean(taken) - share) < 4 * np.sqrt(share * (1 - share) / 200) + 1e-9


def test_pairs_and_plain_patches_mix_and_each_made_lr_comes_from_either(pairs, tissue):
    shards = open_shards([pairs, tissue])
    assert (shards.pairs.count, shards.count) == (3, 19)
    for lr, hr in batches(6, shards, batch_size=8, crop_size=64, pair_share=0.5, degrade=DegradeOptions()):
        made = quantise(degrade(hr, 4, 1.6).numpy())
        fits = np.abs(made - lr).max((1, 2, 3)) < 1.01 / 255
        assert (fits | is_scanned(lr, hr)).all()


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_epoch_of_a_resumed_run_is_bit_for_bit_that_of_an_uninterrupted_one_on_the_family(pairs, tissue, cache):
    keywords = {"batch_size": 3, "crop_size": 32, "steps_per_epoch": 3, "degrade": degradation("scanner"),
                "cache": cache, "seed": 5}
    shards = open_shards([pairs, tissue])
    whole = batches(9, shards, **keywords)
    assert same(whole[6:], batches(3, shards, first_epoch=2, **keywords))
    assert not same(whole[:3], whole[3:6])


def test_evaluation_takes_the_lr_that_is_asked_for(pairs, tissue):
    shards = open_shards([pairs, tissue])

    def scanned(some, lr):
        return [bool(is_scanned(one["lr"], one["hr"])[0])
                for one in evaluation_dataset(some, lr=lr).as_numpy_iterator()]

    assert scanned(shards, "auto") == [True] * 3 + [False] * 16
    assert not any(scanned(shards, "made"))
    assert all(scanned(shards.pairs, "real"))
    with pytest.raises(ValueError, match=r"^`lr` must be 'made' or 'auto' if a patch has no LR"):
        evaluation_dataset(shards, lr="real")
    with pytest.raises(ValueError, match=r"^`lr` must be one of"):
        evaluation_dataset(shards, lr="scanned")


def test_evaluation_draws_for_each_patch_the_same_whatever_stands_before_it(pairs):
    options = degradation("scanner")
    whole = {one["example_id"][0]: one["lr"] for one in
             evaluation_dataset(pairs, degrade=options, lr="made").as_numpy_iterator()}
    for one in evaluation_dataset(pairs, degrade=options, lr="made", limit=1).as_numpy_iterator():
        np.testing.assert_array_equal(one["lr"], whole[one["example_id"][0]])
    other = next(evaluation_dataset(pairs, degrade=options, lr="made", seed=1).as_numpy_iterator())
    assert not np.array_equal(other["lr"], whole[other["example_id"][0]])


def test_pairs_of_another_scale_than_the_degradation_are_refused(pairs):
    with pytest.raises(ValueError, match=r"^`scale` must be 4, that of the pairs of scanned"):
        training_dataset(pairs, batch_size=1, degrade=DegradeOptions(scale=2))
    with pytest.raises(ValueError, match=r"^`scale` must be 4, that of the pairs of scanned"):
        evaluation_dataset(pairs, degrade=DegradeOptions(scale=2))


def test_pair_share_is_a_share(pairs):
    with pytest.raises(ValueError, match=r"^`pair_share` must lie in \[0, 1\]"):
        training_dataset(pairs, batch_size=1, pair_share=1.5)
