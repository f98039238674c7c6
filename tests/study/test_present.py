"""What is shown of a study is of what the study was run with."""
from __future__ import annotations

import numpy as np

from pipelines.config import CorruptOptions, DegradeOptions
from study import present
from study.cells import Bench
from study.grid import Cell


def test_residuals_are_of_pairs_that_are_corrupted_as_the_cells_were(tmp_path, monkeypatch):
    """Strengths, side and the tiles of another stain are the study's, not the defaults."""
    cell = Cell("srgan_sqe", 0.5, fraction=0.5, kind="outlier", side="lr", seed=3)
    bench = Bench(tmp_path / "work", tmp_path / "out", None, DegradeOptions(), "random",
                  corrupt=CorruptOptions(noise_strength=2.0, outlier_dir="other_stain"))
    bench.run(cell).mkdir(parents=True)
    (bench.run(cell) / "generator.keras").touch()
    asked = []

    def residuals(run, shards, degrade, limit, seed, corrupt):
        asked.append((shards.name, corrupt, seed))
        return np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)

    monkeypatch.setattr(present, "cell_residuals", residuals)
    present._write_residuals([cell], bench)
    spoilt = [(name, corrupt) for name, corrupt, _ in asked if corrupt.fraction]
    assert spoilt == [("train", CorruptOptions(fraction, ("outlier",), "lr", noise_strength=2.0,
                                               outlier_dir="other_stain")) for fraction in (0.5, 1.0)]
    assert [name for name, corrupt, _ in asked if not corrupt.fraction] == ["train", "test"]
    assert {seed for *_, seed in asked} == {3}
