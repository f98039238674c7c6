# SPDX-License-Identifier: Apache-2.0
"""Jobs on a cluster of two machines, of which one is lost in the middle: nothing is lost, and nothing comes twice."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from pipelines import cluster as module
from pipelines.cluster import Cluster, needs, room_on
from pipelines.config import PatchOptions
from pipelines.errors import UserError
from pipelines.patches import find_sources
from pipelines.workers import Died

ROOT = Path(__file__).parents[2]
OPTIONS = PatchOptions(patch_size=64, stride=32, min_tissue=0.0)


def note_and_double(job, report):
    number, folder = job
    (folder / f"{number}-{time.monotonic_ns()}").touch()
    time.sleep(0.3)
    report(number)
    return 2 * number


def die_on_three(number, report):
    report(1)
    if number == 3:
        os._exit(7)
    return number


def fail_on_two(number, report):
    if number == 2:
        raise ValueError("two")
    return number


def say_gpu(number, report):
    time.sleep(0.3)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def say_process(number, report):
    return os.getpid()


def meet(job, report):
    """End when the workers of all places have come."""
    folder, place, places = job
    (folder / place).touch()
    while not all((folder / one).exists() for one in places):
        time.sleep(0.05)


def die_second(job, report):
    if job:
        os._exit(7)
    time.sleep(2)


def ignore(count):
    pass


def test_lost_machine_loses_no_job_and_none_comes_twice(two_machines, tmp_path, capfd):
    counted, jobs, outcomes, lost = [], [(number, tmp_path) for number in range(20)], [], False
    with Cluster(two_machines.address) as cluster:
        assert cluster.workers == 2
        for job, outcome in cluster.run_jobs(note_and_double, jobs, counted.append):
            outcomes.append((job, outcome))
            if not lost and two_machines.is_busy(cluster):
                two_machines.lose()
                lost = True
    assert lost
    assert sorted(outcomes) == [(job, 2 * job[0]) for job in jobs]
    assert sum(counted) == sum(range(20))  # what the lost worker had done is not counted twice
    begun = Counter(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert len(begun) == 20
    assert sum(begun.values()) <= 21  # only what was being done was done again
    said = capfd.readouterr()
    assert said.err.count("a worker was lost on") == 1
    assert len(said.err.strip().splitlines()) == 1


def test_job_that_kills_its_worker_is_given_up_alone(two_machines, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.0)
    with Cluster(two_machines.address) as cluster:
        outcomes = dict(cluster.run_jobs(die_on_three, range(5), ignore))
    assert outcomes.pop(3) == Died(None, 2)
    assert outcomes == {0: 0, 1: 1, 2: 2, 4: 4}


def test_error_in_a_job_reaches_the_caller_and_workers_live_on_from_run_to_run(two_machines):
    with Cluster(two_machines.address, most=1) as cluster:
        (_, first), (_, second) = cluster.run_jobs(say_process, range(2), ignore)
        assert [first] == [process for _, process in cluster.run_jobs(say_process, [7], ignore)] == [second]
        with pytest.raises(ValueError, match="two"):
            list(cluster.run_jobs(fail_on_two, range(4), ignore))


def test_jobs_that_run_together_all_run_at_once_and_know_the_place_of_each(two_machines, tmp_path):
    looked = []
    with Cluster(two_machines.address) as cluster:
        cluster.run_together(meet, lambda places: [(tmp_path, place, places) for place in places],
                             lambda: looked.append(1))
    found = [path.name.rpartition(":") for path in tmp_path.iterdir()]
    assert len(found) == len({port for *_, port in found}) == 2
    assert all(host and 0 < int(port) < 2**16 for host, _, port in found)
    assert looked


def test_error_or_death_of_a_job_that_runs_with_others_reaches_the_caller(two_machines):
    with Cluster(two_machines.address) as cluster:
        with pytest.raises(ValueError, match="two"):
            cluster.run_together(fail_on_two, lambda places: [1, 2], lambda: None)
        with pytest.raises(UserError, match="all workers must stay alive; resume when the cluster is well again"):
            cluster.run_together(die_second, lambda places: [0, 1], lambda: None)


def test_jobs_that_run_together_do_not_wait_for_ever_for_a_machine_that_others_use(two_machines, monkeypatch):
    monkeypatch.setattr(module, "START_SECONDS", 5.0)
    with Cluster(two_machines.address, most=1) as cluster:
        list(cluster.run_jobs(say_process, [0], ignore))  # a worker that stays
        cluster._most = None
        other = cluster._lanes.pop()
        with pytest.raises(UserError, match="all 2 workers must start within 5 s; wait until other jobs have left"):
            cluster.run_together(say_process, lambda places: [0, 1], lambda: None)
        cluster._lanes.append(other)


def test_each_gpu_has_a_worker_of_its_own(ray_machines, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # a run on CPUs before, in this process, hides all
    ray_machines.complete()
    ray_machines.lose()
    ray_machines.complete(num_cpus=2, num_gpus=2)
    try:
        with Cluster(ray_machines.address, gpu=True) as cluster:
            assert (cluster.workers, cluster.threads) == (2, None)
            assert {gpu for _, gpu in cluster.run_jobs(say_gpu, range(8), ignore)} == {"0", "1"}
    finally:
        ray_machines.lose()


@pytest.mark.slow
def test_extraction_with_a_machine_lost_gives_the_shards_of_one_process(two_machines, sample_slide, tmp_path):
    from pipelines.shards import write_shards  # workers import this file, and TensorFlow takes its time

    (tmp_path / "data").mkdir()
    for name in "abcd":
        shutil.copy(sample_slide, tmp_path / "data" / f"{name}.tif")
    sources = find_sources(tmp_path / "data")
    lost = []

    class Losing(Cluster):
        def run_jobs(self, work, jobs, report):
            for ended in super().run_jobs(work, jobs, report):
                if not lost and two_machines.is_busy(self):
                    two_machines.lose()
                    lost.append(ended)
                yield ended

    with Losing(two_machines.address) as cluster:
        report = write_shards(sources, tmp_path / "spread", OPTIONS, progress=False, cluster=cluster)
    straight = write_shards(sources, tmp_path / "straight", OPTIONS, workers=1, progress=False)
    assert lost
    assert report == straight
    assert ({path.name: path.read_bytes() for path in (tmp_path / "spread").iterdir()}
            == {path.name: path.read_bytes() for path in (tmp_path / "straight").iterdir()})


def extract(*arguments):
    return subprocess.run([sys.executable, "-m", "pipelines.extract", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, timeout=240, check=False)


def test_extract_says_on_a_cluster_what_it_says_without(two_machines, tile_folder, tmp_path):
    flags = (f"--data={tile_folder}", f"--output={tmp_path / 'shards'}", "--patch_size=128", "--min_tissue=0")
    done = extract(*flags, f"--ray={two_machines.address}")
    assert done.returncode == 0, done.stderr
    assert "16 patches of 2 slides" in done.stdout
    ours = [line for line in done.stdout.splitlines() if "raylet" not in line]  # Ray says when a machine died
    assert len(ours) == 2
    assert all("slide" in line for line in done.stderr.replace("\r", "\n").split("\n") if line)  # the bar's


@pytest.mark.parametrize(("machines", "gpu", "cpus", "needed", "rooms"), [
    ([{"CPU": 16}, {"CPU": 6}], False, 4, {"CPU": 4}, [4, 1]),
    ([{"CPU": 1}, {"CPU": 16}, {}], False, 4, {"CPU": 1}, [1, 16, 0]),
    ([{"CPU": 16}, {"CPU": 8, "GPU": 2}], True, 4, {"CPU": 1, "GPU": 1}, [0, 2]),
    ([{"CPU": 16}, {"CPU": 8, "GPU": 2}], False, 1, {"CPU": 1}, [16, 8]),
    ([{"CPU": 8}], True, 4, {"CPU": 4}, [2]),
])
def test_workers_follow_gpus_where_there_are_any_and_cores_elsewhere(machines, gpu, cpus, needed, rooms):
    assert needs(machines, gpu, cpus) == needed
    assert [room_on(machine, needed) for machine in machines] == rooms


@pytest.mark.parametrize("address", ["", "nonsense", "ray://host:10001", "host:"])
def test_what_is_no_address_is_refused(address):
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match="`ray` must be auto, or the HOST:PORT"):
        Cluster(address)


def test_address_where_nobody_answers_is_told_at_once():
    pytest.importorskip("ray")
    with pytest.raises(ConnectionError, match="`ray` must be the address of a running cluster"):
        Cluster("127.0.0.1:9")


def test_missing_ray_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"`ray` must be installed; run pip install '.\[cluster\]'"):
        Cluster("auto")


def test_ray_is_not_imported_unasked():
    code = "import sys, pipelines.extract, pipelines.shards, sr_keras.super_resolve; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
