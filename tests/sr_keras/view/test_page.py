# SPDX-License-Identifier: Apache-2.0
"""What somebody sees and does in a real browser: headless Chromium."""
from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image

from benchmarks.viewer import serving
from sr_keras.slides.enlarge import enlarge_image
from sr_keras.view.page import LENS_ZOOM, PANEL

pytestmark = [pytest.mark.slow, pytest.mark.server]
WAIT = 300  # seconds, on a busy machine
MODEL = "return Bokeh.documents[0].get_model_by_name(arguments[0])"


class Driven:
    """A page in Chromium: what its models hold, and hands to use it."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.wait(lambda: self.run("return window.Bokeh != null && Bokeh.documents.length == 1"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait(self, holds: Callable[[], Any]) -> Any:
        end = time.monotonic() + WAIT
        while not (found := holds()):
            assert time.monotonic() < end, self.browser.get_log("browser")
            time.sleep(0.1)
        return found

    def value(self, name: str, attribute: str) -> Any:
        return self.run(f"{MODEL}?.{attribute}", name)

    def wait_for_tiles(self, layer: str = "small") -> None:
        """Wait until a layer covers what is looked at, and nothing of it is missing."""
        self.wait(lambda: self.run("""
            const [x, y, status, source] = ["x", "y", "status", arguments[0]].map(
                (name) => Bokeh.documents[0].get_model_by_name(name))
            if (status == null || status.text != "all tiles are computed" || source.data.image.length == 0)
                return false
            const {image: [image], x: [left], y: [top], dw: [width], dh: [height]} = source.data
            return left <= Math.max(0, x.start) && top <= Math.max(0, y.end) && left + width >= Math.min(256, x.end)
                && top + height >= Math.min(256, y.start) && image.every((pixel) => pixel != 0)""", layer))

    def picture(self, name: str) -> tuple[np.ndarray, list[float]]:
        """Return what a source holds: RGBA, and its box in microns."""
        shape, numbers, box = self.run("""
            const {image, x, y, dw, dh} = Bokeh.documents[0].get_model_by_name(arguments[0]).data
            return [image[0].shape, Array.from(image[0]), [x[0], y[0], x[0] + dw[0], y[0] + dh[0]]]""", name)
        return np.array(numbers, np.uint32).view(np.uint8).reshape(*shape, 4), box

    def place(self, name: str, across: float = 0.5, down: float = 0.5) -> tuple[int, int]:
        """Return a place of a model on the screen."""
        left, top, width, height = self.run(f"""
            const view = Bokeh.index.find_one((() => {{ {MODEL} }})())
            const box = (view.canvas_view ?? view).el.getBoundingClientRect()
            return [box.left, box.top, box.width, box.height]""".replace("arguments[0]", f"{name!r}"))
        return round(left + across * width), round(top + down * height)

    def drag(self, name: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        actions = ActionBuilder(self.browser, duration=100)
        mouse = actions.pointer_action
        mouse.move_to_location(*self.place(name, *start)).pointer_down()
        for share in (0.3, 0.7, 1):
            mouse.move_to_location(*self.place(name, *((1 - share) * one + share * other
                                                       for one, other in zip(start, end, strict=True))))
        mouse.pointer_up()
        actions.perform()

    def click(self, name: str, across: float = 0.5, down: float = 0.5) -> None:
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        actions = ActionBuilder(self.browser)
        actions.pointer_action.move_to_location(*self.place(name, across, down)).click()
        actions.perform()

    def move_to(self, name: str, across: float, down: float) -> None:
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        actions = ActionBuilder(self.browser)
        actions.pointer_action.move_to_location(*self.place(name, across, down))
        actions.perform()

    def scroll(self, name: str, by: int) -> None:
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

        ActionChains(self.browser).scroll_from_origin(ScrollOrigin.from_viewport(*self.place(name)), 0, by).perform()

    def range(self) -> np.ndarray:
        """Return x0, y0, x1, y1 of what is looked at, in microns."""
        return np.array([self.value(*end) for end in (("x", "start"), ("y", "end"), ("x", "end"), ("y", "start"))])


@pytest.fixture(scope="module")
def viewer(sample_slide, loaded, tmp_path_factory):
    with serving([sample_slide], [loaded], output=tmp_path_factory.mktemp("regions")) as running:
        yield running


@pytest.fixture
def page(browser, viewer):
    driven = Driven(browser, viewer.url)
    driven.wait_for_tiles()
    return driven


@pytest.fixture(scope="module")
def whole_sr(loaded, histology):
    return enlarge_image(loaded, histology).astype(int)


def assert_shows(page: Driven, whole_sr: np.ndarray) -> None:
    """Compare the picture of SR with the network's own output in its box; it covers what is looked at."""
    pixels, box = page.picture("small")
    x0, y0, x1, y1 = np.rint(np.array(box) / 0.5 * 4).astype(int)
    np.testing.assert_allclose(pixels[..., :3], whole_sr[y0:y1, x0:x1], atol=1)
    low, high = np.clip(page.range().reshape(2, 2), 0, 256)
    assert (box[:2] <= low + 0.01).all()
    assert (box[2:] >= high - 0.01).all()


