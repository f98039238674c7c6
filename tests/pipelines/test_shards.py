# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import json
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.config import PatchOptions
from pipelines.dataset import evaluation_dataset, training_dataset
from pipelines.patches import Patch, Skipped, Source, find_sources, read_patches
from pipelines.shards import copy_shards, is_shards, open_shards, write_shards, writing
from pipelines.shards.records import _feature, batches_of, damage_named, mpp_range, print_mixed_mpp
from pipelines.slide import SlideError

OPTIONS = PatchOptions(patch_size=64, min_tissue=0.0)


def write(sources, folder, options=OPTIONS, **keywords):
    return write_shards(sources, folder, options, workers=1, progress=False, **keywords)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def shards(tmp_path, tile_folder):
    write(find_sources(tile_folder), tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture
def fake_patches(monkeypatch):
    """Let a test say which patches a source has."""
    def say(make):
        monkeypatch.setattr(writing, "read_patches", make)
    return say


def test_records_hold_what_was_read(shards, tile_folder):
    expected = [patch for source in find_sources(tile_folder) for patch in read_patches(source, OPTIONS)]
    records = tf.data.TFRecordDataset([str(path) for path in open_shards(shards).paths])
    found = [tf.train.Example.FromString(record.numpy()).features.feature for record in records]
    assert len(found) == len(expected) == 64
    for fields, patch in zip(found, expected, strict=True):
        assert fields["slide_id"].bytes_list.value[0].decode() == patch.slide_id
        assert fields["name"].bytes_list.value[0].decode() == patch.name
        assert (fields["x"].int64_list.value[0], fields["y"].int64_list.value[0]) == (patch.x, patch.y)
        assert fields["tissue"].float_list.value[0] == np.float32(patch.tissue)
        assert fields["mpp"].float_list.value[0] == 0  # tiles do not say it
        assert fields["pixels"].bytes_list.value[0] == patch.pixels.tobytes()


@pytest.mark.parametrize(("mpp", "mixed"), [((None, None), False), ((None, 0.5), False), ((0.44, 0.55), False),
                                            ((0.25, 0.5), True)])
def test_slides_of_several_magnifications_are_told_in_a_line(tmp_path, tile_folder, capsys, mpp, mixed):
    slides = shutil.copytree(tile_folder, tmp_path / "slides")
    for slide, value in zip("ab", mpp, strict=True):
        if value:
            (slides / f"slide-{slide}" / "mpp.txt").write_text(str(value))
    write(find_sources(slides), tmp_path / "shards")
    capsys.readouterr()
    found = open_shards(tmp_path / "shards")
    known = [value for value in mpp if value]
    assert mpp_range(found) == (pytest.approx((min(known), max(known))) if known else None)
    print_mixed_mpp(found)
    said = "slides of 0.25 to 0.5 microns per pixel are mixed: cut them with one --mpp to have one magnification\n"
    assert capsys.readouterr().out == (said if mixed else "")


def test_open_shards_tells_what_is_there(shards):
    opened = open_shards(shards)
    assert (opened.slide_ids, opened.count, opened.patch_size, opened.skipped) == (("slide-a", "slide-b"), 64, 64, ())
    assert is_shards(shards)
    assert not is_shards(shards / "no")


def test_a_second_run_keeps_what_is_finished(shards, tile_folder):
    before = {path: path.stat().st_mtime_ns for path in shards.iterdir()}
    report = write(find_sources(tile_folder), shards)
    assert (report.slides, report.patches, report.kept) == (2, 64, 2)
    assert {path: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def test_slides_can_be_added_to_a_folder(tmp_path, tile_folder):
    for source in find_sources(tile_folder):
        write([source], tmp_path)
    assert open_shards(tmp_path).slide_ids == ("slide-a", "slide-b")


def test_other_options_are_refused_naming_folder_and_option(shards, tile_folder):
    with pytest.raises(ValueError, match=r"patch_size was 64 and is 128.*output='.*shards'"):
        write(find_sources(tile_folder), shards, PatchOptions(patch_size=128, min_tissue=0.0))


def test_another_slide_of_the_same_name_is_refused(shards, tile_folder):
    first, second = find_sources(tile_folder)
    with pytest.raises(ValueError, match="files differ"):
        write([replace(second, slide_id=first.slide_id)], shards)


def test_slides_that_gave_no_patch_give_way_to_other_options(tmp_path, tile_folder):
    sources = find_sources(tile_folder)
    with pytest.raises(ValueError, match=r"`val_data` must give at least one patch; .*--mpp out.*slide-a, .*slide-b'"):
        write(sources, tmp_path / "shards", replace(OPTIONS, mpp=0.5), name="val_data")
    report = write(sources, tmp_path / "shards")
    assert (report.patches, report.kept) == (64, 0)
    write(sources, tmp_path / "straight")
    assert content(tmp_path / "shards") == content(tmp_path / "straight")


def test_slides_made_otherwise_give_way_where_that_is_asked(shards, tile_folder):
    report = write(find_sources(tile_folder), shards, PatchOptions(patch_size=128, min_tissue=0.0), anew=True)
    assert (report.patches, report.kept) == (16, 0)
    assert open_shards(shards).patch_size == 128


def test_open_shards_takes_the_slides_that_are_named_whatever_size_others_have(shards, tile_folder):
    write([replace(find_sources(tile_folder)[0], slide_id="other")], shards, PatchOptions(patch_size=128))
    with pytest.raises(ValueError, match="one patch size"):
        open_shards(shards)
    assert (open_shards(shards, {"slide-b"}).count, open_shards(shards, ["other"]).patch_size) == (32, 128)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-7]), lambda path: path.unlink()])
