# SPDX-License-Identifier: Apache-2.0
"""Slides written: what readers see of them, and what is left after a kill, a full disk, or a mistake."""
from __future__ import annotations

import errno
import io
import os
import signal
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from skimage.data import immunohistochemistry

from pipelines.pyramid import Level, PyramidOptions, PyramidWriter, tiff, work_file, writer
from pipelines.readers import OpenSlideReader, TiffReader, open_reader
from pipelines.slide import open_slide

from .conftest import fill, halves, picture

WIDTH, HEIGHT, MPP = 1303, 701, 0.25
SMALL = PyramidOptions(tile=128)
LOSSLESS = PyramidOptions(tile=128, quality=None)
# Decoders of JPEG may round differently; of the three here none does at the time of writing.
JPEG_ROUNDING = 2


def write(path, image=None, options=SMALL, mpp=MPP, **more):
    """Write a slide in one go."""
    image = picture() if image is None else image
    with PyramidWriter(path, image.shape[1], image.shape[0], mpp, options, **more) as pyramid:
        fill(pyramid, image)
        pyramid.finish()
    return path


def by_tifffile(path):
    with tifffile.TiffFile(path) as tiff:
        return [level.asarray() for level in tiff.series[0].levels]


def by_openslide(path):
    with openslide.OpenSlide(path) as slide:
        return [np.asarray(slide.read_region((0, 0), i, size))[..., :3] for i, size in
                enumerate(slide.level_dimensions)]


def by_vips(path, kind="page"):
    pyvips = pytest.importorskip("pyvips", reason="libvips is not installed: pip install pyvips pyvips-binary")
    count = pyvips.Image.new_from_file(str(path)).get("n-pages" if kind == "page" else "n-subifds")
    numbers = range(count) if kind == "page" else range(-1, count)
    return [pyvips.Image.tiffload(str(path), **{kind: i}).numpy() for i in numbers]


@pytest.fixture(scope="module")
def lossless(tmp_path_factory):
    return write(tmp_path_factory.mktemp("slide") / "a.tif", options=LOSSLESS, description="model 7")


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    return write(tmp_path_factory.mktemp("slide") / "a.tif", description="model 7")


# What readers see

@pytest.mark.parametrize("read", [by_tifffile, by_openslide, by_vips])
def test_lossless_slide_reads_as_the_picture_and_its_halves_by_every_reader(lossless, read):
    expected = halves(picture())
    levels = read(lossless)
    assert len(levels) == len(expected) == 3
    for level, other in zip(levels, expected, strict=True):
        np.testing.assert_array_equal(level, other)


@pytest.mark.parametrize("read", [by_openslide, by_vips])
def test_jpeg_slide_reads_alike_by_every_reader(lossy, read):
    for level, other in zip(read(lossy), by_tifffile(lossy), strict=True):
        assert np.abs(level.astype(int) - other).max() <= JPEG_ROUNDING


def test_jpeg_levels_err_hardly_more_than_one_encoding_would(lossy):
    for level, other in zip(by_tifffile(lossy), halves(picture()), strict=True):
        height, width = other.shape[:2]
        once = tiff.decode(tiff.encode(tiff.filled_up(other, 1312), SMALL), SMALL)[:height, :width]
        assert np.abs(level.astype(int) - other).mean() < 1.1 * np.abs(once.astype(int) - other).mean()


def test_mpp_is_right_by_every_reader(lossy):
    with openslide.OpenSlide(lossy) as slide:
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(MPP)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(MPP)
    with tifffile.TiffFile(lossy) as tiff:
        for i, page in enumerate(tiff.pages):
            per_micron = page.get_resolution(tifffile.RESUNIT.MICROMETER)
            assert per_micron == pytest.approx((1 / (MPP * 2**i),) * 2)


def test_mpp_is_right_in_libvips(lossy):
    pyvips = pytest.importorskip("pyvips", reason="libvips is not installed: pip install pyvips pyvips-binary")
    for i in range(3):
        level = pyvips.Image.new_from_file(str(lossy), page=i)
        assert 1e3 / level.xres == pytest.approx(MPP * 2**i)  # libvips counts pixels in a millimetre
        assert 1e3 / level.yres == pytest.approx(MPP * 2**i)


