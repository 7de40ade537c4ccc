# SPDX-License-Identifier: Apache-2.0
"""Addresses and TLS files are checked before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from specclient import InvalidRequest, Timeout, Tls, channel


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:8001", "localhost:8001"),
        ("grpc://10.0.0.1:8001/", "10.0.0.1:8001"),
        ("[::1]:8001", "[::1]:8001"),
        ("unix:/run/triton.sock", "unix:/run/triton.sock"),
    ],
)
def test_an_address_is_host_and_port(url: str, address: str) -> None:
    assert channel.endpoint(url) == address


@pytest.mark.parametrize("url", ["", "localhost", "http://localhost:8000", "host:port", "a b:1", "host:1\n"])
def test_anything_else_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        channel.endpoint(url)
    assert "127.0.0.1:8001" in caught.value.remedy


def test_a_proxy_is_not_asked_for_this_machine() -> None:
    def direct(address: str) -> bool:
        return ("grpc.enable_http_proxy", 0) in channel.options(address, Timeout())

    assert direct("127.0.0.1:1") and direct("localhost:1") and direct("[::1]:1")
    assert not direct("10.0.0.1:1") and not direct("gpu.example.com:1")


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
