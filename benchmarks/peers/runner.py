# SPDX-License-Identifier: Apache-2.0
"""What the runners of the peers share. It needs NumPy alone, because it runs in the environments of the peers too.

    python -m benchmarks.peers.RUNNER [FILE] LR.npz SR.npz      super-resolve every array of LR.npz, under its name
    python -m benchmarks.peers.RUNNER [FILE] --time             time one tile, once for each line that comes in

A runner is a module with a function that opens the peer, to compute with one thread. LR and SR are uint8 [h, w, 3]
RGB. --time computes on one core: the first line that it prints is JSON of weight_bytes, file_bytes and runtime, and
then, for each line that it reads, the seconds of a tile, its CPU seconds, and the largest memory of the process in
bytes.
"""
from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

SIDE = 64  # of the tile that is timed, in LR pixels


class Peer(NamedTuple):
    """A model that is ready.

    Attributes:
        run: lr uint8 [h, w, 3] RGB -> sr uint8 [4*h, 4*w, 3].
        weight_bytes: What its weights take as float32.
        file_bytes: Size of the files that are shipped.
        runtime: What computes, with its version.
    """

    run: Callable[[np.ndarray], np.ndarray]
    weight_bytes: int
    file_bytes: int
    runtime: str


def main(open_peer: Callable[..., Peer]) -> None:
    """Do what the command line says; `open_peer` gets FILE if it is given."""
    *file, first, last = [*sys.argv[1:], ""] if sys.argv[-1] == "--time" else sys.argv[1:]
    if first == "--time":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        _answer(open_peer(*file))
        return
    peer = open_peer(*file)
    with np.load(first) as patches:
        sr = {name: peer.run(patches[name]) for name in patches.files}
    np.savez(last, **sr)  # type: ignore[arg-type]


def rounded(sr: np.ndarray) -> np.ndarray:
    """Return float [h, w, 3] in [0, 1] as uint8, clipped and rounded."""
    return np.round(255 * np.clip(sr, 0, 1)).astype(np.uint8)


def _answer(peer: Peer) -> None:
    lr = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    peer.run(lr)
    _say(json.dumps({"weight_bytes": peer.weight_bytes, "file_bytes": peer.file_bytes, "runtime": peer.runtime}))
    for _ in sys.stdin:
        began, cpu_began = time.perf_counter(), time.process_time()
        peer.run(lr)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
        _say(f"{seconds} {cpu_seconds} {peak}")


def _say(line: str) -> None:
    print(line, flush=True)
