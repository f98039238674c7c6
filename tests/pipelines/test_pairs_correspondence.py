# SPDX-License-Identifier: Apache-2.0
"""LR and HR of one place are told from those of another, of a shifted and of an empty one."""
from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipelines.pairs import mismatch, refusal, sample


@pytest.fixture
def pair(histology):
    hr = histology[100:356, 100:356]
    return hr, np.asarray(Image.fromarray(hr).resize((64, 64), Image.Resampling.BOX))


def compressed(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def clipped(image):
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("scan", [
    lambda lr: lr,
    lambda lr: compressed(lr, 50),
    lambda lr: clipped(gaussian_filter(lr.astype(float), (1, 1, 0))),
    lambda lr: clipped(lr * [0.8, 0.9, 1.0] + 20),
    lambda lr: clipped(lr + np.random.default_rng(0).normal(0, 15, lr.shape)),
], ids=["exact", "jpeg", "blurred", "another colour", "noisy"])
def test_lr_of_the_same_place_corresponds_however_it_was_scanned(pair, scan):
    assert mismatch(pair[0], scan(pair[1])) is None


@pytest.mark.parametrize(("right", "down", "said"), [
    (1, 0, "1 right and 0 down"), (0, -2, "0 right and 2 up"), (-3, 1, "3 left and 1 down")])
def test_shifted_lr_is_refused_and_the_shift_is_told(histology, pair, right, down, said):
    moved = histology[100 + 4 * down:356 + 4 * down, 100 + 4 * right:356 + 4 * right]
    reason = mismatch(pair[0], np.asarray(Image.fromarray(moved).resize((64, 64), Image.Resampling.BOX)))
    assert said in (reason or "")


@pytest.mark.parametrize("other", [
    lambda lr: lr[::-1], lambda lr: lr.transpose(1, 0, 2), lambda lr: 255 - lr, lambda lr: np.full_like(lr, 255)],
    ids=["upside down", "turned", "negative", "blank"])
def test_another_image_is_refused_with_its_correlation(pair, other):
    assert "does not show what HR shows (correlation" in (mismatch(pair[0], other(pair[1])) or "")


def test_glass_has_nothing_to_compare():
    noise = np.random.default_rng(0).normal(240, 2, (256, 256, 3))
    assert mismatch(clipped(noise), np.full((64, 64, 3), 240, np.uint8)) is None


def test_slide_is_refused_when_more_than_half_do_not_correspond(pair):
    bad = (pair[0], pair[1][::-1])
    assert refusal([pair, bad]) is None
    assert (refusal([pair, bad, bad]) or "").startswith("in 2 of 3 places LR does not show")
    assert refusal([]) is None


def test_sample_is_drawn_from_all_over_and_holds_nothing_twice():
    assert sample(list(range(5))) == [0, 1, 2, 3, 4]
    assert sample([]) == []
    some = sample(list(range(1000)))
    assert (len(some), some[0], some[-1]) == (16, 0, 999)


def test_real_pairs_correspond_and_those_of_neighbours_do_not(shared_data):
    folder = shared_data / "pairs" / "val" / "arachnoid-cyst"
    pairs = []
    for path in sorted(folder.glob("*.jpeg"))[:12]:
        lr = next(folder.glob(f"{path.stem}_lr*.png"))
        dx, dy = (int(digit) for digit in lr.stem[-2:])
        pairs.append((np.asarray(Image.open(path))[dy:dy + 252, dx:dx + 252], np.asarray(Image.open(lr))))
    assert [mismatch(hr, lr) for hr, lr in pairs] == [None] * 12
    assert all(mismatch(hr, lr) for (hr, _), (_, lr) in pairwise(pairs))
