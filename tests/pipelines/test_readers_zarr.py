# SPDX-License-Identifier: Apache-2.0
"""OME-Zarrs whose attributes are unusual or lie: right pixels and mpp, or one line."""
from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import SlideError
from pipelines.slide import open_slide

zarr = pytest.importorskip("zarr", reason="pip install '.[zarr]'")
numcodecs = pytest.importorskip("numcodecs", reason="pip install '.[zarr]'")
MICRONS = [{"name": "c", "type": "channel"}, *({"name": name, "type": "space", "unit": "micrometer"} for name in "yx")]


def write(path, image, levels=((0, 1), (1, 2)), axes=MICRONS, scaled=True, omero=(), version=2,
          chunks=(3, 128, 128), **array):
    """Levels by name and step, as they are listed."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for name, step in levels:
        pixels = np.moveaxis(image[::step, ::step], 2, 0)
        group.create_array(str(name), shape=pixels.shape, chunks=chunks,
                           **({"dtype": pixels.dtype} | array))[...] = pixels
    scales = [{"coordinateTransformations": [{"type": "scale", "scale": [1, step / 2, step / 2]}]} if scaled else {}
              for _, step in levels]
    attributes = {"multiscales": [{"axes": axes, "datasets": [{"path": str(name)} | scale for (name, _), scale in zip(
        levels, scales, strict=True)]}], "omero": {"channels": [{"color": colour} for colour in omero]}}
    group.attrs.update(attributes if version == 2 else {"ome": attributes})
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_levels_listed_in_any_order_are_sorted_and_keep_their_mpp(tmp_path, histology, version):
    path = write(tmp_path / "a.zarr", histology, levels=((0, 4), (1, 1), (2, 2)), version=version)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert slide.level_dimensions == ((512, 512), (256, 256), (128, 128))
        for level, step in enumerate((1, 2, 4)):
            np.testing.assert_array_equal(slide.read_level(level, 0, 0, 512 // step, 512 // step),
                                          histology[::step, ::step])


def test_unit_without_a_scale_is_no_mpp(tmp_path, histology):
    with open_slide(write(tmp_path / "a.zarr", histology, scaled=False)) as slide:
        assert slide.mpp is None


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-6), ("angstrom", 1e4), ("nanometer", 1e3), ("pixel", None)])
def test_units_are_converted(tmp_path, histology, unit, factor):
    axes = [axis | {"unit": unit} if axis["type"] == "space" else axis for axis in MICRONS]
    path = write(tmp_path / "a.zarr", histology, axes=axes)
    with open_slide(path, assume_mpp=None) as slide:
        assert slide._stated_mpp == (factor and pytest.approx((0.5 / factor,) * 2))


def test_bytes_in_the_other_order_are_the_picture(tmp_path, histology):
    path = write(tmp_path / "a.zarr", histology.astype(np.uint16) * 257, dtype=">u2")
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 512, 512), histology)


@pytest.mark.parametrize(("colours", "are_rgb"), [
    (("FF0000", "00ff00", "0000FF"), True), (("FFFFFF",) * 3, True), (("0000FF", "00FF00", "FF0000"), False),
    (("FF0000", "00FF00", "FFFFFF"), False)])
def test_channels_that_are_not_red_green_and_blue_are_refused(tmp_path, histology, colours, are_rgb):
    path = write(tmp_path / "a.zarr", histology, omero=colours)
    if are_rgb:
        open_slide(path).close()
    else:
        with pytest.raises(SlideError, match="not red, green and blue"):
            open_slide(path)


def test_missing_and_no_levels_are_one_line(tmp_path, histology):
    path = write(tmp_path / "a.zarr", histology)
    group = zarr.open_group(path)
    image = group.attrs["multiscales"][0]
    for datasets, words in (([*image["datasets"], {"path": "7"}], "level '7' is missing"), ([], "no multiscale image")):
        group.attrs["multiscales"] = [image | {"datasets": datasets}]
        with pytest.raises(SlideError, match=words):
            open_slide(path)


BLOSC = {"v2": {"version": 2, "compressors": numcodecs.Blosc()},
         "v2 filter": {"version": 2, "filters": [numcodecs.Blosc()], "compressors": None},
         "v3": {"version": 3, "compressors": zarr.codecs.BloscCodec()},
         "v3 shards": {"version": 3, "compressors": zarr.codecs.BloscCodec(), "chunks": (3, 64, 64),
                       "shards": (3, 128, 128)}}


@pytest.mark.parametrize("kind", BLOSC)
def test_blosc_data_that_claims_another_length_is_refused_and_not_believed(tmp_path, histology, kind):
    path = write(tmp_path / "a.zarr", histology, **BLOSC[kind])
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 512, 512), histology)
        chunk = next(file for file in sorted((path / "0").rglob("*")) if file.is_file() and file.stat().st_size > 4096)
        data = bytearray(chunk.read_bytes())
        data[12:16] = (2**31 - 1).to_bytes(4, "little")  # beyond which c-blosc would read, and end the process
        chunk.write_bytes(data)
        with pytest.raises(SlideError, match=r"Blosc data of \d+ bytes that claims 2147483647"):
            slide.read_level(0, 0, 0, 512, 512)


COMPRESSORS = {"gzip": {"level": 9}, "zlib": {"level": 9}, "bz2": {}, "zstd": {}, "lz4": {}, "blosc": {}}
KINDS = [(version, name) for version in ("v2", "v2 filter", "v3 numcodecs") for name in COMPRESSORS] + [
    (version, name) for version in ("v3", "v3 shards") for name in ("gzip", "zstd", "blosc")]


def stored_by(version, name):
    """Arguments of `write`, so that the chunks are compressed by a codec that version 2 or 3 knows."""
    of_2 = numcodecs.get_codec({"id": name} | COMPRESSORS[name])
    if version == "v2 filter":
        return {"filters": [of_2], "compressors": None}
    if version == "v2":
        return {"compressors": of_2}
    if version == "v3 numcodecs":
        return {"version": 3, "compressors": {"name": f"numcodecs.{name}", "configuration": COMPRESSORS[name]}}
    shards = {"chunks": (3, 64, 64), "shards": (3, 128, 128)} if version == "v3 shards" else {}
    codecs = {"gzip": zarr.codecs.GzipCodec, "zstd": zarr.codecs.ZstdCodec, "blosc": zarr.codecs.BloscCodec}
    return {"version": 3, "compressors": codecs[name]()} | shards


def peak_bytes(reset=False):
    """The largest memory of this process. Under tracemalloc a decoder in another thread crashed (Python 3.11)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize(("version", "name"), KINDS)
