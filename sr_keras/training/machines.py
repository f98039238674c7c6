# SPDX-License-Identifier: Apache-2.0
"""Machines that train together: which they are, whether they fit together, and what happens when one is lost.

TF_CONFIG names the workers, as for any program of TensorFlow:

    {"cluster": {"worker": ["host-a:4000", "host-b:4000"]}, "task": {"type": "worker", "index": 0}}

Before TensorFlow starts, each worker calls worker 0 at its address and says its versions and flags. Worker 0 compares
them, answers, and frees the port for TensorFlow. The connections stay open: the end of one is how a lost worker is
noticed, at once if its process died, after `SILENT_SECONDS` if its machine did. TensorFlow alone would wait in a sum
of gradients, or end in a page of its own messages. Then every worker ends with one line and exit status 2.

Neither these connections nor TensorFlow's are encrypted or ask for a password: use a network that you trust.
"""
from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec

from pipelines.console import USER_ERRORS, one_line
from pipelines.errors import UserError
from sr_keras import __version__
from sr_keras.training.run_folder import MAY_CHANGE

EXAMPLE = '{"cluster": {"worker": ["host-a:4000", "host-b:4000"]}, "task": {"type": "worker", "index": 0}}'
COMPARED = ("tensorflow", "keras", "numpy")
SILENT_SECONDS = 30  # until a machine that no longer answers counts as lost
HELLO_SECONDS = 5.0  # for one attempt to connect, and for a caller to say who it is
GRACE_SECONDS = 2.0  # for this worker to end with the error that another ended with
LOST_ERRORS = ("AbortedError", "DeadlineExceededError", "UnavailableError")  # of TensorFlow, if a worker is too slow
LARGEST_HELLO = 2**20  # bytes
DONE = "done"


@dataclass(frozen=True)
class Team:
    """The workers of a run and which of them this process is; worker 0 writes the run folder."""

    addresses: tuple[str, ...] = ("localhost:0",)
    index: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is worker 0."""
        return self.index == 0


class _Task(msgspec.Struct):
    type: str
    index: int


class _Config(msgspec.Struct):
    cluster: dict[str, list[str]]
    task: _Task


class _Hello(msgspec.Struct):
    """What a worker says of itself."""

    index: int
    versions: dict[str, str]
    flags: dict[str, str]


class _Answer(msgspec.Struct):
    """What worker 0 answers: why the workers don't fit together, or nothing."""

    refused: str


def read_team(text: str | None) -> Team:
    """Return the workers that TF_CONFIG names. A "chief" is worker 0.

    Raises:
        ValueError: It is not JSON, names no worker, or names another kind of task; an address is malformed or comes
            twice; the index is that of no worker.
    """
    try:
        config = msgspec.json.decode(text or "", type=_Config, strict=False)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _refused("be JSON that names the workers", f"{error}: {text[:200]!r}" if text else "nothing") from error
    cluster, task = config.cluster, config.task
    if unknown := sorted((cluster.keys() | {task.type}) - {"chief", "worker"}):
        raise _refused("hold no other tasks than worker and chief", ", ".join(unknown))
    addresses = (*cluster.get("chief", []), *cluster.get("worker", []))
    if not addresses:
        raise _refused("name at least one worker", repr(text))
    for address in addresses:
        found = re.fullmatch(r"(?:[^\s:/]+|\[[\da-fA-F:.]+\]):(\d{1,5})", address)
        if not found or not 0 < int(found[1]) < 2**16 or addresses.count(address) > 1:
            raise _refused("give each worker a HOST:PORT of its own", address)
    if not 0 <= task.index < len(cluster.get(task.type, [])):
        raise _refused("give this worker's place in the list, from 0", f"{task.type} {task.index}")
    return Team(addresses, task.index + (len(cluster.get("chief", [])) if task.type == "worker" else 0))


def _refused(rule: str, received: str) -> ValueError:
    return ValueError(f"`TF_CONFIG` must {rule}; set, for example, TF_CONFIG='{EXAMPLE}'. Received: {received}")