@pytest.mark.parametrize("kind", ["tiff", "ome"])
def test_own_reader_finds_levels_mpp_and_pixels(tmp_path, kind):
    path = write(tmp_path / "a.tif", options=PyramidOptions(tile=128, quality=None, format=kind))
    reader = open_reader(path)
    assert isinstance(reader, TiffReader if kind == "ome" else OpenSlideReader)
    reader.close()
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(MPP)
        assert slide.level_dimensions == ((1303, 701), (652, 351), (326, 176))
        np.testing.assert_array_equal(slide.read_region(0, 0, 1, 652, 351), halves(picture())[1])


def test_levels_lie_where_openslide_computes_them(lossy):
    with openslide.OpenSlide(lossy) as slide:
        for i, ((width, height), downsample) in enumerate(zip(slide.level_dimensions, slide.level_downsamples,
                                                              strict=True)):
            assert downsample == pytest.approx((WIDTH / width + HEIGHT / height) / 2)
            assert 0 <= width - WIDTH / 2**i < 1
            assert 0 <= height - HEIGHT / 2**i < 1


def test_sides_that_are_powers_of_two_have_downsamples_that_are(tmp_path):
    path = write(tmp_path / "a.tif", picture(2048, 1024))
    assert openslide.OpenSlide(path).level_downsamples == (1, 2, 4)


def test_ome_tiff_says_its_size_in_microns_and_has_its_levels_as_subifds(tmp_path):
    path = write(tmp_path / "a.ome.tif", options=PyramidOptions(tile=128, quality=None, format="ome"),
                 description="Größe < 3 & \x00")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert len(tiff.pages) == 1
        assert len(tiff.pages[0].subifds) == 2
        image = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
    assert image["Description"] == "Größe < 3 & ?"
    sizes = {name: image["Pixels"][name] for name in ("SizeX", "SizeY", "SizeC", "PhysicalSizeX", "PhysicalSizeYUnit")}
    assert sizes == {"SizeX": 1303, "SizeY": 701, "SizeC": 3, "PhysicalSizeX": 0.25, "PhysicalSizeYUnit": "µm"}
    for level, other in zip(by_tifffile(path), halves(picture()), strict=True):
        np.testing.assert_array_equal(level, other)


@pytest.mark.parametrize("kind", ["tiff", "ome"])
def test_jpeg_tiles_are_444_ycbcr_and_in_an_ome_tiff_by_their_own_word_alone(tmp_path, kind):
    # Bio-Formats turns 4:4:4 tiles into RGB twice where a tag says it again; ITK does not read them where none does.
    path = write(tmp_path / "a.tif", options=PyramidOptions(tile=128, format=kind))
    with tifffile.TiffFile(path) as tiff:
        for page in (page for first in tiff.pages for page in (first, *(first.pages or ()))):
            assert page.photometric == tifffile.PHOTOMETRIC.YCBCR
            assert page.subsampling == ((1, 1) if kind == "tiff" else None)
            tiff.filehandle.seek(page.dataoffsets[0])
            with Image.open(io.BytesIO(tiff.filehandle.read(page.databytecounts[0]))) as tile:
                assert [layer[1:3] for layer in tile.layer] == [(1, 1)] * 3
                assert "jfif" in tile.info


def test_ome_tiff_has_its_levels_in_libvips(tmp_path):
    path = write(tmp_path / "a.ome.tif", options=PyramidOptions(tile=128, quality=None, format="ome"))
    for level, other in zip(by_vips(path, "subifd"), halves(picture()), strict=True):
        np.testing.assert_array_equal(level, other)


@pytest.mark.parametrize("kind", ["tiff", "ome"])
def test_slide_without_mpp_says_none(tmp_path, kind):
    path = write(tmp_path / "a.tif", mpp=None, options=PyramidOptions(tile=128, format=kind))
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].resolutionunit == tifffile.RESUNIT.NONE
        assert "PhysicalSize" not in (tiff.ome_metadata or "")
    assert openslide.PROPERTY_NAME_MPP_X not in openslide.OpenSlide(path).properties
    assert open_slide(path).mpp is None


