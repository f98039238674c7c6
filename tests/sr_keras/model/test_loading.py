# SPDX-License-Identifier: Apache-2.0
"""A generator loads from wherever it lies as one kind of thing, and what is none is refused in one line."""
from __future__ import annotations

import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

from pipelines.config import DegradeOptions
from pipelines.pixels import to_float
from sr_keras.formats.saved_model import export_saved_model
from sr_keras.layers import Bilinear
from sr_keras.model.facts import FACTS_FILE, OLD_FACTS_FILE, ModelFacts
from sr_keras.model.loading import (
    find_generator,
    in_float32,
    load_generator,
    load_keras,
    load_weights,
    read_weights,
)
from sr_keras.networks import autoencoder, generator, receptive_field

from ..conftest import by_keras, pixels


@pytest.fixture(scope="module")
def saved_model(network, tmp_path_factory) -> Path:
    name = tmp_path_factory.mktemp("saved_models") / "demo"
    export_saved_model(network, name)
    return name


@pytest.fixture
def lr() -> np.ndarray:
    return pixels(2, 9, 13)


def test_every_form_computes_what_keras_computes(network, run, saved_model, lr):
    expected = by_keras(network, lr)
    assert expected.std() > 20  # not a constant picture
    for path in (run, run / "generator.keras", saved_model, saved_model / "1"):
        sr = load_generator(path)(lr)
        assert sr.dtype == np.uint8
        assert sr.shape == (2, 36, 52, 3)
        assert np.abs(sr.astype(int) - expected).max() <= 1, path


def test_scale_and_halo_are_known_in_every_form(network, run, saved_model):
    for path in (run, saved_model):
        loaded = load_generator(path)
        assert (loaded.scale, loaded.halo) == (4, receptive_field(network))


@pytest.mark.parametrize(("said", "blur"), [("--blocks=1\n--blur_sigma=0.8\n--q=1.0\n", 0.8), ("--q=1.0\n", None),
                                            (None, None)])
def test_blur_of_a_run_is_known_in_every_form(said, blur, network, tmp_path):
    network.save(tmp_path / "generator.keras")
    if said:
        (tmp_path / "flags.txt").write_text(said)
    facts = ModelFacts(degradation=None if blur is None else DegradeOptions(blur_sigma=blur), flags=said,
                       filters=network.get_layer("first").filters,
                       tail_filters=network.get_layer("last").kernel.shape[2])
    export_saved_model(network, tmp_path / "demo", facts=facts)
    for path in (tmp_path / "generator.keras", tmp_path / "demo"):
        loaded = load_generator(path)
        assert loaded.facts == facts
        assert loaded.degrade == DegradeOptions(blur_sigma=1.6 if blur is None else blur)


def test_version_that_is_older_than_its_facts_loads_and_says_what_its_flags_say(network, tmp_path):
    version = export_saved_model(network, tmp_path / "demo")
    old = {"flags": "--blur_sigma=0.8\n--mpp=0.5\n--scale=4\n", "versions": None, "scale": 4, "halo": 8}
    (version / OLD_FACTS_FILE).write_text(json.dumps(old))
    (version / FACTS_FILE).unlink()
    loaded = load_generator(version)
    assert (loaded.scale, loaded.halo, loaded.degrade) == (4, 8, DegradeOptions(blur_sigma=0.8))
    assert loaded.facts.lr_mpp == (2.0, 2.0)
    assert (loaded.facts.stain, loaded.facts.usual_departure) == (None, None)


def test_floats_give_the_floats_of_the_8_bit_picture(run, lr):
    loaded = load_generator(run)
    sr = loaded(to_float(lr))
    assert sr.dtype == np.float32
    np.testing.assert_array_equal(sr, to_float(loaded(lr)))


@pytest.mark.parametrize("wrong", [np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 4), np.uint8),
                                   np.zeros((1, 8, 8, 3), np.uint16)])
def test_call_refuses_what_is_no_batch_of_rgb(wrong, run):
    with pytest.raises(ValueError, match="`lr` must"):
        load_generator(run)(wrong)


def test_highest_version_is_taken_by_number_not_by_name(saved_model, tmp_path):
    for version in ("9", "10", "2"):
        shutil.copytree(saved_model / "1", tmp_path / "demo" / version)
    (tmp_path / "demo" / "11").mkdir()  # nothing in it
    (tmp_path / "demo" / ".5.tmp.12").mkdir()
    assert find_generator(tmp_path / "demo").name == "10"


