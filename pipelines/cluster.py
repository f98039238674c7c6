# SPDX-License-Identifier: Apache-2.0
"""Run jobs on the machines of a Ray cluster, any of which may be lost without losing the others.

    with Cluster("auto") as cluster:
        for job, outcome in cluster.run_jobs(work, jobs, report):
            ...

`run_together` runs one job on all workers at once, which is lost with any of them.

`run_jobs` works like that of `pipelines.workers`: each job ends once, with an outcome or a `Died`. Workers are Ray
actors, one per GPU, or per `CPUS` cores if the cluster has no GPU. A worker keeps what a job loaded (a model) for the
next. Machines that join are used. If one is lost, its job runs again on another; a job that kills its workers is given
up after `ATTEMPTS`.

Why not Ray's own retries: a retried actor call waits for its own actor, for ever if the machine does not come back, and
Ray restarts the process of a GPU task after each task, so that every job would load the model again.

Every machine needs this code and the current folder under the same path, on storage that all share. Run the command on
one of them. Needs the extra `cluster`. Ray itself prints a message when a machine dies.
"""
from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipelines.console import import_optional, one_line
from pipelines.errors import UserError, require
from pipelines.workers import Died, Report, Work

AUTO = "auto"
CPUS = 4  # of a worker without a GPU: TensorFlow uses so many threads with little loss
ATTEMPTS = 4
LOOK_SECONDS = 1.0  # between checks of which machines there are
# Wait before the job of a lost worker runs again: processes of a machine whose Ray died live on for half a second, and
# two processes must not write one file.
GRACE_SECONDS = 3.0
ANSWER_SECONDS = 5.0
START_SECONDS = 300.0  # for all workers of jobs that run together; the cores may be taken by others
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # send nothing about a user's slides
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the default of later versions; avoids a notice
}


@dataclass
class _Lane:
    """A worker. `future` is that of its start, then that of its job; None if it is idle."""

    actor: Any
    future: Any
    node: str | None = None
    job: tuple[Any, int] | None = None


_Waiting = deque[tuple[Any, int]]  # jobs and their attempts


