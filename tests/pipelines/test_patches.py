# SPDX-License-Identifier: Apache-2.0
"""Which patches are read, from where, and what is skipped."""
from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.patches import Patch, Skipped, find_sources, read_patches
from pipelines.sources import Source


def patches(source, **options):
    return [item for item in read_patches(source, PatchOptions(**options)) if isinstance(item, Patch)]


def skipped(source, **options):
    return [item for item in read_patches(source, PatchOptions(**options)) if isinstance(item, Skipped)]


def places(found):
    return [(patch.x, patch.y) for patch in found]


@pytest.fixture
def sample(sample_slide):
    return Source("sample", (sample_slide,))


@pytest.fixture
def half_glass(tmp_path, histology):
    """A slide with glass on its left half."""
    image = histology.copy()
    image[:, :256] = 245
    Image.fromarray(image).save(tmp_path / "half.png")
    return Source("half", (tmp_path / "half.png",))


def test_grid_covers_the_slide_with_its_own_pixels(sample, histology):
    found = patches(sample, patch_size=128, min_tissue=0)
    assert places(found) == [(x, y) for y in range(0, 512, 128) for x in range(0, 512, 128)]
    for patch in found:
        np.testing.assert_array_equal(patch.pixels, histology[patch.y:patch.y + 128, patch.x:patch.x + 128])
        assert patch.mpp == pytest.approx(0.5)
        assert patch.example_id == f"sample/{patch.x}_{patch.y}"


def test_stride_is_the_step_of_the_grid(sample):
    assert len(patches(sample, patch_size=128, stride=64, min_tissue=0)) == 49


def test_level_sets_the_pixels_and_keeps_level_0_coordinates(sample):
    found = patches(sample, patch_size=64, level=1, min_tissue=0)
    assert places(found) == [(x, y) for y in range(0, 512, 128) for x in range(0, 512, 128)]
    assert {patch.mpp for patch in found} == {1.0}


def test_mpp_resamples_and_says_the_mpp_that_was_read(sample):
    found = patches(sample, patch_size=64, mpp=0.8, min_tissue=0)
    assert len(found) == 25
    assert {patch.mpp for patch in found} == {0.8}
    assert {patch.mpp for patch in patches(sample, patch_size=64, mpp=0.51, min_tissue=0)} == {0.5}


def test_tissue_is_the_share_of_the_patch_and_decides(half_glass):
    everything = patches(half_glass, patch_size=128, min_tissue=0)
    assert all(patch.tissue < 0.2 for patch in everything if patch.x < 256)
    assert all(patch.tissue > 0.4 for patch in everything if patch.x >= 256)
    assert {patch.x for patch in patches(half_glass, patch_size=128, min_tissue=0.3)} == {256, 384}


@pytest.mark.parametrize("sampling", ["grid", "random"])
@pytest.mark.parametrize("resolution", [{}, {"level": 1}, {"mpp": 0.8}])
def test_no_patch_leaves_its_region(sample_slide, sampling, resolution):
    region = (101, 33, 290, 407)
    source = Source("s", (sample_slide,), region)
    found = patches(source, patch_size=48, sampling=sampling, max_patches=500, min_tissue=0, stride=16, **resolution)
    side = 48 * found[0].mpp / 0.5
    assert min(patch.x for patch in found) >= 101
    assert min(patch.y for patch in found) >= 33
    assert max(patch.x for patch in found) + side <= 391
    assert max(patch.y for patch in found) + side <= 440


