# SPDX-License-Identifier: Apache-2.0
"""DICOM and OME-Zarr: what is written is what other readers read, and slides in folders are found."""
from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from pipelines.errors import SlideError, UserError
from pipelines.pyramid import (
    Origin,
    PyramidOptions,
    PyramidWriter,
    formats,
    patient_of,
    read_description,
    work_file,
    writer,
)
from pipelines.readers.folders import is_dicom, is_ome_zarr, is_slide_folder, series_of
from pipelines.slide import open_slide, slide_id_of
from pipelines.sources import check_disjoint, find_sources

from .conftest import fill, halves, picture

ROOT = Path(__file__).parents[2]
MPP, TEXT = 0.25, "model 7"
OPTIONS = {"jpeg.dicom": PyramidOptions(128, 90, "dicom"), "lossless.dicom": PyramidOptions(128, None, "dicom"),
           "a.ome.zarr": PyramidOptions(128, None, "zarr")}


def write(path, image=None, mpp=MPP, **more):
    """Write or resume a slide; its name says how."""
    image = picture() if image is None else image
    options = next(one for name, one in OPTIONS.items() if path.name.endswith(name))
    needs(options.format)
    with PyramidWriter(path, image.shape[1], image.shape[0], mpp, options, description=TEXT, **more) as pyramid:
        fill(pyramid, image)
        pyramid.finish()
    return path


def needs(kind):
    pytest.importorskip({"dicom": "pydicom", "zarr": "zarr"}[kind], reason=f"pip install '.[{kind}]'")


def by_openslide(path):
    with openslide.OpenSlide(path / "level0.dcm") as slide:
        mpp = float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
        return mpp, [np.asarray(slide.read_region((0, 0), i, size))[..., :3]
                     for i, size in enumerate(slide.level_dimensions)]


def by_zarr(path):
    group = pytest.importorskip("zarr").open_group(path, mode="r")
    image = group.attrs["multiscales"][0]
    assert [axis["name"] for axis in image["axes"]] == ["c", "y", "x"]
    assert {axis.get("unit") for axis in image["axes"]} == {None, "micrometer"}
    scales = [level["coordinateTransformations"][0]["scale"] for level in image["datasets"]]
    assert scales == [[1, MPP * 2**i, MPP * 2**i] for i in range(len(scales))]
    return scales[0][1], [np.moveaxis(group[level["path"]][:], 0, -1) for level in image["datasets"]]


def by_own_reader(path):
    with open_slide(path) as slide:
        return slide.mpp, [slide.read_level(i, 0, 0, *size) for i, size in enumerate(slide.level_dimensions)]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("size", [(1, 1), (100, 37), (129, 513), (1303, 701)])
