# SPDX-License-Identifier: Apache-2.0
"""What cannot be told, reported or drawn takes nothing from the work: it is done, and the status says so."""
from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from pipelines.patches import Skipped
from pipelines.shards import ShardSet
from sr_keras import evaluate, super_resolve
from sr_keras.training.callbacks import Record, State, restore_checkpoint
from sr_keras.training.split import _report

ROOT = Path(__file__).parents[1]
PATCHES = ("--patch_size=128", "--min_tissue=0")


@pytest.fixture
def pictures(histology, tmp_path) -> Path:
    """Three pictures: a plain name, one that is not UTF-8, and one of 255 bytes."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"plain.png", b"M\xfcller.png", b"n" * 251 + b".png"):
        Image.fromarray(histology[:24, :32]).save(tmp_path / "written.png")
        os.rename(tmp_path / "written.png", os.fsencode(folder) + b"/" + name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("program", "output", "made"), [
    ("pipelines.extract --data={tiles} --output={out} --patch_size=128 --min_tissue=0", ">&- 2>&-", "slide-a.json"),
    ("sr_keras.super_resolve --model={model} --input={pictures} --output={out}", "> /dev/full 2>/dev/full",
     "plain.png"),
    ("sr_keras.evaluate --model={model} --data={tiles} --output={out} --patch_size=128 --min_tissue=0",
     "2>&1 | head -1 >/dev/null", "scores.md")])
def test_programs_finish_whatever_happens_to_their_messages(program, output, made, model, pictures, tile_folder,
                                                            tmp_path):
    arguments = program.format(tiles=tile_folder, model=model, pictures=pictures, out=tmp_path / "out").split()
    done = subprocess.run(["bash", "-o", "pipefail", "-c", f'"$@" {output}', "bash", sys.executable, "-m", *arguments],
                          cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "out" / made).exists()


def test_names_that_no_report_can_have_or_hold_are_reported(run_program, model, pictures, tmp_path):
    assert run_program(super_resolve, f"--model={model}", f"--input={pictures}", f"--output={tmp_path / 'x4'}") == 0
    assert {path.name for path in (tmp_path / "x4").glob("*.png")} == {path.name for path in pictures.iterdir()}
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "x4").glob("*.report.json")]
    assert {report["source"] for report in reports} == {str(path) for path in pictures.iterdir()}


def test_report_and_picture_that_cannot_be_written_are_warnings(run_program, model, pictures, tile_folder, tmp_path,
                                                                capsys):
    (tmp_path / "one.png.report.json").mkdir()
    assert run_program(super_resolve, f"--model={model}", f"--input={pictures / 'plain.png'}",
                       f"--output={tmp_path / 'one.png'}") == 0
    with Image.open(tmp_path / "one.png") as made:
        assert made.size == (128, 96)
    assert f"warning: {tmp_path / 'one.png.report.json'} was not written: " in capsys.readouterr().err
    scores = (evaluate, f"--model={model}", f"--data={tile_folder}", f"--output={tmp_path / 'e'}", *PATCHES,
              "--limit=2")
    run_program(*scores)
    (tmp_path / "e" / "scores.csv").unlink()
    (tmp_path / "e" / "sheet.png").unlink()
    (tmp_path / "e" / "sheet.png").mkdir()
    assert run_program(*scores) == 0
    assert f"warning: {tmp_path / 'e' / 'sheet.png'} was not written: " in capsys.readouterr().err
    assert (tmp_path / "e" / "scores.csv").exists()


def test_training_goes_on_without_its_pictures_and_lists(tmp_path, capsys):
    (tmp_path / "pictures").write_text("in the place of the folder")
    (tmp_path / "skipped.json").mkdir()
    shards = ShardSet((), (Skipped("s", "slide", "is truncated"),))
    _report({"train": shards}, tmp_path)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    network.compile(optimizer="adam", loss="mse")
    record = Record(tmp_path, "warmup", State(), "val_loss", higher_is_better=False, keep=2,
                    picture=lambda: np.zeros((8, 8, 3), np.uint8))
    data = np.ones((4, 2)), np.ones((4, 1))
    network.fit(*data, validation_data=data, epochs=2, verbose=0, callbacks=[record])
    assert restore_checkpoint(tmp_path, "warmup", network).epoch == 2
    said = capsys.readouterr().err
    assert f"warning: {tmp_path / 'skipped.json'} was not written: " in said
    assert said.count(f"warning: {tmp_path / 'pictures'}") == 2


def test_full_disk_is_named_after_the_picture_that_had_no_place(run_program, model, pictures, tmp_path, capsys,
                                                                monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    target = tmp_path / "large.png"
    assert run_program(super_resolve, f"--model={model}", f"--input={pictures / 'plain.png'}",
                       f"--output={target}") == 2
    assert f"{target}: No space left on device" in capsys.readouterr().err
    assert not target.exists()