@pytest.mark.parametrize("quality", [None, 90])
@pytest.mark.parametrize("size", [(1, 1), (100, 37), (128, 128), (129, 513)])
def test_image_of_any_small_size_is_written(tmp_path, size, quality):
    image = picture(*size)
    path = write(tmp_path / "a.tif", image, PyramidOptions(tile=128, quality=quality))
    assert [level.shape for level in by_openslide(path)] == [level.shape for level in halves(image)]
    assert np.abs(by_openslide(path)[0].astype(int) - image).mean() < 3


def test_file_is_bigtiff_with_tiles_and_reduced_levels_marked(lossy):
    with tifffile.TiffFile(lossy) as tiff:
        assert tiff.is_bigtiff
        assert [page.subfiletype for page in tiff.pages] == [0, 1, 1]
        assert {(page.tilewidth, page.tilelength) for page in tiff.pages} == {(128, 128)}


def test_file_holds_the_description_and_neither_date_nor_label_nor_software(lossy):
    with tifffile.TiffFile(lossy) as tiff:
        assert tiff.pages[0].description == "model 7"
        assert not tiff.pages[1].description
        names = {tag.name for page in tiff.pages for tag in page.tags.values()}
    assert names <= {"NewSubfileType", "ImageWidth", "ImageLength", "BitsPerSample", "Compression",
                     "PhotometricInterpretation", "ImageDescription", "SamplesPerPixel", "XResolution", "YResolution",
                     "ResolutionUnit", "PlanarConfiguration", "TileWidth", "TileLength", "TileOffsets",
                     "TileByteCounts", "YCbCrSubSampling", "ReferenceBlackWhite"}
    assert not openslide.OpenSlide(lossy).associated_images


