# SPDX-License-Identifier: Apache-2.0
"""The fit finds the distribution that residuals were drawn from; residuals are those that the loss sees."""
from __future__ import annotations

import math
from itertools import pairwise, product

import keras
import numpy as np
import pytest
from PIL import Image
from scipy.stats import gennorm

from pipelines.config import CorruptOptions, PatchOptions
from pipelines.degrade import degrade
from pipelines.patches import find_sources
from pipelines.pixels import quantise, to_float
from pipelines.shards import open_shards, write_shards
from sr_keras.networks import generator
from study.residuals import (
    GAUSSIAN_BEYOND_3,
    SHOWN_Q,
    cell_residuals,
    fit_generalised_gaussian,
    write_residuals,
)


def drawn(q: float, count: int = 20_000, seed: int = 0) -> np.ndarray:
    return gennorm.rvs(q, scale=0.05, size=count, random_state=seed)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, tile_folder):
    folder = tmp_path_factory.mktemp("residuals") / "shards"
    write_shards(find_sources(tile_folder), folder, PatchOptions(patch_size=128, min_tissue=0), workers=1,
                 progress=False)
    return open_shards(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained generator: bilinear interpolation."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("residuals") / "generator.keras"
    generator(4, 1, 4).save(path)
    return path


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
def test_fit_finds_the_distribution_and_the_largest_likelihood(q):
    sample = drawn(q)
    fit = fit_generalised_gaussian(sample)
    assert fit.q == pytest.approx(q, rel=0.05)
    assert fit.alpha == pytest.approx(0.05, rel=0.1)
    best = gennorm.logpdf(sample, fit.q, scale=fit.alpha).mean()
    for factor_q, factor_alpha in product((0.97, 1, 1.03), repeat=2):
        assert gennorm.logpdf(sample, factor_q * fit.q, scale=factor_alpha * fit.alpha).mean() <= best + 1e-6


def test_fit_of_millions_of_values_finds_q_and_repeats_itself():
    sample = drawn(0.7, 2_000_000)
    fit = fit_generalised_gaussian(sample)
    assert fit.q == pytest.approx(0.7, rel=0.01)
    assert fit.count == 2_000_000
    assert fit == fit_generalised_gaussian(sample)


def test_residuals_of_one_size_are_shown_as_a_large_q(tmp_path):
    fits = write_residuals({"two values": np.tile([-0.1, 0.1], 500)}, tmp_path)
    assert fits["two values"].q > SHOWN_Q[1]
    assert "| ≥ 8.0 |" in (tmp_path / "residuals.md").read_text(encoding="utf-8")


def test_gaussian_has_kurtosis_3_and_gains_nothing():
    fit = fit_generalised_gaussian(drawn(2.0, 200_000))
    assert fit.kurtosis == pytest.approx(3, abs=0.1)
    assert fit.beyond_3 == pytest.approx(GAUSSIAN_BEYOND_3, rel=0.2)
    assert 0 <= fit.gain < 1e-3
    assert fit.std == pytest.approx(0.05 / math.sqrt(2), rel=0.02)


def test_heavier_tails_have_smaller_q_more_kurtosis_and_more_gain():
    fits = [fit_generalised_gaussian(drawn(q)) for q in (0.5, 1.0, 2.0)]
    for heavy, light in pairwise(fits):
        assert heavy.q < light.q
        assert heavy.kurtosis > light.kurtosis
        assert heavy.gain > light.gain


def test_zeros_of_8_bit_residuals_do_not_pull_q_to_nothing():
    sample = np.rint(255 * drawn(1.0)) / 255
    assert (sample == 0).mean() > 0.03
    assert fit_generalised_gaussian(sample).q == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(("values", "rule"), [([0.1], "two values"), ([0.1, 0.1], "differ"), ([0.1, np.nan], "finite")])
def test_fit_refuses_what_has_no_shape(values, rule):
    with pytest.raises(ValueError, match=rule):
        fit_generalised_gaussian(values)


def test_residuals_are_of_float_sr_that_is_not_clipped(model, shards, tile_folder):
    found = cell_residuals(model, shards, limit=2)
    assert found.shape == (2, 128, 128, 3)
    assert found.dtype == np.float32
    hr = to_float(np.asarray(Image.open(tile_folder / "slide-a" / "tile0.png")))[np.newaxis]
    sr = keras.models.load_model(model)(quantise(degrade(hr)), training=False).numpy()
    np.testing.assert_allclose(found[0], (sr - hr)[0], atol=1e-6)
    grey_levels = 255 * (found[0] + hr[0])
    assert np.abs(grey_levels - np.rint(grey_levels)).max() > 0.1


def test_corruption_changes_the_residuals_of_corrupted_pairs_alone(model, shards):
    clean = cell_residuals(model, shards)
    half = cell_residuals(model, shards, seed=3, corrupt=CorruptOptions(fraction=0.5))
    same = np.array([np.array_equal(a, b) for a, b in zip(clean, half, strict=True)])
    assert 0 < same.sum() < len(same)
    everything = cell_residuals(model, shards, seed=3, corrupt=CorruptOptions(fraction=1.0))
    np.testing.assert_array_equal(half[~same], everything[~same])
    assert np.square(everything).mean() > np.square(clean).mean()


def test_outliers_are_residuals_too(model, shards, tile_folder):
    corrupt = CorruptOptions(fraction=1.0, kinds=("outlier",), outlier_dir=str(tile_folder / "slide-b"))
    found = cell_residuals(model, shards, limit=2, corrupt=corrupt)
    assert np.square(found).mean() > 2 * np.square(cell_residuals(model, shards, limit=2)).mean()


def test_written_residuals_are_figures_and_a_table_with_the_same_bytes_each_time(tmp_path):
    groups = {"clean training pairs": drawn(1.0), "corrupted | pairs": drawn(0.5)}
    fits = write_residuals(groups, tmp_path / "one")
    write_residuals(groups, tmp_path / "two")
    names = {"residuals.png", "residuals.svg", "residuals.md"}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    table = (tmp_path / "one" / "residuals.md").read_text(encoding="utf-8")
    assert r"| corrupted \| pairs | 20,000 |" in table
    assert f"| clean training pairs | 20,000 | {fits['clean training pairs'].q:.2f} |" in table
    with Image.open(tmp_path / "one" / "residuals.png") as picture:
        assert picture.width > 2 * 400


def test_no_residuals_are_refused(tmp_path):
    with pytest.raises(ValueError, match="groups"):
        write_residuals({}, tmp_path)
