# SPDX-License-Identifier: Apache-2.0
"""Workers meet or say in one line why not, and none is left alone when another stops."""
from __future__ import annotations

import json
import socket
import subprocess
import time

import pytest

from sr_keras.training.machines import Team, joined, read_team

from .conftest import free_addresses

WORKER = """
import sys, time
from pipelines import console
from sr_keras.training import machines

def main():
    with machines.joined(machines.Team(tuple({addresses!r}), {index}), {flags!r}, {wait_s}) as all_answered:
        {then}

sys.argv = sys.argv[:1]
sys.exit(console.run(main, console.flags.FlagValues(), ""))
"""
WAITS = "all_answered(); print('met', flush=True); time.sleep(60)"


def team_of(cluster: object, index: object = 0, kind: str = "worker") -> Team:
    return read_team(json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))


@pytest.fixture
def start(start_python):
    """Start a worker in a process of its own, since a lost one ends it."""
    def begin(addresses: list[str], index: int, then: str = "all_answered()", flags: str = "--q=0.5\n",
              wait_s: float = 60.0, before: str = "") -> subprocess.Popen:
        code = before + WORKER.format(addresses=addresses, index=index, flags=flags, wait_s=wait_s, then=then)
        return start_python("-c", code)

    return begin


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Return the exit status and what was said on stderr."""
    error = process.communicate(timeout=60)[1]
    return process.returncode, error


def refused(process: subprocess.Popen) -> str:
    """Return the one line of a worker that ended with status 2."""
    status, said = ended(process)
    assert status == 2, said
    (line,) = said.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_workers_are_those_of_tf_config_and_the_chief_leads():
    assert team_of({"worker": ["a:1", "[::1]:2"]}, 1) == Team(("a:1", "[::1]:2"), 1)
    assert team_of({"worker": ["a:1"], "chief": ["b:2"]}, "0") == Team(("b:2", "a:1"), 1)
    assert team_of({"worker": ["a:1"], "chief": ["b:2"]}, 0, "chief").leads


@pytest.mark.parametrize(("text", "says"), [
    (None, "Received: nothing"),
    ("{'cluster': ", "JSON is malformed"),
    ("[" * 100_000, "Received: "),
    ("[]", "Expected `object`, got `array`"),
    ('{"task": {"type": "worker", "index": 0}}', "missing required field `cluster`"),
    ('{"cluster": {"worker": ["a:1"]}}', "missing required field `task`"),
    ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "Expected `array`, got `str`"),
])
def test_tf_config_that_is_none_is_refused_with_an_example(text, says):
    with pytest.raises(ValueError, match="`TF_CONFIG` must be JSON that names the workers; set, for example") as info:
        read_team(text)
    assert says in str(info.value)
    assert len(str(info.value)) < 700


@pytest.mark.parametrize(("cluster", "index", "kind", "says"), [
    ({}, 0, "worker", "name at least one worker"),
    ({"worker": []}, 0, "worker", "name at least one worker"),
    ({"worker": ["a:1"], "ps": ["b:1"]}, 0, "worker", "hold no other tasks .* Received: ps"),
    ({"worker": ["a:1"]}, 0, "evaluator", "hold no other tasks .* Received: evaluator"),
    ({"worker": ["a:1", "a"]}, 0, "worker", "give each worker a HOST:PORT of its own.* Received: a$"),
    ({"worker": ["a:99999"]}, 0, "worker", "give each worker a HOST:PORT of its own.* Received: a:99999$"),
    ({"worker": ["a:1", "a:1"]}, 0, "worker", "give each worker a HOST:PORT of its own.* Received: a:1$"),
    ({"worker": ["a:1"]}, 1, "worker", "give this worker's place in the list.* Received: worker 1$"),
    ({"worker": ["a:1"]}, -1, "worker", "give this worker's place in the list"),
    ({"worker": ["a:1"]}, 0, "chief", "give this worker's place in the list"),
])
def test_cluster_that_cannot_be_is_refused(cluster, index, kind, says):
    with pytest.raises(ValueError, match=f"`TF_CONFIG` must {says}"):
        team_of(cluster, index, kind)


def test_three_workers_meet_in_any_order_and_end_well(start):
    addresses = free_addresses(3)
    started = [start(addresses, index) for index in (2, 0, 1)]
    assert [ended(one) for one in started] == [(0, "")] * 3


def test_one_worker_needs_nobody():
    with joined(Team(), "", 0.1) as all_answered:
        all_answered()


@pytest.mark.parametrize(("index", "missing"), [(0, "worker 1 at {1}, worker 2 at {2}"), (2, "worker 0 at {0}")])
def test_workers_that_do_not_answer_are_named_after_the_time_limit(start, index, missing):
    addresses = free_addresses(3)
    began = time.monotonic()
    line = refused(start(addresses, index, wait_s=1.0))
    assert "all workers must answer within --worker_wait_s seconds" in line
    assert missing.format(*addresses) in line
    assert time.monotonic() - began < 30


def test_worker_whose_tensorflow_does_not_answer_ends_all_after_the_time_limit(start):
    addresses = free_addresses(2)
    for worker in [start(addresses, index, "time.sleep(60)", wait_s=6.0) for index in (0, 1)]:
        assert "TensorFlow of all workers must answer within --worker_wait_s seconds" in refused(worker)


def test_versions_and_flags_that_differ_are_named_on_every_worker(start):
    addresses = free_addresses(2)
    older = "import importlib.metadata as m; true = m.version\n" \
            "m.version = lambda name: '2.20.0' if name == 'tensorflow' else true(name)\n"
    for line in [refused(one) for one in (start(addresses, 0), start(addresses, 1, before=older))]:
        assert "all workers must have the same versions; install the same on every machine" in line
        assert "Received: tensorflow is " in line
        assert "on worker 0 and 2.20.0 on worker 1" in line
    for line in [refused(one) for one in (start(addresses, 0), start(addresses, 1, flags="--q=2\n--workers=7\n"))]:
        assert "all workers must have the same flags" in line
        assert "--q is 0.5 on worker 0 and 2 on worker 1" in line


def test_folder_and_processes_may_differ(start):
    addresses = free_addresses(2)
    started = [start(addresses, index, flags=f"--run=/mnt/{index}\n--workers={index}\n") for index in (0, 1)]
    assert [ended(one) for one in started] == [(0, "")] * 2


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_killed_worker_ends_all_others_at_once_and_is_named(start, lost):
    addresses = free_addresses(3)
    started = [start(addresses, index, WAITS) for index in range(3)]
    assert all(one.stdout.readline() == "met\n" for one in started)
    began = time.monotonic()
    started[lost].kill()
    for index in {0, 1, 2} - {lost}:
        assert f"worker {lost} at {addresses[lost]} was lost" in refused(started[index])
    assert time.monotonic() - began < 20


def test_worker_that_stops_with_an_error_tells_it_to_the_others(start):
    addresses = free_addresses(3)
    stops = "all_answered(); time.sleep(1); raise ValueError('the disk is full')"
    started = [start(addresses, index, stops if index == 1 else WAITS) for index in range(3)]
    assert refused(started[1]) == "error: the disk is full"
    for index in (0, 2):
        assert f"worker 1 at {addresses[1]} has stopped: the disk is full; all workers stop" in refused(started[index])


def test_worker_that_is_too_slow_for_tensorflow_is_told_in_one_line(start):
    addresses = free_addresses(2)
    fails = "all_answered(); raise type('UnavailableError', (Exception,), {})('tasks are unhealthy:\\n task:1')"
    patient = "from sr_keras.training import machines; machines.SILENT_SECONDS = 6\n"
    started = [start(addresses, index, then, before=patient) for index, then in enumerate((fails, WAITS))]
    assert "all workers must answer TensorFlow until the end; start each again with --resume" in refused(started[0])
    assert f"worker 0 at {addresses[0]} has stopped: tasks are unhealthy" in refused(started[1])


def test_what_knocks_and_is_no_worker_disturbs_nobody(start):
    addresses = free_addresses(2)
    first = start(addresses, 0)
    port = int(addresses[0].rpartition(":")[2])
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"", b'{"index": 9, "versions": {}, "flags": {}}\n'):
        for _ in range(200):
            try:
                with socket.create_connection(("localhost", port), 1) as knocking:
                    knocking.sendall(said)
                break
            except OSError:
                time.sleep(0.1)
    assert [ended(one) for one in (first, start(addresses, 1))] == [(0, "")] * 2


@pytest.mark.parametrize("index", [0, 1])
def test_port_that_is_taken_is_named(start, index):
    addresses = free_addresses(2)
    with socket.create_server(("", int(addresses[index].rpartition(":")[2]))):
        assert "must give this worker a free port" in (line := refused(start(addresses, index, wait_s=5.0)))
    assert addresses[index] in line


def test_temporary_folder_is_removed_when_a_lost_worker_ends_the_process(start, tmp_path):
    addresses = free_addresses(2)
    scratch = f"tempfile.tempdir = {str(tmp_path)!r}; keep = machines.scratch_folder(); keep.__enter__(); {WAITS}"
    kept, lost = start(addresses, 0, f"import tempfile; {scratch}"), start(addresses, 1, WAITS)
    assert kept.stdout.readline() == lost.stdout.readline() == "met\n"
    assert len(list(tmp_path.iterdir())) == 1
    lost.kill()
    refused(kept)
    assert not list(tmp_path.iterdir())
