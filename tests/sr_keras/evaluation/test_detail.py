# SPDX-License-Identifier: Apache-2.0
"""A perfect model keeps every nucleus; what a model erases or draws is counted, placed and mapped."""
from __future__ import annotations

import json

import numpy as np
import pytest
from skimage.color import hed2rgb

from pipelines.files import write_csv
from pipelines.pixels import quantise
from sr_keras.evaluation import detail
from sr_keras.evaluation.detail import (
    area_under_roc,
    detail_rows,
    means_table,
    read_detail,
    score_detail,
    write_detail_json,
)
from sr_keras.evaluation.scored_patches import BICUBIC, SR
from sr_keras.evaluation.tables import finite_mean

MPP, SIDE = 0.5, 128
CENTRES = [(y, x) for y in (20, 64, 108) for x in (20, 64, 108)]
EXTRA = (42, 42)


def tissue(centres):
    """Return eosin with discs of haematoxylin of several sizes, float32 [128, 128, 3] in 8-bit steps."""
    hed = np.zeros((SIDE, SIDE, 3))
    hed[..., 1] = 0.05
    y, x = np.mgrid[:SIDE, :SIDE]
    for centre in centres:
        hed[np.hypot(y - centre[0], x - centre[1]) * MPP < 2.6 + centre[0] / 128, 0] = 0.1
    return quantise(hed2rgb(hed).astype(np.float32))


def small(hr):
    return quantise(hr.reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean((1, 3)))


def lr_errors(pairs):
    """As the trust map with LR of box averages: squares of 16 pixels of SR."""
    errors = []
    for lr, sr in pairs:
        again = sr.reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean((1, 3))
        errors.append(np.sqrt(np.square(again - lr).reshape(8, 4, 8, 4, 3).mean((1, 3, 4))))
    return errors


def scored(sr_of, hrs, slide_ids=("a",), mpp=MPP):
    """Return slides of patches by number; `sr_of` takes one and gives its SR."""
    pictures = [(slide, f"{slide}/{i}", hr) for slide in slide_ids for i, hr in enumerate(hrs)]
    known = {small(hr).tobytes(): i for i, hr in enumerate(hrs)}
    batches = [{"slide_id": [slide], "example_id": [name], "lr": small(hr)[np.newaxis], "hr": hr[np.newaxis]}
               for slide, name, hr in pictures]
    return score_detail(lambda lr: sr_of(known[lr[0].tobytes()])[np.newaxis], batches,
                        dict.fromkeys(slide_ids, mpp), 4, lr_errors)


def test_perfect_model_keeps_every_nucleus():
    hrs = [tissue(CENTRES), tissue(CENTRES[:4])]
    (slide,) = scored(lambda i: hrs[i], hrs)
    found = slide.scores[SR]
    assert (slide.check, slide.left_out) == (1, [])
    assert (found["f1"], found["count_ratio"], found["invented"], found["lost"]) == (1, 1, 0, 0)
    assert (found["size"], found["stain"]) == pytest.approx((1, 1))


def test_nucleus_that_sr_draws_is_invented_and_one_that_it_erases_is_lost():
    hrs = [tissue(CENTRES)] * 2
    (slide,) = scored(lambda i: tissue([*CENTRES[1:], EXTRA]), hrs)
    found, mm2 = slide.scores[SR], 2 * ((SIDE * MPP - 4) / 1000) ** 2
    assert found["f1"] == pytest.approx(8 / 9)
    assert found["count_ratio"] == 1
    assert (found["invented"], found["lost"]) == pytest.approx((2 / mm2, 2 / mm2))
    patch = slide.picture
    np.testing.assert_allclose(patch.nuclei[SR].places[patch.found[SR].invented], [EXTRA], atol=1)
    np.testing.assert_allclose(patch.truth.places[patch.found[SR].lost], [CENTRES[0]], atol=1)


