# SPDX-License-Identifier: Apache-2.0
"""The sample slide, and fetching a larger one."""
from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pooch
import pytest

from pipelines.sample import (
    SAMPLE_MPP,
    SAMPLE_NAME,
    SLIDE_SHA256,
    fetch_test_slide,
    sample_picture,
    write_sample_slide,
)

ROOT = Path(__file__).parents[2]


def sample(*arguments, **environment):
    return subprocess.run([sys.executable, "-m", "pipelines.sample", *arguments], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, **environment}, check=False)


def test_sample_slide_opens_in_openslide_with_mpp_and_levels(sample_slide):
    with openslide.OpenSlide(sample_slide) as slide:
        assert slide.level_dimensions == ((512, 512), (256, 256), (128, 128))
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(SAMPLE_MPP)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(SAMPLE_MPP)


def test_sample_slide_is_the_picture_without_loss(sample_slide, histology):
    with openslide.OpenSlide(sample_slide) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, (512, 512)))
        half = np.asarray(slide.read_region((0, 0), 1, (256, 256)))
    np.testing.assert_array_equal(pixels[..., :3], histology)
    assert np.abs(half[..., :3] - histology.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))).max() <= 0.5


def test_sample_slide_is_the_same_bytes_every_time(sample_slide, tmp_path):
    assert write_sample_slide(tmp_path / SAMPLE_NAME).read_bytes() == sample_slide.read_bytes()


def test_command_writes_the_slide_and_says_where(tmp_path):
    done = sample(f"--output={tmp_path}")
    assert done.returncode == 0
    assert done.stdout.strip() == str(tmp_path / SAMPLE_NAME)
    assert os.listdir(tmp_path) == [SAMPLE_NAME]


@pytest.mark.parametrize(("output", "message"), [
    ("", "`output` must be given"), ("file", "`output` must be a folder"), ("file/deep", "`output` must be a folder")])
def test_command_refuses_what_is_no_folder(output, message, tmp_path):
    (tmp_path / "file").write_text("a file")
    done = sample(f"--output={output and tmp_path / output}")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_command_without_a_network_says_so_in_one_line(tmp_path):
    done = sample(f"--output={tmp_path}", "--slide", HTTPS_PROXY="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: CMU-1-Small-Region.svs cannot be downloaded")
    assert "https://openslide.cs.cmu.edu" in line
    assert os.listdir(tmp_path) == [SAMPLE_NAME]


def test_slide_that_is_there_is_not_fetched_again(tmp_path, shared_data, monkeypatch):
    data = (shared_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    assert hashlib.sha256(data).hexdigest() == SLIDE_SHA256
    (tmp_path / "CMU-1-Small-Region.svs").write_bytes(data)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert fetch_test_slide(tmp_path) == tmp_path / "CMU-1-Small-Region.svs"


def test_slide_that_is_not_what_it_was_is_refused(tmp_path, monkeypatch):
    def other(url, known_hash, **options):
        raise ValueError("SHA256 hash of downloaded file does not match")

    monkeypatch.setattr(pooch, "retrieve", other)
    with pytest.raises(ValueError, match=r"CMU-1-Small-Region.svs must have the sha256 .* has another.*try again"):
        fetch_test_slide(tmp_path)


def test_picture_is_that_of_scikit_image(histology):
    np.testing.assert_array_equal(sample_picture(), histology)


def test_user_without_a_home_and_without_an_entry_can_run_the_programs(tmp_path):
    nobody = ("import pwd, runpy, sys\ndef unknown(*_):\n    raise KeyError('no entry')\n"
              "pwd.getpwuid = pwd.getpwnam = unknown\nsys.argv = sys.argv[1:]\n"
              "runpy.run_module(sys.argv[0], run_name='__main__')")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    for arguments in (["pipelines.extract", "--data=sample", f"--output={tmp_path / 'shards'}"],
                      ["sr_keras.super_resolve", "--help"], ["sr_keras.evaluate", "--help"]):
        done = subprocess.run([sys.executable, "-c", nobody, *arguments], cwd=ROOT, capture_output=True, text=True,
                              env=environment, check=False)
        assert done.returncode == 0, done.stderr
    assert not (ROOT / "~").exists()
