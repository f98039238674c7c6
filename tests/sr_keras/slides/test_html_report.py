# SPDX-License-Identifier: Apache-2.0
"""The page beside an output tells a person what was made, shows it, and needs nothing else."""
from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.config import DegradeOptions
from pipelines.slide import open_slide
from sr_keras import shipped_model
from sr_keras import super_resolve as command
from sr_keras.model.facts import ModelFacts
from sr_keras.slides.enlarge import EnlargeOptions, enlarge_file
from sr_keras.slides.html_report import choose_places, html_path, limits_of, list_items, write_html
from sr_keras.slides.lr_plane import LRPlane

NAME = "<b>&.svs"


class Page(HTMLParser):
    """Its text, and its tags with their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags = "", []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.text += " "

    def handle_data(self, data):
        self.text += data

    def pictures(self) -> dict[str, list[np.ndarray]]:
        found: dict[str, list[np.ndarray]] = {}
        for tag, attributes in self.tags:
            if tag == "img":
                start, _, data = attributes["src"].partition(",")
                assert start == "data:image/jpeg;base64"
                with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
                    found.setdefault(attributes["alt"], []).append(np.asarray(image).astype(int))
        return found


@pytest.fixture(scope="module")
def slide(sample_slide, tmp_path_factory) -> Path:
    """The sample slide under a name that is HTML."""
    return Path(shutil.copy(sample_slide, tmp_path_factory.mktemp("in") / NAME))


@pytest.fixture(scope="module")
def made(loaded, slide, run_program, tmp_path_factory) -> Path:
    """An output with the page that the command wrote, and with a trust map."""
    output = tmp_path_factory.mktemp("out") / "case_x4.tif"
    assert run_program(command, f"--model={loaded.path}", f"--input={slide}", f"--output={output}", "--lossless",
                       "--report=html", f"--trust_map={output.with_name('trust.tif')}", "--engine=tensorflow") == 0
    return output


@pytest.fixture(scope="module")
def page(made) -> Page:
    return Page(html_path(made))


@pytest.fixture(scope="module")
def report(loaded, sample_slide, tmp_path_factory) -> tuple[dict, Path]:
    """A report of a part, and its output."""
    output = tmp_path_factory.mktemp("part") / "part.png"
    return enlarge_file(loaded, sample_slide, output, EnlargeOptions(region=(0, 0, 90, 70))), output


def test_page_needs_no_other_file_and_no_network(page):
    tags = [tag for tag, _ in page.tags]
    assert tags.count("img") == 1 + 2 * 3 + 1  # overview, three pairs, trust map
    assert "link" not in tags
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("href", "src")]
    assert all(link.startswith(("data:image/jpeg;base64,", "#place")) for link in links)
    assert "://" not in page.source
    assert "url(" not in page.source


def test_name_of_a_slide_is_text_and_not_html(page):
    assert f"{NAME}, super-resolved" in page.text
    assert f"{NAME}: super-resolved" in page.text
    assert "b>&." not in page.source
    assert page.text.count(NAME) > 2


def test_page_tells_what_a_reader_must_know(page, made):
    text = " ".join(page.text.split())
    for told in ("Not for diagnosis.", "read 512 x 512 0.5", "written 2048 x 2048 0.125", "by the model small (x4)",
                 "the model has no record of the input it is for", "agrees least with its input",
                 "agrees most with its input, of 12 places with tissue: differs by", "64 microns wide",
                 "Do not count, measure or grade", "16 pixels are computed from each input pixel", "trained on unknown",
                 f"{made} source {NAME}, sha256"):
        assert told in text


def test_pairs_show_input_and_output_of_the_same_place(page, made, sample_slide):
    shown = page.pictures()
    boxes = [attributes["style"] for tag, attributes in page.tags if tag == "a"]
    with open_slide(sample_slide) as scanned, open_slide(made) as written:
        for before, after, style in zip(shown["input"], shown["output"], boxes, strict=True):
            left, top, width, height = (float(part.split(":")[1].rstrip("%")) for part in style.split(";"))
            assert (width, height) == (25, 25)
            x, y = round(2048 * left / 100), round(2048 * top / 100)
            sr = written.read_region(x, y, 0, 512, 512)
            lr = Image.fromarray(scanned.read_region(x // 4, y // 4, 0, 128, 128))
            assert np.abs(after - sr).mean() < 12  # JPEG of what an untrained network makes
            assert np.abs(after - np.roll(sr, 8, 1)).mean() > 2 * np.abs(after - sr).mean()
            assert np.abs(before - np.asarray(lr.resize((512, 512), Image.Resampling.BICUBIC))).mean() < 2
    assert shown["Overview of the output"][0].shape[:2] == (1000, 1000)


def test_first_place_is_the_one_that_agrees_least_and_the_last_the_one_that_agrees_most(histology, tmp_path, with_blob):
    lr, sr = tmp_path / "lr.png", tmp_path / "sr.png"
    Image.fromarray(histology).save(lr)
    large = np.array(Image.fromarray(histology).resize((2048, 2048), Image.Resampling.BICUBIC))
    Image.fromarray(with_blob(large, 1280, 1792, 250)).save(sr)
    with open_slide(lr) as scanned, open_slide(sr) as written:
        places = choose_places(LRPlane(scanned), LRPlane(written), 4)
        worst = choose_places(LRPlane(scanned), LRPlane(written), 4, (1000, 40, 1100, 60))
        other = choose_places(LRPlane(scanned), LRPlane(written), 3)
    assert (places[0].rows, places[0].columns) == (slice(384, 512), slice(256, 384))
    assert places[0].why.startswith("agrees least")
    assert places[2].why.startswith("agrees most")
    assert (worst[0].rows, worst[0].columns, worst[0].why) == (slice(0, 128), slice(198, 326),
                                                               "worst region of the trust map")
    assert worst[1:] == places[1:]
    assert [place.why for place in other] == ["tissue"] * 3


def test_small_picture_has_the_places_that_fit(loaded, report):
    made, output = report
    with open_slide(output) as written, open_slide(output) as same:
        assert len(choose_places(LRPlane(written, region=(0, 0, 90, 70)), LRPlane(same), 4)) == 1
    assert (made["lr"]["width"], made["lr"]["height"]) == (90, 70)


def test_warnings_come_from_the_report_as_text(loaded, report, sample_slide):
    made, output = report
    trust = {"unusual": True, "worst": [], "overview": "none.png", "median": 9.0, "usual": [1.0, 2.0],
             "threshold": 12.0, "degradation": None, "seconds": 1.0}
    changed = made | {"input": {"unfamiliar": ["it is <i>blurred</i>"]}, "trust": trust, "glass": True,
                      "lr": made["lr"] | {"mpp": None}, "work": made["work"] | {"glass_share": 1.0},
                      "bad": {"places": 2, "share": 0.25, "l0_rectangles": [[0, 0, 9, 9]]}}
    write_html(changed, sample_slide, output, EnlargeOptions(region=(0, 0, 90, 70)), loaded)
    page = Page(html_path(output))
    for told in ("it is <i>blurred</i>", "its resolution is unknown", "25.00% of it could not be read", "no tissue",
                 "more than is usual for this model"):
        assert told in page.text
    assert "<i>" not in page.source


def test_limits_are_those_of_the_models_own_card(tmp_path):
    (shipped,) = (path for path in shipped_model("srgan_sqe_x4_light").iterdir() if path.name.isdigit())
    assert list_items(limits_of(shipped, 4)) == list_items(limits_of(tmp_path, 4))
    (tmp_path / "README.md").write_text("# m\n\n## What it must not be used for\n\n- **Never** for `a<b`\n  at all.\n"
                                        "- Else.\n\n## Scores\n\n- high\n")
    assert list_items(limits_of(tmp_path, 4)) == ("<li><b>Never</b> for <code>a&lt;b</code> at all.</li>\n"
                                                  "<li>Else.</li>\n")


def test_page_names_what_the_model_is_for(loaded, report, sample_slide):
    made, output = report
    facts = ModelFacts(lr_mpp=(0.9, 2.1), stain="H&E", degradation=DegradeOptions(4), trained_on="<b>22</b> slides")
    write_html(made, sample_slide, output, EnlargeOptions(region=(0, 0, 90, 70)), replace(loaded, facts=facts))
    text = Page(html_path(output)).text
    for told in ("0.9 to 2.1 microns per pixel", "H&E", "a Gaussian blur of", "<b>22</b> slides"):
        assert told in text


def test_page_that_cannot_be_made_is_a_warning_in_a_line(loaded, report, sample_slide, tmp_path, capsys):
    made, output = report
    options = EnlargeOptions(region=(0, 0, 90, 70))
    html_path(output).unlink(missing_ok=True)
    write_html({"status": "done"}, sample_slide, output, options, loaded)
    write_html(made, tmp_path / "gone.svs", output, options, loaded)
    html_path(output).mkdir()
    write_html(made, sample_slide, output, options, loaded)
    html_path(output).rmdir()
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"warning: {html_path(output)} was not written: ") for line in lines] == [True] * 3
    assert "write it again with --overwrite" in lines[0]
    assert "gone.svs" in lines[1]


def test_zoom_enlarges_both_frames_and_they_scroll_together(made, browser):
    from selenium.webdriver import ActionChains

    browser.get_log("browser")  # what earlier pages said
    browser.get(html_path(made).as_uri())
    width = "return document.querySelectorAll('.window img')[{}].clientWidth"
    before = [browser.execute_script(width.format(i)) for i in range(3)]
    browser.execute_script("const slider = document.querySelector('input'); slider.value = 4; "
                          "slider.dispatchEvent(new Event('input'))")
    after = [browser.execute_script(width.format(i)) for i in range(3)]
    assert np.allclose(after, np.multiply(before, (4, 4, 1)), atol=3)  # rounded
    place = "const frame = document.querySelectorAll('.window')[{}]; return [frame.scrollLeft, frame.scrollTop]"
    frame = browser.find_elements("css selector", ".window")[1]
    browser.execute_script("arguments[0].scrollIntoView(); arguments[0].scrollTo(700, 700)", frame)
    ActionChains(browser).drag_and_drop_by_offset(frame, -60, -40).perform()
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    assert browser.execute_script(place.format(0)) == browser.execute_script(place.format(1)) == [760, 740]
    assert browser.execute_script(place.format(2)) == [0, 0]
    loaded_all = "return [...document.images].every(image => image.complete && image.naturalWidth > 0)"
    assert browser.execute_script(loaded_all)
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
