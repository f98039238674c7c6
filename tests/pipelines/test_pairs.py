# SPDX-License-Identifier: Apache-2.0
"""Pairs from files: which belong together, what is cut, what is listed; and how shards carry them."""
from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.pairs import pair_folders, shape_of
from pipelines.patches import Patch, Skipped, find_sources, read_patches
from pipelines.shards import open_shards, write_shards
from pipelines.shards.records import decode, encode

OPTIONS = PatchOptions()


def averaged(hr, scale=4):
    """Return the mean of each scale x scale square, uint8."""
    h, w = hr.shape[0] // scale, hr.shape[1] // scale
    squares = hr[:h * scale, :w * scale].reshape(h, scale, w, scale, 3).astype(np.float64)
    return np.rint(squares.mean(axis=(1, 3))).astype(np.uint8)


def save_pair(folder, name, tissue, dx=3, dy=1, side=63, scale=4):
    """Save 256 x 256 pixels of tissue as HR, and the averages from (dx, dy) on as LR."""
    folder.mkdir(parents=True, exist_ok=True)
    lr = averaged(tissue[dy:dy + side * scale, dx:dx + side * scale], scale)
    Image.fromarray(tissue).save(folder / f"{name}.png")
    Image.fromarray(lr).save(folder / f"{name}_lr{dx}{dy}.png")
    return lr


def write(sources, folder, options=OPTIONS):
    return write_shards(sources, folder, options, workers=1, progress=False)


def records(shards):
    return [decode(record) for record in tf.data.TFRecordDataset([str(path) for path in shards.paths])]


@pytest.fixture
def case(tmp_path, histology):
    """A slide of three pairs."""
    for number, (dx, dy) in enumerate([(3, 1), (1, 1), (1, 3)]):
        save_pair(tmp_path / "case", f"t{number}", histology[:256, 128 * number:128 * number + 256], dx, dy)
    return tmp_path / "case"


def test_folder_with_lr_beside_hr_gives_pairs_of_what_both_show(case):
    (source,) = find_sources(case)
    assert [path.name for path in source.paths] == ["t0.png", "t1.png", "t2.png"]
    found = list(read_patches(source, PatchOptions(patch_size=64)))
    assert [patch.name for patch in found] == ["t0", "t1", "t2"]
    for patch in found:
        assert patch.pixels.shape == (252, 252, 3)
        np.testing.assert_array_equal(averaged(patch.pixels), patch.lr)
    assert shape_of(source) == (252, 4)


def test_max_patches_draws_pairs_by_the_seed(case):
    def names(seed):
        return [patch.name for patch in read_patches(find_sources(case)[0], PatchOptions(max_patches=2, seed=seed))]
    assert len(names(0)) == 2
    assert names(0) == names(0)
    assert len({tuple(names(seed)) for seed in range(9)}) > 1


def test_missing_partners_are_listed_and_lr_is_never_a_tile(case):
    (case / "t0.png").unlink()
    (case / "t1_lr11.png").unlink()
    found = list(read_patches(find_sources(case)[0], OPTIONS))
    assert [item.name for item in found if isinstance(item, Patch)] == ["t2"]
    assert {item.where for item in found if isinstance(item, Skipped)} == {"t0_lr31.png", "t1.png"}
    for path in case.glob("t?.png"):
        path.unlink()
    (source,) = find_sources(case)
    assert source.paths == ()
    assert {type(item) for item in read_patches(source, OPTIONS)} == {Skipped}


def test_two_folders_of_the_same_names_are_pairs(tmp_path, histology):
    for number in range(3):
        save_pair(tmp_path / "hr" / "case", f"t{number}", histology[:256, 128 * number:128 * number + 256], 0, 0, 64)
    (tmp_path / "lr" / "case").mkdir(parents=True)
    for path in (tmp_path / "hr" / "case").glob("*_lr00.png"):
        path.rename(tmp_path / "lr" / "case" / f"{path.stem.removesuffix('_lr00')}.png")
    (tmp_path / "lr" / "case" / "t2.png").rename(tmp_path / "lr" / "case" / "other.png")
    (source,) = pair_folders(find_sources(tmp_path / "hr"), tmp_path / "hr", tmp_path / "lr")
    found = list(read_patches(source, OPTIONS))
    assert [item.name for item in found if isinstance(item, Patch)] == ["t0", "t1"]
    assert {item.where for item in found if isinstance(item, Skipped)} == {"t2.png", "other.png"}
    assert found[-1].pixels.shape == (256, 256, 3)
    np.testing.assert_array_equal(averaged(found[-1].pixels), found[-1].lr)
    Image.fromarray(histology[:255, :255]).save(tmp_path / "hr" / "case" / "t1.png")
    reasons = {item.where: item.reason for item in read_patches(source, OPTIONS) if isinstance(item, Skipped)}
    assert "LR 64 x 64, HR 255 x 255" in reasons["t1.png"]


