# SPDX-License-Identifier: Apache-2.0
"""The methods that are compared: what runs them, and whose they are."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BICUBIC, OURS = "bicubic", "srgan_sqe_x4"
SCALE = 4
THICK_FILE = "esrgan-thick.tflite"  # in the work folder; see `benchmarks.peers.esrgan_thick`


class Method(NamedTuple):
    """A method.

    Attributes:
        name: In tables of numbers.
        label: In tables for people.
        runner: Module of this package.
        file: Argument of the runner, if it takes one; relative to the work folder or the repository.
        is_peer: Whether it runs in the environment of requirements.txt.
    """

    name: str
    label: str
    runner: str
    file: str = ""
    is_peer: bool = False

    def command(self, peers_python: Path, work: Path) -> list[str]:
        """Return how its runner is started, without the files or --time."""
        found = next((folder / self.file for folder in (work, ROOT) if (folder / self.file).is_file()), None)
        if self.file and found is None:
            raise FileNotFoundError(f"{self.label} needs a file that does not exist; see docs/peers.md. "
                                    f"Received: {self.file}")
        return [str(peers_python) if self.is_peer else sys.executable, "-m", f"benchmarks.peers.{self.runner}",
                *([str(found)] if self.file else [])]


METHODS = (
    Method(BICUBIC, "bicubic", "bicubic"),
    Method("real_esrgan", "Real-ESRGAN x4plus", "real_esrgan", is_peer=True),
    Method("dat_light", "DAT-light x4", "dat_light", is_peer=True),
    Method("esrgan_thick", "ESRGAN-thick x4", "litert", THICK_FILE),
    Method("srgan_sqe_x4_light", "ours, light", "litert", "saved_models/srgan_sqe_x4_light/6/litert/float32.tflite"),
    Method(OURS, "**ours**", "litert", "saved_models/srgan_sqe_x4/5/litert/float32.tflite"))
BY_NAME = {method.name: method for method in METHODS}
