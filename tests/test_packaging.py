# SPDX-License-Identifier: Apache-2.0
"""What is installed is complete: the wheel works from any folder, without the checkout.

The wheel is built from the sdist, as an installer would build it, and unpacked into an environment of its own. That
environment borrows the dependencies of this one and never sees this one's copy of the code.
"""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from sr_keras import __version__, shipped_flagfile, shipped_model

ROOT = Path(__file__).parents[1]
MODELS = ("srgan_sqe_x4", "srgan_sqe_x4_light")


def run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without this process's PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=600, check=False)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """A folder that holds the sdist and the wheel."""
    pytest.importorskip("build", reason="pip install '.[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    built = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory) -> Path:
    """The bin folder of an environment that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # A line of a .pth file is a folder to import from; the .pth files in that folder, such as that of an editable
    # install, are not read.
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (own / "dependencies.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    wheel, = distributions.glob("*.whl")
    done = run([sys.executable, "-m", "pip", f"--python={folder / 'bin' / 'python'}", "install", "--no-deps",
                "--ignore-installed", "--no-index", "--disable-pip-version-check", wheel], folder)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def test_newest_release_of_the_changelog_is_this_version():
    releases = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert releases[0] == __version__


def test_lock_lies_within_the_ranges_of_the_library():
    requirement = pytest.importorskip("packaging.requirements").Requirement
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
                  if not line.startswith("#"))
    locked = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in locked.items()}
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        needed = requirement(text)
        name = re.sub(r"[-_.]+", "-", needed.name).lower()
        assert name == "sr-keras" or needed.specifier.contains(locked[name]), f"{text}: {locked[name]}"


def test_shipped_models_and_flagfiles_exist():
    for name in MODELS:
        assert list(shipped_model(name).glob("*/saved_model.pb"))
    assert shipped_flagfile("quick.flags").is_file()


@pytest.mark.slow
def test_wheel_holds_the_models_with_facts_cards_and_flagfiles(distributions):
    wheel, = distributions.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for model in MODELS:
        version = next(shipped_model(model).glob("*/saved_model.pb")).parent.name
        for file in ("saved_model.pb", "facts.json", "README.md", "litert/float32.tflite"):
            assert f"sr_keras/saved_models/{model}/{version}/{file}" in names
    assert {"sr_keras/flagfiles/quick.flags", "sr_keras/py.typed", "pipelines/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "study/", "benchmarks/"))]


@pytest.mark.slow
def test_wheel_super_resolves_a_picture_from_any_folder(installed, histology, tmp_path):
    Image.fromarray(histology[:48, :64]).save(tmp_path / "picture.png")
    done = run([installed / "sr-keras", "super-resolve", "--input=picture.png", "--output=x4.png"], tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "x4.png") as made:
        assert made.size == (256, 192)
    assert json.loads((tmp_path / "x4.png.report.json").read_text(encoding="utf-8"))["status"] == "done"


@pytest.mark.slow
def test_wheel_states_its_version_and_helps_with_every_subcommand(installed, tmp_path):
    assert run([installed / "sr-keras", "--version"], tmp_path).stdout == f"sr-keras {__version__}\n"
    for name in ("train", "evaluate", "extract"):
        done = run([installed / "sr-keras", name, "--help"], tmp_path)
        assert (done.returncode, "--help" in done.stdout) == (0, True), done.stderr


@pytest.mark.slow
def test_folder_of_the_packages_name_does_not_hide_the_installed_package(installed, tmp_path):
    (tmp_path / "sr_keras" / "docs").mkdir(parents=True)  # the parent folder of a clone looks like this
    done = run([installed / "python", "-c", "from sr_keras import shipped_model; print(shipped_model())"],
               tmp_path)
    assert done.stdout.startswith(str(installed.parent)), done.stderr
