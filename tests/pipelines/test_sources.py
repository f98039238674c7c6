# SPDX-License-Identifier: Apache-2.0
"""Which slides there are, and how they are parted."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines import sources
from pipelines.config import PatchOptions
from pipelines.patches import read_patches
from pipelines.shards import write_shards
from pipelines.slide import open_slide
from pipelines.sources import RUN_FILES, Source, check_disjoint, find_sources, is_among, split_sources
from pipelines.tissue import slide_mask


def many(count):
    return [Source(f"slide-{i:03}", (Path(f"slide-{i:03}.svs"),)) for i in range(count)]


def ids(part):
    return [source.slide_id for source in part]


@pytest.fixture
def study(tmp_path, histology, sample_slide):
    """Two slide files, a folder of tiles of three kinds, and things to be ignored."""
    (tmp_path / "slides" / "deep").mkdir(parents=True)
    (tmp_path / "slides" / "b.tif").write_bytes(sample_slide.read_bytes())
    (tmp_path / "slides" / "deep" / "a.svs").write_bytes(sample_slide.read_bytes())
    (tmp_path / "slides" / "notes.txt").write_text("no slide")
    (tmp_path / "slides" / "._b.tif").write_bytes(b"what a Mac leaves behind")
    (tmp_path / "case").mkdir()
    for name in ("1.png", "2.JPEG"):
        Image.fromarray(histology[:64, :64]).save(tmp_path / "case" / name)
    tifffile.imwrite(tmp_path / "case" / "3.tif", histology[:64, :64], photometric="rgb")
    return tmp_path


def test_folder_is_searched_and_tiles_of_a_folder_are_one_slide(study):
    found = find_sources(study)
    assert ids(found) == ["a", "b", "case"]
    assert [source.tiles for source in found] == [False, False, True]
    assert [path.name for path in found[2].paths] == ["1.png", "2.JPEG", "3.tif"]


def test_spec_is_text_with_commas_or_a_list(study):
    slides, case = study / "slides", study / "case"
    assert find_sources(f"{slides}, {case}") == find_sources([slides, str(case)]) == find_sources(study)


def test_what_is_named_twice_is_found_once(study):
    assert find_sources([study, study / "case", study / "slides" / "b.tif"]) == find_sources(study)


def test_order_does_not_depend_on_the_order_of_naming(study):
    assert find_sources([study / "slides", study / "case"]) == find_sources([study / "case", study / "slides"])


def test_image_named_by_itself_is_a_slide(study):
    (source,) = find_sources(study / "case" / "1.png")
    assert (source.slide_id, source.tiles) == ("1", False)


@pytest.mark.parametrize(("side", "options", "is_tile"), [
    (1024, {}, True), (1040, {}, False), (512, {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}, False)])
def test_small_tiff_without_mpp_is_a_tile(tmp_path, side, options, is_tile):
    pixels = np.zeros((side, side, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(16, 16), **options)
    (source,) = find_sources(tmp_path)
    assert source.tiles is is_tile


def test_broken_tiff_among_tiles_is_one_of_them(study):
    (study / "case" / "4.tif").write_bytes((study / "case" / "3.tif").read_bytes()[:2000])
    assert len(find_sources(study)[2].paths) == 4


def test_equal_names_are_told_apart_by_their_folders_or_suffix(tmp_path, sample_slide):
    for name in ("one/a.tif", "two/a.tif", "two/b.tif", "two/b.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(sample_slide.read_bytes())
    assert ids(find_sources(tmp_path)) == ["b.svs", "b.tif", "one--a", "two--a"]


def test_sample_is_written_once_and_found(tmp_path):
    (first,) = find_sources("sample", cache_dir=tmp_path)
    written = first.paths[0].stat().st_mtime_ns
    (second,) = find_sources(["sample"], cache_dir=tmp_path)
    assert first == second
    assert second.paths[0].stat().st_mtime_ns == written


def test_missing_and_empty_data_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        find_sources(tmp_path / "gone")
    for empty in (tmp_path, "", []):
        with pytest.raises(ValueError, match="must hold slides or images"):
            find_sources(empty)


def test_errors_name_the_flag_that_slides_came_from(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^`val_data` must exist; .*val_data='.*gone'$"):
        find_sources(tmp_path / "gone", name="val_data")
    with pytest.raises(ValueError, match=r"^`val_data` must hold slides or images"):
        find_sources(tmp_path, name="val_data")


@pytest.mark.parametrize("name", ["gone.tif", "gone.svs", "gone.png"])
def test_link_that_leads_nowhere_is_a_slide_or_tile_like_others(name, study):
    (study / "slides" / name).symlink_to(study / "nowhere" / name)
    found = find_sources(study)
    assert len(found) == 4
    (source,) = (source for source in found if source.paths[0].name == name)
    (item,) = read_patches(source, PatchOptions(patch_size=64))
    assert item.broken
    assert name in item.reason


@pytest.mark.parametrize("depth", ["run", "."])
def test_training_run_is_refused_with_the_remedy(depth, study):
    (study / "run" / "pictures").mkdir(parents=True)
    for name in RUN_FILES:
        (study / "run" / name).write_text("")
    (study / "case" / "1.png").rename(study / "run" / "pictures" / "warmup-0001.png")
    with pytest.raises(ValueError, match=r"^`data` must hold slides and no training run.*run's data folder.*run'$"):
        find_sources(study / depth)


def test_is_among_knows_files_and_folders_and_what_is_not_there_yet(study):
    case = study / "case"
    assert is_among(case / "1.png", case / "1.png")
    assert is_among(case / "new.png", f"{study / 'slides'}, {case}")
    assert not is_among(case / "new.png", [case / "1.png", study / "slides"])
    assert not is_among("sample/new.png", "sample")


def test_split_parts_all_slides_and_none_twice():
    parts = split_sources(many(20), 0.15, 0.1, seed=3)
    assert [len(part) for part in parts] == [15, 3, 2]
    assert sorted(name for part in parts for name in ids(part)) == ids(many(20))


def test_split_follows_from_seed_and_ids_alone():
    first = split_sources(many(20), 0.2, 0.2, seed=1)
    assert split_sources(many(20)[::-1], 0.2, 0.2, seed=1) == first
    assert split_sources(many(20), 0.2, 0.2, seed=2) != first


@pytest.mark.parametrize("count", [3, 4, 5, 7])
@pytest.mark.parametrize("fractions", [(0.15, 0.15), (0.45, 0.45), (0.05, 0.9), (0.9, 0.05)])
def test_every_part_gets_a_slide(count, fractions):
    assert all(split_sources(many(count), *fractions))


def test_part_of_no_fraction_is_empty():
    train, val, test = split_sources(many(10), 0.2, 0)
    assert (len(train), len(val), test) == (8, 2, [])
    assert split_sources(many(1), 0, 0) == (many(1), [], [])


def test_single_slide_is_cut_into_bands_that_share_no_pixel(sample_slide):
    source = Source("s", (sample_slide,))
    parts = split_sources([source], 0.25, 0.2)
    regions = [part[0].region for part in parts]
    assert sum(region[2] * region[3] for region in regions) == 512 * 512
    for i, one in enumerate(parts):
        for other in parts[i + 1:]:
            check_disjoint(one, other)


def test_bands_hold_their_share_of_the_tissue(tmp_path):
    image = np.full((300, 1000, 3), 245, np.uint8)
    image[:, 600:] = (200, 100, 160)  # the left is glass
    Image.fromarray(image).save(tmp_path / "a.png")
    parts = split_sources([Source("a", (tmp_path / "a.png",))], 0.25, 0.25)
    with open_slide(tmp_path / "a.png", assume_mpp=1.0) as slide:
        columns = slide_mask(slide, 1000).sum(axis=0)
    shares = [columns[part[0].region[0]:][:part[0].region[2]].sum() / columns.sum() for part in parts]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.02)


def test_bands_stay_in_the_source_region(sample_slide):
    train, val, _ = split_sources([Source("s", (sample_slide,), (100, 50, 200, 300))], 0.3, 0)
    (x, y, width, height), (val_x, val_y, val_width, val_height) = train[0].region, val[0].region
    assert (x, width, val_x, val_width) == (100, 200, 100, 200)
    assert (y, y + height, val_y + val_height) == (50, val_y, 350)


def test_two_slides_for_three_parts_are_cut_each(sample_slide, tmp_path):
    (tmp_path / "other.tif").write_bytes(sample_slide.read_bytes())
    parts = split_sources(find_sources([sample_slide, tmp_path]), 0.2, 0.2)
    assert [len(part) for part in parts] == [2, 2, 2]


def test_single_folder_of_tiles_is_refused_with_the_remedy(tile_folder):
    with pytest.raises(ValueError, match="separate folder, or set --val_data"):
        split_sources(find_sources(tile_folder / "slide-a"), 0.2, 0)


def test_shared_slide_is_refused_by_name():
    check_disjoint(many(4)[:2], many(4)[2:])
    with pytest.raises(ValueError, match="slide-001"):
        check_disjoint(many(2), many(4)[1:])


def test_shared_file_under_another_name_is_refused():
    with pytest.raises(ValueError, match="other"):
        check_disjoint([Source("one", (Path("a.svs"),))], [Source("other", (Path("a.svs"),))])


def test_tiles_and_pairs_of_one_folder_name_are_of_one_slide():
    tiles = Source("tiles--case", (Path("tiles/case/a.png"),), tiles=True)
    pairs = Source("pairs--case", (Path("pairs/case/b.png"),), tiles=True, lr_paths=(Path("pairs/case/b_lr11.png"),))
    with pytest.raises(ValueError, match=r"share no slide.*pairs--case"):
        check_disjoint([tiles], [pairs])
    check_disjoint([tiles], [Source("other--case", (Path("other/case/c.png"),), tiles=True)])


@pytest.mark.parametrize(("one", "other", "shares"), [
    ((0, 0, 10, 10), (10, 0, 10, 10), False), ((0, 0, 10, 10), (9, 9, 5, 5), True),
    ((0, 0, 10, 10), (0, 10, 10, 1), False), (None, (0, 0, 1, 1), True), ((0, 0, 1, 1), None, True)])
def test_regions_of_one_slide_must_share_no_pixel(one, other, shares):
    parts = [Source("s", (Path("s.svs"),), one)], [Source("s", (Path("s.svs"),), other)]
    if shares:
        with pytest.raises(ValueError, match="share no slide"):
            check_disjoint(*parts)
    else:
        check_disjoint(*parts)


def test_real_tiles_are_one_source_a_slide(shared_data):
    found = find_sources(shared_data / "tiles" / "train")
    assert len(found) == 11
    assert {len(source.paths) for source in found} == {250}
    assert all(source.tiles for source in found)
    assert [source.tiles for source in find_sources(shared_data / "slides")] == [False] * 5


def test_split_and_check_keep_the_slides_of_one_patient_together() -> None:
    found = [sources.Source(f"TCGA-AA-{case:04d}-01Z-00-DX{slide}", ()) for case in range(4) for slide in range(3)]
    for seed in range(10):
        parts = sources.split_sources(found, 0.25, 0.25, seed)
        assert [len(part) for part in parts] == [6, 3, 3]
        assert sum(len({one.slide_id[:12] for one in part}) for part in parts) == 4
    with pytest.raises(ValueError, match="must share no case"):
        sources.check_disjoint(found[:1], found[1:2])
    sources.check_disjoint(found[:3], found[3:])


def test_tiles_have_the_mpp_of_their_folder_or_of_the_nearest_above_it_in_the_data(tmp_path, histology):
    for name in ("40x/a", "40x/b/deep", "c"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(histology[:64, :64]).save(tmp_path / "data" / name / "1.png")
    for name, mpp in (("mpp.txt", "9"), ("data/40x/mpp.txt", "0.25"), ("data/40x/b/mpp.txt", " 0.5 \n")):
        (tmp_path / name).write_text(mpp)
    assert {source.slide_id: source.mpp for source in find_sources(tmp_path / "data")} == {
        "a": 0.25, "deep": 0.5, "c": None}
    assert {source.slide_id: source.mpp for source in find_sources(tmp_path / "data/40x/a")} == {"a": None}, (
        "folders above the one that is named are not looked at")
    (image,) = find_sources(tmp_path / "data/40x/a/1.png")
    assert image.mpp is None, "a file that is named itself is a slide"


@pytest.mark.parametrize("content", [b"", b"20x", b"0,5", b"nan", b"-1", b"0.01", b"353", b"\xff", b"0.5\n0.25",
                                     b"0" * 99 + b"0.5"])
def test_mpp_file_that_is_no_number_is_one_line(content, tmp_path, histology):
    Image.fromarray(histology[:64, :64]).save(tmp_path / "1.png")
    (tmp_path / "mpp.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"^`mpp\.txt` must hold the microns per pixel .* 0\.05 to 50;.*mpp\.txt'$"):
        find_sources(tmp_path)


@pytest.mark.parametrize(("assumed", "mpp", "count"), [(None, 0.5, 4), (2.0, 2.0, 16)])
def test_mpp_of_a_folder_is_that_of_its_patches_and_assume_mpp_overrules_it(assumed, mpp, count, tmp_path, histology):
    """512 pixels of 0.5 microns are 256 of 1: four patches of 128; of 2 microns they can't be read at 1."""
    Image.fromarray(histology).save(tmp_path / "1.png")
    (tmp_path / "mpp.txt").write_text("0.5")
    (source,) = find_sources(tmp_path)
    plain = [patch.mpp for patch in read_patches(source, PatchOptions(128, assume_mpp=assumed, min_tissue=0))]
    assert plain == [mpp] * 16
    found = list(read_patches(source, PatchOptions(128, mpp=2 * mpp / (1 if assumed is None else 2),
                                                   assume_mpp=assumed, min_tissue=0)))
    assert [patch.mpp for patch in found] == [1.0 if assumed is None else 2.0] * count


