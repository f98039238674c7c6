# SPDX-License-Identifier: Apache-2.0
"""A slip of the keys is told before anything is sent, and what is secret is not repeated."""
from __future__ import annotations

import pytest

from sr_keras.client import ClientOptions, SuperResolutionClient
from sr_keras.client.options import AUTH_VARIABLE, parse_address, read_auth_header


@pytest.mark.parametrize(("server", "found"), [
    ("grpc://host", ("host", 8500, False, False)), ("http://host:80/", ("host", 80, True, False)),
    ("grpcs://host", ("host", 443, False, True)), ("https://[::1]:8443", ("::1", 8443, True, True))])
def test_address_says_how_to_speak(server, found):
    address = parse_address(server)
    assert (address.host, address.port, address.rest, address.tls) == found


@pytest.mark.parametrize("server", ["", "host:8500", "ftp://host", "grpc://", "http://host:0", "http://host:99999",
                                    "http://host/v1", "http://host?x=1", "http://[::1", "http://host:port",
                                    "http://me:pa55w0rd@host"])
def test_what_is_no_address_is_refused(server):
    with pytest.raises(ValueError, match="`server` must be SCHEME://HOST:PORT") as caught:
        parse_address(server)
    assert "pa55w0rd" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [
    ("encoding", "jpeg"), ("scale", 0), ("scale", 9), ("halo", -1), ("halo", 2000), ("tile", 0), ("tile", 5000),
    ("in_flight", 0), ("in_flight", 1000), ("timeout_s", 0.0), ("timeout_s", float("inf")), ("timeout_s", 1e300),
    ("timeout_s", float("nan")), ("retries", -1),
    ("retries", 1000), ("max_sr_pixels", 0)])
def test_option_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        ClientOptions(**{name: value})


def test_tile_has_room_for_the_halo_on_both_sides():
    ClientOptions(halo=40, tile=81)
    with pytest.raises(ValueError, match=r"`tile` must be more than twice the halo of 40.*Received: tile=80"):
        ClientOptions(halo=40, tile=80)


@pytest.mark.parametrize(("name", "version"), [("", None), ("a/b", None), ("a:b", None)])
def test_name_that_no_server_knows_is_refused(name, version):
    with pytest.raises(ValueError, match="`model_name` must"):
        SuperResolutionClient("http://localhost", name)


def test_certificate_without_tls_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="`server` must be grpcs:// or https://"):
        SuperResolutionClient("http://localhost", "demo", ca_cert=tmp_path / "ca.pem")


def test_certificate_that_is_not_there_names_the_argument(tmp_path):
    for server in ("https://localhost", "grpcs://localhost"):
        with pytest.raises(FileNotFoundError, match=r"`ca_cert` must name a file .*Received: ca_cert='.*none'"):
            SuperResolutionClient(server, "demo", ca_cert=tmp_path / "none")


def test_version_below_zero_is_refused():
    with pytest.raises(ValueError, match="`model_version` must"):
        SuperResolutionClient("http://localhost", "demo", model_version=-1)


@pytest.mark.parametrize("header", ["", "Bearer s3cr3t\r\nX: y", "Bearer s3cr3t\n", "Bearer s3cr3té", " s3cr3t",
                                    "s3cr3t" * 2000])
def test_header_that_can_not_be_sent_is_refused_and_not_repeated(header):
    with pytest.raises(ValueError, match="`auth_header` must") as caught:
        SuperResolutionClient("http://localhost", "demo", auth_header=header)
    assert "s3cr3t" not in str(caught.value)


def test_header_does_not_go_over_a_network_in_the_clear():
    for server in ("http://sr.example.org", "grpc://10.0.0.1:8500"):
        with pytest.raises(ValueError, match="`auth_header` must go over TLS"):
            SuperResolutionClient(server, "demo", auth_header="Bearer s3cr3t")
    for server in ("http://127.0.0.1", "http://localhost", "http://[::1]", "https://sr.example.org"):
        SuperResolutionClient(server, "demo", auth_header="Bearer s3cr3t").close()


def test_header_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(AUTH_VARIABLE, raising=False)
    assert read_auth_header(None) is None
    monkeypatch.setenv(AUTH_VARIABLE, "Bearer one")
    assert read_auth_header(None) == "Bearer one"
    (tmp_path / "token").write_text("Bearer two\n")
    assert read_auth_header(tmp_path / "token") == "Bearer two"
    with pytest.raises(FileNotFoundError, match=r"`auth_header_file` must name a file .*none"):
        read_auth_header(tmp_path / "none")
