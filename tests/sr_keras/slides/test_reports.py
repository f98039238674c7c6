# SPDX-License-Identifier: Apache-2.0
"""A report says what was done; one that is damaged, or cannot be written, harms no slide."""
from __future__ import annotations

import hashlib
import json
import resource

import numpy as np
import pytest

from sr_keras.slides import reports

TRUST = {"map": "a_trust.tif", "median": 2.5, "usual": [2.0, 3.0], "unusual": False, "worst": [], "threshold": 6.0,
         "degradation": None, "seconds": 75.0}


def test_checksum_is_that_of_the_files_one_after_the_other(tmp_path):
    for name, content in (("a", b"one" * 100_000), ("b", b"two")):
        (tmp_path / name).write_bytes(content)
    assert reports.sha256([tmp_path / "a", tmp_path / "b"]) == hashlib.sha256(b"one" * 100_000 + b"two").hexdigest()


def test_report_comes_back_and_has_a_name_of_its_own(tmp_path):
    report = {"description": {"model": {"name": "ä"}}, "trust": TRUST}
    reports.write_report(tmp_path / "a.tif", report)
    reports.write_report(tmp_path / "a.png", {})
    assert reports.read_report(tmp_path / "a.tif") == report
    assert reports.read_report(tmp_path / "a.png") == reports.read_report(tmp_path / "none.tif") == {}


@pytest.mark.parametrize(("content", "field"), [
    ("{", "a.tif.report.json"), ("[]", "a.tif.report.json"), ('{"description": 1}', "description"),
    ('{"bad": {"places": -1}}', "places"), (json.dumps({"trust": TRUST | {"median": "high"}}), "median"),
    (json.dumps({"trust": TRUST | {"worst": [{"hr_box": [1.5]}]}}), "hr_box")])
def test_damaged_report_is_one_line_that_names_the_file_and_the_field(tmp_path, content, field):
    (tmp_path / "a.tif.report.json").write_text(content)
    with pytest.raises(ValueError) as caught:
        reports.read_report(tmp_path / "a.tif")
    assert field in str(caught.value)
    assert "a.tif.report.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_report_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    (tmp_path / "a.tif.report.json").mkdir()
    reports.write_report(tmp_path / "a.tif", {"a": 1})
    assert "a.tif.report.json" in capsys.readouterr().err


def test_line_of_trust_names_the_worst_place_and_what_is_unfamiliar():
    line = reports.trust_line(TRUST)
    assert "2.50 of 255 at the median (usual: 2.0 to 3.0); no region above 6.0; measured in 1 min 15 s" in line
    worst = [{"hr_box": [1, 2, 3, 4]}, {"hr_box": [5, 6, 7, 8]}]
    line = reports.trust_line(TRUST | {"unusual": True, "worst": worst, "usual": None})
    assert "unfamiliar input" in line
    assert "2 regions above 6.0, worst at left, top, right, bottom 1, 2, 3, 4" in line
    assert "usual" not in line


def test_peak_memory_counts_what_was_freed():
    before = reports.peak_rss()
    np.ones(2**25)  # 256 MiB, gone at once
    assert reports.peak_rss() >= max(before, 2**28)
    assert reports.peak_rss() <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 * 1.1
