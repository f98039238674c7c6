# SPDX-License-Identifier: Apache-2.0
"""Where the models, flagfiles and templates that ship with the code are.

In an installed wheel they lie inside the package. In a checkout the models lie in its folder saved_models/.
"""
from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent
DEFAULT_MODEL = "srgan_sqe_x4"


def models_folder() -> Path:
    """Return the folder of the shipped models."""
    inside = PACKAGE / "saved_models"
    return inside if inside.is_dir() else PACKAGE.parent / "saved_models"


def shipped_model(name: str = DEFAULT_MODEL) -> Path:
    """Return the folder of a shipped model; its highest version is what gets loaded.

    Args:
        name: "srgan_sqe_x4", or "srgan_sqe_x4_light", which is 8 times cheaper.

    Returns:
        The folder, which `load_generator` and `--model` take. Whether it exists is not checked.
    """
    return models_folder() / name


def shipped_flagfile(name: str) -> Path:
    """Return the path of a shipped flagfile, such as "quick.flags"."""
    return PACKAGE / "flagfiles" / name
