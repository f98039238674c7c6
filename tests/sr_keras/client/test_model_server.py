"""What `sr_keras.export` writes gives through a server what it gives by itself.

Through the official stubs over loopback, in this process; and through `tensorflow_model_server` where that is on the
PATH. Its absence is said at the end of the tests.
"""
from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from sr_keras import tiling
from sr_keras.client import ServerError
from sr_keras.export.saved_model import export_saved_model
from sr_keras.models import LoadedGenerator, load_generator
from sr_keras.networks import generator

from .conftest import BINARY, WAYS, FakeModel

START_S = 120
TILE = 32


@pytest.fixture(scope="module")
def exported(randomised, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved_models") / "demo"
    export_saved_model(randomised(generator(scale=4, blocks=1, filters=6)), folder)
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
        found = self.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
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
    log = tmp_path_factory.mktemp("log") / "log"
    with log.open("wb") as file, subprocess.Popen(
            [binary, f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}", "--model_name=demo",
             f"--model_base_path={exported}"], stdout=file, stderr=subprocess.STDOUT) as process:
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
def test_server_gives_what_the_model_gives(way, encoding, shape, address, connect, local, signatures, histology):
    if encoding == "bytes" and "encoded" not in signatures:
        pytest.skip("the export has no signature `encoded` yet")
    lr = histology[100:100 + shape[0], 200:200 + shape[1]]
    expected = tiling.super_resolve(local, lr, 4, halo=local.halo, tile=TILE)
    client = connect(address(way), encoding=encoding, halo=local.halo, tile=TILE, timeout_s=60)
    assert client.health() == {1: "AVAILABLE"}
    assert client.scale == local.scale
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
