# SPDX-License-Identifier: Apache-2.0
"""An artificial study: results in which the size of every difference is known."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from study.folds import Slide
from study.grid import Setting
from study.results import Row

SLIDES = {f"slide{i:02d}": Slide(f"slide{i:02d}", f"case{i}", "20x" if i % 3 else "40x", i % 5) for i in range(27)}
FALL = {"srgan": 0.04, "srgan_e": 0.03, "srgan_qe": 0.02, "srgan_sqe": 0.0}  # of MS-SSIM, from 0 to 100% corrupted


def rows_of(setting: Setting | str, quality: float, noise: float = 0.0005, luck: int = 0, **fields: Any) -> list[Row]:
    """Return a row for each slide, whose metrics all follow from one quality, about 0.9."""
    rng = np.random.default_rng(luck)
    rows = []
    for slide in SLIDES.values():
        value = quality + (0.03 if slide.magnification == "40x" else 0) + rng.normal(0, noise)
        columns = vars(setting) if isinstance(setting, Setting) else {"method": setting, "variant": ""}
        name = setting if isinstance(setting, str) else setting.name
        rows.append({"cell": f"{name}-fold{slide.fold}", "setting": name, **columns, "fold": slide.fold,
                     "slide": slide.slide, "magnification": slide.magnification, "tiles": 8, "psnr": 30 * value,
                     "ssim": value - 0.05, "ms_ssim": value, "qilv": value - 0.1, "rrmse": 0.2 * (1.2 - value),
                     "rrmse_squared": 0.005, "qilv_unit": 0.99, "d_hr": 0.8, "d_sr": 0.2, "d_accuracy": 0.9,
                     "seconds": 60.0, "commit": "0", "folds": "f" * 12, "flags": "--seed=0"} | fields)
    return rows


@pytest.fixture(name="rows_of", scope="session")
def _rows_of():
    """Return the function that makes the rows of a setting."""
    return rows_of


@pytest.fixture(scope="session")
def slides() -> dict[str, Slide]:
    """Return the slides of the artificial study."""
    return SLIDES


@pytest.fixture(scope="session")
def settings() -> list[Setting]:
    """Return the four methods of the paper at two corrupted shares, in the order of the paper."""
    return [Setting(method, 2.0 if method in ("srgan", "srgan_e") else 0.5, fraction)
            for method in FALL for fraction in (0.0, 0.5)]


@pytest.fixture(scope="session")
def study(settings) -> list[Row]:
    """Return the rows of those settings and of bicubic."""
    rows = rows_of("bicubic", 0.86, q=None, fraction=None, d_hr=None, d_sr=None, d_accuracy=None, seconds=None)
    for number, setting in enumerate(settings):
        rows += rows_of(setting, 0.92 - FALL[setting.method] * setting.fraction, luck=number)
    return rows
