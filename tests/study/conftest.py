# SPDX-License-Identifier: Apache-2.0
"""An artificial study: rows of results in which the claims of the paper are true by a known amount."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

SLIDES = {"erosion": "40x", "keloid-scar": "20x"}
QUALITY = {"srgan": 0.0, "srgan_e": 0.01, "srgan_qe": 0.02, "srgan_sqe": 0.03, "fidelity": 0.015, "fidelity_m": 0.016,
           "fidelity_s": 0.025, "fidelity_d": 0.012}
FALL = {"srgan": 0.1, "srgan_e": 0.08, "srgan_qe": 0.02, "srgan_sqe": 0.0}  # of MS-SSIM, over all of the examples


def row_of(method: str, slide: str, quality: float, seed: int | None = None, **fields: Any) -> dict[str, Any]:
    """Return a row whose metrics all follow from one quality, about 0.9."""
    quality += -0.03 if slide == "erosion" else 0.0
    name = "_".join(str(part) for part in (method, *fields.values(), seed))
    return {"cell": name, "method": method, "q": None, "balance": None, "fraction": None, "kind": None, "side": None,
            "seed": seed, "variant": "", "vgg_weights": None, "slide": slide, "magnification": SLIDES[slide],
            "patches": 100, "psnr": 30 * quality, "ssim": quality - 0.05, "ms_ssim": quality, "qilv": quality + 0.05,
            "rrmse": 0.2 * (1.2 - quality), "lr_consistency": 0.01, "seconds": 60.0, "commit": "0", "flags": "",
            **fields}


def grid(methods=tuple(QUALITY), fractions=(0.0, 0.1, 0.3, 0.5), seeds=2, qs=(0.25, 0.5, 1.0, 2.0), noise=0.0005,
         luck=0):
    """Return the rows of all cells: methods by fraction, q at 30%, single terms, and a variant that adds 0.004."""
    rng = np.random.default_rng(luck)
    rows = [row_of("bicubic", slide, 0.86) for slide in SLIDES]

    def add(method, quality, fraction, **fields):
        kind, side = ("mixed", "hr") if fraction else ("none", "none")
        for seed in range(seeds):
            rows.extend(row_of(method, slide, quality + rng.normal(0, noise), seed, **{
                "q": 2.0, "balance": "paper", "fraction": fraction, "kind": kind, "side": side} | fields)
                for slide in SLIDES)

    for method in methods:
        for q in (0.5,) if method not in ("srgan", "srgan_e") else (2.0,):
            for fraction in fractions:
                quality = 0.9 + QUALITY[method] - FALL.get(method, 0.04) * fraction
                vgg = {"vgg_weights": "random"} if method == "srgan" else {}
                add(method, quality, fraction, q=q, **vgg)
    for q in qs:
        for method, balance in (("srgan_sqe", "paper"), ("srgan_sqe", "equal"), ("fidelity", "paper")):
            if q != 0.5 and method in methods:
                steep = 0.02 if balance == "paper" else 0.01
                for fraction in (0.0, 0.3):
                    add(method, 0.9 + QUALITY[method] - steep * (1 + fraction) * abs(np.log2(q / 0.5)), fraction, q=q,
                        balance=balance)
    if "srgan_sqe" in methods:
        add("srgan_sqe", 0.934, 0.3, q=0.5, variant="epsilon=0.01")
    return rows


@pytest.fixture(name="grid", scope="session")
def _grid():
    """Return the function that makes a study of any size."""
    return grid


@pytest.fixture
def study():
    """Return the rows of the whole study."""
    return grid()


@pytest.fixture
def unfinished(study):
    """Return about two thirds of the rows, without bicubic."""
    chosen = np.random.default_rng(1).random(len(study)) < 0.67
    return [row for row, there in zip(study, chosen, strict=True) if there and row["method"] != "bicubic"]