def test_second_folder_that_lacks_a_slide_pairs_none_of_its_tiles(tmp_path, tile_folder):
    (tmp_path / "lr").mkdir()
    sources = pair_folders(find_sources(tile_folder), tile_folder, tmp_path / "lr")
    assert {type(item) for source in sources for item in read_patches(source, OPTIONS)} == {Skipped}
    with pytest.raises(FileNotFoundError, match="`lr_data` must be a folder"):
        pair_folders(sources, tile_folder, tmp_path / "nowhere")


def test_second_folder_goes_with_tiles_alone(tmp_path, sample_slide):
    with pytest.raises(ValueError, match=r"`lr_data` must go with folders of tiles; .*sr-keras register"):
        pair_folders(find_sources(sample_slide), sample_slide.parent, tmp_path)


def test_lr_of_another_place_is_listed_and_the_others_are_read(case, histology):
    Image.fromarray(averaged(histology[256:508, 256:508])).save(case / "t1_lr11.png")
    found = list(read_patches(find_sources(case)[0], OPTIONS))
    assert [item.name for item in found if isinstance(item, Patch)] == ["t0", "t2"]
    (item,) = [item for item in found if isinstance(item, Skipped)]
    assert (item.where, item.broken) == ("t1.png", True)
    assert "t1_lr11.png: LR does not show what HR shows (correlation" in item.reason


def test_slide_whose_pairs_mostly_do_not_correspond_is_refused_in_one_line(case, tmp_path):
    (case / "t0_lr31.png").rename(tmp_path / "t.png")
    (case / "t1_lr11.png").rename(case / "t0_lr31.png")
    (case / "t2_lr13.png").rename(case / "t1_lr11.png")
    (tmp_path / "t.png").rename(case / "t2_lr13.png")
    (item,) = read_patches(find_sources(case)[0], OPTIONS)
    assert (item.where, "most pairs do not correspond; in 3 of 3 places" in item.reason) == ("slide", True)
    with pytest.raises(ValueError, match=r"give at least one patch; .*most pairs do not correspond"):
        write(find_sources(case), tmp_path / "shards")


def test_pairs_of_files_are_asked_for_in_vain_where_tiles_have_no_lr(tile_folder):
    items = [item for source in find_sources(tile_folder) for item in read_patches(source, PatchOptions(pairs="files"))]
    assert [item.where for item in items] == ["slide", "slide"]
    assert all("has no LR beside it" in item.reason for item in items)


@pytest.mark.parametrize(("options", "reads"), [
    ({"mpp": 0.5, "assume_mpp": 0.5}, True), ({"mpp": 0.5, "assume_mpp": 0.25}, False), ({"mpp": 0.5}, False),
    ({"level": 1}, False)])
def test_pairs_of_files_are_read_as_they_are_or_not_at_all(case, options, reads):
    found = list(read_patches(find_sources(case)[0], PatchOptions(**options)))
    assert [getattr(item, "mpp", None) for item in found] == ([0.5] * 3 if reads else [None])


def test_pairs_of_another_size_than_the_others_are_listed(case, histology):
    save_pair(case, "t3", histology[256:512, 256:512], 1, 1, 60)
    found = list(read_patches(find_sources(case)[0], OPTIONS))
    assert [item.name for item in found if isinstance(item, Patch)] == ["t0", "t1", "t2"]
    (item,) = [item for item in found if isinstance(item, Skipped)]
    assert "t3_lr11.png: must" in item.reason


@pytest.mark.parametrize("lr_size", [(60, 63), (80, 80), (300, 300)])
def test_sizes_that_do_not_divide_are_listed(case, lr_size):
    Image.new("RGB", lr_size).save(case / "t1_lr11.png")
    items = [item for item in read_patches(find_sources(case)[0], OPTIONS) if isinstance(item, Skipped)]
    assert [item.where for item in items] == ["t1_lr11.png"]
    assert "2 or 4 or 8 times smaller" in items[0].reason