def test_pixels_levels_and_mpp_come_back_by_our_reader_and_by_others(tmp_path, name, size):
    image = picture(*size)
    path = write(tmp_path / name, image)
    for read in (by_own_reader, by_openslide if name.endswith(".dicom") else by_zarr):
        mpp, levels = read(path)
        assert mpp == pytest.approx(MPP)
        for level, expected in zip(levels, halves(image), strict=True):
            assert level.shape == expected.shape
            assert np.abs(level.astype(int) - expected).mean() <= (4 if name == "jpeg.dicom" else 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", OPTIONS)
def test_any_window_of_random_sizes_and_mpp_comes_back(tmp_path, name, seed):
    rng = np.random.default_rng(seed)
    width, height, mpp = int(rng.integers(1, 400)), int(rng.integers(1, 400)), float(rng.uniform(0.05, 10))
    image = picture(width, height)
    x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
    with open_slide(write(tmp_path / name, image, mpp)) as slide:
        assert slide.mpp == pytest.approx(mpp, rel=1e-6)
        window = slide.read_level(0, x, y, width - x, height - y)
    assert np.abs(window.astype(int) - image[y:, x:]).mean() <= (6 if name == "jpeg.dicom" else 0)


def conformance(file):
    """What dciodvfy says; None where it is not installed."""
    if shutil.which("dciodvfy"):
        return subprocess.run(["dciodvfy", "-new", file], capture_output=True, text=True, check=False).stderr
    return None


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed: apt-get install dicom3tools")
@pytest.mark.parametrize("name", ["jpeg.dicom", "lossless.dicom"])
def test_dicom_conforms_to_the_standard(tmp_path, name):
    for file in write(tmp_path / name).iterdir():
        said = conformance(file)
        assert "Error" not in said
        assert "VLWholeSlideMicroscopyImage" in said


def test_dicom_says_that_it_is_derived_by_which_model_and_has_no_patient(tmp_path):
    path = write(tmp_path / "jpeg.dicom", origin=Origin("gan", "3", "sr_keras 9", 1e9))
    image = pytest.importorskip("pydicom").dcmread(path / "level1.dcm")
    assert image.ImageType == ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    assert image.DerivationDescription == "super-resolution by the model gan version 3, sr_keras 9"
    assert (image.ImageComments, image.ContentDate) == (TEXT, "20010909")
    assert (image.PatientName, image.PatientID, image.LossyImageCompression) == ("", "", "01")
    assert "SourceImageSequence" not in image


def test_patient_of_the_source_is_carried_when_asked(tmp_path):
    needs("dicom")
    import pydicom

    source = write(tmp_path / "source" / "jpeg.dicom")
    for file in source.iterdir():
        image = pydicom.dcmread(file)
        image.SpecificCharacterSet, image.PatientName, image.PatientID = "ISO_IR 100", "Müller^Änne", "P7"
        image.InstitutionName, image.FrameOfReferenceUID = "not carried", "1.2.3"
        image.save_as(file)
    carried = write(tmp_path / "jpeg.dicom", origin=Origin("gan", patient=patient_of(source)))
    image, before = pydicom.dcmread(carried / "level0.dcm"), pydicom.dcmread(source / "level0.dcm")
    assert (str(image.PatientName), image.PatientID) == ("Müller^Änne", "P7")
    assert image.StudyInstanceUID == before.StudyInstanceUID
    assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert "InstitutionName" not in image
    assert image.FrameOfReferenceUID != before.FrameOfReferenceUID  # it may show a part of the source
    assert "Error" not in (conformance(carried / "level0.dcm") or "")
    with pytest.raises(ValueError, match="`keep_patient` must be left out for a source that is not DICOM"):
        patient_of(Path(__file__))


def killed(path, where):
    """Write a slide and be killed by SIGKILL while tiles are stored or while the folder is written."""
    put, calls, decode = writer.TileStore.put, [], PyramidWriter._stored

    def put_or_die(self, *rest):
        calls.append(rest)
        if len(calls) == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        put(self, *rest)

    def stored_or_die(self, number):
        yield from decode(self, number) if number == 0 else islice(decode(self, number), 3)
        if number:
            os.kill(os.getpid(), signal.SIGKILL)

    work_file.BATCH_BYTES = 50_000
    if where == "tiles":
        writer.TileStore.put = put_or_die
    else:
        PyramidWriter._stored = stored_or_die
    write(Path(path))


def content(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("where", ["tiles", "folder"])
@pytest.mark.parametrize("name", OPTIONS)
def test_killed_run_resumes_to_the_bytes_of_one_never_stopped(run_apart, tmp_path, name, where):
    whole = write(tmp_path / "whole" / name)
    path = tmp_path / "killed" / name
    ended = run_apart(__file__, f"killed({str(path)!r}, {where!r})")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not path.exists()
    write(path, resume=True)
    assert content(path) == content(whole)
    assert [file.name for file in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", OPTIONS)
def test_description_is_read_again_and_the_slide_is_overwritten_only_when_asked(tmp_path, name):
    path = write(tmp_path / name)
    assert read_description(path) == TEXT
    with pytest.raises(ValueError, match="`output` must not exist"):
        write(path)
    write(path, picture(100, 100), overwrite=True)
    assert by_own_reader(path)[1][0].shape == (100, 100, 3)


def test_folder_that_is_no_slide_is_never_overwritten(tmp_path):
    (tmp_path / "a.ome.zarr").mkdir()
    (tmp_path / "a.ome.zarr" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be a slide that this program wrote"):
        write(tmp_path / "a.ome.zarr", overwrite=True)


def test_dicom_without_mpp_and_lossy_zarr_are_refused_before_the_work(tmp_path):
    with pytest.raises(ValueError, match="`mpp` must be known to write DICOM; set --assume_mpp"):
        write(tmp_path / "jpeg.dicom", mpp=None)
    with pytest.raises(ValueError, match="`quality` must be left out for Zarr"):
        PyramidWriter(tmp_path / "a.zarr", 9, 9, 1, PyramidOptions(128, 90, "zarr"))


@pytest.mark.parametrize("kind", ["dicom", "zarr"])
def test_missing_extra_is_named_before_the_work(tmp_path, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, formats.EXTRAS[kind], None)
    with pytest.raises(UserError, match=rf"pip install '\.\[{kind}\]'"):
        PyramidWriter(tmp_path / "a", 9, 9, 1, PyramidOptions(128, None, kind), description=TEXT)


def test_reading_a_zarr_names_the_missing_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "a.ome.zarr", picture(20, 20))
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(UserError, match=r"pip install '\.\[zarr\]'"):
        open_slide(path)


def test_dicom_is_recognised_by_content_in_files_of_any_name(tmp_path):
    write(tmp_path / "jpeg.dicom", picture(700, 300))
    for number, file in enumerate(sorted((tmp_path / "jpeg.dicom").iterdir())):
        file.rename(file.with_name(f"IM{number}"))
    (tmp_path / "jpeg.dicom" / "notes").write_text("no DICOM")
    assert is_dicom(tmp_path / "jpeg.dicom" / "IM0")
    (source,) = find_sources(tmp_path)
    assert (source.slide_id, source.paths) == ("jpeg", (tmp_path / "jpeg.dicom",))
    assert find_sources(tmp_path / "jpeg.dicom" / "IM1")[0].paths == source.paths
    with open_slide(tmp_path / "jpeg.dicom") as slide:
        assert slide.level_dimensions == ((700, 300), (350, 150))


def test_series_in_one_folder_are_slides_each_and_share_no_part(tmp_path):
    for name in ("one", "two"):
        needs("dicom")
        options = OPTIONS["jpeg.dicom"]
        with PyramidWriter(tmp_path / name, 700, 90, 1, options, description=name) as pyramid:
            for row, column in pyramid.missing():
                pyramid.put(row, column, np.full(pyramid.levels[0].box(row, column)[:1:-1] + (3,), 99, np.uint8))
            pyramid.finish()
        for file in (tmp_path / name).iterdir():
            file.rename(tmp_path / f"{name}-{file.name}")
        (tmp_path / name).rmdir()
    found = find_sources(tmp_path)
    assert [source.paths[0].name for source in found] == ["one-level0.dcm", "two-level0.dcm"]
    assert find_sources(tmp_path / "two-level1.dcm")[0].paths == found[1].paths
    assert not is_slide_folder(tmp_path)
    with pytest.raises(SlideError, match="is a folder and no slide"):
        open_slide(tmp_path)
    with pytest.raises(ValueError, match="must share no slide"):
        check_disjoint(found, find_sources(tmp_path / "two-level1.dcm"))


def test_zarr_is_a_slide_and_its_parts_are_none(tmp_path):
    write(tmp_path / "deep" / "a.ome.zarr", picture(300, 200))
    for spec in (tmp_path, tmp_path / "deep" / "a.ome.zarr"):
        (source,) = find_sources(spec)
        assert (source.slide_id, source.tiles) == ("a", False)
    assert slide_id_of(tmp_path / "deep" / "a.ome.zarr") == "a"


@pytest.mark.parametrize(("axes", "version"), [("tczyx", 2), ("yxc", 3), ("yx", 3)])
def test_zarr_of_other_axes_and_versions_is_read(tmp_path, axes, version):
    needs("zarr")
    import zarr

    image = picture(90, 70)
    sizes = {"y": 70, "x": 90, "c": 3}
    order = [axes.index(name) for name in "yxc" if name in axes]
    pixels = np.empty([sizes.get(name, 1) for name in axes], np.uint8)
    flat = image if "c" in axes else image[..., 0]
    pixels[:] = np.transpose(flat, np.argsort(np.argsort(order)).argsort()).reshape(pixels.shape)
    metadata = {"multiscales": [{
        "axes": [{"name": name, "unit": "nanometer"} if name in "xy" else {"name": name} for name in axes],
        "coordinateTransformations": [{"type": "scale", "scale": [2.0] * len(axes)}],
        "datasets": [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [250.0] * len(axes)}]}]}]}
    group = zarr.open_group(tmp_path / "a", mode="w", zarr_format=version,
                            attributes=metadata if version == 2 else {"ome": metadata})
    group.create_array("s0", data=pixels)
    assert is_ome_zarr(tmp_path / "a")
    with open_slide(tmp_path / "a") as slide:
        assert slide.mpp == pytest.approx(0.5)
        expected = image if "c" in axes else np.repeat(image[..., :1], 3, 2)
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 90, 70), expected)


