"""Markdown becomes HTML, and nothing else does."""
from __future__ import annotations

from study.page import bullets, data_uri, markdown_to_html, table


def test_table_has_head_body_and_numbers_to_the_right():
    html = markdown_to_html("| method | q |\n| --- | ---: |\n| **SQE** | 0.5 |\n| `E` | 2 |\n")
    assert "<thead><tr><th>method</th><th class=\"right\">q</th></tr></thead>" in html
    assert "<tr><td><strong>SQE</strong></td><td class=\"right\">0.5</td></tr>" in html
    assert "<td><code>E</code></td>" in html
    assert "---" not in html


def test_headings_lists_and_paragraphs_need_no_blank_lines_around_headings():
    html = markdown_to_html("# One\nText of\ntwo lines.\n\n- a\n- b\n\n## Two\n| a |\n| --- |\n| b |")
    assert html.startswith("<h3>One</h3>\n<p>Text of two lines.</p>\n<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n<h4>Two</h4>")
    assert "<td>b</td>" in html


def test_html_and_links_in_markdown_are_text():
    html = markdown_to_html('<script>alert(1)</script> [x](javascript:1) <img src="http://x/">\n\n'
                            '| a |\n| --- |\n| <b onclick="x">b</b> \\| c |')
    for tag in ("<script", "<img", "<b ", "<a "):
        assert tag not in html
    assert "&lt;script&gt;" in html
    assert "&lt;/b&gt; | c</td>" in html


def test_nothing_gives_nothing():
    assert markdown_to_html("") == ""
    assert bullets([]) == ""


def test_short_rows_keep_their_cells():
    assert "<td>a</td></tr>" in table(("x", "y"), [("a",)], (False, True))


def test_data_uri_holds_the_bytes():
    assert data_uri(b"abc", "image/png") == "data:image/png;base64,YWJj"