def test_generator_trained_in_16_bit_computes_in_float32(randomised, tmp_path, lr):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        mixed = randomised(generator(scale=2, blocks=1, filters=6))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    mixed.save(tmp_path / "mixed.keras")
    plain = generator(scale=2, blocks=1, filters=6)
    plain.set_weights(mixed.get_weights())
    expected = np.asarray(plain(to_float(lr), training=False))
    assert np.abs(np.asarray(mixed(to_float(lr), training=False)) - expected).max() > 1e-3
    np.testing.assert_allclose(load_keras(tmp_path / "mixed.keras")(to_float(lr)), expected, atol=1e-5)


def test_in_float32_leaves_the_model_it_copies_alone(network, lr):
    before = np.asarray(network(to_float(lr), training=False))
    copy = in_float32(network)
    copy.set_weights([np.zeros_like(w) for w in copy.get_weights()])
    np.testing.assert_array_equal(network(to_float(lr), training=False), before)


@pytest.mark.parametrize("scale", [2, 8])
def test_another_scale_than_asked_is_refused(scale, run):
    with pytest.raises(ValueError, match=f"`scale` must be 4.*Received: scale={scale}"):
        load_generator(run, scale=scale)
    assert load_generator(run, scale=4).scale == 4


def test_missing_path_is_named_and_the_shipped_models_are_listed(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`model` must exist; check the spelling, or take a model that ships "
                       r"with this program \(srgan_sqe_x4, srgan_sqe_x4_light\). Received: model='.*/nowhere"):
        load_generator(tmp_path / "nowhere")


def test_run_without_a_generator_says_how_to_go_on(tmp_path):
    (tmp_path / "flags.txt").write_text("--q=1\n")
    with pytest.raises(FileNotFoundError, match=r"no generator.keras yet.*--resume"):
        load_generator(tmp_path)


def test_folder_and_file_of_something_else_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.keras").mkdir()
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "empty.keras"):
        with pytest.raises(ValueError, match=r"`model` must be a \.keras file, a run folder or a SavedModel folder"):
            load_generator(path)


class Trap:
    """What a pickle could do to who loads it."""

    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


def test_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model.pkl", "model.keras"):
        Path(name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(ValueError, match=r"`model` must be|model\.keras: this \.keras file is damaged"):
            load_generator(name)
    assert not Path("sprung").exists()


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_pickled_weights_are_refused_and_not_run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = io.BytesIO()
    np.savez(weights, trap=np.array([Trap()], dtype=object))
    with zipfile.ZipFile(run / "generator.keras") as good, zipfile.ZipFile("bad.keras", "w") as bad:
        for name in ("config.json", "metadata.json"):
            bad.writestr(name, good.read(name))
        bad.writestr("model.weights.npz", weights.getvalue())
    with pytest.raises(ValueError, match=r"bad.keras: .*`members` must be config.json, .*model.weights.npz"):
        load_generator("bad.keras")
    assert not Path("sprung").exists()


@pytest.mark.parametrize("function", [lambda x: x * 2, keras.ops.square])  # by value, by name
def test_lambda_layer_is_refused(function, tmp_path):
    image = keras.Input((None, None, 3))
    keras.Model(image, keras.layers.Lambda(function)(image)).save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match=r"lambda.keras: .*networks.generator does not make; code is never run"):
        load_generator(tmp_path / "lambda.keras")


def test_network_that_does_not_enlarge_is_refused(tmp_path):
    autoencoder(blocks=0, filters=4).save(tmp_path / "autoencoder.keras")
    with pytest.raises(ValueError, match=r"autoencoder.keras: can't be loaded as a generator"):
        load_generator(tmp_path / "autoencoder.keras")
    image = keras.Input((None, None, 3))
    keras.Model(image, keras.layers.Conv2D(3, 3, padding="same")(image)).save(tmp_path / "filter.keras")
    with pytest.raises(ValueError, match="must enlarge"):
        load_generator(tmp_path / "filter.keras")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_keras_file_is_refused(keep, run, tmp_path):
    whole = (run / "generator.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[:int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.keras"):
        load_generator(tmp_path / "cut.keras")


