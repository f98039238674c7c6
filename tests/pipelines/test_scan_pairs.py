# SPDX-License-Identifier: Apache-2.0
"""Pairs of two registered scans: LR as it was scanned, HR on the grid that is `scale` times finer."""
from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from pipelines.config import PatchOptions
from pipelines.scan_pairs import (
    Fit,
    Registration,
    Rejected,
    ScanFile,
    check_cut,
    cut,
    hr_mpp,
    places,
    read_registration,
    scan_file,
    scan_paths,
    write_registration,
)
from pipelines.slide import open_slide

SCALE, SIDE = 4, 16
FITS = (Fit(8, 8, (0.0, 0.0), 0.9, 0.9, 0.1, 0.9, 0.3), Fit(40, 8, (2.0, -1.0), 0.9, 0.9, 0.1, 0.9, 0.3))


@pytest.fixture
def scans(tmp_path, histology):
    """HR, and as LR noise that nothing may touch; the registration says where LR lies on HR."""
    lr = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for name, pixels in (("lr.tif", lr), ("hr.tif", histology)):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", tile=(64, 64))
    with open_slide(tmp_path / "lr.tif", 1.0) as low, open_slide(tmp_path / "hr.tif", 0.26) as high:
        found = Registration(
            scan_file(tmp_path / "lr.tif", low), scan_file(tmp_path / "hr.tif", high),
            ((4.0, 0.0, 21.5), (0.0, 4.0, 31.5)), SCALE, 32, ((1.0, 0.0),) * 3, FITS, (Rejected(0, 0, "blank"),))
        yield found, low, high, lr


def test_lr_is_as_scanned_and_hr_lies_under_it(scans, histology):
    found, low, high, pixels = scans
    for place in places(found, PatchOptions(patch_size=SIDE * SCALE)):
        hr, lr = cut(found, low, high, place, SIDE)
        np.testing.assert_array_equal(lr, pixels[place.y:place.y + SIDE, place.x:place.x + SIDE])
        dx, dy = (int(value) for value in place.fit.shift)
        x, y = place.x * SCALE + 20 + dx, place.y * SCALE + 30 + dy
        np.testing.assert_array_equal(hr, histology[y:y + SIDE * SCALE, x:x + SIDE * SCALE])


def test_pairs_stay_inside_of_the_patches_that_fit(scans):
    found = scans[0]
    corners = [(place.x, place.y) for place in places(found, PatchOptions(patch_size=64, stride=32))]
    assert len(corners) == len(set(corners)) == 18
    assert {x for x, _ in corners} == {8, 16, 24, 40, 48, 56}
    assert max(y for _, y in corners) + SIDE == 8 + 32


def test_mpp_of_hr_is_that_of_the_grid_it_is_cut_on(scans):
    found = scans[0]
    assert hr_mpp(found) == pytest.approx(0.26)
    wider = replace(found, transform=((3.8, 0.0, 0.0), (0.0, 3.8, 0.0)))
    assert hr_mpp(wider) == pytest.approx(0.26 * 3.8 / 4)
    assert hr_mpp(replace(found, hr=replace(found.hr, mpp=None))) is None


@pytest.mark.parametrize(("options", "message"), [
    (PatchOptions(patch_size=66), "`patch_size` must be divisible by scale=4"),
    (PatchOptions(patch_size=64, stride=10), "`stride` must be divisible by scale=4"),
    (PatchOptions(patch_size=256), "`patch_size` must be 128 or less"),
    (PatchOptions(patch_size=64, mpp=0.5), "`mpp` must be left out"),
    (PatchOptions(patch_size=64, sampling="random", max_patches=3), "`sampling` must be 'grid'"),
])
def test_options_that_no_pair_can_be_cut_with_are_refused(scans, options, message):
    with pytest.raises(ValueError, match=message):
        check_cut(scans[0], options)


def test_page_gives_back_what_was_written_and_finds_moved_files(scans, tmp_path):
    found = scans[0]
    home = tmp_path / "moved"
    home.mkdir()
    write_registration(home / "pairs.json", found)
    assert read_registration(home / "pairs.json") == found
    assert scan_paths(found, home / "pairs.json") == (tmp_path / "lr.tif", tmp_path / "hr.tif")
    for name in ("lr.tif", "hr.tif"):
        shutil.move(tmp_path / name, home / name)
    assert scan_paths(found, home / "pairs.json") == (home / "lr.tif", home / "hr.tif")
    (home / "lr.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"put lr\.tif beside it"):
        scan_paths(found, home / "pairs.json")


def test_file_that_changed_since_is_refused(scans, tmp_path):
    found = replace(scans[0], hr=ScanFile(str(tmp_path / "hr.tif"), "hr.tif", 17, 512, 512, None))
    with pytest.raises(ValueError, match="`pairs` must belong to these files"):
        scan_paths(found, tmp_path / "pairs.json")


@pytest.mark.parametrize("text", ["{}", "no json", "[1]", '{"format": 1}', '{"format": 99}'])
def test_file_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"must be a .*register the two scans again.*") as raised:
        read_registration(tmp_path / "other.json")
    assert str(tmp_path / "other.json") in str(raised.value)


@pytest.mark.parametrize(("changes", "field"), [
    ({"lr": {"name": "../../etc/passwd"}}, "`$.lr.name`"), ({"lr": {"mpp": -1}}, "`$.lr.mpp`"),
    ({"transform": [[1, 2, float("nan")], [0, 1, 0]]}, "`$.transform[0][2]`"),
    ({"transform": [[1, 2], [0, 1]]}, "transform"),
    ({"transform": [[1, 1, 0], [1, 1, 0]]}, "transform"), ({"scale": 3}, "scale"), ({"scale": "4"}, "`$.scale`"),
    ({"patches": [{"x": 1}]}, "`y`"), ({"colours": [[1, 0]]}, "three colours")])
def test_damaged_page_names_its_file_and_field(scans, tmp_path, changes, field):
    write_registration(tmp_path / "pairs.json", scans[0])
    page = json.loads((tmp_path / "pairs.json").read_text())
    for name, value in changes.items():
        page[name] = {**page[name], **value} if isinstance(value, dict) else value
    (tmp_path / "pairs.json").write_text(json.dumps(page))
    with pytest.raises(ValueError, match=re.escape(field)) as raised:
        read_registration(tmp_path / "pairs.json")
    assert str(tmp_path / "pairs.json") in str(raised.value)