def test_a_truncated_or_missing_shard_is_named_and_mended_by_a_second_run(shards, tile_folder, damage):
    whole = content(shards)
    damage(shards / "slide-b-00000.tfrecord")
    with pytest.raises(ValueError, match=r"`shards` must be whole.*slide-b-00000\.tfrecord"):
        open_shards(shards)
    assert write(find_sources(tile_folder), shards).kept == 1
    assert content(shards) == whole


def test_a_shard_damaged_inside_is_named_when_read(shards):
    path = shards / "slide-b-00000.tfrecord"
    path.write_bytes(path.read_bytes()[:5000] + b"?" + path.read_bytes()[5001:])
    opened = open_shards(shards)
    with pytest.raises(ValueError, match=r"slide-b-00000\.tfrecord"), damage_named(opened.shards):
        list(tf.data.TFRecordDataset([str(path) for path in opened.paths]))


def read_by_training(opened, cache):
    with damage_named(opened.shards):
        list(training_dataset(opened, batch_size=1, cache=cache).take(opened.count))


@pytest.mark.parametrize("read", [
    lambda opened: read_by_training(opened, "none"), lambda opened: read_by_training(opened, "memory"),
    lambda opened: list(batches_of(evaluation_dataset(opened), opened))], ids=["training", "in memory", "evaluation"])
def test_one_changed_bit_of_a_pixel_is_noticed_by_every_reader(shards, read):
    read(open_shards(shards))  # undamaged
    path = shards / "slide-b-00000.tfrecord"
    record = bytearray(path.read_bytes())
    record[len(record) // 2] ^= 1
    path.write_bytes(record)
    with pytest.raises(ValueError, match=r"slide-b-00000\.tfrecord: record \d+ has another checksum"):
        read(open_shards(shards))


@pytest.mark.parametrize(("features", "reason"), [
    ({}, "record 1 is not a patch"),
    ({"slide_id": b"slide-b", "name": b"0", "pixels": b"\0" * 12, "size": 64}, "record 1 is not a patch"),
    ({"slide_id": b"slide-b", "name": b"0", "pixels": b"\0" * 12, "size": 2}, "record 1 is of 2 and 0 pixels")])
def test_shard_with_sound_records_of_something_else_is_named(shards, features, reason):
    path = shards / "slide-b-00000.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(tf.train.Example(features=tf.train.Features(
            feature={name: _feature(value) for name, value in features.items()})).SerializeToString())
    page = json.loads((shards / "slide-b.json").read_text())
    page["shards"][0]["bytes"] = path.stat().st_size
    (shards / "slide-b.json").write_text(json.dumps(page))
    opened = open_shards(shards)
    with pytest.raises(ValueError, match=rf"slide-b-00000\.tfrecord: {reason}"):
        list(batches_of(evaluation_dataset(opened), opened))


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "..", "", "a/b.tfrecord", 5])
def test_page_that_names_a_file_in_another_folder_is_refused(shards, name):
    page = json.loads((shards / "slide-b.json").read_text())
    page["shards"][0]["name"] = name
    (shards / "slide-b.json").write_text(json.dumps(page))
    with pytest.raises(ValueError, match=r"slide-b\.json` must be .* - at `\$\.shards\[0\]\.name`"):
        open_shards(shards)