def test_page_opens_on_tissue_and_says_what_it_shows_and_what_it_is_not_for(page, whole_sr, histology):
    assert_shows(page, whole_sr)
    x0, _, x1, _ = page.range()
    assert (x1 - x0) / 0.5 * 4 == pytest.approx(PANEL[0], rel=0.01)  # a pixel of SR on each of the screen
    lr, box = page.picture("LR")
    x0, y0, x1, y1 = np.rint(np.array(box) / 0.5).astype(int)
    np.testing.assert_array_equal(lr[..., :3], histology[y0:y1, x0:x1])
    banner = page.value("banner", "text")
    assert all(words in banner for words in ("immunohistochemistry.tif", "small", "not for diagnosis"))
    titles = page.run("return Array.from(Bokeh.documents[0]._all_models.values()).filter((model) => "
                      "model.type == 'Figure').map((model) => model.title.text ?? model.title)")
    assert sum("small, not for diagnosis" in title for title in titles) == 2  # the panel, and its magnifier
    assert "no record of the input" in page.value("notes", "text")
    assert not [line for line in page.browser.get_log("browser") if line["level"] == "SEVERE"]


def test_banner_stays_where_it_is_when_the_page_is_scrolled(page):
    page.browser.set_window_size(1480, 500)
    page.run("window.scrollTo(0, 300)")
    assert page.run("return window.scrollY") > 0
    top = page.run("return Bokeh.index.find_one(Bokeh.documents[0].get_model_by_name('banner'))"
                   ".el.getBoundingClientRect().top")
    page.browser.set_window_size(1480, 1080)
    assert top == pytest.approx(0, abs=1)


def test_panels_pan_together_and_show_the_tiles_there(page, whole_sr):
    before = page.range()
    page.drag("panel of bicubic", (0.3, 0.3), (0.7, 0.6))
    page.wait_for_tiles()
    after = page.range()
    assert (after[:2] < before[:2] - 5).all()
    np.testing.assert_allclose(after[2:] - after[:2], before[2:] - before[:2])
    assert_shows(page, whole_sr)


def test_wheel_zooms_in_and_out_until_only_the_slide_is_shown(page, whole_sr):
    before = page.range()
    page.scroll("panel of small", -200)
    page.wait_for_tiles()
    assert page.range()[2] - page.range()[0] < 0.9 * (before[2] - before[0])
    assert_shows(page, whole_sr)
    for _ in range(12):
        page.scroll("panel of small", 400)
    page.wait(lambda: page.run("""
        const [status, small, lr] = ["status", "small", "LR"].map(
            (name) => Bokeh.documents[0].get_model_by_name(name))
        const [[one], [other]] = [small.data.image, lr.data.image]  // none while the next overview is read
        return status.text == "the slide itself: zoom in to see bicubic and SR" && one?.length > 0
            && one.every((pixel, i) => pixel == other[i])"""))


def test_click_on_the_overview_goes_there(page, whole_sr):
    before = page.range()
    page.click("overview", 0.75, 0.25)
    page.wait(lambda: (page.range() != before).all())
    page.wait_for_tiles()
    x0, y0, x1, y1 = page.range()
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((0.75 * 256, 0.25 * 256), abs=8)
    assert_shows(page, whole_sr)


@pytest.mark.parametrize("corner", [(0.01, 0.01), (0.99, 0.99)])  # in the margin of the overview
def test_click_beside_the_slide_in_the_overview_shows_its_corner(page, whole_sr, corner):
    before = page.range()
    page.click("overview", *corner)
    page.wait(lambda: (page.range() != before).any())
    page.wait_for_tiles()
    low, high = page.range().reshape(2, 2)
    np.testing.assert_allclose(low if corner[0] < 0.5 else high, 256 * np.round(corner), atol=0.01)
    assert_shows(page, whole_sr)