def test_keras_file_with_damaged_weights_is_refused(run, tmp_path):
    damaged = bytearray((run / "generator.keras").read_bytes())
    start = damaged.index(b"model.weights.h5") + 5000
    damaged[start] ^= 0xFF
    (tmp_path / "damaged.keras").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged.keras: .*can't be loaded; copy it again.*Bad CRC"):
        load_generator(tmp_path / "damaged.keras")


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def central(path: Path, member: str) -> int:
    """Return where the entry of a member begins in the central directory, which is at the end."""
    return path.read_bytes().rindex(member.encode()) - 46


def changed(path: Path, start: int, content: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)
    return path


@pytest.fixture(params=["model", "generator", "weights"])
def refusal(request, network) -> Callable[[Path], str]:
    """Open a file as `--model`, as `--generator`, or as a checkpoint and `--autoencoder` are; return the one line."""
    use = {"model": load_generator, "generator": read_weights, "weights": lambda path: load_weights(network, path)}

    def refused(path: Path) -> str:
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=rf"{path.name}.*") as found:
                use[request.param](path)
            assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
        finally:
            tracemalloc.stop()
        assert "\n" not in str(found.value)
        return str(found.value)
    return refused


def test_keras_files_are_opened_in_one_module():
    root, opens = Path(__file__).parents[3], re.compile(r"\.load_model\(|\.load_weights\(|ZipFile\(")
    opened = {path.name for part in ("pipelines", "sr_keras", "study") for path in (root / part).rglob("*.py")
              if opens.search(path.read_text())}
    assert opened == {"loading.py"}


def test_damaged_directory_of_a_keras_file_is_one_line(run, tmp_path, refusal):
    path = Path(shutil.copy(run / "generator.keras", tmp_path / "bad.keras"))
    changed(path, central(path, "config.json"), b"\0" * 8)
    assert zipfile.is_zipfile(path)
    assert "is damaged" in refusal(path)


def test_bad_deflated_data_in_a_keras_file_is_one_line(run, tmp_path, refusal):
    path = packed(tmp_path / "bad.keras", parts_of(run / "generator.keras"), zipfile.ZIP_DEFLATED)
    changed(path, path.read_bytes().index(b"model.weights.h5") + len("model.weights.h5"), b"\xff")
    with zipfile.ZipFile(path) as archive, pytest.raises(zlib.error):
        archive.testzip()
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
@pytest.mark.parametrize("honest", [True, False])
def test_member_that_expands_to_gigabytes_is_refused_in_little_memory(member, honest, run, tmp_path, refusal):
    """Its size in the directory is the true one, or that of an innocent file."""
    path, megabyte = tmp_path / "bad.keras", b" " * 2**20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts_of(run / "generator.keras").items():
            with archive.open(name, "w") as file:
                file.write(content)
                for _ in range(300 if name == member else 0):
                    file.write(megabyte)
    assert path.stat().st_size < 2**20
    if not honest:
        changed(path, central(path, member) + 24, struct.pack("<I", 1000))
    assert ("must have" if honest else "Bad CRC-32") in refusal(path)


@pytest.mark.parametrize("members", [{"assets/x": b""}, {"model.weights.npz": b""}])
def test_keras_file_with_other_members_is_refused(members, run, tmp_path, refusal):
    assert "`members` must be" in refusal(packed(tmp_path / "bad.keras", {**parts_of(run / "generator.keras"),
                                                                          **members}))


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {}])
def test_array_that_claims_more_than_the_file_holds_is_refused(options, run, tmp_path, refusal):
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file.create_dataset("layers/x/vars/0", (10_000, 10_000), "float32", **options)  # of zeros, which are not stored
    bad = {**parts_of(run / "generator.keras"), "model.weights.h5": weights.getvalue()}
    assert "`weights` must have" in refusal(packed(tmp_path / "bad.keras", bad))