@pytest.mark.parametrize("kind", ["tiff", "ome"])
def test_slide_beyond_4_gib_is_read_by_every_reader(tmp_path, kind, monkeypatch):
    write_level, holes = tifffile.TiffWriter.write, iter(range(2**32, 2**36, 2**32))

    def behind_a_hole(self, *rest, **more):  # of a sparse file: its tiles and its tags lie behind 4, 8, 12 GiB
        self.filehandle.seek(next(holes))
        return write_level(self, *rest, **more)

    monkeypatch.setattr(tifffile.TiffWriter, "write", behind_a_hole)
    path = write(tmp_path / "a.tif", options=PyramidOptions(tile=128, quality=None, format=kind))
    assert path.stat().st_size > 3 * 2**32
    assert path.stat().st_blocks * 512 < 2**26
    with tifffile.TiffFile(path) as tiff:
        levels = tiff.series[0].levels
        assert [min(level.pages[0].dataoffsets) // 2**32 for level in levels] == [1, 2, 3]
    readers = [by_tifffile, *([by_openslide, by_vips] if kind == "tiff" else [])]
    for read in readers:
        for level, other in zip(read(path), halves(picture()), strict=True):
            np.testing.assert_array_equal(level, other)


def test_border_tiles_are_filled_up_with_their_last_pixels():
    full = tiff.filled_up(picture(20, 10), 32)
    assert (full[10:, :20] == full[9, :20]).all()
    assert (full[:, 20:] == full[:, 19:20]).all()


def test_size_of_levels_falls_to_a_thumbnail():
    levels = tiff.levels_of(100_001, 30_000, 512)
    assert levels[:2] == (Level(100_001, 30_000, 512), Level(50_001, 15_000, 512))
    assert levels[-1] == Level(391, 118, 512)


# Stopping and going on

def killed(path, where):
    """Write a slide and be killed by SIGKILL in the middle of a stage."""
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    put, lay_out, calls = writer.TileStore.put, writer.write_slide, []

    def put_or_die(self, level, *rest):
        calls.append(level)
        if (where, level, calls.count(level)) in (("base", 0, 40), ("levels", 1, 9)):
            die()
        put(self, level, *rest)

    def lay_out_or_die(path, levels, given, *rest):
        def until_death(level):
            yield from islice(given(level), 5)
            die()
        lay_out(path, levels, until_death, *rest)

    work_file.BATCH_BYTES = 50_000
    if where == "layout":
        writer.write_slide = lay_out_or_die
    else:
        writer.TileStore.put = put_or_die
    write(Path(path), description="model 7")


@pytest.mark.parametrize(("where", "stored"), [("base", (20, 40)), ("levels", (20, 66)), ("layout", (66, 66))])
def test_killed_run_is_gone_on_with_to_the_bytes_of_one_never_stopped(run_apart, tmp_path, lossy, where, stored):
    path = tmp_path / "a.tif"
    outcome = run_apart(__file__, f"killed({str(path)!r}, {where!r})")
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr
    assert not path.exists()
    left = {name.name for name in tmp_path.iterdir()}
    assert "a.tif.unfinished" in left
    with PyramidWriter(path, WIDTH, HEIGHT, MPP, SMALL, description="model 7", resume=True) as pyramid:
        assert stored[0] <= pyramid.levels[0].count - len(list(pyramid.missing())) <= stored[1]
        fill(pyramid, picture())
        pyramid.finish()
    assert path.read_bytes() == lossy.read_bytes()
    assert [name.name for name in tmp_path.iterdir()] == ["a.tif"]


def test_levels_that_a_kill_left_out_are_made_at_the_end(tmp_path, lossy, monkeypatch):
    monkeypatch.setattr(PyramidWriter, "_reduce_above", lambda *key: None)
    write(tmp_path / "a.tif", description="model 7")
    assert (tmp_path / "a.tif").read_bytes() == lossy.read_bytes()


def test_levels_come_with_the_tiles_they_are_made_of(tmp_path):
    with PyramidWriter(tmp_path / "a.tif", WIDTH, HEIGHT, MPP, SMALL) as pyramid:
        fill(pyramid, picture())
    with closing(sqlite3.connect(tmp_path / "a.tif.unfinished")) as file:
        made = dict(file.execute("SELECT level, count(*) FROM tiles GROUP BY level"))
    assert made == {number: level.count for number, level in enumerate(pyramid.levels)}


def test_order_and_repetition_of_tiles_leave_no_trace(tmp_path, lossy):
    image = picture()
    with PyramidWriter(tmp_path / "a.tif", WIDTH, HEIGHT, MPP, SMALL, description="model 7") as pyramid:
        base = pyramid.levels[0]
        for row, column in 2 * list(pyramid.missing())[::-1]:
            x, y, width, height = base.box(row, column)
            pyramid.put(row, column, image[y:y + height, x:x + width])
        pyramid.finish()
    assert pyramid.path.read_bytes() == lossy.read_bytes()


def test_missing_tiles_are_those_not_put_row_by_row(tmp_path):
    path, image = tmp_path / "a.tif", picture(300, 200)
    with PyramidWriter(path, 300, 200, MPP, SMALL) as pyramid:
        assert list(pyramid.missing()) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
        pyramid.put(0, 1, image[:128, 128:256])
        assert (0, 1) not in list(pyramid.missing())
    with PyramidWriter(path, 300, 200, MPP, SMALL, resume=True) as pyramid:
        assert list(pyramid.missing()) == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_interrupted_run_keeps_what_was_put_and_shows_no_output(tmp_path):
    path = tmp_path / "a.tif"
    with pytest.raises(KeyboardInterrupt), PyramidWriter(path, WIDTH, HEIGHT, MPP, SMALL) as pyramid:  # noqa: PT012
        fill(pyramid, picture(), most=7)
        raise KeyboardInterrupt
    assert not path.exists()
    with PyramidWriter(path, WIDTH, HEIGHT, MPP, SMALL, resume=True) as pyramid:
        assert pyramid.levels[0].count - len(list(pyramid.missing())) == 7


def test_pixels_may_be_used_again_after_put(tmp_path):
    with PyramidWriter(tmp_path / "a.tif", 512, 128, MPP, LOSSLESS) as pyramid:
        pixels = np.empty((128, 128, 3), np.uint8)
        for row, column in pyramid.missing():
            pixels[:] = column * 10
            pyramid.put(row, column, pixels)
        pyramid.finish()
    np.testing.assert_array_equal(by_tifffile(pyramid.path)[0][0, ::128, 0], [0, 10, 20, 30])


def test_full_disk_in_the_work_file_is_told_in_a_line_and_gone_on_with(files_limited_to, tmp_path, lossy, monkeypatch):
    path, image = tmp_path / "a.tif", picture()
    monkeypatch.setattr(work_file, "BATCH_BYTES", 50_000)
    with files_limited_to(200_000), pytest.raises(OSError, match="make room and resume with --resume") as caught:
        write(path, image, description="model 7")
    assert caught.value.filename == f"{path}.unfinished"
    with PyramidWriter(path, WIDTH, HEIGHT, MPP, SMALL, description="model 7", resume=True) as pyramid:
        assert 0 < len(list(pyramid.missing())) < pyramid.levels[0].count
        fill(pyramid, image)
        pyramid.finish()
    assert path.read_bytes() == lossy.read_bytes()


def test_full_disk_at_the_output_names_it_keeps_the_work_and_is_gone_on_with(files_limited_to, tmp_path, lossy,
                                                                             monkeypatch):
    path, lay_out = tmp_path / "a.tif", writer.write_slide

    def on_a_full_disk(*arguments):
        with files_limited_to(100_000):
            lay_out(*arguments)

    monkeypatch.setattr(writer, "write_slide", on_a_full_disk)
    with pytest.raises(OSError, match="resume with --resume") as caught:
        write(path, description="model 7")
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert [name.name for name in tmp_path.iterdir()] == ["a.tif.unfinished"]
    monkeypatch.undo()
    write(path, description="model 7", resume=True)
    assert path.read_bytes() == lossy.read_bytes()


def test_sqlites_word_for_a_full_disk_becomes_that_of_the_system(tmp_path):
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    with pytest.raises(OSError, match="resume with --resume") as caught, work_file._told(tmp_path / "a"):
        raise error
    assert caught.value.errno == errno.ENOSPC


# Refusing

def test_output_that_exists_is_refused_unless_overwritten(tmp_path):
    path, image = tmp_path / "a.tif", picture(100, 100)
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"`output` must not exist.*--overwrite"):
        write(path, image)
    assert [name.name for name in tmp_path.iterdir()] == ["a.tif"]
    write(path, image, overwrite=True)
    assert by_tifffile(path)[0].shape == (100, 100, 3)