@contextmanager
def joined(team: Team, flags: str, wait_s: float) -> Iterator[Callable[[], None]]:
    """Meet the other workers, and end this process with one line when one of them stops before the block ends.

    Args:
        team: The workers.
        flags: All flags, one a line; those that change no weight may differ.
        wait_s: Seconds to wait for workers that do not answer.

    Yields:
        A function to call when TensorFlow has met the other workers too; if it isn't in `wait_s`, this process ends.

    Raises:
        UserError: A worker does not answer, or no longer in time, or has other versions or flags; a port is taken.
    """
    if len(team.addresses) == 1:
        yield lambda: None
        return
    hello = _Hello(team.index, {"sr_keras": __version__, **{name: version(name) for name in COMPARED}}, {
        name: value for name, _, value in (line.partition("=") for line in flags.splitlines())
        if name.removeprefix("--") not in MAY_CHANGE})
    end = time.monotonic() + wait_s
    connections = _await_all(team, hello, end) if team.leads else {0: _call(team, hello, end, wait_s)}
    over = threading.Event()
    for index in connections:
        threading.Thread(target=_watch, args=(team, index, connections, over), daemon=True).start()
    limit = threading.Timer(wait_s, _end, (connections, "TensorFlow of all workers must answer within --worker_wait_s "
                                           f"seconds; let all reach the ports of TF_CONFIG: {team.addresses}"))
    limit.daemon = True
    limit.start()
    said = DONE
    try:
        yield limit.cancel
    except BaseException as error:
        if not isinstance(error, (*USER_ERRORS, KeyboardInterrupt, SystemExit)):
            # Perhaps TensorFlow's complaint of a lost worker, which `_watch` is about to name.
            time.sleep(SILENT_SECONDS + HELLO_SECONDS)
        said = f"{_name(team, team.index)} has stopped: {one_line(error)}"
        if type(error).__name__ in LOST_ERRORS:
            raise UserError("all workers must answer TensorFlow until the end; start each again with --resume to "
                            f"continue from the last epoch. Received: {one_line(error)[:300]}") from error
        raise
    finally:
        limit.cancel()
        over.set()
        _tell(connections, said)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder, which is removed also when a lost worker ends this process."""
    with tempfile.TemporaryDirectory(prefix="sr_keras-") as folder:
        _SCRATCH.append(folder)
        yield Path(folder)


_SCRATCH: list[str] = []
_ENDING = threading.Lock()


def _await_all(team: Team, hello: _Hello, end: float) -> dict[int, socket.socket]:
    """Be worker 0: wait for the others, compare them with this one, and answer them all."""
    found: dict[int, tuple[socket.socket, _Hello]] = {}
    with _listening(team) as server:
        while missing := sorted(set(range(1, len(team.addresses))) - set(found)):
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                _tell({i: one for i, (one, _) in found.items()}, _encoded(why := _silent(team, missing)))
                raise UserError(why) from None
            try:
                other = msgspec.json.decode(_line(connection, HELLO_SECONDS), type=_Hello)
            except (OSError, msgspec.MsgspecError):  # something else that looks for open ports
                connection.close()
                continue
            if other.index in range(1, len(team.addresses)):
                found[other.index] = connection, other
    refused = next(filter(None, (_difference(hello, other) for _, other in found.values())), "")
    connections = {index: connection for index, (connection, _) in found.items()}
    _tell(connections, _encoded(refused))
    if refused:
        raise UserError(refused)
    return connections


def _call(team: Team, hello: _Hello, end: float, wait_s: float) -> socket.socket:
    """Be another worker: call worker 0 until it answers."""
    _listening(team).close()  # TensorFlow needs the port
    host, _, port = team.addresses[0].rpartition(":")
    while True:
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), HELLO_SECONDS)
            connection.sendall(msgspec.json.encode(hello) + b"\n")
            answer = msgspec.json.decode(_line(connection, wait_s + HELLO_SECONDS), type=_Answer)
            break
        except (OSError, msgspec.MsgspecError) as error:  # not there yet, or something else is
            if time.monotonic() > end:
                raise UserError(f"{_silent(team, [0])} ({one_line(error)})") from error
            time.sleep(0.2)
    if answer.refused:
        raise UserError(answer.refused)
    return connection


def _listening(team: Team) -> socket.socket:
    port = int(team.addresses[team.index].rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(f"`TF_CONFIG` must give this worker a free port; end what uses it, or choose another. "
                        f"Received: {team.addresses[team.index]} ({one_line(error)})") from error


def _line(connection: socket.socket, timeout: float | None) -> bytes:
    """Return what is sent until a line ends or the connection is closed."""
    connection.settimeout(timeout)
    held = bytearray()
    while not held.endswith(b"\n") and len(held) < LARGEST_HELLO:
        if not (more := connection.recv(1)):  # not a byte of the next line
            break
        held += more
    return bytes(held)


def _encoded(refused: str) -> str:
    return msgspec.json.encode(_Answer(refused)).decode()


def _silent(team: Team, missing: list[int]) -> str:
    who = ", ".join(_name(team, index) for index in missing)
    return f"all workers must answer within --worker_wait_s seconds; start them, or correct TF_CONFIG. Received: no " \
           f"answer from {who}"


def _name(team: Team, index: int) -> str:
    return f"worker {index} at {team.addresses[index]}"


def _difference(ours: _Hello, theirs: _Hello) -> str:
    """Return in what two workers differ that must be the same; empty if in nothing."""
    for what, remedy in (("versions", "install the same on every machine"), ("flags", "start each with the same")):
        here, there = getattr(ours, what), getattr(theirs, what)
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                return (f"all workers must have the same {what}; {remedy}. Received: {name} is "
                        f"{here.get(name, 'not given')} on worker 0 and {there.get(name, 'not given')} on worker "
                        f"{theirs.index}")
    return ""


def _watch(team: Team, index: int, connections: dict[int, socket.socket], over: threading.Event) -> None:
    """Wait until a worker is done; if it stops before, tell the others and end this process."""
    connection = connections[index]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", SILENT_SECONDS // 3), ("TCP_KEEPINTVL", SILENT_SECONDS // 6),
                          ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    said = ""
    with suppress(OSError):
        said = _line(connection, None).decode(errors="replace").strip()
    if said == DONE or over.wait(GRACE_SECONDS if said else 0):  # this worker may be about to say the same
        return
    _end(connections, said or f"{_name(team, index)} was lost: its process or its machine has died")


def _end(connections: dict[int, socket.socket], why: str) -> None:
    """Tell the other workers why, and end this process; its main thread may wait in TensorFlow for ever."""
    _ENDING.acquire()  # for ever: one thread ends it
    _tell(connections, why)
    for folder in _SCRATCH:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nerror: {why}; all workers stop. Start each again with --resume to continue from the last epoch",
          file=sys.stderr, flush=True)
    os._exit(2)


def _tell(connections: dict[int, socket.socket], text: str) -> None:
    for connection in connections.values():
        with suppress(OSError):
            connection.sendall(f"{text}\n".encode(errors="backslashreplace"))
