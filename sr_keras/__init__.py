# SPDX-License-Identifier: Apache-2.0
"""SRGAN_SQE: super-resolution for digital pathology that survives uncurated slides.

Source: Upadhyay and Awate, "Robust super-resolution GAN, with manifold-based and perception loss", ISBI 2019.
"""
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.2.0"
PACKAGE = Path(__file__).parent


def shipped_model(name: str = "srgan_sqe_x4") -> Path:
    """Return the folder of a shipped model, which `load_generator` and `--model` take. It may not exist.

    Args:
        name: "srgan_sqe_x4", or "srgan_sqe_x4_light", which is 8 times cheaper.
    """
    inside = PACKAGE / "saved_models"  # of an installed wheel; a checkout has the folder beside the package
    return (inside if inside.is_dir() else PACKAGE.parent / "saved_models") / name


def shipped_flagfile(name: str) -> Path:
    """Return the path of a shipped flagfile, such as "quick.flags"."""
    return PACKAGE / "flagfiles" / name


def __getattr__(name: str) -> Any:
    """Return `SuperResolvedSlide`; imported only then, since it needs readers of slides."""
    if name == "SuperResolvedSlide":
        return importlib.import_module("sr_keras.slides.super_resolved").SuperResolvedSlide
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
