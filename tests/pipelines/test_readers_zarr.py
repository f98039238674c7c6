# SPDX-License-Identifier: Apache-2.0
"""OME-Zarrs whose attributes are unusual or lie: right pixels and mpp, or one line."""
from __future__ import annotations

import json

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


def test_pixels_stored_as_texts_are_refused(tmp_path, histology):
    path = write(tmp_path / "a.zarr", histology, version=3)
    array = json.loads((path / "0" / "zarr.json").read_text())
    (path / "0" / "zarr.json").write_text(json.dumps(array | {"codecs": [{"name": "vlen-bytes"}]}))
    with pytest.raises(SlideError, match=r"a\.zarr: its pixels are stored as texts \(vlenbytescodec\); write it again"):
        open_slide(path)
