# SPDX-License-Identifier: Apache-2.0
"""A load test counts what was answered, what failed, and how long it took."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from benchmarks import serving
from sr_keras.client import ServerError
from sr_keras.formats.saved_model import export_saved_model
from sr_keras.networks import generator

pytestmark = pytest.mark.server


@pytest.fixture
def run(run_program) -> Callable[..., int]:
    return partial(run_program, serving)


@pytest.mark.slow
def test_stub_serves_a_model_that_is_loaded(run, randomised, tmp_path, capsys):
    export_saved_model(randomised(generator(scale=4, blocks=1, filters=4)), tmp_path / "tiny")
    assert run(f"--models={tmp_path}", "--model_name=tiny", "--clients=1,3", "--seconds=0.5", "--tile=16") == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [int(row[0]) for row in rows] == [1, 3]
    for row in rows:
        clients, answered, failed, rate, p50, p99, mpixels = map(float, row)
        assert answered >= clients
        assert failed == 0
        assert rate * 0.5 <= answered <= rate * 10  # half a second, and what was under way
        assert 0 <= p50 <= p99
        assert mpixels == pytest.approx(rate * 64**2 / 1e6, abs=0.01 + rate * 1e-4)


def test_row_is_what_was_measured():
    latencies = tuple(np.linspace(0.001, 0.1, 100))
    row = serving.Load(2, 4.0, latencies, ("gone",)).row(1_000_000)
    assert row == f"| 2 | 100 | 1 | 25.0 | {np.percentile(latencies, 50) * 1e3:.0f} | " \
                  f"{np.percentile(latencies, 99) * 1e3:.0f} | 25.00 |"
    assert "| 0 | 1 | 0.0 | nan | nan |" in serving.Load(2, 4.0, (), ("gone",)).row(16)


@pytest.mark.parametrize("clients", ["", "0", "-1", "x", "1,257"])
def test_numbers_of_clients_that_cannot_be_are_refused(run, clients):
    with pytest.raises(ValueError, match="`clients` must be numbers from 1 to 256"):
        run(f"--clients={clients}")


def test_folder_without_the_model_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="`models` must hold the model srgan_sqe_x4_light"):
        run(f"--models={tmp_path}")


def test_server_that_is_not_there_is_an_error():
    with pytest.raises(ServerError):
        serving.measure("http://127.0.0.1:9", "demo", 2, 16, 0.1)
