# SPDX-License-Identifier: Apache-2.0
"""A picture goes in and a picture comes out, and a mistake is one line that leaves nothing behind."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipelines import console
from sr_keras.client import __main__ as command
from sr_keras.client.__main__ import AUTH_VARIABLE, read_auth_header

from .conftest import WAYS, repeated
from .test_protocol import a_png, header

pytestmark = pytest.mark.server
ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(run_program, tmp_path, monkeypatch):
    """Run the command; returns its exit status, or what it says where it can't."""
    monkeypatch.delenv(AUTH_VARIABLE, raising=False)

    def main(server: str, **flags: object) -> int | str:
        flags = {"server": server, "model_name": "demo", "input": tmp_path / "in.png", "output": tmp_path / "out.png",
                 "retries": 0, **flags}
        try:
            return run_program(command, *(f"--{name}={value}" for name, value in flags.items()))
        except console.USER_ERRORS as error:
            return console.one_line(error)

    return main


@pytest.fixture
def lr(histology, tmp_path) -> np.ndarray:
    Image.fromarray(histology[:40, :60]).save(tmp_path / "in.png")
    return histology[:40, :60]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("way", WAYS)
def test_picture_becomes_a_picture(way, serve, run, lr, tmp_path, capsys):
    assert run(serve(way), halo=4, tile=24) == 0
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), repeated(lr))
    assert "60x40 -> 240x160 pixels by demo at" in capsys.readouterr().out


def test_colour_profile_is_carried_and_a_damaged_one_is_named(serve, run, lr, tmp_path, capsys):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for stored, carried in ((profile, profile), (profile[:200], None)):
        Image.fromarray(lr).save(tmp_path / "in.png", icc_profile=stored)
        assert run(serve("rest"), halo=4, tile=24, overwrite=True) == 0
        with Image.open(tmp_path / "out.png") as image:
            assert image.info.get("icc_profile") == carried
        assert ("damaged colour profile" in capsys.readouterr().err) == (carried is None)


def test_command_runs_as_its_docstring_says(serve, lr, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sr_keras.client", f"--server={serve('rest')}", "--model_name=demo",
         f"--input={tmp_path / 'in.png'}", f"--output={tmp_path / 'out.jpg'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert np.abs(pixels(tmp_path / "out.jpg").astype(int) - repeated(lr)).mean() < 8


@pytest.mark.parametrize("way", WAYS)
def test_check_says_what_is_ready(way, serve, run, capsys):
    server = serve(way)
    assert run(server, check=True, model_version=3) == 0
    assert capsys.readouterr().out == f"{server}: demo version 3 AVAILABLE\n"
    assert "version 4 is LOADING" in str(run(server, check=True, model_version=4))


def test_header_comes_from_a_file(serve, run, lr, model, tmp_path, capfd):
    (tmp_path / "token").write_text("Bearer s3cr3t-t0k3n\n")
    assert run(serve("rest"), auth_header_file=tmp_path / "token") == 0
    assert {asked["auth"] for asked in model.asked} == {"Bearer s3cr3t-t0k3n"}
    assert "s3cr3t" not in "".join(capfd.readouterr())


def test_header_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(AUTH_VARIABLE, raising=False)
    assert read_auth_header(None) is None
    monkeypatch.setenv(AUTH_VARIABLE, "Bearer one")
    assert read_auth_header(None) == "Bearer one"
    (tmp_path / "token").write_text("Bearer two\n")
    assert read_auth_header(tmp_path / "token") == "Bearer two"
    with pytest.raises(FileNotFoundError, match=r"`auth_header_file` must name a file .*none"):
        read_auth_header(tmp_path / "none")


@pytest.fixture
def bad_inputs(tmp_path) -> None:
    (tmp_path / "no.png").write_bytes(b"this is no picture")
    (tmp_path / "large.png").write_bytes(a_png(header(20_000, 20_000)))  # a header, and no pixels
    Image.new("1", (13_000, 13_000)).save(tmp_path / "wide.png")
    (tmp_path / "there.png").write_bytes(b"")


@pytest.mark.parametrize(("flag", "value", "expected"), [
    ("server", "host:8500", "`server` must be SCHEME://HOST:PORT"),
    ("model_name", "", "`model_name` must be given"),
    ("input", "none.png", "`input` must name a picture or slide"),
    ("input", ".", "`input` must name a picture or slide"),
    ("input", "no.png", "not a slide or image"),
    ("input", "large.png", "more than 178956970 pixels, too many for a picture; convert it to a tiled TIFF"),
    ("input", "wide.png", "become 268435456 pixels or fewer (`max_sr_pixels`)"),
    ("output", "out.tif", "`output` must end in .png or .jpg"),
    ("output", "there.png", "add --overwrite"),
    ("output", "in.png", "another file than the input"),
    ("model_name", "other", "check `model_name` and `model_version`"),
    ("model_version", 9, "NOT_FOUND"),
    ("quality", 0, "`quality` must lie in 1 to 100"), ("quality", 50, "`quality` must be left out for a .png"),
    ("output", "in.png/out.png", "`output` must lie where files can be written"),
    ("auth_header_file", "token", "`auth_header_file` must name a file"),
    ("encoding", "jpeg", "encoding"),
])
def test_mistake_is_one_line_and_leaves_nothing(flag, value, expected, serve, run, lr, bad_inputs, tmp_path,
                                                monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    said = run(**{"server": serve("rest"), flag: value, **({"overwrite": True} if value == "in.png" else {})})
    assert expected in str(said)
    assert sorted(tmp_path.iterdir()) == before


def test_overwrite_replaces_and_a_failure_does_not(serve, run, lr, model, tmp_path, dead_port):
    (tmp_path / "out.png").write_bytes(b"old")
    assert "UNAVAILABLE" in str(run(f"http://127.0.0.1:{dead_port}", overwrite=True))
    assert (tmp_path / "out.png").read_bytes() == b"old"
    assert run(serve("rest"), overwrite=True) == 0
    assert pixels(tmp_path / "out.png").shape == (160, 240, 3)


def test_rest_does_not_wait_for_tensorflow():
    program = "import sys, sr_keras.client.__main__; sys.exit('tensorflow' in sys.modules or 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=120).returncode == 0
