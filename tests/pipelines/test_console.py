# SPDX-License-Identifier: Apache-2.0
"""A user's mistake is one line and status 2; ours keeps its traceback."""
from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from pipelines import console
from pipelines.config import PatchOptions
from pipelines.errors import SlideError, UserError
from pipelines.options import define


def entry(main, argv, monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_integer("size", 1, "A size.", flag_values=values)
    flags.DEFINE_float("q", None, "A name of one letter.", flag_values=values)
    monkeypatch.setattr("sys.argv", ["entry", *argv])
    return console.run(lambda: main(values), values, "What it does.")


def raising(error):
    def main(values):
        raise error
    return main


@pytest.mark.parametrize(("argv", "says"), [
    (["--sizes=1"], "Did you mean: size"),
    (["--size=big"], "--size=big"),
    (["loose"], "loose"),
    (["--flagfile=/no/such.flags"], "/no/such.flags"),
])
def test_run_answers_a_wrong_command_line_in_one_line(argv, says, monkeypatch, capsys):
    assert entry(lambda values: 0, argv, monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1


def test_messages_show_what_a_terminal_would_obey_and_keep_progress_bars(monkeypatch, capsys):
    def main(values):
        print("\ra\t\x1b[1;32m1/2\x1b[0m\x1b[A\b \u75c5")
        raise ValueError("b\u202egnp\x1b[2J.exe")

    assert entry(main, [], monkeypatch) == 2
    said = capsys.readouterr()
    assert said.out == "\ra\t\x1b[1;32m1/2\x1b[0m\x1b[A\b \u75c5\n"
    assert said.err == "error: b\\u202egnp\\x1b[2J.exe\n"


@pytest.mark.parametrize("content", [None, b"\x89PNG\r\n", "folder"])
def test_run_names_a_flagfile_that_cannot_be_read(content, tmp_path, monkeypatch, capsys):
    path = tmp_path / "my.flags"
    if content == "folder":
        path.mkdir()
    elif content:
        path.write_bytes(content)
    assert entry(lambda values: 0, [f"--flagfile={path}"], monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: `flagfile` must be a text file with one flag per line; name another file (")
    assert error.endswith(f"Received: --flagfile={path}\n")
    assert error.count("\n") == 1


def test_run_lists_the_flagfiles_beside_a_misspelt_one(tmp_path, monkeypatch, capsys):
    for name in ("paper.flags", "demo.flags", "notes.txt"):
        (tmp_path / name).write_text("")
    assert entry(lambda values: 0, [f"--flagfile={tmp_path / 'dmeo.flags'}"], monkeypatch) == 2
    assert "name another file, perhaps one of demo.flags, paper.flags (" in capsys.readouterr().err


def test_run_names_an_unknown_flag_of_a_flagfile(tmp_path, monkeypatch, capsys):
    (tmp_path / "my.flags").write_text("--size=3\n--colour=red\n")
    assert entry(lambda values: 0, [f"--flagfile={tmp_path / 'my.flags'}"], monkeypatch) == 2
    assert "colour" in capsys.readouterr().err


def test_run_says_which_file_met_a_full_disk(monkeypatch, capsys):
    full = OSError(errno.ENOSPC, "No space left on device", "run/model.keras")
    assert entry(raising(full), [], monkeypatch) == 2
    assert capsys.readouterr().err == "error: run/model.keras: No space left on device\n"


def test_run_says_what_a_user_must_decide_on_in_one_line(monkeypatch, capsys):
    for error in (UserError("lower the rate"), SlideError("a.svs: lower the rate")):
        assert entry(raising(error), [], monkeypatch) == 2
        assert capsys.readouterr().err == f"error: {error}\n"


def test_run_keeps_the_traceback_of_our_own_mistakes_and_of_any_where_asked(monkeypatch):
    for ours in (KeyError("ours"), RuntimeError("of a library that we call")):
        with pytest.raises(type(ours)):
            entry(raising(ours), [], monkeypatch)
    with pytest.raises(ValueError, match="theirs"):
        entry(raising(ValueError("theirs")), ["--traceback"], monkeypatch)


def test_run_returns_what_main_returns(monkeypatch, capsys):
    assert entry(lambda values: 1, [], monkeypatch) == 1
    assert entry(lambda values: None, [], monkeypatch) == 0
    assert entry(raising(KeyboardInterrupt()), [], monkeypatch) == 130


def test_help_shows_the_description_and_every_flag_with_its_default(monkeypatch, capsys):
    assert entry(lambda values: 1, ["--help"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "What it does." in shown
    assert "--size: A size. (default: '1')" in shown
    assert "--flagfile: " in shown


def test_help_lists_flags_by_group_and_the_basic_ones_first(monkeypatch, capsys):
    values = flags.FlagValues()
    flags.DEFINE_string("name", None, "A flag of no group.", flag_values=values)
    define(values, PatchOptions)
    monkeypatch.setattr("sys.argv", ["entry", "--help"])
    assert console.run(lambda: 1, values, "What it does.") == 0
    shown = capsys.readouterr().out
    places = [shown.index(text) for text in ("\nbasic:\n", "--name:", "\ndata:\n", "--mpp:", "\nexpert:\n", "--seed:")]
    assert places == sorted(places)
    assert "\nloss:\n" not in shown


def test_resolved_flags_given_back_as_a_flagfile_resolve_to_themselves(tmp_path, monkeypatch):
    seen = []
    assert entry(lambda values: seen.append(console.resolved(values)), ["--size=7", "--q=0.5"],
                 monkeypatch) == 0
    (tmp_path / "flags.txt").write_text(seen[0])
    assert entry(lambda values: seen.append(console.resolved(values)), [f"--flagfile={tmp_path / 'flags.txt'}"],
                 monkeypatch) == 0
    assert seen[0] == seen[1] == "--q=0.5\n--size=7\n"


def python(code: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment,
                         cwd=Path(__file__).parents[2])
    return ran.stdout


def test_importing_the_packages_has_no_effect_on_the_process():
    assert python("import os, sys; before = dict(os.environ), list(sys.meta_path); import pipelines, sr_keras; "
                  "print(before == (dict(os.environ), sys.meta_path), 'tensorflow' in sys.modules)") == "True False\n"


def test_run_lets_tensorflow_log_errors_only():
    assert python("import logging, os, sys; from absl import flags; from pipelines import console; sys.argv = ['x']; "
                  "console.run(lambda: print(os.environ['TF_CPP_MIN_LOG_LEVEL'], "
                  "logging.getLogger('tensorflow').level), flags.FlagValues(), '')") == "3 40\n"


def command(shell: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a program of two lines, `$PROGRAM`, in a shell."""
    code = ("import sys; from absl import flags; from pipelines import console; sys.argv = ['x']; "
            "sys.exit(console.run(lambda: [print(chr(0x142), chr(0xdcff)) for _ in range(100_000)] and "
            "print('done', file=open(sys.argv[0] + '.done', 'w')), flags.FlagValues(), ''))")
    return subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHON": sys.executable, "CODE": code.replace("['x']", "[sys.argv[1]]"),
                               **environment}, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("output", [">&-", "2>&-", ">&- 2>&-", "> /dev/full", "| head -1"])
def test_output_that_cannot_be_written_ends_no_program(output, tmp_path):
    ran = command(f'"$PYTHON" -c "$CODE" {tmp_path}/x {output}')
    assert ran.returncode == 0
    assert ran.stderr == ""
    assert (tmp_path / "x.done").read_text() == "done\n"


def test_closed_stderr_is_no_reason_to_fail_and_a_mistake_still_has_its_status():
    program = '"$PYTHON" -m pipelines.sample'
    assert command(f"{program} --help 2>&- >&-").returncode == 0
    assert command(f"{program} --output= 2>&-").returncode == 2
    assert command('"$PYTHON" -m sr_keras.cli --help > /dev/full').returncode == 0


def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path):
    for encoding, shown in (("latin-1", "\\u0142 \\udcff"), ("utf-8", "\u0142 \\udcff")):
        ran = command(f'"$PYTHON" -c "$CODE" {tmp_path}/x', PYTHONIOENCODING=encoding)
        assert ran.returncode == 0
        assert ran.stdout.splitlines()[0] == shown


def test_another_keras_backend_in_the_environment_is_not_used(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert python("import sys; from absl import flags; from pipelines import console; sys.argv = ['x']; "
                  "console.run(lambda: print(__import__('keras').backend.backend()), flags.FlagValues(), '')"
                  ) == "tensorflow\n"


def test_flagfiles_are_bounded_in_size_and_number(tmp_path, monkeypatch, capsys):
    for number in range(30):  # each twice the one before: 2**30 files in all
        (tmp_path / f"{number}").write_text(f"--flagfile={tmp_path / str(number + 1)}\n" * 2)
    (tmp_path / "30").write_text("--size=3\n")
    (tmp_path / "ring").write_text(f"--flagfile={tmp_path / 'ring'}\n")
    (tmp_path / "large").write_bytes(b"\n" * (2**20 + 1))
    for path, says in ((tmp_path / "0", "more than 64 files"), (tmp_path / "ring", "must not include itself"),
                       (tmp_path / "large", "at most 1 MiB"), ("/dev/zero", "at most 1 MiB")):
        assert entry(lambda values: 0, [f"--flagfile={path}"], monkeypatch) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