BROKEN = [{"multiscales": []}, {"multiscales": [{"datasets": [{"path": "gone"}]}]}, {"multiscales": {"datasets": 3}},
          {"multiscales": [{"datasets": [{"path": "../a.ome.zarr/0"}]}]}, {"bioformats2raw.layout": 3}, "{",
          "[]", "\xff"]


@pytest.mark.parametrize("lost", ["0/0/1/0", "0/0/0/1"])
def test_missing_chunk_of_a_zarr_is_an_error_and_not_black(tmp_path, lost):
    black = np.zeros((200, 200, 3), np.uint8)
    path = write(tmp_path / "a.ome.zarr", black)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 200, 200), black)  # black chunks are written too
    (path / lost).unlink()
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 100, 100), black[:100, :100])
        with pytest.raises(SlideError, match=re.escape(f"{path / lost}: is missing")):
            slide.read_region(0, 0, 0, 200, 200)


def test_missing_chunks_that_are_white_are_glass(tmp_path):
    needs("zarr")
    import zarr

    path = write(tmp_path / "a.ome.zarr", picture(200, 200))
    group = zarr.open_group(path, mode="a")
    group.create_array("0", shape=(3, 200, 200), dtype=np.uint8, chunks=(3, 128, 128), fill_value=255, overwrite=True)
    with open_slide(path) as slide:
        assert (slide.read_region(0, 0, 0, 200, 200) == 255).all()



