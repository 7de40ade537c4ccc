# SPDX-License-Identifier: Apache-2.0
"""How a client reaches a server: address, TLS, headers, and the options of its gRPC channel."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from specclient.errors import InvalidRequest
from specclient.timeouts import Timeout

DEFAULT_URL = "127.0.0.1:8001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Encrypted connection; with ``private_key`` and ``certificate_chain`` mutual. PEM files."""

    root_certificates: Path | str | None = None
    """Who is trusted; None is the set that gRPC brings."""
    private_key: Path | str | None = None
    certificate_chain: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise InvalidRequest(
                "mutual TLS is half given", remedy="Pass private_key and certificate_chain together."
            )

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The three files' contents, in the order above. Raises InvalidRequest naming an unreadable one."""
        return _pem(self.root_certificates), _pem(self.private_key), _pem(self.certificate_chain)


def credentials(tls: Tls) -> Any:
    """A client's channel credentials. Raises InvalidRequest."""
    return grpc.ssl_channel_credentials(*tls.read())


def endpoint(url: str) -> str:
    """``url`` as host:port. Raises InvalidRequest."""
    address = url.removeprefix("grpc://").rstrip("/")
    if address.startswith("unix:"):
        return address
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):\d{1,5}", address):
        raise InvalidRequest(
            f"{url!r} is no gRPC address",
            remedy=f"Write host:port with the server's gRPC port, such as {DEFAULT_URL}.",
        )
    return address


def options(address: str, timeout: Timeout) -> list[tuple[str, int]]:
    """Channel options: no size limit, bounded connecting, quick reconnecting."""
    chosen = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # After a failed attempt gRPC answers from memory; its default pause grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # A connection of its own: by default all channels of a process to one address share one.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if timeout.connect is not None:
        # gRPC core gives one attempt to connect at least this long, and no longer once its pauses are
        # shorter (subchannel.cc, ParseArgsForBackoffValues).
        chosen.append(("grpc.min_reconnect_backoff_ms", max(100, round(timeout.connect * 1000))))
    if _is_loopback(address):
        chosen.append(("grpc.enable_http_proxy", 0))  # a proxy cannot reach this machine's own server
    return chosen


def headers(extra: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """gRPC metadata, whose names are in lower case. Raises InvalidRequest for what gRPC cannot send."""
    for name, value in extra.items():
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or not re.fullmatch(r"[ -~]*", value):
            raise InvalidRequest(  # the value may be a secret
                f"header {name!r} or its value cannot be sent",
                remedy="Use letters, digits, '.', '_' and '-' in its name, and printable ASCII in its value.",
            )
    return tuple((name.lower(), value) for name, value in extra.items())


def _is_loopback(address: str) -> bool:
    host = address.rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or address.startswith("unix:")


def _pem(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(
            f"cannot read {path}: {error.strerror}", remedy="Name a readable PEM file."
        ) from error
