# SPDX-License-Identifier: Apache-2.0
"""What `sr_keras.export` writes gives through a server what it gives by itself, and is safe there.

Through the official stubs over loopback, in this process; and through `tensorflow_model_server` where that is on the
PATH. Its absence is said at the end of the tests.
"""
from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from pipelines.pixels import to_float
from sr_keras.client import ServerError
from sr_keras.formats.saved_model import WARMUP_FILE, export_saved_model, write_serving_files
from sr_keras.model import tiles as tiling
from sr_keras.model.loading import LoadedGenerator, load_generator
from sr_keras.networks import generator

from .conftest import BINARY, WAYS, FakeModel, Refused

pytestmark = pytest.mark.server
START_S = 120
TILE = 32


@pytest.fixture(scope="module")
def exported(randomised, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved_models") / "demo"
    export_saved_model(randomised(generator(scale=4, blocks=1, filters=6)), folder)
    write_serving_files(folder.parent)
    return folder


@pytest.fixture(scope="module")
def local(exported) -> LoadedGenerator:
    return load_generator(exported)


@pytest.fixture(scope="module")
def signatures(exported) -> Iterator[dict[str, Any]]:
    loaded = tf.saved_model.load(str(exported / "1"))
    yield dict(loaded.signatures)
    del loaded  # which owns the weights


class Exported(FakeModel):
    """The SavedModel in place of the model that repeats pixels."""

    def __init__(self, signatures: dict[str, Any]) -> None:
        super().__init__()
        self.states = {1: "AVAILABLE"}
        self.signatures = signatures

    def check(self, name: str, version: int | None) -> None:
        super().check(name, version or 1)

    def _computed(self, inputs: dict[str, Any], signature: str) -> dict[str, Any]:
        if signature not in self.signatures:
            raise Refused("INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def')
        try:
            found = self.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        except tf.errors.InvalidArgumentError as error:
            raise Refused("INVALID_ARGUMENT", error.message) from error
        return {name: value.numpy() if value.dtype != tf.string else value.numpy().tolist()
                for name, value in found.items()}


@pytest.fixture
def model(signatures) -> Iterator[FakeModel]:
    found = Exported(signatures)
    yield found
    found.over.set()


@pytest.fixture(scope="module")
def model_server(exported, tmp_path_factory) -> Iterator[dict[str, str]]:
    """The real one, ready; its address by either way."""
    binary = shutil.which(BINARY)
    if binary is None:
        pytest.skip(f"{BINARY} is not on the PATH")
    ports = {way: free_port() for way in WAYS}
    folder = tmp_path_factory.mktemp("server")
    log, config = folder / "log", folder / "models.config"
    written = (exported.parent / "models.config").read_text()
    config.write_text(written.replace('"/models/', f'"{exported.parent}/'))
    with log.open("wb") as file, subprocess.Popen(
            [binary, f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}", f"--model_config_file={config}",
             "--enable_batching=true", f"--batching_parameters_file={exported.parent / 'batching_parameters.txt'}"],
            stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            wait_for(process, ports.values(), log)
            yield {"grpc": f"grpc://127.0.0.1:{ports['grpc']}", "rest": f"http://127.0.0.1:{ports['rest']}"}
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


def wait_for(process: subprocess.Popen, ports, log: Path) -> None:
    waiting = set(ports)
    for _ in range(START_S * 10):
        waiting = {port for port in waiting if not listens(port)}
        if not waiting:
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"{BINARY} did not start: {log.read_text()[-2000:]}")


@pytest.fixture(params=["loopback", BINARY])
def address(request, serve) -> Callable[[str], str]:
    """Where the exported model is served."""
    return serve if request.param == "loopback" else request.getfixturevalue("model_server").__getitem__


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("encoding", ["tensor", "bytes"])
@pytest.mark.parametrize("shape", [(70, 45), (20, 20), (1, 1)])
def test_server_gives_what_the_model_gives(way, encoding, shape, address, connect, local, histology):
    lr = histology[100:100 + shape[0], 200:200 + shape[1]]
    expected = tiling.super_resolve(local, lr, 4, halo=local.halo, tile=TILE)
    client = connect(address(way), encoding=encoding, halo=None, tile=TILE, timeout_s=60)
    assert client.health() == {1: "AVAILABLE"}
    assert (client.scale, client.halo) == (local.scale, local.halo)
    sr = client.super_resolve(lr)
    assert np.abs(sr.astype(int) - expected).max() <= 1
    assert shape == (1, 1) or sr.std() > 20


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "version"), [("other", None), ("demo", 9)])
def test_server_refuses_what_it_does_not_have(way, name, version, address, connect, histology):
    client = connect(address(way), name, model_version=version)
    for ask in (client.health, lambda: client.super_resolve(histology[:8, :8])):
        with pytest.raises(ServerError) as caught:
            ask()
        assert caught.value.code == "NOT_FOUND"


