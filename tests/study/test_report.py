# SPDX-License-Identifier: Apache-2.0
"""The page loads nothing, escapes everything, and says what is missing; residuals use the corruption of the cells."""
from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pipelines.config import CorruptOptions, DegradeOptions
from study import report
from study.grid import Cell
from study.patches import Panel, ShownPatch
from study.report import write_page, write_study_residuals
from study.training import Study

EVIL = '"><script>alert(1)</script><img src=http://evil.example/x.png>'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails if an element is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open:
            self.text[tag] = self.text.get(tag, "") + data.strip("\n")

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def row(cell: Cell, **more) -> dict:
    return {**cell.columns, "vgg_weights": "random" if cell.method == "srgan" else None, "slide": "slide-a",
            "patches": 8, "seconds": 1800.0, "commit": "abc123", "flags": "--flagfile=common.flags", **more}


def panel(side: int = 16, **more) -> Panel:
    return Panel(np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8), **more)


def patch(name: str = "slide-a/tile1") -> ShownPatch:
    return ShownPatch(name, {"LR": panel(4), "Bicubic": panel(caption="RRMSE 0.1"), "HR": panel()},
                      {("srgan", 0.0): panel(cell="srgan-clean"), ("srgan_sqe", 0.5): panel(caption="RRMSE 0.0800")},
                      {"srgan": "SRGAN (random VGG)", "srgan_sqe": "SRGAN_SQE"})


ROWS = [row(Cell("srgan", 2.0)), row(Cell("srgan_sqe", 0.5, fraction=0.5)),
        {**dict.fromkeys(row(Cell("srgan", 2.0))), "cell": "bicubic", "method": "bicubic", "slide": "slide-a",
         "patches": 8}]


@pytest.fixture
def written(tmp_path):
    def write(**more) -> tuple[str, Page]:
        arguments = {"rows": ROWS, "path": tmp_path / "report.html", **more}
        write_page(arguments.pop("rows"), arguments.pop("path"), **arguments)
        html = (tmp_path / "report.html").read_text(encoding="utf-8")
        return html, Page(html)

    return write


