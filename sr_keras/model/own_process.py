# SPDX-License-Identifier: Apache-2.0
"""Call a function in a process of its own, because converters and TensorFlow give no memory back.

It is not a process of `multiprocessing`, which would run the script of the user again if that has no
`if __name__ == "__main__":`.
"""
from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from pipelines.errors import UserError

# What it prints goes to stderr, since stdout has the outcome.
CODE = """
import importlib, os, pickle, sys
answer = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
from pipelines import console
console.quiet_tensorflow()
console.import_tensorflow()
module, name, arguments = pickle.load(sys.stdin.buffer)
try:
    outcome = getattr(importlib.import_module(module), name)(*arguments)
except Exception as error:
    outcome = error
answer.write(pickle.dumps(outcome))
answer.close()
"""


def call_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of a module returns, or raise what it raises.

    Raises:
        UserError: The process died.
    """
    call = pickle.dumps((function.__module__, function.__name__, arguments))
    done = subprocess.run([sys.executable, "-c", CODE], input=call, stdout=subprocess.PIPE, check=False,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    if done.returncode:
        raise UserError(f"{function.__name__} must end by itself; read the lines above. "
                        f"Received: status {done.returncode}")
    outcome = pickle.loads(done.stdout)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
