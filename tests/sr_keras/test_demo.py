# SPDX-License-Identifier: Apache-2.0
"""The demo draws with the shipped model, runs commands that exist, and says whether the new model beats bicubic."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from PIL import Image

from pipelines import console
from sr_keras import demo
from sr_keras.config import data_options, define_train_flags, train_options

ROOT = Path(__file__).parents[2]
HEADER = "example_id,slide_id,method,psnr,ms_ssim,rrmse,qilv"
BICUBIC = "a,s,bicubic,26.0,0.90,0.070,0.20"


@pytest.mark.parametrize("own", [False, True])
def test_training_command_parses_into_options(own, tile_folder, monkeypatch):
    monkeypatch.chdir(demo.FLAGFILES.parents[1])
    data = str(tile_folder) if own else None
    values = flags.FlagValues()
    define_train_flags(values)
    console.parse(["train", *demo._training(data), "--run=runs/x", "--resume"], values)
    assert data_options(values).train_data == (data or "sample",)
    assert all(stage.epochs for stage in train_options(values).stages)
    assert (data_options(values).test_region is None) == own


@pytest.mark.parametrize(("slides", "each"), [(2, 500), (13, 384), (400, 12), (9000, 1)])
def test_own_slides_however_many_give_no_more_patches_than_fit_in_memory(slides, each, monkeypatch):
    monkeypatch.setattr("pipelines.sources.find_sources", lambda data: [None] * slides)
    values = flags.FlagValues()
    define_train_flags(values)
    console.parse(["train", *demo._training("my_slides"), "--run=runs/x"], values)
    assert values.max_patches == each
    assert slides * each <= max(slides, demo.PATCHES)


@pytest.mark.parametrize(("data", "name"), [
    (None, "demo"), ("a/slides", "demo-slides"), ("my slides", "demo-my-slides"), ("it's, ours", "demo-it-s-ours")])
def test_name_of_a_run_needs_no_quotes(data, name):
    assert demo._name(data) == name


def test_first_picture_is_by_the_shipped_model_and_needs_no_training(tmp_path):
    drawn = demo.draw_shipped(tmp_path / "first.png")
    with Image.open(drawn) as picture:
        assert min(picture.size) > 3 * 256  # LR, bicubic, SR and HR of 256 pixels in a row


def test_interrupt_says_one_line_and_waits_for_the_command(tmp_path):
    shared = "import sys, time\nfrom absl import flags\nfrom pipelines import console\nfrom sr_keras import demo\n"
    ends = "sys.exit(console.run(main, flags.FlagValues(), None))\n"
    (tmp_path / "sleeper.py").write_text(f"{shared}def main():\n    try:\n        print('asleep', flush=True)\n"
                                         f"        time.sleep(60)\n    finally:\n        time.sleep(0.5)\n"
                                         f"        print('tidy', flush=True)\n{ends}")
    (tmp_path / "parent.py").write_text(f"{shared}def main():\n    demo._run('sleeper')\n{ends}")
    with subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, text=True, start_new_session=True,
                          env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as started:  # as in a shell
        assert started.stdout is not None
        assert [started.stdout.readline() for _ in range(3)] == ["\n", "$ sr-keras sleeper \n", "asleep\n"]
        os.killpg(started.pid, signal.SIGINT)  # as a terminal does
        out, err = started.communicate(timeout=60)
    assert (started.returncode, out, err) == (130, "tidy\n", "\ninterrupted: finished work is kept\n")


def test_what_the_demo_writes_is_ignored_by_git():
    written = ["runs/demo-first.png", "runs/demo/demo.png", "runs/saved_models/demo/1/facts.json",
               "runs/saved_models/models.config", ".venv/base", "sr_keras.egg-info/PKG-INFO"]
    ran = subprocess.run(["git", "check-ignore", *written], cwd=ROOT, capture_output=True, text=True, check=False)
    if "not a git repository" in ran.stderr:
        pytest.skip("no checkout")
    assert ran.stdout.splitlines() == written


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize("name", ["John's slides", "a$b $(HOME) `id` \\ #\"", None])
def test_make_passes_a_folder_of_any_name_on_as_one(name):
    given = [] if name is None else [f"DATA={name}"]
    done = subprocess.run(["make", "-s", "-o", ".venv/base", "demo", *given, r"RUN=printf '[%s]\n'"],
                          cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[-m]", "[sr_keras.demo]", *([f"[--data={name}]"] if name else [])]


def shown_of(folder: Path, *rows: str) -> str:
    (folder / "scores").mkdir()
    (folder / "scores" / "scores.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return demo.last_screen(folder, folder / "model", folder / "demo.png", own=False)


@pytest.mark.parametrize(("sr", "says"), [
    ("27.0,0.95,0.060,0.80", "  beats bicubic on PSNR, MS-SSIM, QILV and RRMSE\n"),
    ("27.0,0.95,0.080,0.10", "  beats bicubic on PSNR and MS-SSIM, but not on QILV and RRMSE\n"),
    ("27.0,nan,0.060,0.80", "but not on MS-SSIM\n"),
    ("25.0,0.90,0.080,0.10", "  does not beat bicubic on any score: "),
])
def test_last_screen_says_where_the_model_does_not_beat_bicubic(sr, says, tmp_path):
    shown = shown_of(tmp_path, BICUBIC, f"a,s,sr,{sr}")
    assert says in shown
    assert "make demo DATA=" in shown


def test_last_screen_names_the_environment_that_the_shell_has_not_activated(tmp_path, monkeypatch):
    script = tmp_path / "my env" / "bin" / "activate"
    script.parent.mkdir(parents=True)
    script.write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo.sys, "prefix", str(tmp_path / "my env"))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    shown = shown_of(tmp_path, BICUBIC, "a,s,sr,27.0,0.95,0.060,0.80")
    assert "source 'my env/bin/activate'\n  super-resolve: " in shown
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "my env"))
    assert demo._activation() == ""
    monkeypatch.delenv("VIRTUAL_ENV")
    script.unlink()
    assert demo._activation() == ""


def test_last_screen_agrees_with_the_table_that_a_slide_counts_once_however_many_patches_it_has(tmp_path):
    gains = [("a", 1.0)] + [(f"b{i}", -0.4) for i in range(5)]  # +1.0 and -0.4 by slide; by patch -0.17
    rows = [f"{patch},{patch[0]},{method},{26 + gain * (method == 'sr')},0.9,0.07,0.2"
            for patch, gain in gains for method in ("bicubic", "sr")]
    assert "  beats bicubic on PSNR, but not on" in shown_of(tmp_path, *rows)


def test_a_model_is_exported_again_once_the_run_has_a_newer_generator(tmp_path):
    run, model = tmp_path / "run", tmp_path / "model"
    run.mkdir()
    (run / "generator.keras").write_text("")
    os.utime(run / "generator.keras", (200, 200))
    assert not demo.is_exported(run, model)
    for version, made in (("9", 300), ("10", 100)):
        (model / version).mkdir(parents=True)
        os.utime(model / version, (made, made))
    assert not demo.is_exported(run, model)
    os.utime(model / "10", (201, 201))
    assert demo.is_exported(run, model)
