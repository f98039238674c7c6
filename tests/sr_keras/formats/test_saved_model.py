# SPDX-License-Identifier: Apache-2.0
"""A SavedModel is whole or not there, computes what Keras computes, and needs no code of ours, nor much memory."""
from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.config import DEGRADATIONS
from pipelines.pixels import to_float, to_uint8
from sr_keras.formats.saved_model import export_saved_model, next_version
from sr_keras.formats.signatures import check_signatures
from sr_keras.model import runtimes
from sr_keras.model.facts import ModelFacts
from sr_keras.model.loading import eight_bit, load_generator
from sr_keras.model.runtimes import ParityError, check_parity
from sr_keras.networks import SKIP_GAIN, generator, receptive_field

# Run where no code of ours can be imported, not even if it is installed. At its end it is asked for what fills memory.
FRESH = """
import resource, sys
for package in ("sr_keras", "pipelines", "keras"):
    sys.modules[package] = None
import numpy as np, tensorflow as tf
asked = np.load("asked.npz")
model = tf.saved_model.load(sys.argv[1]).signatures
sr = model["serving_default"](lr=tf.constant(asked["lr"]))["sr"].numpy()
floats = model["float"](lr=tf.constant(asked["lr"] / np.float32(255)))["sr"].numpy()
sr_bytes = model["encoded"](image_bytes=tf.constant([asked["png"].tobytes()]))["sr_bytes"].numpy()
about = {name: value.numpy() for name, value in model["about"](side=tf.constant([1])).items()}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    model["encoded"](image_bytes=tf.constant([asked["bomb"].tobytes()]))
except tf.errors.InvalidArgumentError as error:
    said = str(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
np.savez("answers.npz", sr=sr, floats=floats, png=np.frombuffer(sr_bytes[0], np.uint8), said=said, grown=grown, **about)
"""
SIGNATURES = {
    "serving_default": ({"lr": (tf.uint8, [None, None, None, 3])}, {"sr": tf.uint8}),
    "float": ({"lr": (tf.float32, [None, None, None, 3])}, {"sr": tf.float32}),
    "encoded": ({"image_bytes": (tf.string, [None])}, {"sr_bytes": tf.string}),
    "about": ({"side": (tf.int32, [None])}, {"sr_side": tf.int32, "halo": tf.int32, "max_pixels": tf.int32}),
}
FACTS = ModelFacts(lr_mpp=(0.9, 2.1), stain="H&E", degradation=DEGRADATIONS["scanner"], usual_departure=(2.0, 3.5),
                   flags="--q=0.5\n")
CLI = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]


@pytest.fixture(scope="module")
def network(randomised) -> keras.Model:
    return randomised(generator(scale=4, blocks=1, filters=6))


@pytest.fixture(scope="module")
def version(network, tmp_path_factory) -> Path:
    return export_saved_model(network, tmp_path_factory.mktemp("saved_models") / "demo", facts=FACTS)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 10 MB of pixels in 10 kB, that says it has 60,000 pixels a side."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000_000))) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_fresh_process_without_our_code_computes_what_keras_computes(network, version, environment, histology,
                                                                     tmp_path):
    lr = np.stack([histology[100:141, 200:263], histology[300:341, 10:73]])
    np.savez(tmp_path / "asked.npz", lr=lr, png=np.frombuffer(png(lr[0]), np.uint8),
             bomb=np.frombuffer(bomb(), np.uint8))
    subprocess.run([sys.executable, "-I", "-c", FRESH, version], cwd=tmp_path, env=environment, check=True, timeout=300)
    answers = np.load(tmp_path / "answers.npz")
    floats = np.clip(np.asarray(network(to_float(lr), training=False)), 0, 1)
    expected = to_uint8(floats)
    assert expected.std() > 20
    assert answers["sr"].dtype == np.uint8
    assert answers["sr"].shape == (2, 164, 252, 3)
    assert np.abs(answers["sr"].astype(int) - expected).max() <= 1
    assert np.abs(answers["floats"] - floats).max() <= 1e-4
    encoded = np.asarray(Image.open(io.BytesIO(answers["png"].tobytes())))
    assert np.abs(encoded.astype(int) - expected[0]).max() <= 1
    assert [int(answers[name][0]) for name in ("sr_side", "halo", "max_pixels")] == [4, receptive_field(network), 2**20]
    # Decoded it would be 10 GiB.
    assert "`image_bytes` must have 1048576 pixels or fewer" in str(answers["said"])
    assert answers["grown"] < 50 * 1024  # KiB


def test_signatures_are_those_that_clients_know_and_of_any_size(version):
    loaded = tf.saved_model.load(str(version))
    assert set(loaded.signatures) == set(SIGNATURES)
    for name, (inputs, outputs) in SIGNATURES.items():
        signature = loaded.signatures[name]
        args, found = signature.structured_input_signature
        assert args == ()
        assert {key: (spec.dtype, spec.shape.as_list()) for key, spec in found.items()} == inputs
        assert {key: spec.dtype for key, spec in signature.structured_outputs.items()} == outputs


def test_saved_model_cli_shows_and_runs_it(version, environment, histology, tmp_path):
    np.save(tmp_path / "lr.npy", histology[np.newaxis, :9, :13])
    tags = ["--dir", version, "--tag_set", "serve", "--signature_def", "serving_default"]
    shown, _ = (subprocess.run([*CLI, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True,
                               check=True, timeout=300)
                for arguments in (["show", "--dir", version, "--all"],
                                  ["run", *tags, "--inputs", "lr=lr.npy", "--outdir", tmp_path]))
    for name in SIGNATURES:
        assert f"signature_def['{name}']" in shown.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "sr.npy"), load_generator(version)(np.load(tmp_path / "lr.npy")))


