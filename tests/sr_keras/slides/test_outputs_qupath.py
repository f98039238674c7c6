# SPDX-License-Identifier: Apache-2.0
"""Outputs are what QuPath itself reads, where it is installed."""
from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
import tifffile

from sr_keras.slides.enlarge import EnlargeOptions, enlarge_file

QUPATH = shutil.which("QuPath")
pytestmark = [pytest.mark.java, pytest.mark.skipif(not QUPATH, reason="QuPath is not on the PATH")]
X, Y, WIDTH, HEIGHT = 510, 500, 8, 30  # a part that crosses the border of tiles
SCRIPT = f"""
import qupath.lib.regions.RegionRequest
def server = getCurrentServer()
def size = server.getPixelCalibration()
println "SEEN " + [server.getWidth(), server.getHeight(), server.nResolutions(), size.getPixelWidthMicrons(),
                   size.getPixelHeightMicrons()].join(" ")
def part = server.readRegion(RegionRequest.createInstance(server, 1.0, {X}, {Y}, {WIDTH}, {HEIGHT}))
println "PIXELS " + part.getRGB(0, 0, {WIDTH}, {HEIGHT}, null, 0, {WIDTH}).join(" ")
"""


@pytest.mark.parametrize("name", ["case.tif", "case.ome.tif"])
def test_qupath_reads_size_levels_resolution_and_pixels(name, loaded, sample_slide, tmp_path):
    path, script = tmp_path / name, tmp_path / "look.groovy"
    enlarge_file(loaded, sample_slide, path, EnlargeOptions(region=(64, 32, 301, 201), lossless=True))
    script.write_text(SCRIPT)
    done = subprocess.run([QUPATH, "script", f"--image={path}", script], capture_output=True, text=True, check=False,
                          timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    width, height, levels, *microns = re.search(r"SEEN (.*)", done.stdout)[1].split()
    with tifffile.TiffFile(path) as tiff:
        expected = tiff.asarray()
        assert (int(width), int(height), int(levels)) == (1204, 804, len(tiff.series[0].levels))
    assert [float(side) for side in microns] == pytest.approx([0.125, 0.125])
    argb = np.array(re.search(r"PIXELS (.*)", done.stdout)[1].split(), np.int64)
    rgb = np.stack([argb >> 16, argb >> 8, argb], -1).reshape(HEIGHT, WIDTH, 3) & 255
    np.testing.assert_array_equal(rgb, expected[Y:Y + HEIGHT, X:X + WIDTH])