@pytest.mark.skipif(importlib.util.find_spec("ovmsclient") is None, reason="pip install ovmsclient")
def test_client_of_others_gets_the_same_pixels(address, local, histology, tmp_path):
    """OpenVINO's client, which has the API from its own copy of the messages; hence in a process of its own."""
    np.save(tmp_path / "lr.npy", histology[np.newaxis, 100:130, 200:245])
    done = subprocess.run([sys.executable, "-c", """if True:
        import sys, numpy as np, ovmsclient
        grpc, http = (make(where) for make, where in zip(
            (ovmsclient.make_grpc_client, ovmsclient.make_http_client), sys.argv[1:3]))
        np.save(sys.argv[3] + "/sr.npy", grpc.predict({"lr": np.load(sys.argv[3] + "/lr.npy")}, "demo", timeout=60))
        print([client.get_model_status("demo", 1)[1]["state"] for client in (grpc, http)])
        """, *(address(way).partition("//")[2] for way in WAYS), tmp_path], capture_output=True, text=True, timeout=120)
    assert done.stdout == "['AVAILABLE', 'AVAILABLE']\n", done.stderr
    sr = np.load(tmp_path / "sr.npy")
    assert sr.dtype == np.uint8
    assert np.abs(sr.astype(int) - local(histology[np.newaxis, 100:130, 200:245])).max() <= 1


@pytest.fixture
def predict(address) -> Iterator[Callable[..., dict[str, np.ndarray]]]:
    """Ask a signature through the official stub."""
    with grpc.insecure_channel(address("grpc").removeprefix("grpc://"),
                               [("grpc.max_receive_message_length", -1)]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def ask(signature: str, **inputs: Any) -> dict[str, np.ndarray]:
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = "demo", signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            return {name: tf.make_ndarray(value) for name, value in stub.Predict(request, timeout=60).outputs.items()}

        yield ask


def png(image: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, quality=95)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of 100 bytes that says it has so many pixels."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_floats_come_back_as_floats(predict, local, histology):
    lr = histology[np.newaxis, 50:81, 60:103]
    sr = predict("float", lr=to_float(lr))["sr"]
    assert sr.dtype == np.float32
    assert np.abs(255 * sr - local(lr)).max() <= 0.51
    assert len(np.unique(sr)) > 256


def test_pictures_of_different_sizes_and_formats_share_a_request(predict, local, histology):
    images = [histology[:21, :33], histology[100:107, :5], histology[:1, :1]]
    answers = predict("encoded", image_bytes=[png(images[0], "JPEG"), *map(png, images[1:])])["sr_bytes"]
    images[0] = np.asarray(Image.open(io.BytesIO(png(images[0], "JPEG"))))
    for image, answer in zip(images, answers, strict=True):
        sr = np.asarray(Image.open(io.BytesIO(answer)))
        assert np.abs(sr.astype(int) - local(image[np.newaxis])[0]).max() <= 1


@pytest.mark.parametrize(("signature", "inputs", "said"), [
    ("encoded", {"image_bytes": [bomb(60_000, 60_000)]}, "`image_bytes` must have 1048576 pixels or fewer together"),
    ("encoded", {"image_bytes": [b"GIF89a, or what not"]}, "`image_bytes` must be PNG or JPEG"),
    ("serving_default", {"lr": np.zeros((1, 1, 2**20 + 1, 3), np.uint8)}, "`lr` must have 1 to 1048576 pixels"),
    ("float", {"lr": np.full((1, 2, 2, 3), 255, np.float32)}, r"`lr` must lie in \[0, 1\]; divide 8-bit values by 255"),
])
def test_what_a_server_must_not_compute_is_refused_in_words(signature, inputs, said, predict):
    with pytest.raises(grpc.RpcError) as caught:
        predict(signature, **inputs)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert re.search(said, caught.value.details())


def test_bytes_of_every_warm_up_request_are_answered(address, exported):
    with grpc.insecure_channel(address("grpc").removeprefix("grpc://"),
                               [("grpc.max_receive_message_length", -1)]) as channel:
        ask = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        asked = []
        for record in tf.data.TFRecordDataset(str(exported / "1" / WARMUP_FILE)).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            response = predict_pb2.PredictResponse.FromString(ask(request.SerializeToString(), timeout=120))
            shape = [side.size for side in next(iter(request.inputs.values())).tensor_shape.dim]
            asked.append((request.model_spec.signature_name, *shape))
            for value in response.outputs.values():
                assert [side.size for side in value.tensor_shape.dim] == [
                    shape[0], *(4 * side for side in shape[1:3]), *shape[3:]]
    assert asked == [*(("serving_default", size, 256, 256, 3) for size in (1, 2, 4, 8)), ("float", 1, 64, 64, 3),
                     ("encoded", 1), ("about", 1)]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on the PATH")
def test_health_check_says_whether_every_model_is_ready(address, exported, dead_port, tmp_path):
    def healthy(config: Path, port: str) -> tuple[int, str]:
        done = subprocess.run(["bash", exported.parent / "health.sh", config, port], capture_output=True, text=True,
                              env={"PATH": os.environ["PATH"]}, timeout=30)
        return done.returncode, done.stdout

    port = address("rest").rsplit(":", 1)[1]
    config = exported.parent / "models.config"
    assert healthy(config, port) == (0, "")
    (tmp_path / "models.config").write_text(config.read_text() + '  name: "not there"\n')
    assert healthy(tmp_path / "models.config", port) == (1, "not there is not ready\n")
    assert healthy(config, str(dead_port))[0] == 1
    assert healthy(tmp_path / "none", port)[0] == 1
