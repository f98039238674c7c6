# SPDX-License-Identifier: Apache-2.0
"""With an uncertainty head that predicts better, the map shows the expected error, and says what predicts what."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tifffile
from PIL import Image

from pipelines.config import DegradeOptions
from sr_keras.model.uncertainty_head import HeadFacts, Prediction, Uncertainty
from sr_keras.slides import reports, trust_map
from sr_keras.slides.trust_files import caption, trust_paths, write_trust
from sr_keras.slides.trust_map import Expect, measure

FACTS = HeadFacts("", 1.0, 0.1, Prediction(0.61, 0.83), Prediction(0.05, 0.52), [])
OPTIONS = DegradeOptions()


def expect_red(lr: np.ndarray) -> tf.Tensor:
    """A head whose expected error is a mean of red that sees three LR pixels to each side."""
    padded = np.pad(lr[..., 0].astype(np.float32), ((0, 0), (3, 3), (3, 3)))
    height, width = lr.shape[1:3]
    mean = sum(padded[:, y:y + height, x:x + width] for y in range(7) for x in range(7)) / 49
    return tf.constant(np.repeat(np.repeat(mean, 4, 1), 4, 2))


HEAD = Uncertainty(FACTS, lambda lr: {}, expect_red)


@pytest.mark.parametrize("block", [16, 48, 1024])
def test_expected_error_is_the_mean_over_squares_without_seams(histology, monkeypatch, block):
    monkeypatch.setattr(trust_map, "BLOCK", block)
    lr, sr = histology[:53, :41], histology[100:312, 200:364]
    found = measure(lr, sr, OPTIONS, expect=Expect(HEAD, 3))
    whole = expect_red(lr[np.newaxis])[0].numpy()
    by_hand = [[whole[y:y + 16, x:x + 16].mean() for x in range(0, 164, 16)] for y in range(0, 212, 16)]
    assert found.expected == pytest.approx(np.array(by_hand), rel=1e-4)
    assert np.array_equal(found.lr_error, measure(lr, sr, OPTIONS).lr_error)
    assert found.shown is found.expected


def test_glass_has_no_expected_error_and_is_not_computed(histology, monkeypatch):
    monkeypatch.setattr(trust_map, "BLOCK", 16)
    found = measure(histology[:8, :8], histology[:32, :32], OPTIONS,
                    expect=Expect(HEAD, 3, lambda rows, columns: rows.start > 0))
    assert (found.expected[0] == 0).all()
    assert (found.expected[1] > 0).all()


@pytest.fixture
def expected(a_map):
    """A map of large expected errors where the LR error is small."""
    values = np.full((16, 16), 4.0, np.float32)
    values[4:8, 4:8] = 30
    return replace(a_map(np.full((16, 16), 1.0)), expected=values, measured=FACTS, usual=(1.0, 2.0))


def test_files_show_the_expected_error_and_keep_the_lr_error(expected, tmp_path):
    report = write_trust(tmp_path / "t.tif", expected, "case", lambda x, y: (x / 4, y / 4)) | {"seconds": 1.0}
    with tifffile.TiffFile(tmp_path / "t.tif") as tiff:
        assert np.array_equal(tiff.pages[0].asarray(), expected.expected)
        assert np.array_equal(tiff.pages[1].asarray(), expected.lr_error)
    assert (report["shows"], report["median"], report["lr_median"]) == ("the expected error", 4, 1)
    assert report["predicts"] == {"the expected error": {"spearman": 0.61, "auc": 0.83},
                                  "the difference to the input": {"spearman": 0.05, "auc": 0.52}}
    (region,) = report["worst"]
    assert region["largest"] == 30
    assert not report["unusual"]  # the LR error decides this
    for name in trust_paths(tmp_path / "t.tif")[1:3]:
        (feature,) = json.loads(name.read_text())["features"]
        assert feature["properties"]["name"] == "1: expected error up to 30.0"
    line = reports.trust_line(report)
    assert "differs from the input by 1.00 of 255 at the median (usual: 1.0 to 2.0); expected error 4.00" in line


def test_caption_says_what_each_map_predicts_with_the_number(expected):
    assert "the expected error predicts the real error of squares of 16 pixels with a rank correlation of 0.61\n" \
           "(area under the ROC for the worst tenth: 0.83); the difference to the input, with 0.05 (0.52)." \
           in caption(expected)
    assert "estimate" in caption(expected)
    assert "cannot show which detail the network invented" in caption(expected)
    without = replace(expected, expected=None)  # the head predicts no better
    assert "the difference to the input predicts" in caption(without)
    assert "was not measured" in caption(replace(without, measured=None))


@pytest.mark.parametrize("better", [True, False])
def test_command_shows_the_expected_error_only_if_it_predicts_better(better, histology, run, monkeypatch, tmp_path):
    facts = FACTS if better else replace(FACTS, uncertainty=FACTS.departure, departure=FACTS.uncertainty)
    monkeypatch.setattr("sr_keras.model.uncertainty_head.load_uncertainty", lambda _: replace(HEAD, facts=facts))
    Image.fromarray(histology[:40, :56]).save(tmp_path / "a.png")
    assert run(f"--input={tmp_path / 'a.png'}", f"--output={tmp_path / 'large.png'}",
               f"--trust_map={tmp_path / 't.tif'}") == 0
    trust = json.loads(reports.report_path(tmp_path / "large.png").read_text())["trust"]
    assert trust["shows"] == ("the expected error" if better else "the difference to the input")
    with tifffile.TiffFile(tmp_path / "t.tif") as tiff:
        assert len(tiff.pages) == (2 if better else 1)
        red = tiff.pages[0].asarray()[2:8, 2:12].mean()
    assert (abs(red - histology[8:32, 8:48, 0].mean()) < 3) == better


def test_head_of_another_generator_is_told_before_any_work(histology, run, loaded, monkeypatch, tmp_path):
    def refuse(path: Path) -> None:
        raise ValueError(f"`uncertainty` must be of the generator beside it: {path}")

    monkeypatch.setattr("sr_keras.model.uncertainty_head.load_uncertainty", refuse)
    Image.fromarray(histology[:40, :56]).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"beside it: {loaded.path}"):
        run(f"--input={tmp_path / 'a.png'}", f"--output={tmp_path / 'large.png'}", f"--trust_map={tmp_path / 't.tif'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]
