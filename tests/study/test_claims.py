# SPDX-License-Identifier: Apache-2.0
"""claims: the committed ones name cells of the committed grid; answers on results that are known; what is refused."""
from __future__ import annotations

from pathlib import Path

import pytest

from study.claims import FAILED, HELD, NOT_RUN, UNDECIDED, Claim, Claims, answer, read_claims, signed
from study.grid import Setting, parse_grids

ROOT = Path(__file__).parents[2]
GOOD = "alpha: 0.05\neffects: {ms_ssim: 0.002}\nclaims:\n- {claim: A beats B, better: a, than: b, by: 1}\n"


def one_answer(rows, slides, better, than, by=1.0, metric="ms_ssim", effect=0.002):
    claims = Claims(0.05, {metric: effect}, [Claim("it is so", better, than, by)])
    (found,) = answer(claims, rows, slides)
    return found


def test_committed_claims_name_cells_of_the_committed_grid(monkeypatch):
    from study.__main__ import CLAIMS_FILE, FLAGS, TRAIN

    monkeypatch.chdir(ROOT)
    FLAGS.unparse_flags()
    FLAGS(["study", "--flagfile=sr_keras/flagfiles/study_slides.flags"])
    claims = read_claims(CLAIMS_FILE, {one.name for one in parse_grids(FLAGS.grid, list(TRAIN))})
    assert len(claims.claims) == 14
    assert set(claims.effects) == {"ms_ssim", "qilv", "rrmse"}


def test_claim_holds_fails_or_is_undecided_by_the_sign_and_size_of_the_difference(study, slides):
    sqe, srgan = "srgan_sqe-q0.5-0.5-mixed-hr", "srgan-q2-0.5-mixed-hr"  # 0.02 apart
    assert one_answer(study, slides, sqe, srgan).answer == HELD
    assert one_answer(study, slides, srgan, sqe).answer == FAILED
    assert one_answer(study, slides, sqe, srgan, by=15).answer == FAILED  # better, but not by 0.03
    assert one_answer(study, slides, sqe, srgan, by=10).answer == UNDECIDED  # by about 0.02


def test_stability_is_a_loss_below_its_margin(study, slides):
    def stable(method, q):
        return one_answer(study, slides, f"{method}-q{q}-0.5-mixed-hr", f"{method}-q{q}-clean", by=-2.5).answer

    assert stable("srgan_sqe", 0.5) == HELD  # it loses nothing
    assert stable("srgan", 2) == FAILED  # it loses 0.02, more than 0.005


def test_an_error_is_better_where_it_is_smaller(study, slides):
    found = one_answer(study, slides, "srgan_sqe-q0.5-0.5-mixed-hr", "srgan-q2-0.5-mixed-hr", metric="rrmse",
                       effect=0.001)
    assert found.answer == HELD
    assert found.compared.mean == pytest.approx(0.2 * 0.02, rel=0.1)
    assert found.agreeing == (5, 5)
    assert set(signed(study, "srgan-q2-clean", "srgan-q2-clean", "rrmse").values()) == {0}


def test_claim_on_a_cell_that_lacks_a_slide_is_not_run(study, slides):
    less = [row for row in study if (row["setting"], row["slide"]) != ("srgan-q2-clean", "slide00")]
    found = one_answer(less, slides, "srgan_sqe-q0.5-clean", "srgan-q2-clean")
    assert (found.answer, found.corrected) == (NOT_RUN, 1)


def test_slide_on_which_a_network_fails_is_not_left_out_of_a_claim(study, slides):
    failed = [row | {"ms_ssim": None} if (row["setting"], row["slide"]) == ("srgan-q2-clean", "slide00") else row
              for row in study]
    assert one_answer(failed, slides, "srgan_sqe-q0.5-clean", "srgan-q2-clean").answer == NOT_RUN
    assert one_answer(failed, slides, "srgan_sqe-q0.5-clean", "srgan-q2-clean", metric="qilv").answer != NOT_RUN


def test_a_family_of_many_claims_decides_less(rows_of, slides):
    a, b = (Setting("srgan_sqe", 0.5), Setting("srgan_qe", 0.5))
    rows = rows_of(a, 0.9035, noise=0.002, luck=1) + rows_of(b, 0.9, noise=0.002, luck=2)
    claim = Claim("it is so", a.name, b.name, 1)
    alone = answer(Claims(0.05, {"ms_ssim": 0.002}, [claim]), rows, slides)[0]
    among = answer(Claims(0.05, {"ms_ssim": 0.002},
                          [claim, *[Claim(f"more {i}", "x", "y", 1) for i in range(40)]]), rows, slides)[0]
    assert alone.answer == HELD
    assert among.corrected > alone.corrected
    assert among.answer == UNDECIDED


@pytest.mark.parametrize(("text", "message"), [
    (GOOD.replace("than: b", "than: c"), "`claims` must name cells of the grid.*: c'$"),
    (GOOD.replace("ms_ssim", "beauty"), "`claims` must give effects of psnr, .*beauty"),
    (GOOD.replace("ms_ssim", "lr_consistency"), "`claims` must give effects of psnr, .*lr_consistency"),
    (GOOD.replace("0.002", "0"), r"`claims` must be a YAML file of claims.* > 0.*\$\.effects"),
    (GOOD.replace("ms_ssim: 0.002", ""), r"`claims` must be a YAML file of claims.*\$\.effects"),
    (GOOD.replace("0.05", "2"), r"`claims` must be a YAML file of claims.* < 1.*\$\.alpha"),
    (GOOD.replace("by: 1", "by: much"), "`claims` must be a YAML file of claims.*by"),
    (GOOD.replace("by: 1", "by: .nan"), "`claims` must be a YAML file of claims.*by"),
    (GOOD.replace("by: 1", "worth: 1"), "`claims` must be a YAML file of claims"),
    ("claims: [", "`claims` must be a YAML file of claims"),
])
def test_claims_that_cannot_be_answered_are_refused(tmp_path, text, message):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_claims(tmp_path / "claims.yaml", {"a", "b"})


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`claims` must be a YAML file.*nosuch\.yaml"):
        read_claims(tmp_path / "nosuch.yaml", {"a", "b"})