@pytest.mark.parametrize("broken", BROKEN)
def test_broken_zarr_is_an_error_that_names_it(tmp_path, broken):
    write(tmp_path / "a.ome.zarr", picture(20, 20))
    path = tmp_path / "b.zarr"
    path.mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs").write_text(broken if isinstance(broken, str) else json.dumps(broken), encoding="latin-1")
    assert [source.slide_id for source in find_sources(tmp_path)] == ["a", "b"]  # not left out in silence
    with pytest.raises(SlideError, match=str(path)):
        open_slide(path)


@pytest.mark.parametrize("place", [{"compressor": {"id": "pickle"}}, {"filters": [{"id": "pickle"}]}])
def test_zarr_runs_no_program_that_its_chunks_contain(tmp_path, place):
    path = write(tmp_path / "a.ome.zarr", picture(20, 20))
    trap = tmp_path / "ran"

    class Program:
        def __reduce__(self):
            return (trap.touch, ())

    array = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps(array | place))
    (path / "0" / "0" / "0" / "0").write_bytes(pickle.dumps(Program()))
    with pytest.raises(SlideError, match=str(path)):
        open_slide(path)
    assert not trap.exists()


@pytest.mark.parametrize(("field", "value", "words"), [
    ("chunks", [3, 40000, 40000], "has chunks of 4.5 GiB, more than 1"), ("dtype", "<f4", "must hold 8 or 16 bit"),
    ("shape", [2, 20, 20], "must hold one plane of grey or RGB"), ("shape", [20, 20], "cannot be read"),
    ("shape", [3, 0, 20], "cannot be read")])
def test_zarr_that_is_no_picture_is_refused(tmp_path, field, value, words):
    path = write(tmp_path / "a.ome.zarr", picture(20, 20))
    array = json.loads((path / "0" / ".zarray").read_text())
    (path / "0" / ".zarray").write_text(json.dumps(array | {field: value}))
    with pytest.raises(SlideError, match=f"{path}.*{words}"):
        open_slide(path)


def test_collection_of_images_is_read_at_the_largest(tmp_path):
    write(tmp_path / "c.zarr" / "0" / "a.ome.zarr", picture(30, 20))
    write(tmp_path / "c.zarr" / "1" / "a.ome.zarr", picture(90, 70))
    for number in "01":
        for part in (tmp_path / "c.zarr" / number / "a.ome.zarr").iterdir():
            part.rename(tmp_path / "c.zarr" / number / part.name)
        (tmp_path / "c.zarr" / number / "a.ome.zarr").rmdir()
    (tmp_path / "c.zarr" / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    assert [source.paths for source in find_sources(tmp_path)] == [(tmp_path / "c.zarr",)]
    with open_slide(tmp_path / "c.zarr") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 0, 90, 70), picture(90, 70))


