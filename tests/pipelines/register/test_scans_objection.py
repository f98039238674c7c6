# SPDX-License-Identifier: Apache-2.0
"""What is left out is judged against what is usual on these two scans."""
from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from pipelines.register.scans import objection
from pipelines.scan_pairs import Fit

USUAL = Fit(0, 0, (0.1, 0.0), correlation=0.9, weakest=0.8, residual=0.2, sharpness=0.6, detail=0.3)


@pytest.mark.parametrize(("changes", "reason"), [
    ({}, None),
    ({"correlation": 0.3}, "does not match"),
    ({"weakest": 0.1}, "does not match"),
    ({"weakest": 0.45}, "does not match"),
    ({"residual": 1.1}, "does not match"),
    ({"sharpness": 0.3}, "lr out of focus"),
    ({"sharpness": 1.0}, "hr out of focus"),
    ({"detail": 0.1}, "hr out of focus"),
    ({"shift": (30.0, -20.0)}, None),
    ({"sharpness": 0.45, "detail": 0.2, "weakest": 0.6, "residual": 0.9}, None),
])
def test_each_reason_is_given_by_what_it_names(changes, reason):
    assert objection(replace(USUAL, **changes), asdict(USUAL), 4) == reason


def test_dull_scanner_is_no_reason_to_leave_all_of_it_out():
    dull = replace(USUAL, sharpness=0.1, detail=0.05, weakest=0.45, correlation=0.5)
    assert objection(dull, asdict(dull), 4) is None
