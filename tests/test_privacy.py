# SPDX-License-Identifier: Apache-2.0
"""No byte of a name reaches an output where that is asked, and an export tells nothing of who made it."""
from __future__ import annotations

import json
import platform
import shlex
import shutil
import socket
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipelines import extract
from pipelines.names import alias, read_key
from pipelines.shards import open_shards
from sr_keras import export, super_resolve
from sr_keras.training.run_folder import versions

ROOT = Path(__file__).parents[1]
NAMES = ("Smith", "Muster", "Doe", "Jones", "Kaputt")


@pytest.fixture
def hospital(sample_slide, histology, tmp_path) -> Path:
    """A slide, one that is damaged and one of the same name, a picture, and tiles of which one is damaged."""
    folder = tmp_path / "in"
    for case in ("Smith", "Doe"):
        (folder / case).mkdir(parents=True)
        shutil.copy(sample_slide, folder / case / "Muster.tif")
    (folder / "Smith" / "Kaputt.svs").write_bytes(sample_slide.read_bytes()[:200_000])
    (tmp_path / "tiles" / "Jones").mkdir(parents=True)
    for number, top in enumerate((0, 64)):
        tile = Image.fromarray(histology[top:top + 64, :64])
        tile.save(tmp_path / "tiles" / "Jones" / f"Jones_{number}.png")
    tile.save(folder / "Jones.png")
    (tmp_path / "tiles" / "Jones" / "Kaputt.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def told(folder: Path, words: tuple[str, ...]) -> list[str]:
    """Return what of these words is found in the names and bytes of all files of a folder, in any case."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [f"{word} in {path}" for path in files for word in words for text in (
        str(path.relative_to(folder)).encode(), path.read_bytes())
        if any(word.lower().encode(code) in text.lower() for code in ("utf-8", "utf-16-le"))]


def test_no_name_is_in_any_output_of_super_resolution(run_program, hospital, model, tmp_path, capsys):
    command = (super_resolve, "--engine=tensorflow",
               f"--model={model}", f"--input={hospital}", f"--output={tmp_path / 'out' / 'x4'}",
               f"--trust_map={tmp_path / 'out' / 'trust'}", "--region=0,0,64,64", f"--anonymous={tmp_path / 'key'}")
    assert run_program(*command) == 1
    said, key = capsys.readouterr(), read_key(tmp_path / "key")
    assert "Kaputt.svs: is truncated" in said.err
    assert f"{hospital / 'Doe' / 'Muster.tif'} is {alias('Doe/Muster', key)}\n" in said.out
    assert told(tmp_path / "out", NAMES) == []
    outputs = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if "Kaputt" not in path.name}
    assert len(list((tmp_path / "out" / "x4").glob("anon-*_x4.tif"))) == 2  # of one name, in two folders
    report = json.loads(next((tmp_path / "out" / "x4").glob("*.png.report.json")).read_text())
    assert report["source"] == report["description"]["source"]["file"] == alias("Jones", key)
    assert run_program(*command, "--resume") == 1
    assert capsys.readouterr().out.count(": kept, it existed before") == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == outputs


def test_names_are_in_the_outputs_where_nothing_else_is_asked(run_program, hospital, model, tmp_path):
    """Else the test above would show nothing."""
    run_program(super_resolve, "--engine=tensorflow", f"--model={model}", f"--input={hospital}",
                f"--output={tmp_path / 'out'}", "--region=0,0,64,64")
    assert {line.split()[0] for line in told(tmp_path / "out", NAMES)} == set(NAMES)


def test_no_name_is_in_any_shard_or_page(run_program, hospital, tmp_path, capsys):
    command = (extract, f"--data={hospital},{tmp_path / 'tiles'}", f"--output={tmp_path / 'out'}", "--patch_size=64",
               "--min_tissue=0", "--max_patches=4", "--workers=1", f"--anonymous={tmp_path / 'key'}")
    assert run_program(*command) == 0
    said, key = capsys.readouterr().out, read_key(tmp_path / "key")
    assert told(tmp_path / "out", NAMES) == []
    shards = open_shards(tmp_path / "out")
    for slide_id in ("Smith--Muster", "Doe--Muster"):
        assert f"{slide_id} is {alias(slide_id, key)}\n" in said
        assert alias(slide_id, key) in shards.slide_ids
    assert shards.count == 4 + 4 + 2 + 1
    assert "Kaputt.png: " in said
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run_program(*command) == 0
    assert "of them finished before" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert told(tmp_path / "out", NAMES) == []


@pytest.mark.slow
def test_export_carries_no_path_user_or_host_name(run_program, model, tmp_path, monkeypatch, capsys):
    for module, name in ((socket, "gethostname"), (platform, "node")):
        monkeypatch.setattr(module, name, lambda: "host-of-ada")
    home = tmp_path / "home of ada"
    for name, value in (("USER", "ada-lovelace"), ("LOGNAME", "ada-lovelace"), ("HOSTNAME", "host-of-ada"),
                        ("HOME", home)):
        monkeypatch.setenv(name, str(value))
    run_folder = home / "runs" / "mine"
    run_folder.mkdir(parents=True)
    shutil.copy(model, run_folder)
    data = home / "slides"
    (run_folder / "flags.txt").write_text(
        f"--blocks=1\n--scale=4\n--run={run_folder}\n--train_data={data},hospital\n--generator={home}/g.keras\n"
        f"--cache={home}/cache\n--outlier_dir=ada-tiles\n--vgg_weights={home}/vgg.h5\n--val_data=hospital\n")
    (run_folder / "versions.json").write_text(json.dumps(versions()))
    assert run_program(export, f"--model={run_folder}", "--name=m", f"--output={tmp_path / 'out put'}",
                       "--formats=saved_model,litert,onnx", "--precisions=float32") == 0
    assert (tmp_path / "out put" / "m" / "1" / "onnx" / "model.onnx").exists()
    here = ("ada-", "of-ada", "of ada", "hospital", str(tmp_path), str(ROOT), sys.prefix, "site-packages", "/home/")
    assert told(tmp_path / "out put", here) == []
    assert "blocks=1" in (tmp_path / "out put" / "m" / "1" / "README.md").read_text()
    hint = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("use it:"))
    assert f"--model={tmp_path / 'out put' / 'm'}" in shlex.split(hint)  # quoted for a shell
