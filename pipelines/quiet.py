"""Import TensorFlow without its chatter: a user reads our words, not its start-up lines.

TensorFlow 2.21 writes lines about CUDA to stderr while it is imported, which no log level turns off. So stderr is held
back during that one import, whoever asks for it, and shown where the import fails. Of its log, errors are shown.
"""
from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def install() -> None:
    """Arrange it for this process, once; does nothing where TensorFlow has been imported already."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules and not any(isinstance(finder, _Quietly) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Quietly())


class _Quietly(MetaPathFinder):
    """Finds TensorFlow where it is, steps aside, and runs its import with stderr held back."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _held_back(execute, module)  # type: ignore[method-assign]
        return spec


def _held_back(execute: Any, module: ModuleType) -> None:
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            execute(module)
            module.get_logger().setLevel("ERROR")
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
