"""A SavedModel is whole or not there, computes what Keras computes, and needs no code of ours."""
from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.pixels import to_float, to_uint8
from sr_keras.export import parity
from sr_keras.export.parity import ParityError
from sr_keras.export.saved_model import export_saved_model, next_version
from sr_keras.models import load_generator
from sr_keras.networks import SKIP_GAIN, generator, receptive_field

# Run where no code of ours can be imported, not even if it is installed.
FRESH = """
import sys
for package in ("sr_keras", "pipelines", "keras"):
    sys.modules[package] = None
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
np.save(sys.argv[3], model.signatures["serving_default"](lr=tf.constant(np.load(sys.argv[2])))["sr"].numpy())
"""


@pytest.fixture(scope="module")
def network(randomised) -> keras.Model:
    return randomised(generator(scale=4, blocks=1, filters=6))


@pytest.fixture(scope="module")
def version(network, tmp_path_factory) -> Path:
    return export_saved_model(network, tmp_path_factory.mktemp("saved_models") / "demo", card="# demo\n",
                              facts={"flags": "--q=0.5\n"})


def test_fresh_process_without_our_code_computes_what_keras_computes(network, version, histology, tmp_path):
    lr = np.stack([histology[100:141, 200:263], histology[300:341, 10:73]])
    np.save(tmp_path / "lr.npy", lr)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-I", "-c", FRESH, version, "lr.npy", "sr.npy"], cwd=tmp_path, env=environment,
                   check=True, timeout=120)
    sr = np.load(tmp_path / "sr.npy")
    assert sr.dtype == np.uint8
    assert sr.shape == (2, 164, 252, 3)
    expected = to_uint8(np.asarray(network(to_float(lr), training=False)))
    assert expected.std() > 20
    assert np.abs(sr.astype(int) - expected).max() <= 1


def test_signature_is_uint8_in_and_out_of_any_size(version):
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    (args, inputs), outputs = signature.structured_input_signature, signature.structured_outputs
    assert args == ()
    assert inputs == {"lr": tf.TensorSpec([None, None, None, 3], tf.uint8, name="lr")}
    assert {name: (spec.dtype, spec.shape.rank, spec.shape[3]) for name, spec in outputs.items()} == {
        "sr": (tf.uint8, 4, 3)}


@pytest.mark.parametrize(("bias", "pixel"), [(3.0, 255), (-3.0, 0)])
def test_values_outside_the_range_are_clipped_and_do_not_wrap(bias, pixel, tmp_path):
    network = generator(scale=2, blocks=1, filters=2)
    network.get_layer("last").bias.assign([bias / SKIP_GAIN] * 3)
    signature = tf.saved_model.load(str(export_saved_model(network, tmp_path / "x"))).signatures["serving_default"]
    assert np.unique(signature(lr=tf.zeros([1, 4, 4, 3], tf.uint8) + 128)["sr"]).tolist() == [pixel]


def test_version_holds_its_facts_and_its_card(network, version):
    facts = json.loads((version / "assets.extra" / "sr_keras.json").read_text())
    assert facts == {"scale": 4, "halo": receptive_field(network), "flags": "--q=0.5\n"}
    assert (version / "README.md").read_text() == "# demo\n"


def test_versions_are_numbered_on_and_never_replaced(network, tmp_path):
    first = export_saved_model(network, tmp_path / "demo")
    before = (first / "saved_model.pb").read_bytes()
    second = export_saved_model(network, tmp_path / "demo")
    assert (first.name, second.name) == ("1", "2")
    assert (first / "saved_model.pb").read_bytes() == before
    (tmp_path / "demo" / "10").mkdir()
    (tmp_path / "demo" / "notes").mkdir()
    assert next_version(tmp_path / "demo").name == "11"


def test_export_prints_nothing(network, tmp_path, capfd):
    export_saved_model(network, tmp_path / "demo")
    assert capfd.readouterr().out == ""


def test_model_that_fails_the_comparison_is_not_kept(network, tmp_path, monkeypatch):
    monkeypatch.setattr(parity, "MAX_DIFFERENCE", -1)
    with pytest.raises(ParityError, match="must agree with Keras"):
        export_saved_model(network, tmp_path / "demo")
    assert list((tmp_path / "demo").iterdir()) == []


def test_comparison_sees_other_weights(network, version):
    other = generator(scale=4, blocks=1, filters=6)
    written = load_generator(version)
    with pytest.raises(ParityError, match="must agree with Keras"):
        parity.check_parity(parity.eight_bit_of(other), written)
    parity.check_parity(parity.eight_bit_of(network), written)


def test_full_disk_is_an_os_error_and_leaves_nothing(network, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # what a full disk is to who writes
    try:
        with pytest.raises(OSError, match="the model can't be written"):
            export_saved_model(network, tmp_path / "demo")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "demo").iterdir()) == []


def test_network_that_does_not_enlarge_is_refused(tmp_path):
    image = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="must enlarge"):
        export_saved_model(keras.Model(image, keras.layers.Conv2D(3, 3, padding="same")(image)), tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