def test_damaged_dicom_is_reported_and_not_left_out(tmp_path):
    file = write(tmp_path / "jpeg.dicom", picture(90, 70)) / "level0.dcm"
    data = file.read_bytes()
    for length in (132, 150, 400):
        file.write_bytes(data[:length])
        assert series_of(file) == ""
        (source,) = find_sources(tmp_path)
        with pytest.raises(SlideError, match=str(file)):
            open_slide(source.paths[0])
    file.write_bytes(data.replace(b"5.1.4.1.1.77.1.6", b"5.1.4.1.1.77.1.4"))  # a microscope's photograph
    assert series_of(file) is None
    with pytest.raises(SlideError, match="is no DICOM whole slide image, or a damaged one"):
        open_slide(file)


def test_dicom_of_deep_and_endless_sequences_is_damaged(tmp_path):
    file = write(tmp_path / "jpeg.dicom", picture(90, 70)) / "level0.dcm"
    data = file.read_bytes()
    place = data.index(b"\x08\x00\x16\x00UI")
    sequence = struct.pack("<HH2sHI", 8, 8, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    for inner in (sequence * 100_000, sequence, struct.pack("<HH2sHI", 8, 8, b"OB", 0, 0xFFFFFFF0)):
        file.write_bytes(data[:place] + inner + data[place:])
        assert series_of(file) == ""
    ended = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    file.write_bytes(data[:place] + sequence + sequence + ended + ended + data[place:])
    assert series_of(file)


@pytest.mark.parametrize("differs", [None, "PyramidUID", "ContainerIdentifier"])
def test_two_slides_under_one_series_are_refused_and_not_mixed(tmp_path, differs):
    needs("dicom")
    import pydicom

    path = write(tmp_path / "jpeg.dicom", picture(700, 300))
    image = pydicom.dcmread(path / "level1.dcm")
    if differs:
        setattr(image, differs, "1.2.3")
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.4"
        image.TotalPixelMatrixColumns -= 1  # OpenSlide takes it for a level
    image.save_as(path / "other.dcm")
    (source,) = find_sources(tmp_path)
    with pytest.raises(SlideError, match=r"two slides.*level[01]\.dcm and other\.dcm") as caught:
        open_slide(source.paths[0])
    assert "\n" not in str(caught.value)
    image.SeriesInstanceUID = "1.2.5"
    image.save_as(path / "other.dcm")
    for source in find_sources(tmp_path):
        open_slide(source.paths[0]).close()


def test_label_in_a_series_is_no_level(tmp_path):
    needs("dicom")
    import pydicom

    path = write(tmp_path / "jpeg.dicom", picture(700, 300))
    label = pydicom.dcmread(path / "level1.dcm")
    label.ImageType[2:] = ["LABEL", "NONE"]
    label.SOPInstanceUID = label.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    label.save_as(path / "a.dcm")
    with open_slide(path) as slide:
        assert slide.level_dimensions == ((700, 300), (350, 150))


def test_dicom_beside_other_slides_and_tiles_is_one_of_them(tmp_path):
    path = write(tmp_path / "jpeg.dicom", picture(90, 70)).rename(tmp_path / "case")
    Image.fromarray(picture(64, 64)).save(path / "tile.png")
    write(path / "inner" / "a.ome.zarr", picture(20, 20))
    assert [source.slide_id for source in find_sources(tmp_path)] == ["a", "case", "case_tiles"]
    assert [source.slide_id for source in find_sources(path / "level0.dcm")] == ["case"]


@pytest.mark.parametrize("name", OPTIONS)
def test_memory_of_writing_is_that_of_some_tiles(tmp_path, name):
    needs(OPTIONS[name].format)
    tile = picture(128, 128)
    with PyramidWriter(tmp_path / name, 2048, 2048, MPP, OPTIONS[name], description=TEXT) as pyramid:
        tracemalloc.start()
        try:
            for row, column in pyramid.missing():
                pyramid.put(row, column, tile)
            pyramid.finish()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 6e6  # the pixels of level 0 are 12.6e6 bytes


def test_packages_of_the_extras_are_imported_only_when_they_are_used():
    code = "import sys, pipelines.slide, pipelines.pyramid, pipelines.sources\n" \
           "print({'pydicom', 'zarr', 'numcodecs'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout == "set()\n"
