# SPDX-License-Identifier: Apache-2.0
"""A scene shows what a finished output holds, and says in one line what it cannot show."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import openslide
import pytest
from bokeh.document import Document
from PIL import Image

from pipelines.errors import SlideError
from pipelines.slide import open_slide
from sr_keras import shipped_model
from sr_keras.metrics import bicubic
from sr_keras.model.loading import load_generator
from sr_keras.model.uncertainty_head import load_uncertainty
from sr_keras.slides import EnlargeOptions, enlarge_file
from sr_keras.slides.trust_map import measure
from sr_keras.view import scene as module
from sr_keras.view.page import Page
from sr_keras.view.scene import BICUBIC, LR, Scene

LOSSLESS = EnlargeOptions(lossless=True)


@pytest.fixture(scope="module")
def written(loaded, sample_slide, tmp_path_factory):
    """The output of `super_resolve`."""
    path = tmp_path_factory.mktemp("written") / "sample_x4.tif"
    enlarge_file(loaded, sample_slide, path, LOSSLESS)
    return path


@pytest.fixture(scope="module")
def whole_sr(written):
    with openslide.OpenSlide(written) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def test_layers_are_the_slide_its_interpolation_and_the_output_of_a_run(scene, histology, whole_sr):
    lr = histology[128:256, 384:512]
    assert list(scene.layers) == [LR, BICUBIC, "small"]
    np.testing.assert_array_equal(scene.read(LR, (3, 1)), lr)
    interpolated = np.asarray(bicubic(histology[np.newaxis] / np.float32(255), 4))[0, 512:1024, 1536:2048]
    np.testing.assert_allclose(scene.read(BICUBIC, (3, 1)), 255 * interpolated, atol=1.01)
    np.testing.assert_allclose(scene.read("small", (3, 1)).astype(int), whole_sr[512:1024, 1536:2048], atol=1)


def test_finished_output_is_shown_beside_its_source(sample_slide, written, whole_sr):
    with Scene(sample_slide, [], finished=written) as scene:
        name = f"finished {written.name}"
        assert scene.enlarged == [name]
        np.testing.assert_array_equal(scene.read(name, (1, 2)), whole_sr[1024:1536, 512:1024])


def test_finished_output_of_another_plane_is_refused(sample_slide, written):
    with pytest.raises(ValueError, match=r"`finished` must be the output of this whole slide; give the --mpp or"):
        Scene(sample_slide, [], EnlargeOptions(mpp=0.8), finished=written)


def test_two_models_of_one_name_are_told_apart(sample_slide, loaded):
    with Scene(sample_slide, [loaded, loaded]) as scene:
        assert scene.enlarged == ["small (1)", "small (2)"]


def test_what_is_drawn_again_and_again_reads_no_file_of_a_model(scene, monkeypatch):
    expected = scene.usual_error("small")
    monkeypatch.setattr(Path, "open", None)
    assert scene.usual_error("small") == expected


@pytest.mark.parametrize("cell", [(-1, 0), (0, -1), (4, 0), (0, 4)])
def test_tile_outside_the_slide_is_refused(scene, cell):
    with pytest.raises(ValueError, match="`tile` must lie inside the 512x512 pixels of"):
        scene.read(LR, cell)


def test_slide_that_vanishes_is_named(sample_slide, loaded, tmp_path):
    path = shutil.copy(sample_slide, tmp_path / "gone.tif")
    with Scene(path, [loaded]) as scene:
        path.unlink()
        for read in (lambda: scene.read("small", (0, 0)), lambda: scene.overview((0, 0, 512, 512), 2)):
            with pytest.raises(SlideError, match=r"gone.tif: no longer exists"):
                read()


def test_file_that_is_no_slide_is_refused_and_leaves_nothing_open(loaded, tmp_path):
    path = tmp_path / "text.svs"
    path.write_text("nothing")
    with pytest.raises(SlideError, match=r"text\.svs"):
        Scene(path, [loaded])


def test_trust_of_a_tile_is_that_of_the_whole_map(scene, histology, whole_sr):
    """Borders of tiles too: the degradation looks beyond them."""
    known = [(1, 1), (2, 1), (1, 2)]
    tile = scene.trust("small", (1, 1), known)
    degrade = scene._degradations["small"]
    whole = measure(histology, whole_sr, degrade).lr_error
    np.testing.assert_allclose(tile, whole[32:64, 32:64], atol=0.05)
    np.testing.assert_allclose(scene.trust("small", (3, 0), known), whole[:32, 96:], atol=0.05)


def test_overview_is_the_slide_averaged(scene, histology):
    found = scene.overview((128, 0, 384, 256), 2)
    mean = histology[:256, 128:384].reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(found - mean).mean() < 2
    assert scene.overview((0, 0, 512, 512), 32).shape == (16, 16, 3)


def test_first_place_is_in_the_tissue(scene, loaded, tmp_path, histology):
    x, y = scene.first_place()
    assert scene.has_tissue(slice(y, y + 1), slice(x, x + 1))


@pytest.mark.parametrize("size", [(1, 1), (2000, 3)])
def test_picture_of_few_pixels_is_shown(size, loaded, tiles, tmp_path):
    Image.new("RGB", size, (200, 90, 150)).save(tmp_path / "few.png")
    with Scene(tmp_path / "few.png", [loaded]) as scene:
        document, x_and_y = Document(), scene.first_place()
        assert all(0 <= at < side for at, side in zip(x_and_y, size, strict=True))
        page = Page(document, scene, 0, tiles, None)
        assert document.get_model_by_name("status").text.endswith("tiles to compute")
        page.leave()


def test_models_say_what_they_were_not_made_for(sample_slide, loaded, scene):
    from sr_keras.slides.inspection import find_mismatches, inspect_input
    from sr_keras.slides.lr_plane import LRPlane

    with open_slide(sample_slide) as slide:
        expected = find_mismatches(inspect_input(LRPlane(slide), scene.has_tissue), loaded.facts)
    assert scene.warnings() == expected


def test_margin_is_whole_squares_and_covers_what_the_degradation_looks_at():
    from sr_keras.slides.trust_map import candidates, reach, square_side

    for scale in (2, 4, 8):
        margin = module._margin(scale)
        assert margin % square_side(1, 1, scale) == 0
        assert margin >= max(map(reach, candidates(scale)))
    assert module._margin(3) == 0


def test_expected_error_of_the_uncertainty_head_is_shown_where_it_predicts_better(sample_slide, histology):
    light = load_generator(shipped_model("srgan_sqe_x4_light"))
    head = load_uncertainty(light.path)
    if head is None or not head.facts.is_better:
        pytest.skip("the shipped light model has no head that predicts better than the LR error")
    with Scene(sample_slide, [light]) as scene:
        [name] = scene.enlarged
        tile = scene.trust(name, (1, 1), [])
        expected = head.expected(histology[np.newaxis])[0].numpy().reshape(128, 16, 128, 16).mean((1, 3))
        np.testing.assert_allclose(tile, expected[32:64, 32:64], rtol=1e-3)
        assert scene.usual_error(name) == pytest.approx(max(2, np.percentile(tile, 75)))
