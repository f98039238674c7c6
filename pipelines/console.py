# SPDX-License-Identifier: Apache-2.0
"""What every entry point shares: parse the command line, run, and print a user's mistake in one line.

Each entry point has its own `flags.FlagValues`, so two of them can be imported in one process:

    FLAGS = flags_of(ExportOptions)    # of dataclasses; see `pipelines.options`

    def main() -> int | None: ...

    if __name__ == "__main__":
        sys.exit(run(main, FLAGS, __doc__))

Exit status: 0 done, 1 done in part (returned by `main`), 2 a user's mistake, 130 interrupted.
"""
from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from pipelines.errors import UserError
from pipelines.files import cache_home
from pipelines.names import escaped, visible
from pipelines.options import GROUPS

# Errors that a user can cause; any other is a bug and keeps its traceback. (A bare RuntimeError comes from Keras.)
USER_ERRORS = (ValueError, OSError, UserError, flags.Error)
MOST_NAMED = 12  # files in one line
LARGEST_FLAGFILE = 2**20  # bytes
MOST_FLAGFILES = 64  # read for one command, each as often as it is included
INTERRUPTED = 130  # exit status


def run(main: Callable[[], int | None], flag_values: flags.FlagValues, description: str | None) -> int:
    """Parse `sys.argv` into `flag_values`, call `main`, and return the exit status.

    `--help` prints `description` and the flags; `--traceback` shows where an error came from.
    """
    forgive_output()
    quiet_tensorflow()
    flags.DEFINE_boolean("help", False, "Show this help.", short_name="h", flag_values=flag_values)
    flags.DEFINE_boolean("traceback", False, "Show where an error came from.", flag_values=flag_values)
    # absl reads this flag before it parses; it is defined so that --help lists it.
    flags.DEFINE_string("flagfile", None, "File with one flag per line; flags given after it override it.",
                        flag_values=flag_values)
    try:
        parse(sys.argv, flag_values)
        if flag_values.help:
            print(f"{(description or '').strip()}\n\n{_help(flag_values)}")
            return 0
        return main() or 0
    except USER_ERRORS as error:
        if flag_values.is_parsed() and flag_values.traceback:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resume = "; the same command with --resume continues" if "resume" in flag_values else ""
        print(f"\ninterrupted: finished work is kept{resume}", file=sys.stderr)
        return INTERRUPTED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class _Forgiving:
    """A text stream that drops what it can't write: the reader is gone, the disk is full, or it was never open.

    It escapes what a terminal would obey, for names of files may hold that.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        with self._forgiven():
            self._stream.write(visible(text))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        with self._forgiven():
            self._stream.flush()

    @contextlib.contextmanager
    def _forgiven(self) -> Any:
        try:
            yield
        except OSError:  # from here on to nowhere, also for native code and for what is still buffered
            with contextlib.suppress(OSError, ValueError):
                _to_nowhere(self._stream.fileno())


def forgive_output() -> None:
    """Let no message end the program: what stdout and stderr can't take is dropped or escaped."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if isinstance(stream, _Forgiving):
            continue
        if stream is None:  # closed by whoever started the program
            try:
                os.fstat(number)
            except OSError:  # or the next file that is opened would take its number, and native code's messages
                _to_nowhere(number)
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for as long as the program runs
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _Forgiving(stream))


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == number:
        os.set_inheritable(nowhere, True)
    else:
        os.dup2(nowhere, number)
        os.close(nowhere)


def quiet_tensorflow() -> None:
    """Let Keras use TensorFlow, which logs errors only, in this process and those it starts. Call it before importing.

    TensorFlow 2.21 still writes lines about oneDNN and CUDA while it is imported; see `import_tensorflow`.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"  # the only one that these models have
    if not os.path.isabs(os.path.expanduser("~")):  # of a user without a home Keras would create a folder named ~
        os.environ.setdefault("KERAS_HOME", str(cache_home() / "keras"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def import_tensorflow() -> None:
    """Import TensorFlow in a program without the lines that no variable turns off.

    Programs call it before their first import of a module that needs TensorFlow. What goes to stderr during this one
    import is held back, and shown if the import fails.
    """
    if "tensorflow" in sys.modules:
        return
    try:
        stderr = os.dup(2)
    except OSError:  # stderr is closed: nothing can be written there
        importlib.import_module("tensorflow")
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def parse(argv: list[str], flag_values: flags.FlagValues) -> None:
    """Parse `argv`, whose first entry is the program, including `--flagfile`. All arguments must be flags."""
    try:
        _bound_flagfiles(flag_values)
        rest = flag_values(argv)[1:]
    except (flags.CantOpenFlagFileError, UnicodeDecodeError) as error:
        given = " ".join(argument for argument in argv if argument.lstrip("-").startswith("flagfile"))
        reason = one_line(error.__context__ or error)  # the system's error, without absl's text around it
        named = Path(given.rpartition("=")[2])
        beside = sorted(path.name for path in named.parent.glob("*.flags") if path.name != named.name)
        others = f", perhaps one of {', '.join(beside[:MOST_NAMED])}" if beside else ""
        raise ValueError(f"`flagfile` must be a text file with one flag per line; name another file{others} ({reason})."
                         f" Received: {given}") from error
    if rest:
        raise ValueError(f"arguments must be flags; write --name=value. Received: {' '.join(rest)!r}")


def _bound_flagfiles(flag_values: flags.FlagValues) -> None:
    """Refuse flag files that are no files, are too large, or include each other too often; absl has no bounds."""
    read_lines, count = flag_values._get_flag_file_lines, 0

    def bounded(filename: str, parsed_file_stack: list[str] | None = None) -> list[str]:
        nonlocal count
        count += 1
        path = Path(filename)
        if path.exists() and not path.is_dir() and (not path.is_file() or path.stat().st_size > LARGEST_FLAGFILE):
            raise ValueError(f"`flagfile` must be a text file of at most {LARGEST_FLAGFILE // 2**20} MiB; name another "
                             f"file. Received: {filename}")
        if count > MOST_FLAGFILES or filename in (parsed_file_stack or []):
            raise ValueError(f"`flagfile` must not include itself, nor read more than {MOST_FLAGFILES} files in all; "
                             f"remove --flagfile lines from it. Received: {filename}")
        return read_lines(filename, parsed_file_stack)

    flag_values.__dict__["_get_flag_file_lines"] = bounded


def one_line(error: BaseException) -> str:
    """Return an error as one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def import_optional(package: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        UserError: It is not installed; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"`{package}` must be installed; run pip install '.[{extra}]'. Received: {error}") from error


def resolved(flag_values: flags.FlagValues) -> str:
    """Return every flag with its value, one per line, sorted. As a `--flagfile` this text repeats the run."""
    own = ("help", "traceback", "flagfile", "undefok", "resume")
    lines = [flag_values[name].serialize() for name in sorted(flag_values)
             if name not in own and name == flag_values[name].name]
    return escaped("".join(f"{line}\n" for line in lines if line))


def _help(flag_values: flags.FlagValues) -> str:
    """Return the flags by group. A flag of no group is a basic one."""
    grouped: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in flag_values:
        flag, group = flag_values[name], flag_values.find_module_defining_flag(name, "")
        if name == flag.name:
            default = "" if flag.default is None else f" (default: {flag.default_as_str})"
            grouped[group if group in GROUPS else "basic"].append(f"  --{name}: {flag.help}{default}")
    return "\n\n".join("\n".join([f"{group}:", *sorted(lines)]) for group, lines in grouped.items() if lines)
