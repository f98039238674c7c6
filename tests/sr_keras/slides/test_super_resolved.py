# SPDX-License-Identifier: Apache-2.0
"""What takes an OpenSlide slide takes a super-resolved one, and gets the pixels of the file that a run would write."""
from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import openslide
import pytest
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image
from tifffile import TiffFile, TiffWriter

from pipelines.pyramid import PyramidOptions, PyramidWriter
from sr_keras import SuperResolvedSlide, shipped_model
from sr_keras.model.loading import LoadedGenerator, load_generator
from sr_keras.slides.enlarge import EnlargeOptions, enlarge_file

WINDOWS = EnlargeOptions(lossless=True, tile=300)  # of which the file is computed: not those of the tiles
TILE = 512


@pytest.fixture(scope="module")
def source(histology, tmp_path_factory) -> Path:
    """A slide of 1100x300 at 0.5 microns with a level of half the size: tissue, and then glass with a slope."""
    pixels = np.linspace(236, 246, 1100)[np.newaxis, :, np.newaxis].repeat(300, 0).repeat(3, 2).astype(np.uint8)
    pixels[:, :512] = histology[:300]
    path = tmp_path_factory.mktemp("source") / "case.tif"
    with PyramidWriter(path, 1100, 300, 0.5, PyramidOptions(tile=128, quality=None)) as pyramid:
        for row, column in pyramid.missing():
            x, y, width, height = pyramid.levels[0].box(row, column)
            pyramid.put(row, column, pixels[y:y + height, x:x + width])
        pyramid.finish()
    return path


@pytest.fixture(scope="module")
def written(loaded, source, tmp_path_factory) -> Iterator[openslide.OpenSlide]:
    """The file that a run writes of it, without loss."""
    path = tmp_path_factory.mktemp("written") / "case_x4.tif"
    report = enlarge_file(loaded, source, path, WINDOWS)
    assert 0.1 < report["work"]["glass_share"] < 0.9
    with openslide.OpenSlide(path) as slide:
        yield slide


@pytest.fixture
def slide(loaded, source) -> Iterator[SuperResolvedSlide]:
    with SuperResolvedSlide(source, loaded, WINDOWS) as opened:
        yield opened


@pytest.fixture
def counted(loaded) -> tuple[LoadedGenerator, list[int]]:
    """The generator, and a list that gets an entry each time it runs."""
    calls: list[int] = []

    def run(lr):
        calls.append(1)
        return loaded.run(lr)

    return replace(loaded, run=run), calls


def rgb(slide: openslide.AbstractSlide, x: int, y: int, level: int, *size: int) -> np.ndarray:
    pixels = np.asarray(slide.read_region((x, y), level, size))
    assert pixels[..., 3].min() == 255
    return pixels[..., :3].astype(int)


def whole(slide: openslide.AbstractSlide, level: int = 0) -> np.ndarray:
    return rgb(slide, 0, 0, level, *slide.level_dimensions[level])


@pytest.mark.parametrize("level", [0, 1])
def test_pixels_are_those_of_the_file_that_a_run_writes(slide, written, level):
    difference = np.abs(whole(slide, level) - whole(written, level))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize("engine", ["tensorflow", pytest.param("litert", marks=pytest.mark.slow)])
def test_every_engine_makes_the_pixels_of_the_file(source, loaded, written, engine):
    with SuperResolvedSlide(source, loaded.path, WINDOWS, engine=engine) as slide:
        assert slide.generator.name == engine
        assert np.abs(whole(slide) - whole(written)).max() <= 1


def test_levels_are_those_of_the_file_that_a_run_writes(slide, written):
    assert slide.level_dimensions == written.level_dimensions == ((4400, 1200), (2200, 600), (1100, 300), (550, 150),
                                                                  (275, 75))
    assert slide.level_downsamples == written.level_downsamples
    assert slide.properties["openslide.mpp-x"] == written.properties["openslide.mpp-x"] == "0.125"
    for downsample in (0.5, 1, 3.9, 4, 7, 100):
        assert (slide.get_best_level_for_downsample(downsample)
                == written.get_best_level_for_downsample(downsample))


def test_one_large_read_equals_the_union_of_small_reads(loaded, source):
    with SuperResolvedSlide(source, loaded, WINDOWS) as one, \
            SuperResolvedSlide(source, loaded, WINDOWS, cache_bytes=0) as other:
        large = rgb(one, 300, 100, 0, 900, 700)
        columns, rows = [0, 150, 211, 213, 640, 900], [0, 400, 412, 413, 700]
        for top, bottom in reversed([*pairwise(rows)]):
            for left, right in pairwise(columns):
                small = rgb(other, 300 + left, 100 + top, 0, right - left, bottom - top)
                assert np.array_equal(small, large[top:bottom, left:right])