def test_output_is_as_it_was_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("mine")
    with PyramidWriter(path, 300, 200, MPP, SMALL, overwrite=True) as pyramid:
        fill(pyramid, picture(300, 200), most=4)
    assert path.read_text() == "mine"
    write(path, picture(300, 200), overwrite=True, resume=True)
    assert by_tifffile(path)[0].shape == (200, 300, 3)


def test_work_file_is_neither_taken_nor_lost_without_a_word(tmp_path):
    path, image = tmp_path / "a.tif", picture(300, 200)
    with PyramidWriter(path, 300, 200, MPP, SMALL) as pyramid:
        fill(pyramid, image, most=4)
    with pytest.raises(ValueError, match="continue it with --resume, or start again with --overwrite"):
        write(path, image)
    with PyramidWriter(path, 300, 200, MPP, SMALL, overwrite=True) as pyramid:
        assert len(list(pyramid.missing())) == 6


@pytest.mark.parametrize(("name", "other"), [
    ("width", {"width": 301}), ("mpp", {"mpp": 0.5}), ("options", {"options": LOSSLESS}),
    ("identity", {"identity": "another model"}), ("description", {"description": "another"}),
])
def test_work_file_of_something_else_is_refused_naming_the_difference(tmp_path, name, other):
    given = {"path": tmp_path / "a.tif", "width": 300, "height": 200, "mpp": MPP, "options": SMALL, "identity": "model"}
    PyramidWriter(**given).close()
    with pytest.raises(ValueError, match=rf"settings of the original run.*differ: {name}\).*a\.tif\.unfinished"):
        PyramidWriter(**{**given, **other, "resume": True})
    PyramidWriter(**given, resume=True).close()


def test_work_file_is_held_by_one_run(tmp_path):
    path = tmp_path / "a.tif"
    with PyramidWriter(path, 300, 200, MPP, SMALL):
        for more in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(ValueError, match="one run at a time"):
                PyramidWriter(path, 300, 200, MPP, SMALL, **more)
    PyramidWriter(path, 300, 200, MPP, SMALL, resume=True).close()