def test_chunk_that_expands_beyond_its_pixels_is_refused_within_bounded_memory(tmp_path, histology, version, name):
    path = write(tmp_path / "a.zarr", histology, **stored_by(version, name))
    bomb = bytes(numcodecs.get_codec({"id": name} | COMPRESSORS[name]).encode(bytes(2**28)))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 512, 512), histology)
        chunk = next(file for file in sorted((path / "0").rglob("*")) if file.is_file() and file.stat().st_size > 4096)
        if version == "v3 shards":  # an index of four offsets and lengths, and a checksum, ends the shard
            index = np.array([[0, len(bomb)]] + [[2**64 - 1] * 2] * 3, "<u8").tobytes()
            chunk.write_bytes(bomb + index + bytes(numcodecs.CRC32C().encode(index))[-4:])
        else:
            chunk.write_bytes(bomb)
        before = peak_bytes(reset=True)
        with pytest.raises(SlideError, match=r"(?i)expand beyond|too small|longer than its pixels"):
            slide.read_level(0, 0, 0, 512, 512)
        assert peak_bytes() - before < 2**26


@pytest.mark.parametrize("name", ["gzip", "bz2", "zstd"])
def test_chunk_of_several_streams_is_the_picture(tmp_path, histology, name):
    path = write(tmp_path / "a.zarr", histology, **stored_by("v2", name))
    chunk = path / "0" / "0.0.0"
    codec = numcodecs.get_codec({"id": name})
    data = bytes(codec.decode(chunk.read_bytes()))
    chunk.write_bytes(bytes(codec.encode(data[:999])) + bytes(codec.encode(data[999:])))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 512, 512), histology)


@pytest.mark.parametrize("name", ["gzip", "zlib", "bz2", "zstd", "lz4"])
def test_chunk_that_ends_too_early_is_refused(tmp_path, histology, name):
    path = write(tmp_path / "a.zarr", histology, **stored_by("v2", name))
    chunk = path / "0" / "0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-100])
    with open_slide(path) as slide, pytest.raises(SlideError):
        slide.read_level(0, 0, 0, 512, 512)


def test_filters_that_widen_values_are_within_the_limit(tmp_path, histology):
    path = write(tmp_path / "a.zarr", histology, filters=[numcodecs.Delta("u1", "i8")], compressors=numcodecs.Zstd())
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 512, 512), histology)


def test_arrays_of_other_programs_are_decoded_as_before(tmp_path, histology):
    """The decoders hold for a process; only the arrays of slides have a limit."""
    open_slide(write(tmp_path / "a.zarr", histology)).close()
    for codec in (numcodecs.get_codec({"id": name} | options) for name, options in COMPRESSORS.items()):
        assert bytes(codec.decode(codec.encode(bytes(2**20)))) == bytes(2**20)


@pytest.mark.parametrize("name", ["0/0.0.0", "0/.zarray", ".zattrs", ".zmetadata"])
def test_files_far_longer_than_they_can_be_are_not_read(tmp_path, histology, name):
    path = write(tmp_path / "a.zarr", histology)
    with (path / name).open("ab") as file:
        file.truncate(2**33)  # sparse
    with pytest.raises((SlideError, ValueError), match=re.escape(str(path / name))), open_slide(path) as slide:
        slide.read_level(0, 0, 0, 512, 512)


@pytest.mark.parametrize(("version", "change"), [
    (3, {"codecs": [{"name": "vlen-bytes"}]}), (2, {"compressor": {"id": "pickle", "protocol": 4}, "dtype": "|O"}),
    (2, {"compressor": {"id": "msgpack2"}, "dtype": "|O"})])
def test_pixels_stored_as_objects_are_refused(tmp_path, histology, version, change):
    path = write(tmp_path / "a.zarr", histology, version=version)
    file = path / "0" / (".zarray" if version == 2 else "zarr.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SlideError, match=r"a\.zarr.*(codecs that are not read|8 or 16 bit|No Zarr data type)"):
        open_slide(path)


def test_unknown_codec_within_shards_is_refused(tmp_path, histology):
    path = write(tmp_path / "a.zarr", histology, **stored_by("v3 shards", "zstd"))
    file = path / "0" / "zarr.json"
    array = json.loads(file.read_text())
    inner = array["codecs"][0]["configuration"]["codecs"]
    inner[:] = [inner[0], {"name": "numcodecs.zfpy", "configuration": {"mode": 4}}]
    file.write_text(json.dumps(array))
    with pytest.raises(SlideError, match=r"a\.zarr"):
        open_slide(path)
