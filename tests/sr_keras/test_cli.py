# SPDX-License-Identifier: Apache-2.0
"""The command sr-keras finds its subcommands and the shipped files by name."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sr_keras import __version__, cli, shipped_model

ROOT = Path(__file__).parents[2]


def test_every_subcommand_names_a_module_that_exists():
    for module, _ in cli.COMMANDS.values():
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_command_lists_its_subcommands_states_its_version_and_refuses_others(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sr-keras", "--help"])
    assert cli.main() == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in cli.COMMANDS)
    monkeypatch.setattr(sys, "argv", ["sr-keras", "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"sr-keras {__version__}\n"
    monkeypatch.setattr(sys, "argv", ["sr-keras", "sharpen"])
    assert cli.main() == 2
    assert "no subcommand 'sharpen'" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "found"), [
    ("--flagfile=quick.flags", ROOT / "sr_keras" / "flagfiles" / "quick.flags"),
    ("--model=srgan_sqe_x4_light", shipped_model("srgan_sqe_x4_light")),
    ("--generator=saved_models/srgan_sqe_x4", shipped_model("srgan_sqe_x4")),
])
def test_command_finds_shipped_files_by_name_and_passes_all_else_on(given, found, monkeypatch, tmp_path):
    seen = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.runpy, "run_module", lambda module, **_: seen.update(module=module, argv=sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["sr-keras", "train", given, "--mpp=0.5", "--model=runs/mine", "--resume"])
    cli.main()
    first, *others = seen["argv"]
    assert first == f"{given.partition('=')[0]}={found}"
    assert (seen["module"], others) == ("sr_keras.train", ["--mpp=0.5", "--model=runs/mine", "--resume"])


def test_own_file_wins_over_a_shipped_one_of_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.flags").touch()
    assert cli._shipped("--flagfile=quick.flags") == "--flagfile=quick.flags"


def test_misspelt_flag_file_lists_the_shipped_ones(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sr-keras", "train", "--flagfile=quik.flags"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "quick.flags" in capsys.readouterr().err
    assert cli._shipped("--flagfile=mine/quik.flags") == "--flagfile=mine/quik.flags"
