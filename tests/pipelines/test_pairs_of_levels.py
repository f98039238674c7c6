# SPDX-License-Identifier: Apache-2.0
"""Pairs of a slide's own levels: the same place, true pixels, and never of a level that shows something else."""
from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.registration import phase_cross_correlation

from pipelines.config import PatchOptions
from pipelines.patches import Patch, Skipped, find_sources, read_patches
from pipelines.shards import open_shards, write_shards
from pipelines.sources import Source


def reduced(image, scale):
    """Return the mean of scale x scale pixels, uint8; the last ones of a side that does not divide stand for more."""
    h, w = (-side % scale for side in image.shape[:2])
    return np.rint(averaged(np.pad(image, ((0, h), (0, w), (0, 0)), "edge"), scale)).astype(np.uint8)


def averaged(hr, scale):
    h, w = (side // scale for side in hr.shape[:2])
    return hr.reshape(h, scale, w, scale, 3).mean(axis=(1, 3))


def write_levels(path, images, mpp=0.25):
    with tifffile.TiffWriter(path) as tiff:
        for number, image in enumerate(images):
            coarser = images[0].shape[0] / image.shape[0]
            tiff.write(image, photometric="rgb", tile=(128, 128), compression="adobe_deflate", metadata=None,
                       resolution=(1e4 / (mpp * coarser),) * 2, resolutionunit="CENTIMETER",
                       subfiletype=int(number > 0))
    return Source(path.stem, (path,))


def resized(image, width, height, resample=Image.Resampling.BOX):
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


@pytest.fixture(scope="module")
def tissue(histology):
    """A field of 1303 x 1021 pixels: neither side divides by 4."""
    row = np.concatenate([histology, histology[:, ::-1], histology], axis=1)
    return np.ascontiguousarray(np.concatenate([row, row[::-1]], axis=0)[:1021, :1303])


@pytest.fixture
def pyramid(tmp_path, tissue):
    return write_levels(tmp_path / "slide.tif", [tissue, *(reduced(tissue, scale) for scale in (2, 4, 8))])


def read(source, **options):
    options = {"pairs": "levels", "patch_size": 128, "min_tissue": 0, **options}
    return list(read_patches(source, PatchOptions(**options)))


@pytest.mark.parametrize(("options", "count"), [
    ({"scale": 4}, 70), ({"scale": 2}, 70), ({"scale": 8}, 70), ({"scale": 4, "level": 1}, 15),
    ({"scale": 4, "sampling": "random", "max_patches": 20}, 20), ({"scale": 4, "mpp": 0.5}, 15)])
def test_lr_is_the_average_of_hr_within_a_grey_level_all_over_the_slide(pyramid, options, count):
    patches = read(pyramid, **options)
    assert [type(patch) for patch in patches] == [Patch] * count
    for patch in patches:
        assert np.abs(averaged(patch.pixels, options["scale"]) - patch.lr).max() <= 1


def test_hr_is_what_a_reader_without_pairs_gives(pyramid):
    pairs, plain = read(pyramid), read(pyramid, pairs=None)
    assert [patch.example_id for patch in pairs] == [patch.example_id for patch in plain]
    for pair, patch in zip(pairs, plain, strict=True):
        np.testing.assert_array_equal(pair.pixels, patch.pixels)
        assert patch.lr is None


@pytest.mark.parametrize(("coarser", "mpp"), [(2.9, None), (4.2, None), (4.2, 0.3)])
def test_level_that_is_not_exactly_coarser_is_resampled_to_the_same_place(tmp_path, tissue, coarser, mpp):
    height, width = (round(side / coarser) for side in tissue.shape[:2])
    source = write_levels(tmp_path / "slide.tif", [tissue, resized(tissue, width, height)])
    patches = [item for item in read(source, mpp=mpp, patch_size=256) if isinstance(item, Patch)]
    assert len(patches) >= 8
    for patch in patches:
        assert patch.lr.shape == (64, 64, 3)
        shift, *_ = phase_cross_correlation(averaged(patch.pixels, 4).mean(-1), patch.lr.mean(-1), upsample_factor=20,
                                           normalization=None)
        assert np.abs(shift).max() <= 0.15


@pytest.mark.parametrize(("coarser", "scale"), [((8,), 4), ((2,), 4), ((2,), 8), ((4, 16), 2)])
def test_levels_that_are_too_far_from_the_scale_are_refused_in_one_line(tmp_path, tissue, coarser, scale):
    images = [resized(tissue, tissue.shape[1] // by, tissue.shape[0] // by) for by in coarser]
    (item,) = read(write_levels(tmp_path / "slide.tif", [tissue, *images]), scale=scale)
    assert (item.where, item.broken) == ("slide", True)
    assert f"slide.tif: has no level about {scale} times coarser" in item.reason
    assert "\n" not in item.reason


def test_slide_with_one_level_is_skipped_and_an_error_where_it_is_the_only_one(tmp_path, tissue, pyramid):
    alone = write_levels(tmp_path / "alone.tif", [tissue])
    (item,) = read(alone)
    assert (item.where, "alone.tif: has one level" in item.reason) == ("slide", True)
    options = PatchOptions(pairs="levels", patch_size=128, min_tissue=0)
    report = write_shards([alone, pyramid], tmp_path / "shards", options, workers=1, progress=False)
    assert (report.patches, [item.slide_id for item in report.skipped]) == (70, ["alone"])
    with pytest.raises(ValueError, match=r"`data` must give at least one patch; .*has one level.* leave --pairs out"):
        write_shards([alone], tmp_path / "none", options, workers=1, progress=False)


def test_level_of_another_image_is_not_used_and_the_line_says_what_was_seen(tmp_path, tissue):
    decoy = np.ascontiguousarray(reduced(tissue, 4)[::-1, ::-1])
    (item,) = read(write_levels(tmp_path / "decoy.tif", [tissue, reduced(tissue, 2), decoy]))
    assert item.where == "slide"
    assert "no level shows the slide 4 times coarser" in item.reason
    assert "level 2 (326 x 256 pixels): in" in item.reason


def test_level_of_another_image_gives_way_to_one_that_shows_the_slide(tmp_path, tissue):
    decoy = resized(np.ascontiguousarray(tissue[::-1]), tissue.shape[1] // 4, tissue.shape[0] // 4)
    near = resized(tissue, round(tissue.shape[1] / 3.5), round(tissue.shape[0] / 3.5))
    patches = read(write_levels(tmp_path / "slide.tif", [tissue, near, decoy]))
    assert {type(patch) for patch in patches} == {Patch}
    for patch in patches:
        assert np.corrcoef(averaged(patch.pixels, 4).ravel(), patch.lr.ravel())[0, 1] > 0.95


def test_blank_part_of_a_level_is_listed_and_the_rest_is_read(tmp_path, tissue):
    quarter = reduced(tissue, 4)
    quarter[:32, :32] = 255
    items = read(write_levels(tmp_path / "slide.tif", [tissue, quarter]))
    assert [item.where for item in items if isinstance(item, Skipped)] == ["0_0"]
    assert sum(isinstance(item, Patch) for item in items) == 69


def test_regions_share_no_pixel_of_lr_that_is_resampled(tmp_path, tissue):
    height, width = (round(side / 3) for side in tissue.shape[:2])
    coarse = resized(tissue, width, height)
    changed = tissue.copy(), coarse.copy()
    changed[0][:, 600:], changed[1][:, 200:] = 0, 0
    left = (0, 0, 600, 1021)
    one, other = (read(Source("s", write_levels(tmp_path / f"{name}.tif", images).paths, left))
                  for name, images in (("one", (tissue, coarse)), ("other", changed)))
    assert [patch.name for patch in one] == [patch.name for patch in other]
    for patch, same in zip(one, other, strict=True):
        np.testing.assert_array_equal(patch.lr, same.lr)


def test_tiles_have_no_levels(tile_folder):
    for source in find_sources(tile_folder):
        (item,) = read(source)
        assert "tiles have one level" in item.reason


@pytest.mark.parametrize("name", ["patch_size", "stride"])
def test_patches_of_levels_begin_and_end_with_lr_pixels(name):
    with pytest.raises(ValueError, match=f"`{name}` must be divisible by scale=4 for pairs"):
        PatchOptions(pairs="levels", **{name: 130})


def test_shards_of_levels_say_their_scale_and_are_told_from_plain_ones(tmp_path, pyramid):
    options = PatchOptions(pairs="levels", patch_size=128, min_tissue=0, scale=2)
    write_shards([pyramid], tmp_path, options, workers=1, progress=False)
    (shard,) = open_shards(tmp_path).shards
    assert (shard.pair_scale, shard.patch_size) == (2, 128)
    for other in ({"scale": 4, "pairs": "levels"}, {}):
        with pytest.raises(ValueError, match="from other options or files"):
            write_shards([pyramid], tmp_path, PatchOptions(patch_size=128, min_tissue=0, **other), progress=False)


@pytest.mark.parametrize(("slide", "options"), [
    ("metaplasia-HE.tif", {}), ("metaplasia-HE.tif", {"level": 1}), ("metaplasia-HE.tif", {"mpp": 0.3}),
    ("fluorescence-DAPI.ndpi", {"min_tissue": 0.5}), ("tcga-cr-7395-01a-01-ts1.svs", {"scale": 2})])
def test_levels_of_real_slides_lie_where_hr_lies(shared_data, slide, options):
    (source,) = find_sources(shared_data / "slides" / slide)
    patches = read(source, **{"patch_size": 256, "min_tissue": 0.5, "max_patches": 8, **options})
    assert [type(patch) for patch in patches] == [Patch] * 8
    for patch in patches:
        mean = averaged(patch.pixels, options.get("scale", 4)).mean(-1)
        shift, *_ = phase_cross_correlation(mean, patch.lr.mean(-1), upsample_factor=20, normalization=None)
        assert np.abs(shift).max() <= 0.15
