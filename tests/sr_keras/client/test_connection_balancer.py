# SPDX-License-Identifier: Apache-2.0
"""Two replicas behind nginx, by the file that an export writes: both work, and one is enough."""
from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from sr_keras.templates import render

from .conftest import FakeModel, Models, Prediction, repeated

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
pytestmark = [pytest.mark.server, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return found.getsockname()[1]


@pytest.fixture
def replicas() -> Iterator[list[tuple[FakeModel, grpc.Server, int]]]:
    """Two models, each with a server and its port."""
    started = []
    for _ in range(2):
        model, server = FakeModel(), grpc.server(ThreadPoolExecutor(8))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(model), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(model), server)
        started.append((model, server, server.add_insecure_port("127.0.0.1:0")))
        server.start()
    yield started
    for model, server, _ in started:
        model.over.set()
        server.stop(None).wait(5)


@pytest.fixture
def balancer(replicas, tmp_path) -> Iterator[str]:
    port = free_port()
    text = render("nginx.conf", grpc=[f"127.0.0.1:{replica[2]}" for replica in replicas], grpc_port=f"127.0.0.1:{port}",
                  rest=["127.0.0.1:9"], rest_port=f"127.0.0.1:{free_port()}")
    (tmp_path / "nginx.conf").write_text(text)
    command = [NGINX, "-c", tmp_path / "nginx.conf", "-g",
               f"daemon off; pid {tmp_path / 'pid'}; error_log {tmp_path / 'log'};"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 20
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            yield f"grpc://127.0.0.1:{port}"
        finally:
            process.terminate()


def test_requests_of_one_connection_are_shared_and_one_replica_is_enough(replicas, balancer, connect, histology):
    lr = histology[:60, :60]
    (one, server, _), (other, _, _) = replicas
    one.delay = other.delay = lambda number: 0.02
    client = connect(balancer, in_flight=4)
    np.testing.assert_array_equal(client.super_resolve(lr), repeated(lr))
    shares = [len(model.asked) for model in (one, other)]
    assert min(shares) >= sum(shares) / 4
    server.stop(None).wait(5)
    np.testing.assert_array_equal(client.super_resolve(lr), repeated(lr))
    assert len(one.asked) == shares[0]
    assert len(other.asked) > shares[1]
    assert client.slept == []  # no request failed: the balancer asked the other one
