# SPDX-License-Identifier: Apache-2.0
"""A colour profile is carried from the input to the output, or one line says why not."""
from __future__ import annotations

import io
import zlib

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageCms

from pipelines.pyramid import PyramidOptions, PyramidWriter
from pipelines.slide import open_slide
from sr_keras.slides.enlarge import EnlargeOptions, enlarge_file

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Red and green exchanged, so that whoever uses it shows other colours.
SWAPPED = SRGB.replace(b"rXYZ", b"kXYZ").replace(b"gXYZ", b"rXYZ").replace(b"kXYZ", b"gXYZ")
LARGE = SWAPPED + np.random.default_rng(0).bytes(2**21)
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def write(path, pixels, profile, kind):
    if kind in ("png", "jpg"):
        Image.fromarray(pixels).save(path, icc_profile=profile)
    else:
        layout = {"tiles": {"tile": (128, 128)}, "strips": {"rowsperstrip": 32}, "turned": {"rowsperstrip": 32},
                  "ome": {"tile": (128, 128)}}[kind]
        more = {"extratags": [(274, 3, 1, 3, True)]} if kind == "turned" else {}
        tifffile.imwrite(path, pixels, photometric="rgb", ome=kind == "ome", iccprofile=profile, **layout, **more,
                         metadata={"axes": "YXS"} if kind == "ome" else None)
    return path


def profile_of(path):
    """The profile that others find in a file."""
    with Image.open(path) as image:
        return image.info.get("icc_profile")


@pytest.mark.parametrize("kind", ["tiles", "strips", "turned", "ome", "png", "jpg"])
@pytest.mark.parametrize("profile", [SWAPPED, LARGE, None])
def test_profile_is_read_as_it_is_stored(histology, tmp_path, kind, profile):
    suffix = {"png": ".png", "jpg": ".jpg", "ome": ".ome.tif"}.get(kind, ".tif")
    with open_slide(write(tmp_path / f"a{suffix}", histology[:256, :256], profile, kind)) as slide:
        assert slide.icc_profile == profile


@pytest.mark.parametrize("output", ["a.tif", "a.ome.tif", "a.png", "a.jpg"])
def test_profile_is_carried_to_the_output(loaded, histology, tmp_path, output, capsys):
    source = write(tmp_path / "in.tif", histology[:128, :128], SWAPPED, "tiles")
    options = EnlargeOptions(format="ome") if output == "a.ome.tif" else EnlargeOptions()
    enlarge_file(loaded, source, tmp_path / output, options)
    assert profile_of(tmp_path / output) == SWAPPED
    assert "colour profile" not in capsys.readouterr().err
    with open_slide(tmp_path / output) as slide:
        assert slide.icc_profile == SWAPPED


def test_profile_is_carried_to_dicom_and_zarr_says_that_it_cannot(loaded, histology, tmp_path, capsys):
    pydicom, _ = pytest.importorskip("pydicom"), pytest.importorskip("zarr")
    source = write(tmp_path / "in.tif", histology[:128, :128], SWAPPED, "tiles")
    for name in ("a.dicom", "a.zarr"):
        enlarge_file(loaded, source, tmp_path / name, EnlargeOptions(assume_mpp=1.0))
    (optics,) = pydicom.dcmread(tmp_path / "a.dicom" / "level0.dcm").OpticalPathSequence
    assert optics.ICCProfile == SWAPPED.ljust(len(SWAPPED) + len(SWAPPED) % 2, b"\0")
    assert "ColorSpace" not in optics
    with open_slide(tmp_path / "a.dicom") as slide:
        assert slide.icc_profile == optics.ICCProfile
    with open_slide(tmp_path / "a.zarr") as slide:
        assert slide.icc_profile is None
    assert capsys.readouterr().err.count("no place for its colour profile") == 1


@pytest.mark.parametrize("format", ["tiff", "ome"])
def test_every_level_of_a_pyramid_has_the_profile(histology, tmp_path, format):
    path = tmp_path / "a.tif"
    with PyramidWriter(path, 1024, 1024, 0.5, PyramidOptions(format=format), icc_profile=SWAPPED) as writer:
        for row, column in writer.missing():
            writer.put(row, column, histology)
        writer.finish()
    with tifffile.TiffFile(path) as tiff:
        assert [level.keyframe.iccprofile for level in tiff.series[0].levels] == [SWAPPED] * 2
    with openslide.OpenSlide(path) as slide:
        assert slide.read_region((0, 0), 0, (8, 8)).info["icc_profile"] == SWAPPED


@pytest.mark.parametrize(("profile", "reason"), [
    (SWAPPED[:200], "a damaged colour profile"), (b"no profile", "a damaged colour profile"),
    (SWAPPED[:128] + bytes(len(SWAPPED) - 128), "a damaged colour profile"), (LAB, "a colour profile for Lab"),
    (SWAPPED + bytes(17 * 10**6), "a colour profile of 17,0")], ids=["cut", "text", "no tables", "lab", "huge"])
def test_profile_that_cannot_be_carried_is_told_in_one_line(loaded, histology, tmp_path, capsys, profile, reason):
    source = write(tmp_path / "in.tif", histology[:64, :64], profile, "strips")
    enlarge_file(loaded, source, tmp_path / "a.png")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "colour profile" in line]
    assert line.startswith(f"warning: {source}: has {reason}")
    assert line.endswith("the output has none")
    assert profile_of(tmp_path / "a.png") is None


def test_profile_in_a_png_whose_compression_is_damaged_is_told(loaded, histology, tmp_path, capsys):
    file = io.BytesIO()
    Image.fromarray(histology[:64, :64]).save(file, "PNG", icc_profile=SWAPPED)
    content = bytearray(file.getvalue())
    at = content.index(b"iCCP")
    length = int.from_bytes(content[at - 4:at], "big")
    content[at + 30:at + 60] = bytes(30)
    content[at + 4 + length:at + 8 + length] = zlib.crc32(content[at:at + 4 + length]).to_bytes(4, "big")
    (tmp_path / "in.png").write_bytes(content)
    enlarge_file(loaded, tmp_path / "in.png", tmp_path / "a.png")
    assert "in.png: has a damaged colour profile" in capsys.readouterr().err
    assert profile_of(tmp_path / "a.png") is None
