# SPDX-License-Identifier: Apache-2.0
"""Slides are parted by slide; what is given as shards is used where it is; what can't be read is listed."""
from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.patches import find_sources
from pipelines.shards import write_shards
from pipelines.slide import SlideError
from sr_keras.config import DataOptions
from sr_keras.training.split import find_parts, open_part, patch_size, read_parts

PATCHES = PatchOptions(patch_size=32, min_tissue=0)


def options(*train, **values) -> DataOptions:
    return DataOptions(tuple(str(path) for path in train), eval_patch_size=32, workers=1, **values)


def prepare(given, patches, run, seed):
    return read_parts(find_parts(given, patches, seed), given, patches, run)


@pytest.fixture
def slides(tmp_path, histology):
    """Five folders of four tiles each."""
    for slide in range(5):
        folder = tmp_path / "slides" / f"case{slide}"
        folder.mkdir(parents=True)
        for tile in range(4):
            pixels = histology[64 * slide:64 * slide + 32, 64 * tile:64 * tile + 32]
            Image.fromarray(pixels).save(folder / f"{tile}.png")
    return tmp_path / "slides"


def test_slides_are_parted_so_that_no_slide_is_in_two_parts(slides, tmp_path):
    parts = prepare(options(slides, val_fraction=0.2, test_fraction=0.2), PATCHES, tmp_path / "run", seed=0)
    ids = [slide for part in ("train", "val", "test") for slide in parts[part].slide_ids]
    assert sorted(ids) == [f"case{i}" for i in range(5)]
    assert (len(parts["train"].slide_ids), parts["train"].count) == (3, 12)


def test_parting_follows_from_the_seed(slides, tmp_path):
    drawn = [prepare(options(slides), PATCHES, tmp_path / f"run{i}", seed)["val"].slide_ids
             for i, seed in enumerate([1, 1, 2, 3, 4, 5])]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_split_that_keeps_most_patches_aside_says_so_with_the_remedy(slides, tmp_path, capsys):
    prepare(options(slides, val_fraction=0.2, test_fraction=0.2), PATCHES, tmp_path / "even", seed=0)
    assert "held out" not in capsys.readouterr().out
    few = prepare(options(slides, val_fraction=0.2, test_fraction=0.7), PATCHES, tmp_path / "few", seed=0)
    assert len(few["train"].slide_ids) == 1
    assert "held out, because few slides are left to train on: add slides, or lower " in capsys.readouterr().out
    for tile in range(4, 20):  # the slide that is held out has more tiles than the four others
        shutil.copy(slides / "case0" / "0.png", slides / "case0" / f"{tile}.png")
    rest = [slides / f"case{slide}" for slide in range(1, 5)]
    prepare(options(*rest, val_data=(str(slides / "case0"),)), PATCHES, tmp_path / "large", seed=0)
    assert "slides are split by number and not by size: set --max_patches" in capsys.readouterr().out


def test_slides_of_several_magnifications_are_told(slides, tmp_path, capsys):
    (slides / "case0" / "mpp.txt").write_text("0.25")
    (slides / "case1" / "mpp.txt").write_text("0.5")
    prepare(options(slides), PATCHES, tmp_path / "run", seed=0)
    assert capsys.readouterr().out.count("slides of 0.25 to 0.5 microns per pixel are mixed") == 1


def test_finding_parts_writes_nothing(slides, tmp_path):
    before = set(tmp_path.rglob("*"))
    assert {part: len(found) for part, found in find_parts(options(slides), PATCHES, seed=0).items()} == {
        "train": 3, "val": 1, "test": 1}
    assert set(tmp_path.rglob("*")) == before


def test_test_data_that_is_given_leaves_all_slides_to_train_and_val(slides, tmp_path):
    train = [slides / f"case{i}" for i in range(4)]
    parts = prepare(options(*train, test_data=(str(slides / "case4"),)), PATCHES, tmp_path / "run", seed=0)
    assert sorted(parts["train"].slide_ids + parts["val"].slide_ids) == [f"case{i}" for i in range(4)]
    assert parts["test"].slide_ids == ("case4",)


def test_slides_of_a_start_that_came_to_nothing_stay_out_of_a_part(slides, tmp_path):
    write_shards(find_sources(slides), tmp_path / "run" / "data" / "train", PATCHES, workers=1, progress=False)
    parts = prepare(options(slides), PATCHES, tmp_path / "run", seed=0)
    assert len(parts["train"].slide_ids) == 3
    assert not set(parts["train"].slide_ids) & {*parts["val"].slide_ids, *parts["test"].slide_ids}