def test_lr_error_tells_invented_nuclei_where_it_is_large_there_and_is_chance_where_it_is_the_same_everywhere(
        monkeypatch):
    hrs = [tissue(CENTRES)]

    def roc():
        return scored(lambda i: tissue([*CENTRES, EXTRA]), hrs)[0].scores[SR]

    assert (roc()["roc_invented"], roc()["roc_nuclei"]) == (1, 1)
    assert np.isnan(roc()["roc_lost"])  # none is
    monkeypatch.setitem(globals(), "lr_errors", lambda pairs: [np.ones((8, 8)) for _ in pairs])
    assert roc()["roc_invented"] == 0.5


def test_patch_without_nuclei_is_left_out_and_named_and_what_is_invented_there_counts():
    hrs = [tissue(CENTRES), tissue([])]
    (slide,) = scored(lambda i: tissue(CENTRES) if i == 0 else tissue([EXTRA]), hrs)
    assert slide.left_out == ["a/1"]
    assert slide.scores[SR]["f1"] == 1
    assert slide.scores[SR]["invented"] > 0
    rows = detail_rows([slide], "mine", "box")
    assert "Patches without a nucleus in HR are left out of F1, count, size and stain (1): a/1." in detail.detail_page(
        rows, {"box average": [slide]})


def test_slide_on_which_the_detector_is_not_fit_to_judge_has_no_scores_of_nuclei_and_is_named():
    hrs = [tissue([])]
    (slide,) = scored(lambda i: hrs[i], hrs, ("glass",))
    assert np.isnan([slide.scores[method][name] for method in (BICUBIC, SR) for name in ("f1", "invented")]).all()
    assert np.isfinite(slide.scores[SR]["qilv"])
    assert "so these have no scores of nuclei: glass." in detail.detail_page(
        detail_rows([slide], "mine", "box"), {"box average": [slide]})


def test_patch_that_bicubic_returns_without_error_counts_for_neither_method():
    hrs = [tissue(CENTRES), np.ones((SIDE, SIDE, 3), np.float32)]

    def psnr(hrs):
        found = scored(lambda i: hrs[i] - np.float32(0.2), hrs)[0].scores
        return [found[method]["psnr"] for method in (BICUBIC, SR)]

    assert psnr(hrs) == psnr(hrs[:1])


def test_patches_that_are_smaller_than_the_border_where_nuclei_do_not_count_have_no_scores_of_nuclei():
    (slide,) = scored(lambda i: tissue(CENTRES), [tissue(CENTRES)], mpp=3.9 / SIDE)
    assert np.isnan([slide.scores[SR][name] for name in ("f1", "invented", "lost")]).all()


def test_tables_and_facts_hold_means_over_slides_of_the_rows(tmp_path):
    hrs = [tissue(CENTRES)]
    slides = scored(lambda i: tissue([*CENTRES, EXTRA]), hrs, ("a", "b"))
    rows = detail_rows(slides, "mine", "box")
    assert [(row["slide_id"], row["method"]) for row in rows] == [(s, m) for s in "ab" for m in (BICUBIC, SR)]
    lines = means_table([*rows, *detail_rows(slides, "other", "box")]).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == [BICUBIC, "mine", "other"]
    write_csv(rows, tmp_path / "nuclei.csv")
    assert means_table(read_detail(tmp_path / "nuclei.csv")) == means_table(rows)
    write_detail_json(rows, tmp_path / "nuclei.json")
    told = json.loads((tmp_path / "nuclei.json").read_text())["box"]
    assert told["f1"] == pytest.approx(2 * 9 / 19, rel=1e-3)
    assert told["bicubic_f1"] == pytest.approx(finite_mean([row["f1"] for row in rows[::2]]), rel=1e-3)
    assert "roc_lost" not in told


def test_area_under_roc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 9, 40), rng.integers(0, 7, 50)
    pairs = one[:, np.newaxis] - other
    assert area_under_roc(one, other) == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert np.isnan(area_under_roc(one, np.empty(0)))