def test_shards_carry_lr_and_their_pages_say_so(case, tmp_path):
    write(find_sources(case), tmp_path / "shards", PatchOptions(patch_size=64))
    (shard,) = open_shards(tmp_path / "shards").shards
    assert (shard.pair_scale, shard.patch_size, shard.count) == (4, 252, 3)
    patches = list(read_patches(find_sources(case)[0], OPTIONS))
    for (slide_id, example_id, hr, lr), patch in zip(records(open_shards(tmp_path / "shards")), patches, strict=True):
        assert (slide_id.numpy().decode(), example_id.numpy().decode()) == (patch.slide_id, patch.example_id)
        np.testing.assert_array_equal(hr, patch.pixels)
        np.testing.assert_array_equal(lr, patch.lr)
    assert write(find_sources(case), tmp_path / "shards", PatchOptions(patch_size=128)).kept == 1


def test_pairs_and_tiles_lie_in_one_set_that_can_be_parted(case, tmp_path, tile_folder):
    options = PatchOptions(patch_size=128, min_tissue=0)
    write(find_sources([case, tile_folder]), tmp_path / "shards", options)
    both = open_shards(tmp_path / "shards")
    plain = replace(both, shards=tuple(shard for shard in both.shards if not shard.pair_scale))
    assert both.patch_size == 128
    assert (both.pairs.slide_ids, plain.slide_ids) == (("case",), ("slide-a", "slide-b"))
    assert (both.pairs.patch_size, plain.patch_size) == (252, 128)
    assert {lr.shape for *_, lr in records(plain)} == {(0, 0, 3)}


def test_tiles_that_become_pairs_are_not_taken_for_what_was_written(case, tmp_path):
    alone = [replace(source, lr_paths=None) for source in find_sources(case)]
    write(alone, tmp_path / "shards")
    with pytest.raises(ValueError, match="pairs was None and is 'files'"):
        write(find_sources(case), tmp_path / "shards")
    write(find_sources(case), tmp_path / "pairs")
    with pytest.raises(ValueError, match="pairs was 'files' and is None"):
        write(alone, tmp_path / "pairs")


def test_shards_and_pages_of_before_there_were_pairs_are_read_and_resumed(tmp_path, tile_folder):
    sources = find_sources(tile_folder)
    write(sources, tmp_path / "shards", PatchOptions(patch_size=64))
    page = json.loads((tmp_path / "shards" / "slide-a.json").read_text())
    assert list(page["options"]) == [
        "patch_size", "stride", "mpp", "level", "assume_mpp", "sampling", "max_patches", "min_tissue", "seed"]
    assert open_shards(tmp_path / "shards").pairs.shards == ()
    assert write(sources, tmp_path / "shards", PatchOptions(patch_size=64)).kept == 2


def test_record_of_before_there_were_pairs_is_read():
    pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    text, number, share = (lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])),
                           lambda value: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])),
                           lambda value: tf.train.Feature(float_list=tf.train.FloatList(value=[value])))
    old = tf.train.Example(features=tf.train.Features(feature={
        "slide_id": text(b"s"), "name": text(b"1_2"), "x": number(1), "y": number(2), "mpp": share(0.5),
        "tissue": share(1.0), "size": number(4), "pixels": text(pixels.tobytes())}))
    serialised = old.SerializeToString(deterministic=True)
    slide_id, example_id, hr, lr = decode(tf.constant(serialised))
    assert (slide_id.numpy(), example_id.numpy()) == (b"s", b"s/1_2")
    np.testing.assert_array_equal(hr, pixels)
    assert lr.shape == (0, 0, 3)
    assert encode(Patch("s", 1, 2, 0.5, 1.0, pixels, "1_2")) == serialised


def test_real_pairs_are_found_by_slide(shared_data):
    sources = find_sources(shared_data / "pairs" / "train")
    assert (len(sources), sum(len(source.lr_paths) for source in sources)) == (11, 1430)
    assert shape_of(sources[0]) == (252, 4)
    both = find_sources([shared_data / "tiles" / "val", shared_data / "pairs" / "val"])
    assert [source.slide_id for source in both if source.slide_id.endswith("erosion")] == [
        "pairs--val--erosion", "tiles--val--erosion"]