def test_one_folder_of_tiles_is_refused_with_both_remedies(slides):
    with pytest.raises(ValueError, match=r"tiles of each slide into a separate folder, or set --val_data"):
        find_parts(options(slides / "case0"), PATCHES, seed=0)
    found = find_parts(options(slides / "case0", val_data=(str(slides / "case1"),)), PATCHES, seed=0)
    assert [source.slide_id for source in found["train"]] == ["case0"]


def test_shards_are_used_where_they_are_and_parted_by_slide(slides, tmp_path):
    write_shards(find_sources(slides), tmp_path / "shards", PATCHES, workers=1, progress=False)
    parts = prepare(options(tmp_path / "shards"), PATCHES, tmp_path / "run", seed=0)
    assert not (tmp_path / "run" / "data").exists()
    assert sorted(slide for part in parts.values() for slide in part.slide_ids) == [f"case{i}" for i in range(5)]
    again = open_part(tmp_path / "run", "test")
    assert (again.slide_ids, again.count) == (parts["test"].slide_ids, parts["test"].count)


def test_open_part_is_test_where_there_is_one_and_val_otherwise(slides, tmp_path):
    prepare(options(slides / "case0", slides / "case1", val_data=(str(slides / "case2"),)), PATCHES, tmp_path / "a", 0)
    assert open_part(tmp_path / "a").slide_ids == ("case2",)
    prepare(options(slides), PATCHES, tmp_path / "b", 0)
    assert open_part(tmp_path / "b").slide_ids == open_part(tmp_path / "b", "test").slide_ids
    with pytest.raises(ValueError, match="must have a test part"):
        open_part(tmp_path / "a", "test")


def test_moved_run_takes_its_own_patches_along_and_never_those_of_another(slides, tmp_path):
    given = options(slides / "case0", val_data=(str(slides / "case1"),))
    prepare(given, PATCHES, tmp_path / "a", seed=0)
    (tmp_path / "a").rename(tmp_path / "b")
    prepare(options(slides / "case2", val_data=(str(slides / "case3"),)), PATCHES, tmp_path / "a", seed=0)
    moved = open_part(tmp_path / "b", "val")
    assert moved.slide_ids == ("case1",)
    assert all(path.is_relative_to(tmp_path / "b") for path in moved.paths)


def test_full_paths_of_old_in_a_moved_run_mean_its_own_patches(slides, tmp_path):
    prepare(options(slides / "case0", val_data=(str(slides / "case1"),)), PATCHES, tmp_path / "a", seed=0)
    parts = json.loads((tmp_path / "a" / "parts.json").read_text())
    parts["val"]["folders"] = [str(tmp_path / "a" / "data" / "val")]
    (tmp_path / "a" / "parts.json").write_text(json.dumps(parts))
    assert open_part(tmp_path / "a").slide_ids == ("case1",)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert all(path.is_relative_to(tmp_path / "b") for path in open_part(tmp_path / "b").paths)


def test_shards_that_are_gone_are_an_error_that_names_run_part_and_folder(slides, tmp_path):
    for name in ("case0", "case1"):
        write_shards(find_sources(slides / name), tmp_path / name, PATCHES, workers=1, progress=False)
    prepare(options(tmp_path / "case0", val_data=(str(tmp_path / "case1"),)), PATCHES, tmp_path / "run", seed=0)
    shutil.rmtree(tmp_path / "case1")
    with pytest.raises(FileNotFoundError, match=r"`run` must have the shards of its val part.*/case1"):
        open_part(tmp_path / "run")


@pytest.mark.parametrize("held", ["{", '{"test": 5}', '{"test": {"folders": []}}', '{"test": {"folders": [1]}}'])
def test_damaged_parts_file_is_one_line_that_names_it(held, tmp_path):
    (tmp_path / "parts.json").write_text(held)
    with pytest.raises(ValueError, match=r"/parts\.json` must .*--resume.*Received: .*(\$|char)"):
        open_part(tmp_path)


@pytest.mark.parametrize("folder", ["../../etc", "data/../../other", ".."])
def test_part_outside_of_the_run_is_refused(folder, tmp_path):
    (tmp_path / "parts.json").write_text(json.dumps({"test": {"folders": [folder], "slides": ["a"]}}))
    with pytest.raises(ValueError, match=rf"`parts\.json` must name folders in the run.*{tmp_path}/parts\.json"):
        open_part(tmp_path)


