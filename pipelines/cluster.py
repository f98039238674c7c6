"""Jobs run on the machines of a Ray cluster, any of which may be lost without taking the others along.

    with Cluster("auto") as cluster:
        for job, outcome in cluster.run_jobs(work, jobs, report):
            ...

`run_jobs` promises what `pipelines.workers.run_jobs` does, on more machines: each job ends once, as an outcome or as a
`Died`. Workers are Ray actors, one for each GPU, or for each `CPUS` cores where the cluster has no GPU. A worker lives
on, so that what a job loaded (a model) is there for the next. Machines that join are put to work. When one is lost, its
job runs again on another; a job that takes its worker along is given up after `ATTEMPTS`.

Every machine needs this code installed and the folder that the command was typed in, under one path: storage that all
of them share. The command is typed on one of the machines. Needs the extra `cluster`.
"""
from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple

from pipelines.console import import_optional, one_line
from pipelines.errors import UserError, require
from pipelines.workers import Died, Report, Work

AUTO = "auto"
CPUS = 4  # of a worker where there is no GPU: TensorFlow shares a window among so many threads with little loss
ATTEMPTS = 4
LOOK_SECONDS = 1.0  # between looks at which machines there are
# After a loss, before its job runs again: the processes of a machine whose Ray died live on for half a second, and two
# must not be at work on one file.
GRACE_SECONDS = 3.0
ANSWER_SECONDS = 5.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # of a user's slides nobody is told anything
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what a later Ray does anyway; it prints a notice else
}


class _Job(NamedTuple):
    what: Any
    attempt: int


class _Answer(NamedTuple):
    outcome: Any
    reported: int


@dataclass
class _Lane:
    """A worker: `future` is of its start until it has a `node`, then of its job; None where it has none."""

    actor: Any
    future: Any
    node: str | None = None
    job: _Job | None = None


class _Queue:
    """Jobs that are taken one by one; true while there is any."""

    def __init__(self, jobs: Iterable[Any]) -> None:
        self._jobs = (_Job(what, 1) for what in jobs)
        self._first: deque[_Job] = deque()

    def __bool__(self) -> bool:
        if not self._first:
            self._first.extend(islice(self._jobs, 1))
        return bool(self._first)

    def pop(self) -> _Job:
        return self._first.popleft()

    def put_back(self, job: _Job) -> None:
        self._first.append(_Job(job.what, job.attempt + 1))


