# SPDX-License-Identifier: Apache-2.0
"""Options check themselves; a message names the flag, the rule, the hint and the value."""
from __future__ import annotations

from dataclasses import dataclass
from math import inf, nan

import pytest

from pipelines.options import BELOW_1, FINITE, ORDERED, SEED, SHARE, WHOLE, Options, Range, option, within


@dataclass(frozen=True)
class Example(Options):
    share: float | None = option(None, "Share", "0.5 is half", SHARE, flag="its_share")
    decay: float = option(0.9, "Decay", "", BELOW_1)
    size: float = option(1.0, "Size", "1 is usual", FINITE)
    sides: tuple[str, ...] = option(("lr",), "Sides", "write lr,hr", choices=("lr", "hr"), several=True)
    shape: str | None = option(None, "Shape", "leave it out", choices=("disc", "airy"))
    span: float | Range = option(1.0, "Range", "write LOW,HIGH", ORDERED, within(0, 9), WHOLE)  # noqa: RUF009
    seed: int = option(0, "Seed", "0 is the default", SEED)


def test_defaults_and_values_at_the_ends_are_taken():
    Example()
    Example(share=0.0, decay=0.0, span=(0, 9), sides=("hr", "lr"), shape="airy", seed=2**63 - 1)
    Example(share=1.0, span=9)


@pytest.mark.parametrize(("values", "message"), [
    ({"share": 1.5}, "`its_share` must lie in [0, 1]; 0.5 is half. Received: its_share=1.5"),
    ({"share": nan}, "`its_share` must lie in [0, 1]; 0.5 is half. Received: its_share=nan"),
    ({"decay": 1}, "`decay` must lie in [0, 1); the default is 0.9. Received: decay=1"),
    ({"size": inf}, "`size` must be positive and finite; 1 is usual. Received: size=inf"),
    ({"sides": ()}, "`sides` must name some of ('lr', 'hr'); write lr,hr. Received: sides=()"),
    ({"shape": "box"}, "`shape` must be one of ('disc', 'airy'); leave it out. Received: shape='box'"),
    ({"span": (2, 1)}, "`span` must have its low end first; write LOW,HIGH. Received: span=(2, 1)"),
    ({"span": (1, 10)}, "`span` must lie in 0 to 9; write LOW,HIGH. Received: span=(1, 10)"),
    ({"span": 1.5}, "`span` must be whole numbers; write LOW,HIGH. Received: span=1.5"),
])
def test_wrong_value_is_refused_in_one_form_of_words(values, message):
    with pytest.raises(ValueError) as caught:
        Example(**values)
    assert str(caught.value) == message