def test_wipe_shows_lr_bicubic_and_sr_from_left_to_right(page):
    page.run(f"({MODEL.removeprefix('return ')}).value = [40, 70]", "wipe")
    wiped, box = page.picture("wiped")
    x0, _, x1, _ = page.range()
    for at, name in ((0.2, "LR"), (0.55, "bicubic"), (0.85, "small")):
        pixels, same = page.picture(name)
        assert same == box
        share = (x0 + at * (x1 - x0) - box[0]) / (box[2] - box[0])
        column, source = (int(share * side) for side in (wiped.shape[1], pixels.shape[1]))
        times = wiped.shape[0] // pixels.shape[0]
        np.testing.assert_array_equal(wiped[:, column], np.repeat(pixels[:, source], times, 0))


def test_magnifier_shows_the_pixels_under_the_mouse(page, whole_sr):
    page.move_to("panel of LR", 0.4, 0.5)
    page.move_to("panel of LR", 0.5, 0.5)
    time.sleep(2)
    pixels, box = page.picture("magnified small")
    x0, y0, x1, y1 = np.rint(np.array(box) / 0.5 * 4).astype(int)
    np.testing.assert_allclose(pixels[..., :3], whole_sr[y0:y1, x0:x1], atol=1)
    x_range, y_range = page.range()[::2], page.range()[1::2]
    assert box[0] < x_range.mean() < box[2]
    assert box[1] < y_range.mean() < box[3]
    assert x1 - x0 < 2 * 200 / LENS_ZOOM


def test_trust_map_lies_over_sr_and_can_be_hidden(page):
    pixels, box = page.picture("trust in small")
    assert pixels[..., 3].any()  # random weights
    assert pixels.shape[1] * 16 / 4 * 0.5 == pytest.approx(box[2] - box[0])
    page.run(f"({MODEL.removeprefix('return ')}).active = false", "trust")
    page.wait(lambda: page.run(f"{MODEL}.data.image.length == 0", "trust in small"))


def test_view_is_saved_as_png(page, downloads):
    page.run(f"({MODEL.removeprefix('return ')}).active = false", "trust")
    page.wait(lambda: page.run(f"{MODEL}.data.image.length == 0", "trust in small"))
    page.click("save")
    path = downloads / "immunohistochemistry_view.png"
    page.wait(path.exists)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > 3 * PANEL[0]
    colours = {tuple(colour) for colour in page.picture("small")[0][..., :3].reshape(-1, 3)}
    line = pixels[200, -PANEL[0]:-50]  # of the panel on the right
    assert np.mean([tuple(colour) in colours for colour in line]) > 0.95
    path.unlink()


def test_marked_region_is_super_resolved_to_a_file(page, viewer):
    page.run("const doc = Bokeh.documents[0]; for (const model of doc._all_models.values()) "
             "if (model.type == 'BoxSelectTool') model.active = true")
    page.drag("panel of LR", (0.3, 0.3), (0.6, 0.6))
    page.wait(lambda: not page.value("region", "disabled"))
    page.click("region")
    page.wait(lambda: "written: " in page.value("notes", "text"))
    path = Path(page.value("notes", "text").partition("written: ")[2].partition("<br>")[0])
    _, x, y, width, height, _ = path.stem.split("_")
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (4 * int(width), 4 * int(height))
    low, high = (page.range() / 0.5).reshape(2, 2)
    assert (np.array([int(x), int(y)]) == pytest.approx(low + 0.3 * (high - low), abs=8))
    page.click("region")
    page.wait(lambda: "`output` must not exist" in page.value("notes", "text"))


def test_slide_that_vanishes_is_named_and_the_others_go_on(browser, sample_slide, loaded, tmp_path):
    path = shutil.copy(sample_slide, tmp_path / "gone.tif")
    with serving([path, sample_slide], [loaded]) as viewer:
        page = Driven(browser, f"{viewer.url}view?slide=0")
        page.wait_for_tiles()
        path.unlink()
        page.click("overview", 0.1, 0.9)
        page.wait(lambda: "gone.tif: no longer exists" in page.value("notes", "text"))
        Driven(browser, f"{viewer.url}view?slide=1").wait_for_tiles()
        assert "`path` must name a slide" in Driven(browser, f"{viewer.url}view?slide=0").value("failure", "text")


def test_gallery_leads_to_the_slides(browser, sample_slide, loaded, tmp_path):
    other = shutil.copy(sample_slide, tmp_path / "other.tif")
    with serving([sample_slide, other], [loaded, loaded]) as viewer:
        browser.get(viewer.url)
        cards = browser.find_elements("css selector", "main a")
        assert [card.text for card in cards] == ["immunohistochemistry.tif", "other.tif"]
        cards[1].click()
        page = Driven(browser, browser.current_url)
        page.wait_for_tiles("small (1)")
        assert "other.tif" in page.value("banner", "text")
        assert page.picture("small (1)")[1] == page.picture("small (2)")[1]  # two models side by side
