# SPDX-License-Identifier: Apache-2.0
"""How a client reaches a server: TLS, headers, keep-alive, and what gRPC and sockets make of them."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from specclient.address import DEFAULT_URL, Address
from specclient.errors import InvalidRequest
from specclient.timeouts import Timeout

__all__ = ["DEFAULT_URL", "KeepAlive", "Tls", "context", "credentials", "headers", "keep_alive", "options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Encrypted connection; with ``private_key`` and ``certificate_chain`` mutual. PEM files."""

    root_certificates: Path | str | None = None
    """Who is trusted; None is the set that gRPC brings, or over HTTP the system's."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlive:
    """Probes that keep a silent connection open in firewalls and find out when the peer is gone.

    Triton's gRPC server takes pings that come more often than every 300 s for an attack and closes the
    connection, unless it was started with a smaller ``--grpc-keepalive-time`` and
    ``--grpc-http2-min-recv-ping-interval-without-data``. Over HTTP the probes are TCP's own, which
    no server minds.
    """

    interval: float = 300.0
    """Seconds of silence before a probe."""
    timeout: float = 20.0
    """Seconds without an answer to it after which the connection counts as broken."""
    without_requests: bool = False
    """Probe also while no request runs; for gRPC only if the server permits it."""

    def __post_init__(self) -> None:
        if self.interval < 1 or self.timeout < 1:
            raise InvalidRequest(f"{self} is too eager", remedy="Use at least 1 second for both times.")


def credentials(tls: Tls) -> Any:
    """A client's channel credentials. Raises InvalidRequest."""
    return grpc.ssl_channel_credentials(*tls.read())


def context(tls: Tls) -> ssl.SSLContext:
    """The same for a connection over HTTP. Raises InvalidRequest."""
    tls.read()  # names a file that cannot be read; ssl does not
    try:
        chosen = ssl.create_default_context(
            cafile=None if tls.root_certificates is None else str(tls.root_certificates)
        )
        if tls.certificate_chain is not None:
            chosen.load_cert_chain(str(tls.certificate_chain), str(tls.private_key))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidRequest(
            f"a PEM file of {tls} is not usable: {error}", remedy="Pass certificates and a key in PEM format."
        ) from error
    chosen.set_alpn_protocols(["http/1.1"])
    return chosen


def options(address: Address, timeout: Timeout, keepalive: KeepAlive | None = None) -> list[tuple[str, int]]:
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
    if address.is_loopback:
        chosen.append(("grpc.enable_http_proxy", 0))  # a proxy cannot reach this machine's own server
    if keepalive is not None:
        chosen += [
            ("grpc.keepalive_time_ms", round(keepalive.interval * 1000)),
            ("grpc.keepalive_timeout_ms", round(keepalive.timeout * 1000)),
            ("grpc.keepalive_permit_without_calls", int(keepalive.without_requests)),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    return chosen


def keep_alive(connection: socket.socket, keepalive: KeepAlive | None) -> None:
    """Set a TCP connection's options: small messages leave at once, and ``keepalive``'s probes."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        probe = max(1, round(keepalive.timeout / 4))
        for name, value in (
            ("TCP_KEEPIDLE", round(keepalive.interval)),
            ("TCP_KEEPINTVL", probe),
            ("TCP_KEEPCNT", 4),
        ):
            if hasattr(socket, name):  # not on every system
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def headers(extra: Mapping[str, str], token: str | None = None) -> tuple[tuple[str, str], ...]:
    """What goes with every request, names in lower case. Raises InvalidRequest for what cannot be sent."""
    given = {**extra, **({} if token is None else {"authorization": f"Bearer {token}"})}
    for name, value in given.items():
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or not re.fullmatch(r"[ -~]*", value):
            raise InvalidRequest(  # the value may be a secret
                f"header {name!r} or its value cannot be sent",
                remedy="Use letters, digits, '.', '_' and '-' in its name, and printable ASCII in its value.",
            )
    return tuple((name.lower(), value) for name, value in given.items())


def _pem(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(
            f"cannot read {path}: {error.strerror}", remedy="Name a readable PEM file."
        ) from error