def test_shards_notice_another_mpp_of_the_folder(tmp_path, histology):
    (tmp_path / "tiles").mkdir()
    Image.fromarray(histology[:64, :64]).save(tmp_path / "tiles" / "1.png")
    assert write_shards(find_sources(tmp_path / "tiles"), tmp_path / "out", PatchOptions(64), progress=False).kept == 0
    assert write_shards(find_sources(tmp_path / "tiles"), tmp_path / "out", PatchOptions(64), progress=False).kept == 1
    (tmp_path / "tiles" / "mpp.txt").write_text("0.5")
    with pytest.raises(ValueError, match=r"assume_mpp was None and is 0\.5"):
        write_shards(find_sources(tmp_path / "tiles"), tmp_path / "out", PatchOptions(64), progress=False)


def test_link_that_leads_in_a_circle_and_two_to_the_same_nowhere_are_told_apart(tmp_path):
    for name, target in (("a.svs", "a.svs"), ("b.svs", "nowhere"), ("c.svs", "nowhere")):
        (tmp_path / name).symlink_to(target)
    assert ids(find_sources(tmp_path)) == ["a", "b", "c"]


def test_names_that_no_number_of_folders_tells_apart_get_a_checksum(tmp_path, sample_slide):
    for name in ("a--b", "a/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "c.svs").write_bytes(sample_slide.read_bytes())
    found = ids(find_sources(tmp_path))
    assert len(set(found)) == 2


def test_linked_cohort_is_found_once_by_case(tmp_path, sample_slide):
    for case in ("case1", "case2"):
        (tmp_path / "store" / case).mkdir(parents=True)
        (tmp_path / "store" / case / f"{case}.tif").write_bytes(sample_slide.read_bytes())
    (tmp_path / "cohort" / "real").mkdir(parents=True)
    (tmp_path / "cohort" / "real" / "real.tif").write_bytes(sample_slide.read_bytes())
    for link, target in (("1", "store/case1"), ("2", "store/case2"), ("again", "store/case1"), ("all", "store")):
        (tmp_path / "cohort" / link).symlink_to(tmp_path / target)
    (tmp_path / "cohort" / "real" / "loop").symlink_to(tmp_path / "cohort")
    found = find_sources(tmp_path / "cohort")
    assert ids(found) == ["case1", "case2", "real"]
    with open_slide(found[0].paths[0]) as slide:
        assert slide.dimensions == (512, 512)


def test_comma_in_a_path_is_part_of_it(tmp_path, sample_slide):
    (tmp_path / "Batch 3, HE").mkdir()
    for name in ("Smith, J.tif", "Batch 3, HE/Miller, K.tif"):
        (tmp_path / name).write_bytes(sample_slide.read_bytes())
    spec = f"{tmp_path}/Smith, J.tif,{tmp_path}/Batch 3, HE"
    assert ids(find_sources(spec)) == ["Miller, K", "Smith, J"]
    assert is_among(tmp_path / "Batch 3, HE" / "new.png", spec)