def test_file_that_is_no_work_file_is_refused_and_may_be_overwritten(tmp_path):
    path = tmp_path / "a.tif"
    (tmp_path / "a.tif.unfinished").write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match="delete this file"):
        PyramidWriter(path, 300, 200, MPP, SMALL, resume=True)
    write(path, picture(300, 200), overwrite=True)
    assert by_tifffile(path)[0].shape == (200, 300, 3)


@pytest.mark.parametrize("facts", ["{", "5", "[]", 5, None])
def test_work_file_that_does_not_say_what_it_is_of_is_refused_by_name(facts, tmp_path):
    path = tmp_path / "a.tif"
    PyramidWriter(path, 300, 200, MPP, SMALL).close()
    with closing(sqlite3.connect(tmp_path / "a.tif.unfinished")) as work, work:
        work.execute("UPDATE made SET facts = ?", (facts,))
    with pytest.raises(ValueError, match=r"/a\.tif\.unfinished` must be a JSON .*; start again with --overwrite"):
        PyramidWriter(path, 300, 200, MPP, SMALL, resume=True)


def test_end_is_refused_while_tiles_are_missing(tmp_path):
    path = tmp_path / "a.tif"
    with PyramidWriter(path, 300, 200, MPP, SMALL) as pyramid:
        fill(pyramid, picture(300, 200), most=4)
        with pytest.raises(ValueError, match="2 missing"):
            pyramid.finish()
    assert not path.exists()


@pytest.mark.parametrize(("row", "column", "pixels", "message"), [
    (2, 0, np.zeros((128, 128, 3), np.uint8), "2 rows and 3 columns"),
    (0, -1, np.zeros((128, 128, 3), np.uint8), "2 rows and 3 columns"),
    (0, 2, np.zeros((128, 128, 3), np.uint8), r"uint8 \[128, 44, 3\]"),
    (0, 0, np.zeros((128, 128, 3), np.float32), "float32"),
])
def test_tile_that_does_not_fit_is_refused(tmp_path, row, column, pixels, message):
    with PyramidWriter(tmp_path / "a.tif", 300, 200, MPP, SMALL) as pyramid, pytest.raises(ValueError, match=message):
        pyramid.put(row, column, pixels)


@pytest.mark.parametrize("wrong", [{"tile": 100}, {"tile": 0}, {"tile": 8192}, {"quality": 0}, {"quality": 101},
                                   {"format": "svs"}])
def test_options_check_themselves(wrong):
    name, = wrong
    with pytest.raises(ValueError, match=rf"`{name}` must .*Received: {name}="):
        PyramidOptions(**wrong)


@pytest.mark.parametrize(("wrong", "name"), [({"width": 0}, "size"), ({"mpp": 0.0}, "mpp")])
def test_slide_of_no_size_or_resolution_is_refused(tmp_path, wrong, name):
    with pytest.raises(ValueError, match=f"`{name}` must be positive"):
        PyramidWriter(**{"path": tmp_path / "a.tif", "width": 9, "height": 9, "mpp": MPP, **wrong})
    assert not list(tmp_path.iterdir())


# Memory

def high_water_mib():
    """The most memory that this process had, in MiB. `getrusage` would give its parent's where that had more."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def write_large(path, side):
    """Write a slide of side^2 pixels; print by how many MiB memory grew."""
    write(Path(path).with_name("first.tif"), picture(1100, 1100), PyramidOptions())
    before, tissue = high_water_mib(), immunohistochemistry()
    glass = np.full_like(tissue, 255)
    with PyramidWriter(path, side, side, MPP) as pyramid:
        for row, column in pyramid.missing():
            _, _, width, height = pyramid.levels[0].box(row, column)
            pyramid.put(row, column, (tissue if column % 4 == 0 else glass)[:height, :width])
        pyramid.finish()
    print(high_water_mib() - before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux' /proc")
def test_memory_is_bounded_by_tiles_and_not_by_the_slide(run_apart, tmp_path):
    outcome = run_apart(__file__, f"write_large({str(tmp_path / 'a.tif')!r}, 8192)")
    assert outcome.returncode == 0, outcome.stderr
    assert float(outcome.stdout) < 100  # the pixels alone are 192 MiB
    assert openslide.OpenSlide(tmp_path / "a.tif").level_count == 5
