# SPDX-License-Identifier: Apache-2.0
"""The run folder that tests of loading and of engines share."""
from __future__ import annotations

from pathlib import Path

import pytest

FLAGS = "--blur_sigma=0.8\n--q=1.0\n"


@pytest.fixture(scope="module")
def run(network, tmp_path_factory) -> Path:
    """A run folder as far as loading looks."""
    folder = tmp_path_factory.mktemp("run")
    network.save(folder / "generator.keras")
    (folder / "flags.txt").write_text(FLAGS)
    return folder
