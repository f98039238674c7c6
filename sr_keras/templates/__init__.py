# SPDX-License-Identifier: Apache-2.0
"""Templates of the files that are written for people and servers, rendered by Jinja."""
from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

# Names of models go into commands, paths and configuration files: letters, digits and a few signs, on one line.
MODEL_NAME = re.compile(r"\w[\w .+-]*")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(["html"]), trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    environment.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
    return environment


def render(template: str, /, **values: Any) -> str:
    """Return the text of a template of this folder with `values` filled in; values in HTML are escaped.

    Raises:
        jinja2.UndefinedError: The template needs a value that is not given.
    """
    return _environment().get_template(template).render(**values)
