# SPDX-License-Identifier: Apache-2.0
"""Large tiles, sparse files and files that claim to be giants: work and memory stay bounded."""
from __future__ import annotations

import io
import resource
import struct
import time
import zlib
from collections import Counter
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.errors import SlideError
from pipelines.readers import TiffReader, limits
from pipelines.slide import open_slide

SECONDS, MEBIBYTES = 10.0, 200  # for a refusal


def giant(path, side, tile, layout="tile", codes=(), **options):
    """A BigTIFF of any size, a few bytes on the disk: its first tiles or strips are `codes`, the others empty."""
    count = (-(-side // tile))**(2 if layout == "tile" else 1)
    segments = (codes[i] if i < len(codes) else b"" for i in range(count))
    layout = {"tile": (tile, tile)} if layout == "tile" else {"rowsperstrip": tile}
    tifffile.imwrite(path, segments, shape=(side, side, 3), dtype=np.uint8, photometric="rgb", bigtiff=True,
                     **{"compression": "zlib", "metadata": None} | layout | options)
    return path


@contextmanager
def bounded():
    """Check time and memory of what is done."""
    began, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - began < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024 < MEBIBYTES


@pytest.mark.parametrize(("side", "tile", "layout"), [(30_000, 30_000, "strip"), (30_000, 30_000, "tile"),
                                                      (40_000, 20_480, "tile")])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_giants_in_one_tile_or_strip_are_refused(tmp_path, side, tile, layout, name):
    ome = {"ome": True, "metadata": {"axes": "YXS"}} if name == "a.ome.tif" else {}
    path = giant(tmp_path / name, side, tile, layout, [zlib.compress(bytes(10_000))], **ome)
    with bounded(), pytest.raises(SlideError, match=r"has tiles or strips of \d\.\d GiB, more than 1; convert it to"):
        open_slide(path)


def test_lower_level_in_one_giant_tile_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as tiff:
        for side, tile in ((65_536, 4096), (32_768, 32_768)):
            tiff.write((b"" for _ in range((side // tile)**2)), shape=(side, side, 3), dtype=np.uint8, metadata=None,
                       photometric="rgb", tile=(tile, tile), compression="zlib", subfiletype=int(side < 65_536))
    with bounded(), pytest.raises(SlideError, match=r"a\.tif: has tiles or strips of 3\.0 GiB"):
        open_slide(tmp_path / "a.tif")


def test_sparse_giant_without_small_levels_is_opened_and_gives_no_overview(tmp_path):
    path = giant(tmp_path / "a.tif", 140_000, 2048)
    with bounded(), open_slide(path) as slide:
        assert (slide.read_region(70_000, 70_000, 0, 64, 64) == 255).all()
        with pytest.raises(SlideError, match=r"a\.tif: has 140000 x 140000 pixels, more than .*smaller levels"):
            slide.thumbnail(512)


def test_more_pixels_than_any_scanner_makes_are_refused(tmp_path):
    path = giant(tmp_path / "a.tif", 400_000, 8192)
    with bounded(), pytest.raises(SlideError, match=r"a\.tif: has 400000 x 400000 pixels, more than .* damaged"):
        open_slide(path)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_small_tile_that_expands_to_gigabytes_takes_no_memory(tmp_path, name):
    ome = {"ome": True, "metadata": {"axes": "YXS"}} if name == "a.ome.tif" else {}
    jpeg = io.BytesIO()
    Image.new("RGB", (16, 16)).save(jpeg, "JPEG")
    frame = jpeg.getvalue().index(b"\xff\xc0") + 5
    claims = jpeg.getvalue()[:frame] + struct.pack(">HH", 65_000, 65_000) + jpeg.getvalue()[frame + 4:]
    for compression, code in (("zlib", zlib.compress(bytes(2**28))), ("jpeg", claims)):
        path = giant(tmp_path / name, 512, 256, codes=[code] * 4, compression=compression, **ome)
        with bounded(), open_slide(path) as slide, suppress(SlideError):
            assert (slide.read_region(0, 0, 0, 64, 64) == 0).all()  # deflate: the first of the bytes fill the tile
            assert compression == "zlib"


def test_large_tiles_are_decoded_at_most_twice_for_an_overview(tmp_path, histology, monkeypatch):
    path, tiled, decoded = tmp_path / "a.ome.tif", np.tile(histology, (4, 4, 1)), []
    tifffile.imwrite(path, tiled, photometric="rgb", tile=(512, 512), compression="zlib", metadata={"axes": "YXS"})
    monkeypatch.setattr(limits, "KEPT_BYTES", 4 * 512 * 512 * 3)
    decode = TiffReader._decode
    monkeypatch.setattr(TiffReader, "_decode", lambda *tile: decoded.append(tile[-1]) or decode(*tile))
    with open_slide(path) as slide:
        slide.thumbnail(128)  # its blocks end on borders of tiles
        assert len(decoded) == len(set(decoded)) == 16
        decoded.clear()
        slide.thumbnail(100)  # and here not
    assert max(Counter(decoded).values()) <= 2


def test_one_large_tile_costs_about_as_much_as_many_small_ones(tmp_path, histology):
    tiled = np.tile(histology, (8, 8, 1))  # 4096 x 4096: OpenSlide's own cache does not hold a tile
    seconds = {}
    for side in (256, 4096):
        path = tmp_path / f"{side}.tif"
        tifffile.imwrite(path, tiled, photometric="rgb", tile=(side, side), compression="jpeg", metadata=None)
        began = time.process_time()
        with open_slide(path) as slide:
            slide.thumbnail(512)
        seconds[side] = time.process_time() - began
    assert seconds[4096] < 4 * seconds[256]  # it was 28 times


def test_tile_height_that_is_a_list_is_a_damaged_slide(tmp_path, histology):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, histology, tile=(128, 128), photometric="rgb")
    with tifffile.TiffFile(path) as tiff:
        width, height = (tiff.pages[0].tags[name] for name in ("TileWidth", "TileLength"))
    data = bytearray(path.read_bytes())
    data[width.valueoffset:width.valueoffset + 4] = (4 * 10**9).to_bytes(4, "little")  # times the list: 16 TB
    struct.pack_into("<HII", data, height.offset + 2, 4, 513, 8)  # 513 numbers, from anywhere
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"a\.tif: cannot be read as a slide or image"):
        open_slide(path)


def test_number_that_asks_for_all_memory_on_opening_is_told_as_damage(tmp_path, monkeypatch):
    def believe_it(path):
        raise MemoryError

    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0")
    monkeypatch.setattr("pipelines.readers.open_by_openslide", believe_it)
    with pytest.raises(SlideError, match=r"a\.tif: cannot be opened in the memory that there is; it may be damaged"):
        open_slide(path)