class Cluster:
    """A connection to a Ray cluster and its workers; use it as a context manager."""

    def __init__(self, address: str, gpu: bool = False, cpus: int = 1, most: int | None = None) -> None:
        """Connect.

        Args:
            address: "auto" for the cluster of this machine, or a local one if it has none; or HOST:PORT.
            gpu: Whether jobs compute on a GPU. If the cluster has GPUs, each worker has one.
            cpus: Most cores of a worker without a GPU; fewer on smaller machines.
            most: Most workers at a time; by default as many as there is room for.

        Raises:
            UserError: Ray is not installed, or the cluster has no core.
            ValueError: The address is malformed.
            ConnectionError: There is no cluster at the address.
        """
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._ray = import_optional("ray", "cluster")
        _connect(self._ray, address)
        self._lanes: list[_Lane] = []
        self._failed_starts = 0
        self._most = most
        self.needs = needs(self._machines(), gpu, cpus)
        if not self.workers:
            self._ray.shutdown()
            raise UserError(f"`ray` must be a cluster with a free core; start one. Received: ray={address!r}")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        for lane in list(self._lanes):
            self._drop(lane)
        self._ray.shutdown()

    @property
    def workers(self) -> int:
        """How many workers there is room for on the machines that are there now."""
        room = sum(room_on(machine, self.needs) for machine in self._machines())
        return room if self._most is None else min(room, self._most)

    @property
    def threads(self) -> int | None:
        """How many threads a worker may compute with; None if it has a GPU."""
        return None if "GPU" in self.needs else int(self.needs["CPU"])

    @staticmethod
    def leave_gpus() -> None:
        """Keep this process from taking a GPU that a worker needs. Call it before TensorFlow starts."""
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

    def run_jobs(self, work: Work, jobs: Iterable[Any], report: Report) -> Iterator[tuple[Any, Any]]:
        """Do what `pipelines.workers.run_jobs` does; `report` is called when a job has ended, with the sum.

        `work` must be a function of a module that is installed on every machine, or a `partial` of one.

        Raises:
            UserError: No worker can be started.
        """
        waiting: _Waiting = deque((job, 1) for job in jobs)
        try:
            self._feed(work, waiting)
            while waiting or any(lane.job for lane in self._lanes):
                ended = self._ended(waiting, report)
                self._feed(work, waiting)  # before the caller handles what ended
                yield from ended
        finally:
            for lane in [lane for lane in self._lanes if lane.job]:
                self._drop(lane)

    def run_together(self, work: Work, jobs_of: Callable[[list[str]], list[Any]],
                     meanwhile: Callable[[], None]) -> None:
        """Run one job on every worker at the same time; they must end all when one does.

        Args:
            work: As in `run_jobs`.
            jobs_of: HOST:PORT of each worker, with a port that is free there -> the job of each.
            meanwhile: Called every second or so.

        Raises:
            UserError: A worker was lost, or not all could start.
            Exception: The exception of `work`.
        """
        self._feed(work, deque())
        told, lost = list[Exception](), list[Exception]()
        try:
            starts = [lane.future for lane in self._lanes]
            if self._ray.wait(starts, num_returns=len(starts), timeout=START_SECONDS)[1]:
                raise UserError(f"all {len(starts)} workers must start within {START_SECONDS:g} s; wait until other "
                                "jobs have left the cluster")
            self._ray.get(starts)
            places = self._ray.get([lane.actor.place.remote() for lane in self._lanes])
            waiting = [lane.actor.run.remote(work, job)
                       for lane, job in zip(self._lanes, jobs_of(places), strict=True)]
            while waiting:
                ended, waiting = self._ray.wait(waiting, timeout=LOOK_SECONDS)
                meanwhile()
                for future in ended:
                    try:
                        self._ray.get(future)
                    except self._ray.exceptions.RayTaskError as error:
                        told.append(error.cause or error)
                    except self._ray.exceptions.RayError as error:
                        lost.append(error)
        except self._ray.exceptions.RayError as error:
            lost.append(error)
        finally:
            for lane in list(self._lanes):
                self._drop(lane)
        if told:
            raise told[0]  # those of the others follow from it
        if lost:
            raise UserError(f"all workers must stay alive; resume when the cluster is well again. Received: "
                            f"{one_line(lost[0])[:300]}") from lost[0]

    def _feed(self, work: Work, waiting: _Waiting) -> None:
        """Start workers where there is room, and give a job to each idle one."""
        for _ in range(self.workers - len(self._lanes)):
            actor = self._ray.remote(_Worker).options(num_cpus=self.needs["CPU"], num_gpus=self.needs.get("GPU", 0),
                                                      max_restarts=0).remote()
            self._lanes.append(_Lane(actor, actor.start.remote(os.getcwd())))
        for lane in self._lanes:
            if lane.future is None and waiting:
                lane.job = waiting.popleft()
                lane.future = lane.actor.run.remote(work, lane.job[0])

    def _ended(self, waiting: _Waiting, report: Report) -> list[tuple[Any, Any]]:
        """Wait a while, and return the jobs that ended with their outcomes; put back those of lost workers."""
        futures = [lane.future for lane in self._lanes if lane.future is not None]
        if not futures:  # the last machine is lost; another may join
            time.sleep(LOOK_SECONDS)
            return []
        ready = self._ray.wait(futures, num_returns=1, timeout=LOOK_SECONDS)[0]
        found, before = [], len(self._lanes)
        for lane in [lane for lane in self._lanes if lane.future in ready]:
            try:
                answer = self._ray.get(lane.future)
            except self._ray.exceptions.RayTaskError as error:
                lane.future = lane.job = None
                raise error.cause or error from error
            except self._ray.exceptions.RayError as error:
                self._drop(lane)
                found += self._lost(lane, error, waiting)
                continue
            if lane.job is None:  # it has started
                lane.node, self._failed_starts = answer, 0
            else:
                outcome, reported = answer
                report(reported)
                found.append((lane.job[0], outcome))
            lane.future = lane.job = None
        if len(self._lanes) < before:
            time.sleep(GRACE_SECONDS)
        return found

    def _lost(self, lane: _Lane, error: Exception, waiting: _Waiting) -> list[tuple[Any, Any]]:
        """Put the job of a lost worker back; return it with its outcome if it is given up."""
        if lane.job is None:
            if "node has died" in str(error):  # a lost machine, and no fault of the code
                return []
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS:
                raise UserError("a worker must be able to start; install the same version of this code on every "
                                f"machine. Received: {one_line(error)}") from error
            return []
        job, attempt = lane.job
        if attempt == ATTEMPTS:
            return [(job, Died(None, ATTEMPTS))]
        waiting.appendleft((job, attempt + 1))
        names = {node["NodeID"]: node["NodeManagerHostname"] for node in self._ray.nodes()}
        print(f"\na worker was lost on {names.get(lane.node, 'a machine')}: its job runs again", file=sys.stderr)
        return []

    def _drop(self, lane: _Lane) -> None:
        """End a worker: Ray gives up some that are only disconnected, and these must not go on."""
        with suppress(Exception):
            self._ray.kill(lane.actor)
        self._lanes.remove(lane)

    def _machines(self) -> list[Mapping[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]


def needs(machines: Sequence[Mapping[str, float]], gpu: bool, cpus: int) -> dict[str, float]:
    """Return what a worker needs, by Ray's names: a GPU, or at most `cpus` cores that every machine has."""
    if gpu and any(machine.get("GPU", 0) >= 1 for machine in machines):
        return {"CPU": 1, "GPU": 1}
    return {"CPU": max(1, min([cpus, *(int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1)]))}


def room_on(machine: Mapping[str, float], needed: Mapping[str, float]) -> int:
    """Return how many workers a machine has room for."""
    return min(int(machine.get(name, 0) // amount) for name, amount in needed.items())


class _Worker:
    """The actor: runs in a worker's process."""

    def start(self, folder: str) -> str:
        """Change to the command's folder, and return the id of this node."""
        ray = import_optional("ray", "cluster")
        os.environ["TQDM_DISABLE"] = "1"  # nobody sees it
        try:
            os.chdir(folder)
        except OSError as error:
            raise UserError("the current folder must exist on every machine; run the command in a folder on "
                            f"shared storage. Received: {socket.gethostname()}: {one_line(error)}") from error
        return ray.get_runtime_context().get_node_id()

    def place(self) -> str:
        """Return HOST:PORT of this machine, with a port that is free now."""
        host = import_optional("ray", "cluster").util.get_node_ip_address()
        with socket.create_server(("", 0)) as server:
            return f"{host}:{server.getsockname()[1]}"

    def run(self, work: Work, job: Any) -> tuple[Any, int]:
        """Do a job; return its outcome and the sum of what it reported."""
        counts: list[int] = []
        return work(job, counts.append), sum(counts)


def _connect(ray: Any, address: str) -> None:
    host, _, port = address.rpartition(":")
    require(address == AUTO or (bool(host) and port.isdecimal() and "/" not in host), "ray",
            "be auto, or the HOST:PORT of a cluster", "ray start --head prints it", address)
    if address != AUTO:
        try:  # Ray would wait for ever
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"`ray` must be the address of a running cluster; start it by ray start --head "
                                  f"--port={port}. Received: ray={address!r} ({one_line(error)})") from error
    try:
        ray.init(address=None if address == AUTO else address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError("`ray` must be a cluster that this machine belongs to; run the command on one of its "
                              f"machines. Received: ray={address!r} ({one_line(error)})") from error
