# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pipelines.workers import Died, available_memory, cores, run_jobs


def double(number, report):
    report(number)
    return 2 * number


def die_on_three(number, report):
    report(1)
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_once(path, report):
    report(1)
    if not Path(path).exists():
        Path(path).touch()
        os._exit(7)
    return "survived"


def touch_when_stopped(path, report):
    if path.endswith("quick"):
        return
    try:
        while True:
            report(1)
            time.sleep(0.01)
    finally:
        Path(path).write_text("cleaned up")


def fail_on_two(number, report):
    if number == 2:
        raise ValueError("two")
    return number


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_is_done_and_reported(processes):
    counted = []
    outcomes = dict(run_jobs(double, range(5), processes, counted.append))
    assert outcomes == {number: 2 * number for number in range(5)}
    assert sum(counted) == 10


def test_a_dying_process_costs_its_own_job_alone():
    counted = []
    outcomes = dict(run_jobs(die_on_three, range(6), 2, counted.append))
    assert outcomes.pop(3) == Died(-signal.SIGKILL)
    assert outcomes == {0: 0, 1: 1, 2: 2, 4: 4, 5: 5}
    assert sum(counted) == 6  # what the first attempt had reported was taken back


def test_a_job_whose_process_died_is_tried_again(tmp_path):
    assert list(run_jobs(die_once, [str(tmp_path / "tried")], 2, lambda count: None)) == [
        (str(tmp_path / "tried"), "survived")]


def test_jobs_that_are_not_wanted_any_more_stop_and_clean_up(tmp_path):
    paths = [str(tmp_path / name) for name in ("quick", "slow")]
    outcomes = run_jobs(touch_when_stopped, paths, 2, lambda count: None)
    assert next(outcomes) == (paths[0], None)
    outcomes.close()
    assert Path(paths[1]).read_text() == "cleaned up"


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_a_job_reaches_the_caller(processes):
    with pytest.raises(ValueError, match="two"):
        list(run_jobs(fail_on_two, range(4), processes, lambda count: None))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="wants a system that lets a process have some cores")
def test_cores_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores() == len(allowed)


def test_cores_are_all_where_a_system_does_not_say_which_may_be_used(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores() == os.cpu_count()


def test_available_memory_is_that_of_a_computer():
    assert 2**26 < available_memory() < 2**46
