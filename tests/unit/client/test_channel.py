# SPDX-License-Identifier: Apache-2.0
"""Addresses and TLS files are checked before anything is sent."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from specclient import InvalidRequest, KeepAlive, SpecClient, Timeout, Tls, channel
from specclient.address import parse


@pytest.mark.parametrize(
    ("url", "text", "protocol", "secure", "host", "port", "path"),
    [
        ("localhost:8001", "localhost:8001", "grpc", False, "localhost", 8001, ""),
        ("grpc://10.0.0.1:8001/", "10.0.0.1:8001", "grpc", False, "10.0.0.1", 8001, ""),
        ("grpcs://gpu:8001", "gpu:8001", "grpc", True, "gpu", 8001, ""),
        ("[::1]:8001", "[::1]:8001", "grpc", False, "::1", 8001, ""),
        ("unix:/run/triton.sock", "unix:/run/triton.sock", "grpc", False, "", 0, ""),
        ("http://localhost:8000", "http://localhost:8000", "http", False, "localhost", 8000, ""),
        ("http://[::1]:8000/", "http://[::1]:8000", "http", False, "::1", 8000, ""),
        ("https://a.example/llm/", "https://a.example/llm", "http", True, "a.example", 443, "/llm"),
    ],
)
def test_a_url_names_the_protocol_and_the_place(
    url: str, text: str, protocol: str, secure: bool, host: str, port: int, path: str
) -> None:
    found = parse(url)
    assert (found.text, found.protocol, found.secure) == (text, protocol, secure)
    assert (found.host, found.port, found.path) == (host, port, path)


@pytest.mark.parametrize(
    "url", ["", "localhost", "ftp://localhost:8000", "host:port", "a b:1", "host:1\n", "host:70000", "h:1/p"]
)
def test_anything_else_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(url)
    assert "127.0.0.1:8001" in caught.value.remedy


def test_a_proxy_is_not_asked_for_this_machine() -> None:
    def direct(url: str) -> bool:
        return ("grpc.enable_http_proxy", 0) in channel.options(parse(url), Timeout())

    assert direct("127.0.0.1:1") and direct("localhost:1") and direct("[::1]:1")
    assert not direct("10.0.0.1:1") and not direct("gpu.example.com:1")


def test_keep_alive_reaches_the_channel_and_the_socket() -> None:
    wanted = KeepAlive(interval=400, timeout=12, without_requests=True)
    options = dict(channel.options(parse("h:1"), Timeout(), wanted))
    assert options["grpc.keepalive_time_ms"] == 400_000
    assert options["grpc.keepalive_timeout_ms"] == 12_000
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert "grpc.keepalive_time_ms" not in dict(channel.options(parse("h:1"), Timeout()))
    with socket.socket() as plain:
        channel.keep_alive(plain, wanted)
        assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 400
    with pytest.raises(InvalidRequest):
        KeepAlive(interval=0)


def test_a_bearer_token_is_a_header_like_any_other() -> None:
    assert channel.headers({}, "t0k") == (("authorization", "Bearer t0k"),)
    with pytest.raises(InvalidRequest) as caught:
        channel.headers({}, "se\ncret")
    assert "ncret" not in str(caught.value)


def test_tls_needs_an_encrypted_address() -> None:
    with pytest.raises(InvalidRequest, match="http://"):
        SpecClient("http://localhost:8000", tls=Tls())


def test_header_names_are_sent_in_lower_case() -> None:
    assert channel.headers({"Authorization": "Bearer ~x"}) == (("authorization", "Bearer ~x"),)


@pytest.mark.parametrize(("name", "value"), [("a b", "#"), ("", "#"), ("key", "secret\n"), ("key", "sécret")])
def test_a_header_that_cannot_be_sent_is_refused_without_showing_its_value(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        channel.headers({name: value})
    assert repr(name) in caught.value.message and value not in str(caught.value)


def test_half_of_mutual_tls_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="half"):
        Tls(private_key="key.pem")
    with pytest.raises(InvalidRequest, match=r"absent\.pem"):
        Tls(root_certificates=tmp_path / "absent.pem").read()