@pytest.mark.parametrize("as_shards", [False, True])
def test_slide_in_train_and_val_is_refused_by_name(as_shards, slides, tmp_path):
    train, val = slides, slides / "case3"
    if as_shards:
        for name, spec in (("train", train), ("val", val)):
            write_shards(find_sources(spec), tmp_path / name, PATCHES, workers=1, progress=False)
        train, val = tmp_path / "train", tmp_path / "val"
    with pytest.raises(ValueError, match=r"must share no slide.*case3"):
        prepare(options(train, val_data=(str(val),)), PATCHES, tmp_path / "run", seed=0)


def test_regions_of_one_slide_share_no_pixel(sample_slide, tmp_path):
    apart = options(sample_slide, train_region=(0, 0, 512, 256), val_region=(0, 256, 128, 128))
    parts = prepare(apart, PATCHES, tmp_path / "run", seed=0)
    assert (parts["train"].count, parts["val"].count) == (16 * 8, 16)
    touching = options(sample_slide, train_region=(0, 0, 512, 256), val_region=(0, 255, 128, 128))
    with pytest.raises(ValueError, match="must share no slide"):
        prepare(touching, PATCHES, tmp_path / "other", seed=0)


def test_region_of_one_part_leaves_the_data_of_another_to_it(sample_slide, slides):
    found = find_parts(options(sample_slide, train_region=(0, 0, 256, 256), val_data=(str(slides / "case0"),),
                               test_data=(str(slides / "case1"), str(slides / "case2"))), PATCHES, seed=0)
    assert [source.region for source in found["train"]] == [(0, 0, 256, 256)]
    assert [source.slide_id for source in found["val"]] == ["case0"]
    assert [source.slide_id for source in found["test"]] == ["case1", "case2"]


def test_region_with_nothing_to_validate_on_is_refused_with_what_helps(sample_slide):
    with pytest.raises(ValueError, match=r"`val_data` must name slides to validate on.*or --val_region"):
        find_parts(options(sample_slide, train_region=(0, 0, 256, 256)), PATCHES, seed=0)


def test_patch_wider_than_what_is_cut_of_a_slide_is_refused_before_anything_is_read(sample_slide):
    given = options(sample_slide, train_region=(0, 0, 512, 256), val_region=(0, 256, 31, 128))
    found = find_parts(given, PATCHES, seed=0)
    assert patch_size("train", found["train"], given, PATCHES) == 32
    with pytest.raises(ValueError, match=r"`eval_patch_size` must be 31 or less.*demo\.flags"):
        patch_size("val", found["val"], given, PATCHES)


def test_a_slide_that_is_in_several_parts_is_named(sample_slide, slides, tmp_path, capsys):
    prepare(options(sample_slide), PATCHES, tmp_path / "one", seed=0)
    assert "immunohistochemistry: cut into regions for several parts" in capsys.readouterr().out
    prepare(options(slides), PATCHES, tmp_path / "several", seed=0)
    assert "cut into regions" not in capsys.readouterr().out


def test_region_of_several_slides_is_refused(slides, tmp_path):
    with pytest.raises(ValueError, match="`train_region` must cut a single slide"):
        prepare(options(slides, train_region=(0, 0, 32, 32), val_region=(0, 0, 8, 8)), PATCHES, tmp_path, seed=0)