@pytest.mark.parametrize("resolution", [{}, {"level": 1}, {"mpp": 0.8}])
def test_what_is_outside_of_the_region_does_not_show(tmp_path, histology, resolution):
    region = (130, 130, 250, 250)
    x, y, width, height = region
    Image.fromarray(histology).save(tmp_path / "a.png")
    changed = np.zeros_like(histology)
    changed[y:y + height, x:x + width] = histology[y:y + height, x:x + width]
    Image.fromarray(changed).save(tmp_path / "b.png")
    if "level" in resolution:
        resolution = {"mpp": 1.0}
    both = [patches(Source("s", (tmp_path / name,), region), patch_size=32, min_tissue=0, assume_mpp=0.5, **resolution)
            for name in ("a.png", "b.png")]
    assert len(both[0]) == len(both[1]) > 0
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_region_outside_of_the_slide_is_refused(sample_slide):
    with pytest.raises(ValueError, match=r"`region` must lie inside the slide's 512 x 512"):
        patches(Source("s", (sample_slide,), (400, 0, 200, 100)), patch_size=64)


def test_random_places_follow_from_seed_and_slide(sample, sample_slide):
    first = places(patches(sample, patch_size=64, sampling="random", max_patches=20))
    assert len(set(first)) == 20
    assert places(patches(sample, patch_size=64, sampling="random", max_patches=20)) == first
    assert places(patches(sample, patch_size=64, sampling="random", max_patches=20, seed=1)) != first
    assert places(patches(Source("other", (sample_slide,)), patch_size=64, sampling="random", max_patches=20)) != first


def test_random_places_have_tissue(half_glass):
    found = patches(half_glass, patch_size=64, sampling="random", max_patches=50, min_tissue=0.6)
    assert len(found) == 50
    assert min(patch.x for patch in found) > 200
    assert min(patch.tissue for patch in found) >= 0.6