@pytest.mark.parametrize(("bias", "pixel"), [(3.0, 255), (-3.0, 0)])
def test_values_outside_the_range_are_clipped_and_do_not_wrap(bias, pixel, tmp_path):
    network = generator(scale=2, blocks=1, filters=2)
    network.get_layer("last").bias.assign([bias / SKIP_GAIN] * 3)
    signature = tf.saved_model.load(str(export_saved_model(network, tmp_path / "x"))).signatures["serving_default"]
    assert np.unique(signature(lr=tf.zeros([1, 4, 4, 3], tf.uint8) + 128)["sr"]).tolist() == [pixel]


def test_version_holds_its_facts(network, version):
    facts = json.loads((version / "facts.json").read_text())
    assert facts == {"scale": 4, "halo": receptive_field(network), "max_pixels": 2**20, "flags": "--q=0.5\n",
                     "lr_mpp": [0.9, 2.1], "stain": "H&E", "degradation": asdict(DEGRADATIONS["scanner"]) | {
                         name: list(value) for name, value in asdict(DEGRADATIONS["scanner"]).items()
                         if isinstance(value, tuple)}, "trained_on": None, "usual_departure": [2.0, 3.5],
                     "versions": None, "filters": None, "scores": None, "nuclei": None, "tail_filters": None}
    assert load_generator(version).facts == FACTS
    assert load_generator(version).degrade == DEGRADATIONS["scanner"]


def test_versions_are_numbered_on_and_never_replaced(network, tmp_path, capfd):
    first = export_saved_model(network, tmp_path / "demo")
    assert capfd.readouterr().out == ""
    before = (first / "saved_model.pb").read_bytes()
    second = export_saved_model(network, tmp_path / "demo")
    assert (first.name, second.name) == ("1", "2")
    assert (first / "saved_model.pb").read_bytes() == before
    (tmp_path / "demo" / "10").mkdir()
    (tmp_path / "demo" / "notes").mkdir()
    assert next_version(tmp_path / "demo").name == "11"


def test_model_that_fails_the_comparison_is_not_kept(network, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "MAX_LEVELS", -1)
    with pytest.raises(ParityError, match="must agree with Keras"):
        export_saved_model(network, tmp_path / "demo")
    assert list((tmp_path / "demo").iterdir()) == []


def test_further_files_are_written_before_the_version_takes_its_name(network, tmp_path):
    def extra(folder: Path) -> None:
        assert not (tmp_path / "demo" / "1").exists()
        assert load_generator(folder).scale == 4
        (folder / "more").write_text("more")

    assert (export_saved_model(network, tmp_path / "demo", extra=extra) / "more").read_text() == "more"

    def failing(folder: Path) -> None:
        (folder / "more").write_text("more")
        raise LookupError("of its own")

    with pytest.raises(LookupError, match="of its own"):
        export_saved_model(network, tmp_path / "demo", extra=failing)
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["1"]


def test_limit_is_for_clients_and_not_for_who_loads_it_for_himself(tmp_path, randomised):
    version = export_saved_model(randomised(generator(scale=2, blocks=1, filters=2)), tmp_path / "demo",
                                 max_pixels=256 * 256)
    lr = np.zeros((1, 257, 256, 3), np.uint8)
    assert load_generator(version)(lr).shape == (1, 514, 512, 3)
    loaded = tf.saved_model.load(str(version))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have 1 to 65536 pixels"):
        loaded.signatures["serving_default"](lr=tf.constant(lr))
    assert "unlimited" not in loaded.signatures


@pytest.mark.parametrize("max_pixels", [0, 256 * 256 - 1, 2**31])
def test_limit_that_no_client_can_keep_is_refused(max_pixels, network, tmp_path):
    with pytest.raises(ValueError, match=f"`max_pixels` must be 65536 or more.*Received: max_pixels={max_pixels}"):
        export_saved_model(network, tmp_path / "demo", max_pixels=max_pixels)
    assert not (tmp_path / "demo").exists()


def test_comparison_sees_other_weights(network, version):
    other = generator(scale=4, blocks=1, filters=6)
    written = load_generator(version)
    with pytest.raises(ParityError, match="must agree with Keras"):
        check_parity(eight_bit(other), written)
    check_parity(eight_bit(network), written)
    # A difference that 8-bit pictures may well hide.
    nearly = keras.models.clone_model(network)
    nearly.set_weights(network.get_weights())
    nearly.get_layer("last").bias.assign([1e-3 / SKIP_GAIN] * 3)
    with pytest.raises(ParityError, match=r"`float` must agree with Keras within 0\.0001"):
        check_signatures(nearly, version)
    check_signatures(network, version)


def test_full_disk_is_an_os_error_and_leaves_nothing(files_limited_to, network, tmp_path):
    with files_limited_to(20_000), pytest.raises(OSError, match="the model can't be written"):
        export_saved_model(network, tmp_path / "demo")
    assert list((tmp_path / "demo").iterdir()) == []


def test_network_that_does_not_enlarge_is_refused(tmp_path):
    image = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="must enlarge"):
        export_saved_model(keras.Model(image, keras.layers.Conv2D(3, 3, padding="same")(image)), tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