def test_tile_that_cannot_be_read_is_skipped_listed_and_fatal_when_strict(slides, tmp_path, capsys):
    whole = (slides / "case0" / "0.png").read_bytes()
    (slides / "case0" / "0.png").write_bytes(whole[: len(whole) // 2])
    given = {"val_data": (str(slides / "case1"),)}
    prepare(options(slides / "case0", **given), PATCHES, tmp_path / "run", seed=0)
    listed = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert [(item["part"], item["slide_id"], item["where"]) for item in listed] == [("train", "case0", "0.png")]
    printed = capsys.readouterr().out
    assert "skipped 1 patches" in printed
    assert "skipped: case0, 0.png: " in printed
    with pytest.raises(SlideError, match=r"0\.png"):
        prepare(options(slides / "case0", strict=True, **given), PATCHES, tmp_path / "strict", seed=0)


def test_shards_beside_slides_are_refused(slides, tmp_path):
    write_shards(find_sources(slides / "case0"), tmp_path / "shards", PATCHES, workers=1, progress=False)
    with pytest.raises(ValueError, match="shards alone or slides alone"):
        prepare(options(tmp_path / "shards", slides / "case1"), PATCHES, tmp_path / "run", seed=0)


def test_start_that_came_to_nothing_gives_way_to_other_options(slides, tmp_path):
    run, given = tmp_path / "run", options(slides, test_fraction=0.2, val_fraction=0.2)
    write_shards(find_sources(slides), run / "data" / "train", PatchOptions(16, min_tissue=0), 1, progress=False)
    parts = prepare(given, PATCHES, run, seed=0)
    assert (parts["train"].patch_size, parts["train"].count) == (32, 12)


def test_run_that_has_its_data_keeps_it(slides, tmp_path):
    run, given = tmp_path / "run", options(slides)
    prepare(given, PATCHES, run, seed=0)
    with pytest.raises(ValueError, match="patch_size was 32 and is 16"):
        prepare(given, PatchOptions(16, min_tissue=0), run, seed=0)


@pytest.mark.parametrize(("given", "named"), [
    ({"train_data": ("/no/such",)}, "train_data"), ({"val_data": ("/no/such",)}, "val_data"),
    ({"test_data": ("/no/such",)}, "test_data"),
    ({"train_data": ("/no/such",), "train_region": (0, 0, 32, 32), "val_region": (0, 32, 32, 32)}, "train_data")])
def test_missing_slides_are_named_by_their_flag(given, named, slides):
    with pytest.raises(FileNotFoundError, match=rf"^`{named}` must exist; .*{named}='/no/such'"):
        find_parts(DataOptions(**{"train_data": (str(slides),), **given}), PATCHES, seed=0)


@pytest.mark.parametrize("bad", range(5))
def test_slide_that_gives_no_patch_is_listed_and_leaves_no_part_without_one(slides, tmp_path, bad):
    for tile in (slides / f"case{bad}").iterdir():
        tile.write_bytes(b"torn")
    parts = prepare(options(slides, val_fraction=0.2, test_fraction=0.2), PATCHES, tmp_path / "run", seed=0)
    assert sorted(slide for part in parts.values() for slide in part.slide_ids) == [
        f"case{i}" for i in range(5) if i != bad]
    assert [len(parts[part].slide_ids) for part in ("train", "val", "test")] == [2, 1, 1]
    listed = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert {(item["part"], item["slide_id"]) for item in listed} == {("train", f"case{bad}")}


def test_no_tissue_anywhere_is_an_error(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((32, 32, 3), 245, np.uint8)).save(tmp_path / name / "glass.png")
    with pytest.raises(ValueError, match=r"^`train_data` must give at least one patch.*no tissue"):
        prepare(options(*(tmp_path / name for name in "abc")), PatchOptions(patch_size=32), tmp_path / "run", 0)


@pytest.fixture
def pairs(tmp_path, histology):
    """Two folders of four pairs each: 62 pixels of HR have LR, at half the side."""
    for slide in range(2):
        folder = tmp_path / "pairs" / f"pair{slide}"
        folder.mkdir(parents=True)
        for tile in range(4):
            hr = histology[64 * slide:64 * slide + 64, 64 * tile:64 * tile + 64]
            Image.fromarray(hr).save(folder / f"{tile}.png")
            Image.fromarray(hr[1:63, 1:63]).resize((31, 31), Image.Resampling.BOX).save(folder / f"{tile}_lr11.png")
    return tmp_path / "pairs"


def test_pairs_and_tiles_make_one_part_and_patch_size_is_that_of_the_smaller(slides, pairs, tmp_path):
    patches = PatchOptions(patch_size=32, min_tissue=0, scale=2)
    given = options(slides, pairs / "pair0", val_data=(str(pairs / "pair1"),))
    found = find_parts(given, patches, seed=0)
    assert [patch_size(part, found[part], given, patches) for part in ("train", "val")] == [32, 62]
    parts = read_parts(found, given, patches, tmp_path / "run")
    assert [(part.pairs.count, part.count) for part in parts.values()] == [(4, 24), (4, 4)]
    again = open_part(tmp_path / "run", "val")
    assert (again.patch_size, again.shards[0].pair_scale) == (62, 2)


@pytest.mark.parametrize("as_shards", [False, True])
def test_pairs_of_another_scale_than_the_model_are_refused(slides, pairs, tmp_path, as_shards):
    train = pairs
    if as_shards:
        train = tmp_path / "shards"
        write_shards(find_sources(pairs), train, PATCHES, workers=1, progress=False)
    with pytest.raises(ValueError, match=r"`scale` must be 2, that of the pairs of pair0; .*Received: scale=4"):
        find_parts(options(train, val_data=(str(slides),)), PATCHES, seed=0)


@pytest.mark.parametrize("kind", ["case_pattern", "cases"])
@pytest.mark.parametrize("as_shards", [False, True])
def test_slides_of_a_case_stay_in_one_part(as_shards, kind, slides, tmp_path):
    """Folders a1 to c2 are of the cases a, b and c."""
    for i, name in enumerate(("a1", "b1", "c1", "a2", "b2")):
        (slides / f"case{i}").rename(slides / name)
    (tmp_path / "cases.csv").write_text("slide,case\na1,a\na2,a\nb1,b\nb2,b\nc1,c\n")
    data = slides
    if as_shards:
        write_shards(find_sources(slides), tmp_path / "shards", PATCHES, workers=1, progress=False)
        data = tmp_path / "shards"
    given = {"case_pattern": "^([abc])"} if kind == "case_pattern" else {"cases": str(tmp_path / "cases.csv")}
    for seed in range(4):
        found = find_parts(options(data, val_fraction=0.3, test_fraction=0.3, **given), PATCHES, seed)
        cases = [{source.slide_id[0] for source in (
            part if isinstance(part, list) else part.shards)} for part in found.values()]
        assert sorted(map(sorted, cases)) == [["a"], ["b"], ["c"]]
    with pytest.raises(ValueError, match=r"must share no case.*a1 and a2"):
        find_parts(options(slides / "a1", val_data=(str(slides / "a2"),), **given), PATCHES, seed=0)
    (slides / "a1").rename(slides / "x1")
    with pytest.raises(ValueError, match=r"`cases?(_pattern)?` must .*'x1' has none"):
        find_parts(options(slides, **given), PATCHES, seed=0)


@pytest.fixture
def without_mpp(slides, sample_slide, tmp_path):
    """A slide with mpp, one for validation, and 20 tiles without."""
    (tmp_path / "mixed").mkdir()
    for name in ("mixed/good.tif", "val.tif"):
        shutil.copy(sample_slide, tmp_path / name)
    shutil.move(slides, tmp_path / "mixed")
    return tmp_path / "mixed"


def test_training_that_skips_most_of_its_files_stops_with_counts_by_reason(without_mpp, tmp_path):
    """Today's fault: 1,000 tiles are skipped, and 19 patches are left."""
    (without_mpp / "gone.tif").symlink_to("nowhere")
    patches = PatchOptions(patch_size=32, mpp=1.0, min_tissue=0)
    given = {"val_data": (str(tmp_path / "val.tif"),)}
    with pytest.raises(ValueError, match=(
            r"^`train_data` must give patches from 50% of its files; correct what the reasons say, or set "
            r"--max_skipped=1 to use the others \(20 times: tiles have no resolution metadata; write .* to mpp\.txt .*"
            r"set --assume_mpp.*; 1 times: is a link that leads nowhere; .*\)\. "
            r"Received: train_data='patches from 1 of 22'$")):
        prepare(options(without_mpp, **given), patches, tmp_path / "run", seed=0)
    assert not (tmp_path / "run" / "parts.json").exists(), "the run has not begun: the corrected command starts it"
    parts = prepare(options(without_mpp, max_skipped=1, **given), patches, tmp_path / "run", seed=0)
    assert parts["train"].slide_ids == ("good",)


@pytest.mark.parametrize(("bad", "stops"), [(2, False), (3, True)])
def test_tiles_of_one_folder_are_counted_one_by_one(bad, stops, slides, tmp_path):
    for i in range(bad):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(slides / "case0" / f"{i}.png")
    given = options(slides / "case0", val_data=(str(slides / "case1"),))
    if stops:
        with pytest.raises(ValueError, match=r"3 times: is smaller than a patch of 32 pixels\).*patches from 1 of 4"):
            prepare(given, PATCHES, tmp_path / "run", seed=0)
    else:
        assert prepare(given, PATCHES, tmp_path / "run", seed=0)["train"].count == 2


def test_mpp_of_the_folder_lets_its_tiles_be_trained_on(without_mpp, tmp_path):
    (without_mpp / "slides" / "mpp.txt").write_text("1.0\n")
    given = options(without_mpp, val_data=(str(tmp_path / "val.tif"),))
    parts = prepare(given, PatchOptions(patch_size=32, mpp=1.0, min_tissue=0), tmp_path / "run", seed=0)
    assert parts["train"].slide_ids == (*(f"case{i}" for i in range(5)), "good")