def test_capped_grid_is_reproducible_and_spread(sample):
    options = {"patch_size": 32, "min_tissue": 0, "max_patches": 24}
    found = patches(sample, **options)
    assert len(set(places(found))) == 24
    assert places(patches(sample, **options)) == places(found)
    quarters = {(patch.x // 256, patch.y // 256) for patch in found}
    assert quarters == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_cap_above_what_there_is_changes_nothing(sample):
    options = {"patch_size": 128, "min_tissue": 0}
    assert places(patches(sample, max_patches=1000, **options)) == places(patches(sample, **options))


def test_slide_without_tissue_is_skipped_and_not_broken(tmp_path):
    Image.new("RGB", (300, 300), (244, 243, 245)).save(tmp_path / "glass.png")
    (item,) = read_patches(Source("glass", (tmp_path / "glass.png",)), PatchOptions(patch_size=64))
    assert (item.slide_id, item.where, item.broken) == ("glass", "slide", False)
    assert "no tissue" in item.reason


def test_region_smaller_than_a_patch_is_what_is_said_to_be_small(sample_slide):
    (item,) = read_patches(Source("s", (sample_slide,), (10, 20, 300, 90)), PatchOptions(patch_size=128))
    assert item.reason.endswith("its region 10,20,300,90 is smaller than a patch of 128 pixels")


def test_slide_smaller_than_a_patch_is_skipped(sample):
    (item,) = read_patches(sample, PatchOptions(patch_size=513))
    assert "smaller than a patch of 513" in item.reason
    assert not item.broken


def test_slide_that_cannot_be_opened_is_skipped_as_broken(tmp_path):
    (tmp_path / "note.svs").write_text("no slide")
    (item,) = read_patches(Source("note", (tmp_path / "note.svs",)), PatchOptions())
    assert (item.where, item.broken) == ("slide", True)
    assert "note.svs" in item.reason


def test_slide_without_mpp_is_skipped_naming_the_flag(half_glass):
    (item,) = skipped(half_glass, mpp=0.5, patch_size=64)
    assert "--assume_mpp" in item.reason
    assert patches(half_glass, mpp=1.0, assume_mpp=0.5, patch_size=64)


def test_broken_place_is_skipped_and_the_rest_goes_on(broken_slide):
    source = Source("s", (broken_slide,))
    (item,) = skipped(source, patch_size=128)
    assert (item.where, item.broken) == ("128_128", True)
    assert "broken.tif" in item.reason
    assert len(patches(source, patch_size=128)) == 15


def test_tiles_are_patches_named_by_their_file(tile_folder, histology):
    source = find_sources(tile_folder)[0]
    found = patches(source, patch_size=128, min_tissue=0)
    assert [patch.name for patch in found] == [f"tile{i}" for i in range(8)]
    assert {(patch.x, patch.y, patch.mpp) for patch in found} == {(0, 0, None)}
    assert found[5].example_id == "slide-a/tile5"
    np.testing.assert_array_equal(found[5].pixels, histology[128:256, 128:256])


def test_larger_tiles_are_cut_and_smaller_skipped(tile_folder):
    source = find_sources(tile_folder)[0]
    assert [patch.name for patch in patches(source, patch_size=64, min_tissue=0)[:3]] == [
        "tile0_0_0", "tile0_64_0", "tile0_0_64"]
    assert [item.where for item in skipped(source, patch_size=129)] == [f"tile{i}.png" for i in range(8)]


def test_capped_tiles_come_from_all_over_and_reproducibly(tile_folder):
    source = find_sources(tile_folder)[0]
    names = [patch.name for patch in patches(source, patch_size=64, min_tissue=0, max_patches=8)]
    assert len({name.split("_")[0] for name in names}) == 8
    assert [patch.name for patch in patches(source, patch_size=64, min_tissue=0, max_patches=8)] == names
    assert len(patches(source, patch_size=128, min_tissue=0, max_patches=3)) == 3
    random = patches(source, patch_size=64, min_tissue=0, max_patches=16, sampling="random")
    assert len({patch.name for patch in random}) == 16


def test_broken_tile_is_skipped_by_name_and_the_rest_goes_on(tmp_path, tile_folder):
    for i in range(3):
        data = (tile_folder / "slide-a" / f"tile{i}.png").read_bytes()
        (tmp_path / f"tile{i}.png").write_bytes(data[:len(data) // 2] if i == 1 else data)
    (source,) = find_sources(tmp_path)
    assert [patch.name for patch in patches(source, patch_size=128, min_tissue=0)] == ["tile0", "tile2"]
    (item,) = skipped(source, patch_size=128, min_tissue=0)
    assert (item.where, item.broken) == ("tile1.png", True)


def test_glass_tile_is_skipped_and_not_broken(tmp_path):
    Image.new("RGB", (64, 64), "white").save(tmp_path / "glass.png")
    (item,) = skipped(find_sources(tmp_path)[0], patch_size=64)
    assert (item.where, item.broken) == ("glass.png", False)


def test_mpp_of_tiles_is_one_refusal_for_all(tile_folder):
    (item,) = read_patches(find_sources(tile_folder)[0], PatchOptions(patch_size=64, mpp=0.5))
    assert (item.where, item.broken) == ("slide", True)
    assert "--assume_mpp" in item.reason


def test_equal_tile_names_keep_their_suffix(tmp_path, histology):
    for name in ("a.png", "a.bmp"):
        Image.fromarray(histology[:64, :64]).save(tmp_path / name)
    found = patches(find_sources(tmp_path)[0], patch_size=64, min_tissue=0)
    assert [patch.name for patch in found] == ["a.bmp", "a.png"]


def test_sources_and_patches_travel_between_processes(sample):
    patch = patches(sample, patch_size=128, max_patches=1)[0]
    again = pickle.loads(pickle.dumps((sample, patch)))
    assert again[0] == sample
    np.testing.assert_array_equal(again[1].pixels, patch.pixels)


@pytest.mark.parametrize("slide", ["CMU-1-Small-Region.svs", "OS-1-detail.ome.tif", "metaplasia-HE.tif"])
def test_real_slides_give_patches_of_tissue_at_half_a_micron(shared_data, slide):
    source = find_sources(shared_data / "slides" / slide)[0]
    found = patches(source, patch_size=128, mpp=0.5, max_patches=9)
    assert len(found) == 9
    assert all(abs(patch.mpp - 0.5) < 0.03 for patch in found)
    assert all(patch.pixels.std() > 8 for patch in found)
