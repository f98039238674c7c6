# SPDX-License-Identifier: Apache-2.0
"""What MkDocs builds besides the pages of this folder: the flags, the tutorial, and pages that live elsewhere.

    flags.md           what each subcommand prints for --help
    tutorial.md        tutorial.ipynb, without running it (tests/test_tutorial.py runs it)
    models.md          saved_models/README.md, and models/NAME.md: the card of each model
    contributing.md    CONTRIBUTING.md, changelog.md, and security.md
    licences.md        the licence of every package that requirements.txt pins
"""
from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sr_keras.cli import COMMANDS  # noqa: E402  the line above finds it in a checkout that is not installed


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for path, text in {**_copied(), "flags.md": flags_page(), "tutorial.md": tutorial_page(),
                       "licences.md": licences_page()}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links of the study to the page of the models."""
    return markdown.replace("../../saved_models/README.md", "../models.md")


def flags_page() -> str:
    """Return the help of every subcommand as one page."""
    parts = ["# Every flag\n\nWhat `sr-keras SUBCOMMAND --help` prints. `--flagfile=FILE` reads flags from a file, one "
             "on each line; a flag given after it wins.\n"]
    for name, (module, _) in COMMANDS.items():
        done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True,
                              check=True)
        shown = done.stdout.replace(f"{ROOT}/", "").strip()
        parts.append(f"## sr-keras {name}\n\n```text\n{shown}\n```\n")
    return "\n".join(parts)


def tutorial_page() -> str:
    """Return the notebook as Markdown: its text, and its code in blocks."""
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    cells = ("".join(cell["source"]) if cell["cell_type"] == "markdown" else
             f"```python\n{''.join(cell['source'])}\n```" for cell in notebook["cells"])
    title, *rest = cells
    return "\n\n".join([title, "[Download this page as a notebook](tutorial.ipynb)", *rest]) + "\n"


def licences_page() -> str:
    """Return a table of the packages that requirements.txt pins, with the licences that they state."""
    rows = []
    for name in re.findall(r"^([\w.-]+)==", _text("requirements.txt"), re.MULTILINE):
        try:
            about = metadata(name)
        except PackageNotFoundError:
            rows.append(f"| {name} | | not installed here |")
            continue
        classes = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if "License ::" in line]
        stated = about.get("License-Expression") or ", ".join(classes) or about.get("License") or "not stated"
        rows.append(f"| {name} | {about['Version']} | {stated.splitlines()[0].replace('|', '/')[:80]} |")
    return "\n".join(["# Licences", "", "The packages that `requirements.txt` pins, those for development included, "
                      "and the licences that they state.", "", "| package | version | licence |", "| --- | --- | --- |",
                      *rows, ""])


def _copied() -> dict[str, str]:
    """Return the pages that lie outside of docs/, with their links changed to where they are on the site."""
    pages = {"contributing.md": _text("CONTRIBUTING.md"), "changelog.md": _text("CHANGELOG.md"),
             "security.md": _text("SECURITY.md"),
             "models.md": re.sub(r"\]\((\w+)/\d+/README\.md\)", r"](models/\1.md)", _text("saved_models/README.md"))}
    for card in sorted(ROOT.glob("saved_models/srgan_*/*/README.md")):  # the newest version is the last
        pages[f"models/{card.parts[-3]}.md"] = card.read_text(encoding="utf-8")
    return {path: re.sub(r"\]\((\.\./)*docs/", "](", text) for path, text in pages.items()}


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
