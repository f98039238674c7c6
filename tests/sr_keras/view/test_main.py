# SPDX-License-Identifier: Apache-2.0
"""The command: what it is given, and each mistake as one line."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from pipelines import console
from sr_keras.view import __main__ as program

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.server


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "sr_keras.cli", "view", *arguments], cwd=ROOT, env=os.environ | {
                            "BROWSER": "sh -c 'exec sleep 1000' %s"},  # as one in a terminal, which does not return
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                            # a background job of a shell, as tests may be, has its children ignore Ctrl-C
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def test_slide_is_served_until_interrupted_while_the_browser_is_open(sample_slide, loaded):
    process = start(str(sample_slide), f"--model={loaded.path}", "--engine=tensorflow")
    try:
        line = next(line for line in iter(process.stdout.readline, "") if "Ctrl-C" in line)
        url, _, shown = line.partition(" shows ")
        assert shown == f"{sample_slide}; Ctrl-C ends it\n"
        with urllib.request.urlopen(f"{url}thumbnail/0.png", timeout=60) as answer:
            assert answer.headers["Content-Type"] == "image/png"
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the browser
    assert status == 0
    assert "Traceback" not in process.stderr.read()


def test_port_in_use_is_one_line_before_a_model_is_loaded(sample_slide, tmp_path):
    (tmp_path / "damaged.keras").touch()  # which would be the error if it were loaded
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(str(sample_slide), f"--port={taken.getsockname()[1]}", f"--model={tmp_path / 'damaged.keras'}")
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.startswith("error: `port` must be free; choose another")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "`input` must be given; add --input="),
    (["--input=nowhere.svs"], "`input` must name existing pictures, slides or folders"),
    (["--input={empty}"], "`input` must contain slides or pictures; name another folder"),
    (["--input={slide}", "--mpp=-1"], "`mpp` must be positive"),
    (["--input={slide},{other}", "--finished={slide}"], "`finished` must be left out for several slides"),
    (["--input={slide}", "--model=none", "--port=70000"], "`port` must lie in 0 to 65535"),
    (["--input={slide}", "--model=none"], "`model` must exist; check the spelling"),
    (["--input={slide}", "--finished={cut}"], "`finished` must be the output of this whole slide"),
    (["--input={text}", "--finished={slide}"], "text.svs: is not a slide or image that can be read"),
])
def test_mistake_is_named_in_one_line(arguments, message, run_program, sample_slide, tmp_path):
    other, text, cut = tmp_path / "other.tif", tmp_path / "text.svs", tmp_path / "cut.png"
    Image.new("RGB", (1030, 1024)).save(cut)
    other.write_bytes(sample_slide.read_bytes())
    text.write_text("nothing")
    (tmp_path / "empty").mkdir()
    values = {"slide": sample_slide, "other": other, "text": text, "cut": cut, "empty": tmp_path / "empty"}
    with pytest.raises(console.USER_ERRORS) as caught:
        run_program(program, *(argument.format(**values) for argument in arguments))
    assert message in console.one_line(caught.value)


@pytest.mark.parametrize(("typed", "read"), [
    (["a.svs", "--mpp=1"], ["--input=a.svs", "--mpp=1"]),
    (["a.svs", "b c.svs"], ["--input=a.svs,b c.svs"]),
    (["a,b.svs", "c.svs"], ['--input="a,b.svs",c.svs']),
    (["a,b.svs"], ["--input=a,b.svs"]),
    (["--mpp=1"], ["--mpp=1"]),
    ([], []),
])
def test_paths_in_front_are_the_input(typed, read):
    assert program._named(typed) == read
