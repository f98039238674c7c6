# SPDX-License-Identifier: Apache-2.0
"""Pairs of two scans, from the page of pipelines.register to shards."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipelines.config import PatchOptions
from pipelines.patches import Patch, read_patches
from pipelines.scan_pairs import Fit, Registration, pair_scans, scan_file, write_registration
from pipelines.shards import open_shards
from pipelines.slide import open_slide

ROOT = Path(__file__).parents[2]
SMALL = PatchOptions(patch_size=64, min_tissue=0, pairs="scans")


@pytest.fixture
def page(tmp_path, histology):
    """Two scans of one glass, LR every fourth pixel of HR and darker, and the page that says so."""
    for name, pixels in (("scan10x.tif", (histology[1::4, 1::4] * 0.8).astype(np.uint8)), ("scan40x.tif", histology)):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", tile=(64, 64))
    fits = tuple(Fit(x, y, (0.0, 0.0), 0.9, 0.9, 0.1, 0.9, 0.3) for y in (0, 32, 64) for x in (0, 32, 64))
    with open_slide(tmp_path / "scan10x.tif", 1.0) as lr, open_slide(tmp_path / "scan40x.tif", 0.25) as hr:
        found = Registration(
            scan_file(lr.path, lr), scan_file(hr.path, hr), ((4.0, 0.0, 1.5), (0.0, 4.0, 1.5)), 4, 32,
            ((1.0, -float(np.log(0.8))),) * 3, fits, ())
    write_registration(tmp_path / "pairs.json", found)
    return tmp_path / "pairs.json"


def read(page, options=SMALL):
    sources, options = pair_scans([page], options)
    return list(read_patches(sources[0], options))


def test_pairs_are_lr_as_scanned_and_hr_over_it(page, histology):
    found = read(page)
    found_patches = [item for item in found if isinstance(item, Patch)]
    # Those at the upper and the left border would be interpolated from beyond it.
    assert (len(found), len(found_patches)) == (36, 25)
    for patch in found_patches:
        x, y = (int(value) for value in patch.name.split("_"))
        np.testing.assert_array_equal(patch.lr, (histology[1::4, 1::4] * 0.8).astype(np.uint8)[y:y + 16, x:x + 16])
        np.testing.assert_array_equal(patch.pixels, histology[patch.y:patch.y + 64, patch.x:patch.x + 64])
        assert (patch.x, patch.y, patch.mpp) == (4 * x, 4 * y, pytest.approx(0.25))


def test_colours_are_matched_on_hr_alone(page, histology):
    plain, matched = read(page), read(page, PatchOptions(patch_size=64, min_tissue=0, pairs="scans",
                                                         match_colours=True))
    pairs = [(one, other) for one, other in zip(plain, matched, strict=True) if isinstance(one, Patch)]
    for one, other in pairs:
        np.testing.assert_array_equal(one.lr, other.lr)
        assert abs(float(other.pixels.mean()) / one.pixels.mean() - 0.8) < 0.02


def test_most_patches_and_tissue_are_held_to(page):
    assert len([item for item in read(page, PatchOptions(patch_size=64, min_tissue=0, max_patches=5, pairs="scans"))
                if isinstance(item, Patch)]) <= 5
    assert all(item.tissue >= 0.9 for item in read(page, PatchOptions(patch_size=64, min_tissue=0.9, pairs="scans"))
               if isinstance(item, Patch))


def test_extract_writes_pairs_of_the_page_and_says_how_many(page, tmp_path):
    done = subprocess.run([sys.executable, "-m", "pipelines.extract", f"--pairs={page}", f"--output={tmp_path / 's'}",
                           "--patch_size=64", "--min_tissue=0"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr.count("error: ")) == (0, 0)
    shards = open_shards(tmp_path / "s")
    assert shards.slide_ids == ("scan40x",)
    assert {shard.pair_scale for shard in shards.shards} == {4}
    assert f"{shards.count} patches of 1 slides" in done.stdout


def test_scans_of_another_scale_than_the_first_are_refused(page, tmp_path):
    text = page.read_text().replace('"scale": 4', '"scale": 2')
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match="`pairs` must be of one scale, 4 as the first"):
        pair_scans([page, tmp_path / "other.json"], SMALL)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--pairs=nowhere.json"], "nowhere.json"),
    (["--pairs={page}", "--data=sample"], "`data` must be left out"),
    (["--pairs={page}", "--patch_size=66"], "`patch_size` must be divisible by scale=4"),
    (["--match_colours"], "`match_colours` must go with pairs of two scans"),
    (["--pairs=nothing"], "`pairs` must be one of"),
])
def test_mistakes_are_answered_in_one_line(page, tmp_path, arguments, message):
    command = [argument.format(page=page) for argument in arguments]
    done = subprocess.run([sys.executable, "-m", "pipelines.extract", f"--output={tmp_path / 's'}", *command], cwd=ROOT,
                          capture_output=True, text=True, timeout=300)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert message in done.stderr
    assert not (tmp_path / "s").exists()