class Cluster:
    """A connection to a Ray cluster, and its workers; use it as a context manager."""

    def __init__(self, address: str, gpu: bool = False, cpus: int = 1, most: int | None = None) -> None:
        """Connect.

        Args:
            address: "auto" for the cluster that runs on this machine, or one of its own where none does; HOST:PORT.
            gpu: Whether jobs compute on a GPU. Where the cluster has any, each worker has one to itself.
            cpus: Cores of a worker that has no GPU, at most; fewer on machines of fewer.
            most: Workers at a time; as many as there is room for if left out.

        Raises:
            UserError: Ray is not installed, or the cluster has no core.
            ValueError: It is no address.
            ConnectionError: Nobody answers there.
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for lane in list(self._lanes):
            self._drop(lane)
        self._ray.shutdown()

    @property
    def workers(self) -> int:
        """How many workers there is room for, on the machines that are there now."""
        room = sum(room_on(machine, self.needs) for machine in self._machines())
        return room if self._most is None else min(room, self._most)

    @property
    def threads(self) -> int | None:
        """How many threads a worker may compute with; None where a GPU does it."""
        return None if "GPU" in self.needs else int(self.needs["CPU"])

    @staticmethod
    def leave_gpus() -> None:
        """Keep this process, which only hands out, from taking a GPU that a worker needs; before TensorFlow starts."""
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

    def run_jobs(self, work: Work, jobs: Iterable[Any], report: Report) -> Iterator[tuple[Any, Any]]:
        """Yield (job, what `work(job, report)` returned, or a `Died`) in the order in which the jobs end.

        Args:
            work: A function of a module that is installed on every machine, or a `partial` of one.
            jobs: Picklable; taken as workers become free.
            report: Gets what `work` reported, when its job has ended.

        Raises:
            Exception: What `work` raised; jobs that have not ended by then are stopped.
            UserError: No worker can be started.
        """
        queue = _Queue(jobs)
        try:
            self._feed(work, queue)
            while queue or any(lane.job for lane in self._lanes):
                ended = self._ended(queue, report)
                self._feed(work, queue)  # whoever gets what ended may take his time
                yield from ended
        finally:
            for lane in [lane for lane in self._lanes if lane.job]:
                self._drop(lane)

    def _feed(self, work: Work, queue: _Queue) -> None:
        """Start workers on what room there is, and give those that have started and are free a job."""
        for _ in range(self.workers - len(self._lanes)):  # those that must wait for room hold no job meanwhile
            actor = self._ray.remote(_Worker).options(num_cpus=self.needs["CPU"], num_gpus=self.needs.get("GPU", 0),
                                                      max_restarts=0).remote()
            self._lanes.append(_Lane(actor, actor.start.remote(os.getcwd())))
        for lane in self._lanes:
            if lane.future is None and queue:
                lane.job = queue.pop()
                lane.future = lane.actor.run.remote(work, lane.job.what)

    def _ended(self, queue: _Queue, report: Report) -> list[tuple[Any, Any]]:
        """Wait a while, and return the jobs that ended with their outcomes; those whose worker was lost go back."""
        futures = [lane.future for lane in self._lanes if lane.future is not None]
        if not futures:  # the last machine is gone; another may come
            time.sleep(LOOK_SECONDS)
            return []
        ready = self._ray.wait(futures, num_returns=1, timeout=LOOK_SECONDS)[0]
        found, lanes = [], list(self._lanes)
        for lane in [lane for lane in lanes if lane.future in ready]:
            job = lane.job
            answer = self._answer(lane)
            if answer is not None and job:
                report(answer.reported)
                found.append((job.what, answer.outcome))
            elif job and job.attempt < ATTEMPTS:
                queue.put_back(job)
            elif job:
                found.append((job.what, Died(None, ATTEMPTS)))
        if len(self._lanes) < len(lanes):
            time.sleep(GRACE_SECONDS)
        return found

    def _answer(self, lane: _Lane) -> Any:
        """Return what a worker returned; None where it is lost, and dropped."""
        errors, starting = self._ray.exceptions, lane.node is None
        try:
            answer = self._ray.get(lane.future)
        except errors.RayTaskError as error:
            lane.job = None
            raise error.cause or error from error
        except errors.RayError as error:
            self._drop(lane)
            if starting:
                self._failed_starts += 1
                if self._failed_starts >= ATTEMPTS:
                    raise UserError("a worker must be able to start; install the same version of this code on every "
                                    f"machine. Received: {one_line(error)}") from error
            elif lane.job:
                print(f"\na worker was lost on {self._name_of(lane.node)}: its work runs again", file=sys.stderr)
            return None
        lane.future = lane.job = None
        if starting:
            lane.node, self._failed_starts = answer, 0
        return answer

    def _drop(self, lane: _Lane) -> None:
        """End a worker, if it has not ended: Ray gives up some that are only cut off, and they must not go on."""
        with suppress(Exception):
            self._ray.kill(lane.actor)
        self._lanes.remove(lane)

    def _name_of(self, node: str | None) -> str:
        return next((at["NodeManagerHostname"] for at in self._ray.nodes() if at["NodeID"] == node), "a machine")

    def _machines(self) -> list[Mapping[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]


def needs(machines: Sequence[Mapping[str, float]], gpu: bool, cpus: int) -> dict[str, float]:
    """Return what a worker needs of a machine, by Ray's names.

    Args:
        machines: What each has.
        gpu: Whether a GPU is of use.
        cpus: Cores of a worker without one, at most.
    """
    if gpu and any(machine.get("GPU", 0) >= 1 for machine in machines):
        return {"CPU": 1, "GPU": 1}
    return {"CPU": max(1, min([cpus, *(int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1)]))}


def room_on(machine: Mapping[str, float], needed: Mapping[str, float]) -> int:
    """Return how many workers a machine has room for."""
    return min(int(machine.get(name, 0) // amount) for name, amount in needed.items())


class _Worker:
    """What runs in a worker's process."""

    def start(self, folder: str) -> str:
        """Go where the command was typed, and return the id of the node that this is."""
        ray = import_optional("ray", "cluster")
        os.environ["TQDM_DISABLE"] = "1"  # nobody looks
        try:
            os.chdir(folder)
        except OSError as error:
            raise UserError("the folder that the command is typed in must be there on every machine; take one on "
                            f"shared storage. Received: {socket.gethostname()}: {one_line(error)}") from error
        return ray.get_runtime_context().get_node_id()

    def run(self, work: Work, job: Any) -> _Answer:
        """Do a job; return what came of it and the sum of what it reported."""
        counts: list[int] = []
        return _Answer(work(job, counts.append), sum(counts))


def _connect(ray: Any, address: str) -> None:
    host, _, port = address.rpartition(":")
    require(address == AUTO or (bool(host) and port.isdecimal() and "/" not in host), "ray",
            "be auto, or the HOST:PORT of a cluster", "ray start --head says it", address)
    if address != AUTO:
        try:  # Ray itself waits for ever
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ConnectionError(f"`ray` must be the address of a running cluster; start it by ray start --head "
                                  f"--port={port}. Received: ray={address!r} ({one_line(error)})") from error
    # Whatever level of logging is asked for, Ray prints the log of every machine that dies; nothing of it is for users.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        ray.init(address=None if address == AUTO else address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError("`ray` must be a cluster that this machine belongs to; type the command on one of its "
                              f"machines. Received: ray={address!r} ({one_line(error)})") from error
