"""A page that needs nothing from outside: its style, its script, and HTML of Markdown and tables.

The script zooms all panels of a patch together. A content security policy forbids the page any request. Text is escaped
on its way in, here; `table` and `bullets` take Markdown and HTML as their docstrings say.
"""
from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape

RIGHT = ' class="right"'
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Study of super-resolution</title>
"""

STYLE = """
:root { --ink: #1d1d1f; --faint: #5f5f66; --line: #d8d8dd; --accent: #0057a8; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 1400px; margin: 0 auto;
  padding: 1rem 1.5rem 4rem; }
h1, h2, h3, h4 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
p, li { max-width: 80ch; } section:first-of-type p { font-size: 1.15rem; } .faint { color: var(--faint); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .75rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid var(--ink); } .right { text-align: right; font-variant-numeric: tabular-nums; }
section > figure { margin: 1rem 0 2rem; } section > figure img { max-width: 100%; height: auto; }
figcaption { font-size: .8rem; } code { font-size: .85em; }
.patch { margin: 1rem 0 2.5rem; padding: .5rem; border: 1px solid var(--line); border-radius: 6px; --k: 1; --x: 0%;
  --y: 0%; }
.patch:focus-visible { outline: 3px solid var(--accent); } .bar { display: flex; gap: .5rem;
  align-items: baseline; margin-bottom: .5rem; }
.bar h3 { margin: 0 auto 0 0; font-size: 1rem; overflow-wrap: anywhere; }
.bar button { font: inherit; min-width: 2.4rem; padding: .1rem .6rem; }
.panels { display: grid; gap: .6rem; grid-template-columns: repeat(var(--columns), minmax(150px, 256px)); }
.panels figure { margin: 0; min-width: 0; } .panels figcaption span { display: block; color: var(--faint);
  font-size: .7rem; }
.absent { aspect-ratio: 1; border: 1px dashed var(--line); color: var(--faint); font-size: .8rem; padding: .5rem;
  box-sizing: border-box; }
.view { overflow: hidden; aspect-ratio: 1; background: #eee; cursor: grab; touch-action: pan-y; }
.zoomed .view { touch-action: none; } .view:active { cursor: grabbing; }
.view img { width: 100%; height: 100%; display: block; image-rendering: pixelated; transform-origin: 0 0;
  transform: translate(var(--x), var(--y)) scale(var(--k)); user-select: none; -webkit-user-drag: none; }
"""

SCRIPT = """
for (const patch of document.querySelectorAll('.patch')) {
  let k = 1, x = 0, y = 0, held = null;  // x and y in panels: the same for all of them, whatever their size
  const draw = () => {
    k = Math.min(16, Math.max(1, k));
    x = Math.min(0, Math.max(1 - k, x)); y = Math.min(0, Math.max(1 - k, y));
    for (const [name, value] of [['--k', k], ['--x', 100 * x + '%'], ['--y', 100 * y + '%']])
      patch.style.setProperty(name, value);
    patch.classList.toggle('zoomed', k > 1);
  };
  const zoom = (factor, u = .5, v = .5) => {
    const to = Math.min(16, Math.max(1, k * factor));
    x = u - (u - x) * to / k; y = v - (v - y) * to / k; k = to; draw();
  };
  const actions = {
    '+': () => zoom(1.5), '=': () => zoom(1.5), '-': () => zoom(1 / 1.5), '0': () => { k = 1; draw(); },
    ArrowLeft: () => { x += .1; draw(); }, ArrowRight: () => { x -= .1; draw(); },
    ArrowUp: () => { y += .1; draw(); }, ArrowDown: () => { y -= .1; draw(); },
  };
  patch.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
    if (k === 1 && event.key.startsWith('Arrow')) return;  // the page scrolls
    event.preventDefault(); actions[event.key]();
  });
  for (const button of patch.querySelectorAll('button'))
    button.addEventListener('click', () => actions[button.dataset.key]());
  for (const view of patch.querySelectorAll('.view')) {
    view.addEventListener('wheel', event => {
      if (k === 1 && event.deltaY > 0) return;  // nothing left to zoom out of: the page scrolls
      event.preventDefault();
      const at = view.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY / 400), (event.clientX - at.left) / at.width, (event.clientY - at.top) / at.height);
    }, { passive: false });
    view.addEventListener('pointerdown', event => {
      if (event.button) return;
      held = [event.clientX, event.clientY];
      view.setPointerCapture(event.pointerId);
    });
    view.addEventListener('pointermove', event => {
      if (!held) return;
      x += (event.clientX - held[0]) / view.clientWidth; y += (event.clientY - held[1]) / view.clientHeight;
      held = [event.clientX, event.clientY]; draw();
    });
    for (const end of ['pointerup', 'pointercancel']) view.addEventListener(end, () => { held = null; });
  }
}
"""


def page(body: str) -> str:
    """Return a whole page around its body, HTML."""
    return f"{HEAD}<style>{STYLE}</style>\n</head>\n<body>\n{body}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"


def markdown_to_html(text: str) -> str:
    """Return the Markdown that this project writes as HTML: headings, tables, lists, paragraphs, **bold**, `code`.

    Blocks are parted by blank lines; a heading is one by itself. All else, HTML and links among it, is shown as text.
    """
    blocks = re.split(r"\n\s*\n", re.sub(r"^(#{1,4} .*)$", r"\n\1\n", text, flags=re.MULTILINE).strip())
    return "\n".join(_block(block.strip().split("\n")) for block in blocks if block.strip())


def _block(lines: list[str]) -> str:
    if heading := re.match(r"(#+) (.*)", lines[0]):
        level = min(len(heading[1]) + 2, 6)  # below the page's own
        return f"<h{level}>{_inline(heading[2])}</h{level}>"
    if len(lines) > 1 and re.fullmatch(r"\|?[\s|:-]+\|?", lines[1]) and "|" in lines[0]:
        aligned = [mark.endswith(":") for mark in _split(lines[1])]
        return table(_split(lines[0]), map(_split, lines[2:]), aligned)
    if all(line.lstrip().startswith("- ") for line in lines):
        return bullets(_inline(line.lstrip()[2:]) for line in lines)
    return f"<p>{_inline(' '.join(lines))}</p>"


def _split(line: str) -> list[str]:
    """Return the cells of a line of a table; what is escaped as \\| parts none."""
    cells = re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
    return [cell.strip().replace("\\|", "|") for cell in cells]


def _inline(text: str) -> str:
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)


def table(head: Iterable[str], body: Iterable[Iterable[str]], right: Sequence[bool] = ()) -> str:
    """Return a table of Markdown cells; `right` says which columns are numbers."""
    def row(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f'<{tag}{RIGHT if any(right[i:i + 1]) else ""}>{_inline(cell)}</{tag}>'
                                for i, cell in enumerate(cells)) + "</tr>"

    rows = "\n".join(row(cells, "td") for cells in body)
    return f'<div class="scroll"><table>\n<thead>{row(head, "th")}</thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def bullets(items: Iterable[str]) -> str:
    """Return a list of items that are HTML; nothing where there are none."""
    inner = "\n".join(f"<li>{item}</li>" for item in items)
    return f"<ul>\n{inner}\n</ul>" if inner else ""


def data_uri(data: bytes, media: str) -> str:
    """Return a file as an address that holds it."""
    return f"data:{media};base64,{base64.b64encode(data).decode()}"
