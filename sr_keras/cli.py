# SPDX-License-Identifier: Apache-2.0
"""The command `sr-keras`: every program of this package under one name.

    sr-keras super-resolve --input=image.png --output=image_x4.png
    sr-keras train --flagfile=quick.flags --train_data=my_slides --mpp=0.5 --run=runs/mine
    sr-keras SUBCOMMAND --help

Shipped files are found by name from any folder: --flagfile=quick.flags, --model=srgan_sqe_x4_light.

A subcommand runs the module of the same name: `sr-keras train` is `python -m sr_keras.train`.
"""
from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

from pipelines.console import forgive_output
from sr_keras import __version__, shipped_flagfile, shipped_model

COMMANDS = {
    "super-resolve": ("sr_keras.super_resolve", "enlarge pictures and whole slides"),
    "view": ("sr_keras.view", "look at slides in a browser, super-resolved where you look"),
    "train": ("sr_keras.train", "train a model on your slides"),
    "evaluate": ("sr_keras.evaluate", "score a model beside bicubic interpolation"),
    "export": ("sr_keras.export", "write a trained model as SavedModel, LiteRT, ONNX or TensorRT"),
    "uncertainty": ("sr_keras.uncertainty", "train a head that predicts the error of each pixel"),
    "client": ("sr_keras.client", "enlarge pictures by a model on a server"),
    "extract": ("pipelines.extract", "cut slides into patches and store them as TFRecord"),
    "preview": ("pipelines.preview", "draw what the training data will look like"),
    "register": ("pipelines.register", "align two scans of the same glass, for real pairs of LR and HR"),
    "demo": ("sr_keras.demo", "train, score and export a small model on a sample slide"),
}
SHIPPED: dict[str, Callable[[str], Path]] = {"--flagfile": shipped_flagfile, "--model": shipped_model,
                                             "--generator": shipped_model}


def main() -> int:
    """Run the subcommand that `sys.argv` names, or print the list of them.

    Returns:
        The exit status: 0, or 2 where there is no such subcommand. A subcommand ends the process with its own.
    """
    forgive_output()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"sr-keras {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: there is no subcommand {name!r}; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"sr-keras {name}", *(_shipped(argument) for argument in arguments)]
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    return 0


def usage() -> str:
    """Return the help text."""
    lines = [f"  {name:15}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join([(__doc__ or "").partition("\n\nA subcommand")[0], "", "Subcommands:", *lines, "",
                      "  --version      print the version"])


def _shipped(argument: str) -> str:
    """Return `--flag=PATH` with the path of a shipped file where PATH does not exist but names one.

    A flag file without a folder that exists nowhere is looked for there too, so that the error lists the shipped ones.
    """
    flag, _, name = argument.partition("=")
    if not name or flag not in SHIPPED or Path(name).exists():
        return argument
    found = SHIPPED[flag](Path(name).name)
    return f"{flag}={found}" if found.exists() or (flag == "--flagfile" and Path(name).name == name) else argument


if __name__ == "__main__":
    sys.exit(main())