def test_a_damaged_copy_is_told_from_its_sound_shards(shards, tmp_path):
    opened = open_shards(shards)
    copied = copy_shards(opened, tmp_path / "fast")
    path = copied.paths[1]
    path.write_bytes(path.read_bytes()[:5000] + b"?" + path.read_bytes()[5001:])
    with pytest.raises(ValueError, match="`cache` must hold undamaged copies"), damage_named(opened.shards):
        list(tf.data.TFRecordDataset([str(path) for path in copied.paths]))


def test_folders_that_are_not_shards_are_refused(tmp_path, shards, tile_folder):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_shards(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="hold at least one patch"):
        open_shards(tmp_path / "empty")
    for text in ("{}", '{"format": 1}', "", "[1]"):
        (tmp_path / "empty" / "notes.json").write_text(text)
        with pytest.raises(ValueError, match=r"notes\.json.*extract again"):
            open_shards(tmp_path / "empty")
    shutil.copytree(shards, tmp_path / "copy")
    with pytest.raises(ValueError, match="each slide in one folder"):
        open_shards([shards, tmp_path / "copy"])
    write([replace(find_sources(tile_folder)[0], slide_id="other")], tmp_path / "large", PatchOptions(patch_size=128))
    with pytest.raises(ValueError, match=r"one patch size; choose one of \[64, 128\]"):
        open_shards([shards, tmp_path / "large"])


def test_what_cannot_be_read_is_skipped_and_listed_or_fatal(tmp_path, tile_folder):
    data = shutil.copytree(tile_folder / "slide-a", tmp_path / "data")
    (data / "tile3.png").write_bytes((data / "tile3.png").read_bytes()[:200])
    report = write(find_sources(data), tmp_path / "shards")
    assert (report.patches, [item.where for item in report.skipped]) == (28, ["tile3.png"])
    assert open_shards(tmp_path / "shards").skipped == report.skipped
    for folder in (tmp_path / "strict", tmp_path / "shards"):  # written anew, and kept from before
        with pytest.raises(SlideError, match=r"tile3\.png"):
            write(find_sources(data), folder, strict=True)
    assert list((tmp_path / "strict").glob("[!.]*")) == []


def test_slides_of_glass_alone_are_an_error_that_says_why(tmp_path):
    (tmp_path / "glass").mkdir()
    Image.new("RGB", (64, 64), "white").save(tmp_path / "glass" / "tile.png")
    with pytest.raises(ValueError, match=r"at least one patch.*no tissue"):
        write(find_sources(tmp_path / "glass"), tmp_path / "shards", PatchOptions(patch_size=64))
    with pytest.raises(ValueError, match="finished"):
        open_shards(tmp_path / "shards")


def test_a_file_that_cannot_grow_is_one_line_and_leaves_no_half_files(files_limited_to, tmp_path, tile_folder):
    small, large = find_sources(tile_folder)
    write([small], tmp_path)
    kept = content(tmp_path)
    with files_limited_to(100_000), pytest.raises(OSError, match="make room") as caught:
        write([small, large], tmp_path)
    assert caught.value.filename == str(tmp_path / "slide-b-00000.tfrecord")
    assert content(tmp_path) == {**kept, ".unfinished": b""}


