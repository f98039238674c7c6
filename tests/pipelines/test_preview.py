"""The preview: its labels tell the truth, and it is one command."""
from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines import console
from pipelines.options import DegradeOptions, PatchOptions
from pipelines.pixels import to_float
from pipelines.preview import FLAGS, VARIANTS, choose_patch, corrupted, main, preview


@pytest.fixture(scope="module")
def hr(histology):
    return to_float(histology[:64, :64])


def run_preview(*arguments):
    return subprocess.run([sys.executable, "-m", "pipelines.preview", *arguments], capture_output=True, text=True)


def command(*arguments):
    FLAGS.unparse_flags()
    for name in FLAGS:
        FLAGS[name].unparse()
    console.parse(["preview", *arguments], FLAGS)
    return main()


def sharpness(image):
    return np.abs(np.diff(image, axis=0)).mean()


def test_labels_say_what_the_seeds_do(hr):
    images = {name: corrupted(hr, name, 1.0).numpy() for name in VARIANTS}
    spread = {name: image.std() for name, image in images.items()}
    assert sharpness(images["noise"]) > 1.5 * sharpness(hr)
    assert sharpness(images["blur\ndefocus"]) < 0.5 * sharpness(hr)
    assert sharpness(images["blur\nGaussian"]) < 0.5 * sharpness(hr)
    np.testing.assert_allclose(images["contrast\nmore stain"], hr**2, atol=0.003)
    np.testing.assert_allclose(images["contrast\nless stain"], hr**0.5, atol=0.003)
    assert spread["contrast\nflat, bright"] < hr.std() < spread["contrast\nharsh, dark"]
    assert images["contrast\nharsh, dark"].mean() < hr.mean() < images["contrast\nflat, bright"].mean()


def test_a_point_shows_which_blur_is_the_disc():
    point = np.zeros((33, 33, 3), np.float32)
    point[16, 16] = 1
    peak = {name: float(tf.reduce_max(corrupted(point, name, 1.0))) for name in VARIANTS if "blur" in name}
    assert peak["blur\ndefocus"] < peak["blur\nGaussian"]


@pytest.mark.parametrize("scale", [2, 8])
def test_preview_has_a_panel_for_every_corruption_strength_and_side(hr, scale):
    figure = preview(hr, DegradeOptions(scale=scale))
    above, below = figure.subfigs
    assert len(above.axes) == 3 * (1 + len(VARIANTS))
    assert len(below.axes) == 2 * (1 + 3 * 3)
    assert {axis.get_title() for axis in below.axes[:10]} >= {"clean", "noise\nside=lr", "contrast\nside=both"}
    lr, full = below.axes[0].images[0], below.axes[10].images[0]
    assert (full.get_array().shape[0], lr.get_array().shape[0]) == (64, 64 // scale)


def test_preview_shows_outliers_where_there_are_some(hr):
    above, below = preview(hr, DegradeOptions(), tf.zeros([4, 64, 64, 3], tf.uint8)).subfigs
    assert len(above.axes) == 3 * (2 + len(VARIANTS))
    assert below.axes[12].get_title() == "outlier\nside=both"


def test_choose_patch_prefers_the_patch_with_most_to_see(tmp_path, histology):
    for name, tile in (("a", np.full((64, 64, 3), (200, 90, 160), np.uint8)), ("b", histology[:64, :64])):
        Image.fromarray(tile).save(tmp_path / f"{name}.png")
    assert choose_patch(str(tmp_path), PatchOptions(patch_size=64, min_tissue=0.0)).name == "b"


def test_choose_patch_says_why_there_is_none(tile_folder):
    with pytest.raises(ValueError, match=r"^`data` must have a patch to show; .*smaller than a patch"):
        choose_patch(str(tile_folder), PatchOptions(patch_size=512))


def test_command_writes_the_picture(tmp_path, tile_folder):
    done = run_preview(f"--output={tmp_path / 'deep' / 'preview.png'}", f"--data={tile_folder}",
                       f"--outlier_dir={tile_folder}", "--patch_size=64", "--scale=2")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "deep" / "preview.png") as picture:
        assert picture.width > 2000
    assert len(list((tmp_path / "deep").iterdir())) == 1


@pytest.mark.parametrize(("data", "output"), [
    ("data/tile0.png", "data/tile0.png"), ("data", "data/tile0.png"), ("data", "data/new.png"),
    ("sample", "outliers/new.png")])
def test_a_picture_among_those_it_shows_is_refused_and_they_stay(data, output, tmp_path, tile_folder):
    for name in ("data", "outliers"):
        shutil.copytree(tile_folder / "slide-a", tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    with pytest.raises(ValueError, match=r"^`output` must lie outside of data and outlier_dir"):
        command(f"--output={tmp_path / output}", f"--data={data if data == 'sample' else tmp_path / data}",
                f"--outlier_dir={tmp_path / 'outliers'}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


@pytest.mark.parametrize("name", ["p.jpg", "p", "folder.png"])
def test_output_that_is_no_png_is_refused(name, tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"^`output` must be a \.png file"):
        command(f"--output={tmp_path / name}")


def test_a_picture_that_is_there_is_replaced(tmp_path, tile_folder):
    (tmp_path / "preview.png").write_bytes(b"an older one")
    assert command(f"--output={tmp_path / 'preview.png'}", f"--data={tile_folder}", "--patch_size=64") == 0
    with Image.open(tmp_path / "preview.png") as picture:
        assert picture.width > 2000


@pytest.mark.parametrize(("flag", "message"), [
    ("--patch_size=63", "`patch_size` must be divisible by scale=4"),
    ("--data=nowhere", "`data` must exist"),
    ("--output=", "`output` must be given"),
])
def test_user_mistake_is_one_line(flag, message, tmp_path, tile_folder):
    done = run_preview(f"--output={tmp_path / 'preview.png'}", f"--data={tile_folder}", flag)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr
    assert not list(tmp_path.iterdir())
