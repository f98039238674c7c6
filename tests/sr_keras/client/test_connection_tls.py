# SPDX-License-Identifier: Apache-2.0
"""A server behind TLS is asked only if its certificate is trusted, and a header goes to no other over a network."""
from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from sr_keras.client import ServerError, SuperResolutionClient

from .conftest import WAYS, repeated

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.server
both = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on the PATH to make a certificate with: TLS was not tested")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=test", "-addext",
                    "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True, timeout=60)
    return key, cert


@pytest.fixture
def serve_tls(certificate, grpc_port, rest_port):
    key, cert = certificate

    def start(way: str) -> str:
        if way == "grpc":
            pair = (key.read_bytes(), cert.read_bytes())
            return f"grpcs://127.0.0.1:{grpc_port(grpc.ssl_server_credentials([pair]))}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        return f"https://127.0.0.1:{rest_port(context)}"

    return start


@both
def test_certificate_that_is_given_is_trusted(way, serve_tls, certificate, connect, model, histology):
    client = connect(serve_tls(way), ca_cert=certificate[1], auth_header="Bearer s3cr3t-t0k3n")
    np.testing.assert_array_equal(client.super_resolve(histology[:20, :30]), repeated(histology[:20, :30]))
    assert {asked["auth"] for asked in model.asked} == {"Bearer s3cr3t-t0k3n"}


@both
def test_certificate_that_nobody_vouches_for_is_refused_at_once(way, serve_tls, connect, model):
    client = connect(serve_tls(way), auth_header="Bearer s3cr3t-t0k3n")
    with pytest.raises(ServerError, match=r"can't be trusted .*`ca_cert`") as caught:
        client.health()
    assert caught.value.code == "NOT_TRUSTED"
    assert client.slept == []
    assert model.asked == []


def test_refused_certificate_is_one_line_for_who_runs_the_command(serve_tls):
    done = subprocess.run(
        [sys.executable, "-m", "sr_keras.client", f"--server={serve_tls('grpc')}", "--model_name=demo", "--check"],
        cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()  # gRPC's own log would say it again
    assert line.startswith("error: grpcs://127.0.0.1")


@both
def test_certificate_of_another_host_is_refused(way, serve_tls, certificate, connect):
    server = serve_tls(way).replace("127.0.0.1", "localhost")
    with pytest.raises(ServerError, match="NOT_TRUSTED"):
        connect(server, ca_cert=certificate[1]).health()


@both
def test_plain_client_at_a_tls_port_is_told(way, serve_tls, connect):
    server = serve_tls(way).replace("s://", "://")
    with pytest.raises(ServerError) as caught:
        connect(server, timeout_s=5).health()
    assert caught.value.code in ("UNAVAILABLE", "DROPPED", "HTTP 400", "DEADLINE_EXCEEDED")


@both
def test_file_that_is_no_certificate_is_refused(way, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    server = "grpcs://localhost:1" if way == "grpc" else "https://localhost:1"
    with pytest.raises(ValueError, match="`ca_cert` must be a PEM file"):
        SuperResolutionClient(server, "demo", ca_cert=tmp_path / "ca.pem")
    with pytest.raises(FileNotFoundError, match=r"none\.pem"):
        SuperResolutionClient(server, "demo", ca_cert=tmp_path / "none.pem")