def test_keras_file_that_was_compressed_again_loads(network, run, tmp_path, lr):
    again = packed(tmp_path / "again.keras", parts_of(run / "generator.keras"), zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(load_generator(again)(lr), load_generator(run)(lr))
    load_weights(network, again)


def test_compiled_generator_loads_without_what_it_was_compiled_with(network, tmp_path, lr):
    compiled = keras.models.clone_model(network)
    compiled.set_weights(network.get_weights())
    compiled.compile("adam", loss="mse", metrics=["mae"])
    compiled.save(tmp_path / "compiled.keras")
    np.testing.assert_allclose(load_keras(tmp_path / "compiled.keras")(to_float(lr)), network(to_float(lr)), atol=1e-5)


def hostile(path: Path, run: Path, kind: str, **values: object) -> Path:
    """Write the generator with other values in the first layer of a kind and in its configuration."""
    parts = parts_of(run / "generator.keras")
    config = json.loads(parts["config.json"])
    layer = next(layer for layer in config["config"]["layers"] if layer["class_name"] == kind)
    for name, value in values.items():
        (layer if name in layer else layer["config"])[name] = value
    return packed(path, {**parts, "config.json": json.dumps(config).encode()})


@pytest.mark.parametrize(("kind", "values", "says"), [
    ("Conv2D", {"class_name": "TorchModuleWrapper", "module": "keras.layers"}, "It holds 'TorchModuleWrapper'"),
    ("Conv2D", {"class_name": "Unknown", "module": "a.package"}, "It holds 'Unknown'"),
    ("Conv2D", {"registered_name": "sr_keras>SuperResolutionGAN"}, "It holds 'Conv2D'"),
    ("Conv2D", {"activation": {"class_name": "function", "config": "system", "module": "os"}}, "It holds 'function'"),
    ("Conv2D", {"filters": 10**7}, r"`config\.json` must describe"),
    ("Conv2D", {"filters": "x" * 1000, "kernel_size": [10**6, 10**6]}, "bad operand"),
    ("InputLayer", {"batch_shape": [None, None, None, 10**7]}, r"`config\.json` must describe"),
    ("Bilinear", {"scale": 512}, "must enlarge at most 8 times")])
def test_hostile_configuration_is_one_line_in_little_time_and_memory(kind, values, says, run, tmp_path):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ValueError, match=rf"\A\S*bad\.keras: can't be loaded as a generator; give .*{says}.*\Z"):
        load_generator(hostile(tmp_path / "bad.keras", run, kind, **values))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB
    assert time.monotonic() - began < 60


def test_network_that_enlarges_without_end_is_refused_before_it_is_run():
    image = x = keras.Input((None, None, 3))
    for _ in range(9):
        x = Bilinear(8)(x)
    with pytest.raises(ValueError, match="must enlarge at most 8 times"):
        receptive_field(keras.Model(image, x))


def test_damaged_model_is_one_line_of_the_command(run, tmp_path):
    path = Path(shutil.copy(run / "generator.keras", tmp_path / "bad.keras"))
    changed(path, central(path, "config.json"), b"\0" * 8)
    Image.new("RGB", (8, 8)).save(tmp_path / "lr.png")
    ran = subprocess.run([sys.executable, "-m", "sr_keras.super_resolve", f"--model={path}", "--output=sr.png",
                          f"--input={tmp_path / 'lr.png'}"], cwd=tmp_path, capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}, check=False, timeout=120)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1)
    assert f"error: {path}: this .keras file is damaged and can't be loaded; copy it again" in ran.stderr


@pytest.mark.parametrize("part", ["saved_model.pb", "variables/variables.index",
                                  "variables/variables.data-00000-of-00001"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_saved_model_is_refused_by_name(part, damage, saved_model, tmp_path):
    folder = shutil.copytree(saved_model / "1", tmp_path / "1")
    if damage == "missing":
        (folder / part).unlink()
    else:
        (folder / part).write_bytes((folder / part).read_bytes()[:50])
    with pytest.raises(ValueError, match=r"`model` must be|can't be loaded as a SavedModel") as refused:
        load_generator(folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize("facts", [None, "{", "[]", json.dumps({"scale": 4}), json.dumps({"scale": 4, "halo": "wide"})])
def test_saved_model_that_does_not_say_its_halo_is_refused(facts, saved_model, tmp_path):
    folder = shutil.copytree(saved_model / "1", tmp_path / "1")
    (folder / FACTS_FILE).unlink()
    if facts is not None:
        (folder / FACTS_FILE).write_text(facts)
    with pytest.raises(ValueError, match=r"facts\.json"):
        load_generator(folder)


def test_blur_that_is_no_number_names_the_file_that_says_so(run, tmp_path):
    shutil.copy(run / "generator.keras", tmp_path)
    (tmp_path / "flags.txt").write_text("--blur_sigma=abc\n")
    with pytest.raises(ValueError, match=r"`flags` of a run must be those.*blur_sigma.*abc.*flags\.txt"):
        load_generator(tmp_path)