def test_a_full_disk_is_one_line_and_leaves_no_half_files(tmp_path, tile_folder, monkeypatch):
    original = tf.io.TFRecordWriter
    monkeypatch.setattr(tf.io, "TFRecordWriter", lambda path: original("/dev/full"))
    with pytest.raises(OSError, match="No space left on device; make room") as caught:
        write(find_sources(tile_folder), tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert content(tmp_path) == {".unfinished": b""}


def test_an_interrupt_leaves_nothing_of_the_slide_it_met(tmp_path, tile_folder, fake_patches):
    def interrupted(source, options):
        for number, patch in enumerate(read_patches(source, options)):
            if source.slide_id == "slide-b" and number == 3:
                raise KeyboardInterrupt
            yield patch

    fake_patches(interrupted)
    first, second = find_sources(tile_folder)
    write([first], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write([first, second], tmp_path)
    assert sorted(content(tmp_path)) == [".unfinished", "slide-a-00000.tfrecord", "slide-a.json"]


def test_patches_are_not_collected(tmp_path, fake_patches):
    alive, most = set(), []

    def many(source, options):
        for number in range(50):
            pixels = np.full((64, 64, 3), number, np.uint8)
            alive.add(number)
            weakref.finalize(pixels, alive.discard, number)
            most.append(len(alive))
            yield Patch(source.slide_id, number, 0, None, 1.0, pixels, str(number))
            del pixels

    fake_patches(many)
    assert write([Source("slide", ())], tmp_path).patches == 50
    assert max(most) <= 4


def test_large_slides_are_cut_into_several_shards(tmp_path, tile_folder, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_BYTES", 10 * 3 * 64**2)
    write(find_sources(tile_folder), tmp_path)
    assert [shard.count for shard in open_shards(tmp_path).shards] == [10, 10, 10, 2] * 2


def test_names_of_slides_never_leave_the_folder(tmp_path, tile_folder):
    source = replace(find_sources(tile_folder)[0], slide_id="../a/b *[0]")
    write([source], tmp_path / "shards")
    assert open_shards(tmp_path / "shards").slide_ids == ("../a/b *[0]",)
    assert {path.parent for path in tmp_path.rglob("*.*")} <= {tmp_path, tmp_path / "shards"}


def test_two_sources_of_one_name_are_refused(tmp_path, tile_folder):
    source = find_sources(tile_folder)[0]
    with pytest.raises(ValueError, match="distinct slide ids"):
        write([source, source], tmp_path)


def test_a_slide_that_kills_its_reader_is_reported_once(tmp_path, tile_folder, monkeypatch):
    first, second = find_sources(tile_folder)

    def run_jobs(work, jobs, processes, report):
        for job in jobs:
            yield job, writing.Died(-11) if job == second else work(job, report)

    monkeypatch.setattr(writing, "run_jobs", run_jobs)
    report = write([first, second], tmp_path)
    assert [(item.slide_id, item.where) for item in report.skipped] == [("slide-b", "slide")]
    assert "died 2 times (exit code -11)" in report.skipped[0].reason
    assert write([first, second], tmp_path).kept == 2
    assert open_shards(tmp_path).skipped == report.skipped


def test_copies_are_made_once_and_never_taken_for_newer_shards(tmp_path, shards, tile_folder):
    opened = open_shards(shards)
    copied = copy_shards(opened, tmp_path / "fast")
    assert [path.read_bytes() for path in copied.paths] == [path.read_bytes() for path in opened.paths]
    made = {path: path.stat().st_mtime_ns for path in copied.paths}
    assert copy_shards(opened, tmp_path / "fast") == copied
    assert {path: path.stat().st_mtime_ns for path in copied.paths} == made
    for path in opened.paths:
        path.unlink()
    write(find_sources(tile_folder), shards)
    assert not set(copy_shards(open_shards(shards), tmp_path / "fast").paths) & set(copied.paths)


def test_pages_are_json_that_says_what_was_skipped(tmp_path, tile_folder, fake_patches):
    def some(source, options):
        yield Skipped(source.slide_id, "8_9", "torn", True)
        yield from read_patches(source, options)

    fake_patches(some)
    write(find_sources(tile_folder), tmp_path)
    page = json.loads((tmp_path / "slide-a.json").read_text())
    assert page["count"] == 32
    assert page["skipped"] == [{"slide_id": "slide-a", "where": "8_9", "reason": "torn", "broken": True}]