@pytest.fixture
def figures(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "residuals.png")
    (tmp_path / "ms_ssim.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>')
    return [tmp_path / "residuals.png", tmp_path / "ms_ssim.svg"]


def test_page_is_whole_and_asks_for_nothing(written, figures):
    html, page = written(tables="| a |\n| --- |\n| b |", figures=figures, patches=[patch()])
    assert page.open == []
    assert "http:" not in html
    assert "https:" not in html
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert not [tag for tag, attributes in page.tags if tag != "img" and {"src", "href"} & attributes.keys()]
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy


def test_figures_are_in_the_page_byte_for_byte(written, figures):
    _, page = written(figures=figures)
    for image, path in zip(page.all("img"), figures, strict=True):
        assert base64.b64decode(image["src"].partition(",")[2]) == path.read_bytes()
    assert [image["alt"] for image in page.all("img")] == ["residuals", "ms ssim"]


def test_panels_are_in_the_page_pixel_for_pixel_with_their_captions(written):
    shown = patch()
    html, page = written(patches=[shown])
    pictures = {image["alt"]: base64.b64decode(image["src"].partition(",")[2]) for image in page.all("img")}
    assert set(pictures) == {"LR", "Bicubic", "HR", "SRGAN (random VGG), clean", "SRGAN_SQE, 50% corrupted"}
    found = np.asarray(Image.open(io.BytesIO(pictures["SRGAN_SQE, 50% corrupted"])))
    np.testing.assert_array_equal(found, shown.cells["srgan_sqe", 0.5].image)
    assert "RRMSE 0.0800" in html
    assert "SRGAN_SQE, clean: not finished" in html
    assert "image-rendering: pixelated" in html


def test_patches_can_be_reached_and_zoomed_by_keyboard(written):
    _, page = written(patches=[patch()])
    group = next(one for one in page.all("div") if one.get("class") == "patch")
    assert group["tabindex"] == "0"
    assert group["aria-label"] == "Patch slide-a/tile1"
    assert [button["data-key"] for button in page.all("button")] == ["+", "-", "0"]


def test_text_from_outside_is_escaped(written):
    shown = patch(EVIL)
    evil = ShownPatch(EVIL, {EVIL: panel(caption=EVIL, cell=EVIL)}, {("srgan", 0.0): panel()}, {"srgan": EVIL})
    rows = [{**ROWS[0], "cell": EVIL, "slide": EVIL, "commit": EVIL, "flags": EVIL}]
    html, page = written(rows=rows, tables=f"| {EVIL} |\n| --- |\n| {EVIL} |",
                         patches=[shown, evil], failures={EVIL: EVIL}, facts={EVIL: EVIL})
    assert page.open == []
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 5 + 2
    assert not [tag for tag, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert EVIL not in html


def test_unfinished_study_is_a_page_that_says_so(written):
    html, page = written(rows=[])
    assert page.open == []
    assert "Nothing yet." in html
    assert "0 finished" in html


def test_page_says_what_was_run_and_what_failed(written):
    html, _ = written(planned=5, failures={"srgan_e": "out of memory"}, facts={"machine": "2 cores"})
    for words in ("2 finished of 5", "8 of 1 slides: slide-a", "1.0 hours", "abc123", "out of memory", "2 cores",
                  "SRGAN (random VGG)", "--flagfile=common.flags"):
        assert words in html


def test_patches_that_make_a_page_too_large_are_left_out(written, monkeypatch):
    monkeypatch.setattr(report, "MAX_BYTES", 20_000)
    html, page = written(patches=[patch(f"slide-a/{i}") for i in range(9)])
    shown = len([one for one in page.all("div") if one.get("class") == "patch"])
    assert 1 <= shown < 9
    assert f"{9 - shown} more patches were left out" in html


def test_markdown_tables_headings_and_bold_become_html(written):
    _, page = written(rows=[], tables="# One\n\n| method | q |\n| --- | ---: |\n| **SQE** | `0.5` \\| 1 |\n")
    assert page.text["h1"] == "Study of super-resolutionOne"
    assert (page.text["th"], page.text["td"]) == ("methodq", "SQE0.5 | 1")
    assert (page.text["strong"], page.text["code"]) == ("SQE", "0.5")
    assert [cell.get("style") for cell in page.all("td")] == [None, "text-align:right"]


def test_html_and_links_in_markdown_are_text(written):
    html, page = written(rows=[], tables='<b onclick="x">b</b> [x](javascript:1) ![y](http://x/) <http://x/>')
    assert not {"b", "a", "img"} & {tag for tag, _ in page.tags}
    assert "&lt;b onclick" in html


def test_figure_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="figures"):
        write_page([], tmp_path / "report.html", figures=[tmp_path / "plot.pdf"])
    assert not (tmp_path / "report.html").exists()


def test_residuals_are_of_pairs_that_are_corrupted_as_the_cells_were(tmp_path, monkeypatch):
    """Strengths, side and outlier tiles are those of the study, not the defaults."""
    cell = Cell("srgan_sqe", 0.5, fraction=0.5, kind="outlier", side="lr", seed=3)
    study = Study(tmp_path / "work", tmp_path / "out", None, DegradeOptions(), "random",
                  corrupt=CorruptOptions(noise_strength=2.0, outlier_dir="other_stain"))
    study.run(cell.name).mkdir(parents=True)
    (study.run(cell.name) / "generator.keras").touch()
    asked = []

    def residuals(run, shards, degrade, limit, seed, corrupt):
        asked.append((shards.name, corrupt, seed))
        return np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)

    monkeypatch.setattr(report, "cell_residuals", residuals)
    write_study_residuals([cell], study)
    spoilt = [(name, corrupt) for name, corrupt, _ in asked if corrupt.fraction]
    assert spoilt == [("train", CorruptOptions(fraction, ("outlier",), "lr", noise_strength=2.0,
                                               outlier_dir="other_stain")) for fraction in (0.5, 1.0)]
    assert [name for name, corrupt, _ in asked if not corrupt.fraction] == ["train", "test"]
    assert {seed for *_, seed in asked} == {3}