def test_levels_coarser_than_sr_are_those_of_the_source_and_need_no_network(source, loaded):
    def fail(lr):
        raise AssertionError("the network ran")

    with SuperResolvedSlide(source, replace(loaded, run=fail), EnlargeOptions()) as slide, \
            openslide.OpenSlide(source) as scanned:
        assert np.array_equal(whole(slide, 2), whole(scanned, 0))
        assert np.array_equal(whole(slide, 3), whole(scanned, 1))
        half = np.asarray(Image.fromarray(whole(scanned, 1).astype(np.uint8)).resize((275, 75), Image.Resampling.BOX))
        assert np.abs(whole(slide, 4) - half).mean() < 2
        assert slide.get_thumbnail((200, 200)).size == (200, 55)


def test_a_region_and_a_resolution_move_all_levels_with_them(source, loaded):
    with SuperResolvedSlide(source, loaded, EnlargeOptions(mpp=1.0, region=(40, 20, 700, 200))) as slide, \
            openslide.OpenSlide(source) as scanned:
        assert slide.dimensions == (1400, 400)
        assert slide.properties["openslide.mpp-x"] == "0.25"
        mean = np.asarray(scanned.read_region((40, 20), 0, (700, 200)).convert("RGB").reduce(2)).astype(int)
        assert np.array_equal(whole(slide, 2), mean)
        with pytest.raises(openslide.OpenSlideError, match="`level` must be 0 to 2"):
            slide.read_region((0, 0), 3, (1, 1))


def test_what_lies_outside_is_transparent(slide):
    corner = np.asarray(slide.read_region((4390, 1190), 0, (20, 20)))
    assert corner[:10, :10, 3].min() == 255
    assert not corner[10:].any()
    assert not corner[:, 10:].any()
    before = np.asarray(slide.read_region((-8, -8), 1, (8, 8)))  # from the nearest pixel of the level: -4, -4
    assert np.array_equal(before[..., 3] == 255, np.add.outer(*[np.arange(8) >= 4] * 2) & np.multiply.outer(
        *[np.arange(8) >= 4] * 2))
    assert slide.read_region((5000, 5000), 0, (0, 7)).size == (0, 7)


@pytest.mark.parametrize(("level", "size", "told"), [
    (5, (8, 8), "`level` must be 0 to 4"), (-1, (8, 8), "Received: level=-1"),
    (0, (-1, 8), "`size` must not be negative"), (2, (8, -8), "Received: size=(8, -8)")])
def test_another_level_or_a_negative_size_is_refused_as_by_openslide(slide, level, size, told):
    with pytest.raises(openslide.OpenSlideError) as refused:
        slide.read_region((0, 0), level, size)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert slide.read_region((0, 0), 0, (8, 8)).size == (8, 8)


@pytest.mark.parametrize("level", [0, 2, 3])
def test_a_closed_slide_is_not_read(slide, level):
    slide.read_region((0, 0), 0, (8, 8))  # a kept tile must not hide it
    slide.close()
    slide.close()
    with pytest.raises(ValueError, match="`slide` must be open; open it again to read from it"):
        slide.read_region((0, 0), level, (8, 8))


def test_a_slide_closed_while_it_is_read_gives_no_made_up_pixels(counted, source):
    generator, _ = counted
    running, closed = threading.Event(), threading.Event()

    def run(lr):
        running.set()
        closed.wait(60)
        return generator.run(lr)

    slide = SuperResolvedSlide(source, replace(generator, run=run), WINDOWS)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(slide.read_region, (0, 0), 0, (1024, 512))
        assert running.wait(60)
        slide.close()
        closed.set()
        with pytest.raises(ValueError, match="must be open"):
            reading.result()


def test_tiles_are_kept_within_a_number_of_bytes(counted, source):
    generator, calls = counted
    with SuperResolvedSlide(source, generator, WINDOWS, cache_bytes=2 * 3 * TILE**2) as slide:
        for column, computed in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
            slide.read_region((TILE * column + 9, 9), 0, (99, 99))
            assert len(calls) == computed
    with SuperResolvedSlide(source, generator, WINDOWS, cache_bytes=0) as slide:
        for _ in range(2):
            slide.read_region((0, 0), 0, (9, 9))
        assert len(calls) == 6
    with pytest.raises(ValueError, match="`cache_bytes` must be 0 or more"):
        SuperResolvedSlide(source, generator, cache_bytes=-1)


