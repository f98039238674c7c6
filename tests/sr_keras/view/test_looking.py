# SPDX-License-Identifier: Apache-2.0
"""What is drawn lies where it belongs, and nothing else is computed."""
from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from sr_keras.slides.enlarge import enlarge_image
from sr_keras.view.looking import Look, coloured
from sr_keras.view.scene import LR, Scene

WAIT = 300  # seconds, on a busy machine
SCREEN = 400


@pytest.fixture
def look(scene, tiles):
    return Look(scene, 0, tiles, ["LR", "bicubic", "small"])


def wait_for(look, box, screen=SCREEN):
    """Look at a box until all is computed, and return the pictures."""
    done = Event()
    look.move(box, screen, lambda error: look.waiting or done.set())
    assert look.waiting == 0 or done.wait(WAIT)
    return look.pictures()


def test_pictures_are_the_pixels_of_their_box(look, histology, loaded):
    """Across the corner of four tiles, at the pixels of SR."""
    pictures = wait_for(look, (100, 90, 200, 165))
    x0, y0, x1, y1 = pictures["small"].box
    assert (x0, y0) <= (100, 90)
    assert (x1, y1) >= (200, 165)
    assert x1 - x0 < 150
    np.testing.assert_array_equal(pictures[LR].pixels[..., :3], histology[y0:y1, x0:x1])
    sr = enlarge_image(loaded, histology)[4 * y0:4 * y1, 4 * x0:4 * x1]
    np.testing.assert_allclose(pictures["small"].pixels[..., :3].astype(int), sr, atol=1)
    assert all((picture.pixels[..., 3] == 255).all() for picture in pictures.values())


def test_farther_out_pixels_of_sr_are_averaged(look, histology, loaded):
    picture = wait_for(look, (0, 0, 250, 180))["small"]
    x0, y0, x1, y1 = picture.box
    sr = enlarge_image(loaded, histology)[4 * y0:4 * y1, 4 * x0:4 * x1].astype(float)
    averaged = sr.reshape(sr.shape[0] // 2, 2, sr.shape[1] // 2, 2, 3).mean((1, 3))
    np.testing.assert_allclose(picture.pixels[..., :3], averaged, atol=1.6)


def test_network_does_not_run_where_a_pixel_of_the_screen_covers_more_than_one_of_lr(sample_slide, loaded, tiles):
    def run(lr):
        raise AssertionError("the network ran")

    with Scene(sample_slide, [replace(loaded, run=run)]) as scene:
        look = Look(scene, 0, tiles, scene.layers)
        pictures = wait_for(look, (0, 0, 512, 512), 200)
        assert look.is_overview
        assert {picture.pixels.shape for picture in pictures.values()} == {(256, 256, 4)}
        tiles.close()
        look.move((200, 200, 500, 500), 100, lambda error: None)
        assert look.pictures()[LR].box == (0, 0, 512, 512)  # until the next is read
        look.move((0, 0, 100, 100), 200, lambda error: None)
        assert not look.pictures()[LR].pixels.any()


@pytest.mark.parametrize("box", [(600, 0, 700, 75), (0, -200, 100, -125), (-1000, -1000, -900, -925)])
def test_nothing_is_computed_outside_of_the_slide(look, tiles, box):
    look.move(box, SCREEN, lambda error: None)
    assert (look.waiting, look.pictures(), look.trust_picture("small"), tiles.computed) == (0, {}, None, 0)


def test_tiles_that_are_not_there_yet_are_transparent(scene, tiles):
    begun, go_on = Event(), Event()

    def compute():
        begun.set()
        go_on.wait(WAIT)

    tiles.look("another", {"busy": compute}, lambda error: None)
    assert begun.wait(WAIT)
    look = Look(scene, 0, tiles, ["small"])
    look.move((0, 0, 100, 75), SCREEN, lambda error: None)
    assert not look.pictures()["small"].pixels.any()
    assert look.waiting == 2  # the tile, and its trust map
    go_on.set()


def test_middle_comes_first(look, tiles):
    seen = []
    done = Event()
    look.move((100, 100, 300, 180), SCREEN, lambda error: seen.append(error) or look.waiting or done.set())
    first = next(iter(look._jobs()))
    assert first == (0, "pixels", LR, (1, 1))  # its middle, (192, 192), is nearest to (200, 140)
    assert done.wait(WAIT)


def test_trust_is_drawn_over_the_squares_it_was_measured_on(look, scene):
    wait_for(look, (120, 120, 220, 195))
    picture = look.trust_picture("small")
    x0, y0, x1, y1 = picture.box
    assert picture.pixels.shape == ((y1 - y0) // 4, (x1 - x0) // 4, 4)
    known = [(1, 1), (0, 0), (1, 0), (0, 1)]
    tile = scene.trust("small", (1, 1), known)
    part = picture.pixels[(128 - y0) // 4:, (128 - x0) // 4:]
    np.testing.assert_array_equal(part, coloured(tile, scene.usual_error("small"))[:part.shape[0], :part.shape[1]])


def test_usual_errors_are_invisible_and_larger_ones_more_opaque():
    alpha = coloured(np.float32([[0, 2.9, 3.1, 6, 9, 50]]), usual=3)[0, :, 3].astype(int)
    assert alpha[0] == alpha[1] == 0
    assert 0 < alpha[2] < alpha[3] < alpha[4] == alpha[5] < 200