def test_threads_share_a_slide_and_compute_each_tile_once(counted, source, written):
    generator, calls = counted
    rng = np.random.default_rng(0)
    boxes = [(*rng.integers(0, 900, 2).tolist(), int(level)) for level in rng.integers(0, 5, 60)]
    with SuperResolvedSlide(source, generator, EnlargeOptions(everywhere=True, tile=300)) as slide, \
            ThreadPoolExecutor(8) as pool:
        read = [*pool.map(lambda box: np.asarray(slide.read_region(box[:2], box[2], (60, 60))), boxes)]
        alone = [np.asarray(slide.read_region(box[:2], box[2], (60, 60))) for box in boxes]
    assert all(np.array_equal(one, other) for one, other in zip(read, alone, strict=True))
    touched = {(at // TILE, bt // TILE) for x, y, level in boxes if level < 2
               for at in (x, x + 60 * 2**level - 1) for bt in (y, y + 60 * 2**level - 1) if bt < 1200}
    assert len(calls) == len(touched)


def test_deep_zoom_tiles_are_those_of_the_file_that_a_run_writes(slide, written):
    ours, theirs = (DeepZoomGenerator(one, tile_size=254, overlap=1) for one in (slide, written))
    assert ours.level_dimensions == theirs.level_dimensions
    for level in (ours.level_count - 1, ours.level_count - 2):
        for column in range(0, ours.level_tiles[level][0], 4):
            mine, other = (np.asarray(one.get_tile(level, (column, 1))).astype(int) for one in (ours, theirs))
            assert mine.shape == other.shape
            assert np.abs(mine - other).max() <= 1


def places(slide: openslide.AbstractSlide, step: int) -> list[tuple[int, int]]:
    """Return where patches of tissue are, as CLAM does: by a coarse picture of the slide."""
    thumbnail = slide.get_thumbnail(tuple(side // 16 for side in slide.dimensions))
    saturation = np.asarray(thumbnail.convert("HSV"))[..., 1]
    return [(x, y) for y in range(0, slide.dimensions[1] - step + 1, step)
            for x in range(0, slide.dimensions[0] - step + 1, step)
            if saturation[y // 16:(y + step) // 16, x // 16:(x + step) // 16].mean() > 20]


def patch(slide: openslide.AbstractSlide, x: int, y: int, mpp: float, side: int) -> np.ndarray:
    """Read a patch as TIAToolbox does: from the coarsest level that is fine enough by its mpp, resized."""
    downsample = mpp / float(slide.properties["openslide.mpp-x"])
    level = slide.get_best_level_for_downsample(downsample)
    read = round(side * downsample / slide.level_downsamples[level])
    pixels = slide.read_region((x, y), level, (read, read)).convert("RGB")
    return np.asarray(pixels.resize((side, side), Image.Resampling.BOX)).astype(int)


@pytest.mark.parametrize("mpp", [0.125, 0.375])
def test_a_patch_loop_gets_the_patches_of_the_file_that_a_run_writes(slide, written, mpp):
    found = places(slide, round(128 * mpp / 0.125))
    assert len(found) > 8
    assert max(x for x, _ in found) < 2048  # the rest is glass
    for x, y in found[::5]:
        ours, theirs = (patch(one, x, y, mpp, 128) for one in (slide, written))
        assert np.abs(ours - theirs).max() <= 1


def test_a_lazy_dask_array_computes_what_is_asked_for(counted, source, written):
    array = pytest.importorskip("dask.array", reason="pip install dask")
    generator, calls = counted

    def chunk(block_info) -> np.ndarray:
        (top, bottom), (left, right), _ = block_info[None]["array-location"]
        return np.asarray(slide.read_region((left, top), 0, (right - left, bottom - top)))[..., :3]

    with SuperResolvedSlide(source, generator, WINDOWS) as slide:
        sides = [tuple(min(TILE, side - at) for at in range(0, side, TILE)) for side in slide.dimensions[::-1]]
        lazy = array.map_blocks(chunk, chunks=(*sides, (3,)), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
        assert lazy.shape == (1200, 4400, 3)
        assert not calls
        window = lazy[500:540, 1000:1100].compute()
        assert len(calls) == 4
    assert np.abs(window.astype(int) - rgb(written, 1000, 500, 0, 100, 40)).max() <= 1


def test_a_lazy_zarr_array_computes_what_is_asked_for(counted, source, written):
    zarr = pytest.importorskip("zarr", reason="pip install '.[zarr]'")
    generator, calls = counted

    class Tiles(zarr.storage.MemoryStore):
        """Metadata from memory, chunks from the slide."""

        async def get(self, key, prototype, byte_range=None):
            if not key.startswith("c/"):
                return await super().get(key, prototype, byte_range)
            row, column = map(int, key.split("/")[1:3])
            chunk = np.asarray(slide.read_region((column * TILE, row * TILE), 0, (TILE, TILE)))[..., :3]
            return prototype.buffer.from_bytes(chunk.tobytes())

    with SuperResolvedSlide(source, generator, WINDOWS) as slide:
        lazy = zarr.create_array(Tiles(), shape=(*slide.dimensions[::-1], 3), chunks=(TILE, TILE, 3), dtype="uint8",
                                 compressors=None)
        assert not calls
        window = lazy[500:540, 1000:1100]
        assert len(calls) == 4
    assert np.abs(window.astype(int) - rgb(written, 1000, 500, 0, 100, 40)).max() <= 1


def test_a_place_that_cannot_be_read_is_white_and_the_rest_is_there(broken_slide, sample_slide, loaded):
    with SuperResolvedSlide(broken_slide, loaded) as slide, SuperResolvedSlide(sample_slide, loaded) as sound:
        broken = whole(slide, 2)
        assert (broken[128:256, 128:256] == 255).all()
        broken[128:256, 128:256] = whole(sound, 2)[128:256, 128:256]
        assert np.array_equal(broken, whole(sound, 2))
        assert np.array_equal(rgb(slide, 1536, 1536, 0, 300, 300), rgb(sound, 1536, 1536, 0, 300, 300))


def test_a_picture_is_a_slide_without_resolution(histology, loaded, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(histology[:60, :70]).save(path)
    with SuperResolvedSlide(path, loaded) as slide:
        assert slide.dimensions == (280, 240)
        assert "openslide.mpp-x" not in slide.properties
        assert slide.associated_images == {}
        assert np.abs(whole(slide) - loaded(histology[np.newaxis, :60, :70])[0]).max() <= 1
    assert SuperResolvedSlide.detect_format(path) == "sr_keras"
    assert SuperResolvedSlide.detect_format(Path(__file__)) is None
    with pytest.raises(FileNotFoundError):
        SuperResolvedSlide(tmp_path / "none.svs", loaded)
    with pytest.raises(FileNotFoundError, match="`model` must exist"):
        SuperResolvedSlide(path, tmp_path / "none")


def test_a_damaged_thumbnail_costs_that_picture_alone(histology, loaded, tmp_path):
    path = tmp_path / "aperio.svs"
    with TiffWriter(path) as file:
        file.write(histology, tile=(256, 256), photometric="rgb", metadata=None,
                   description="Aperio Image Library v10\n512x512 (256x256)|AppMag = 20|MPP = 0.5")
        file.write(histology[::4, ::4], photometric="rgb", rowsperstrip=16, compression="lzw", metadata=None,
                   description="Aperio Image Library v10")
    with SuperResolvedSlide(path, loaded) as slide:
        assert slide.associated_images.keys() == {"thumbnail"}
    with TiffFile(path) as file:
        start = file.pages[1].dataoffsets[1]
    data = bytearray(path.read_bytes())
    data[start:start + 40] = b"\xff" * 40
    path.write_bytes(data)
    with SuperResolvedSlide(path, loaded) as slide:
        assert slide.associated_images == {}
        assert slide.properties["openslide.objective-power"] == "80"
        assert np.array_equal(whole(slide, 2), histology)


def test_its_name_is_imported_without_tensorflow():
    code = "import sys, sr_keras; sr_keras.SuperResolvedSlide; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0


@pytest.fixture(scope="module")
def light() -> LoadedGenerator:
    return load_generator(shipped_model("srgan_sqe_x4_light"))


def test_a_scanned_slide_keeps_what_is_true_of_it(shared_data, light):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    with SuperResolvedSlide(path, light) as slide, openslide.OpenSlide(path) as scanned:
        assert slide.dimensions == (8880, 11868)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(
            float(scanned.properties["openslide.mpp-x"]) / 4, rel=1e-6)
        assert (scanned.properties["openslide.objective-power"], slide.properties["openslide.objective-power"]) == (
            "20", "80")
        assert "aperio.MPP" in scanned.properties
        assert not [name for name in slide.properties if name.startswith("aperio.")]
        assert slide.associated_images.keys() == scanned.associated_images.keys() == {"label", "macro", "thumbnail"}
        ours, theirs = (np.asarray(one.get_thumbnail((300, 300)).resize((45, 60), Image.Resampling.BOX)).astype(int)
                        for one in (slide, scanned))
        assert np.abs(ours - theirs).mean() < 2


def test_pixels_of_a_scanned_slide_are_those_of_the_picture_that_a_run_writes(shared_data, light, tmp_path):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    options = EnlargeOptions(mpp=1.0, region=(900, 1100, 520, 480), everywhere=True)
    enlarge_file(light, path, tmp_path / "part.png", options)
    with SuperResolvedSlide(path, light, options) as slide, Image.open(tmp_path / "part.png") as picture:
        assert np.abs(whole(slide) - np.asarray(picture).astype(int)).max() <= 1
