# SPDX-License-Identifier: Apache-2.0
"""Where a server is, and over which of Triton's two protocols it is asked. Pure.

127.0.0.1:8001, grpc://host:8001      gRPC
grpcs://host:8001                     gRPC over TLS
unix:/run/triton.sock                 gRPC over a socket file
http://host:8000                      HTTP
https://host/some/prefix              HTTP over TLS, behind a proxy (Triton's own HTTP port has no TLS)
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from specclient.errors import InvalidRequest

DEFAULT_URL = "127.0.0.1:8001"

_HOST = r"\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+"
_URL = re.compile(
    rf"(?:(?P<scheme>grpcs?|https?)://)?(?P<host>{_HOST})(?::(?P<port>\d{{1,5}}))?(?P<path>(?:/[\w.~%-]+)*)/?",
    re.ASCII,
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL."""

    text: str
    """How errors name it, and for gRPC the target of the channel."""
    protocol: Literal["grpc", "http"]
    secure: bool = False
    host: str = ""
    """Without brackets; empty for a socket file."""
    port: int = 0
    path: str = ""
    """What precedes ``/v2`` in HTTP; no slash at its end."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can be meant."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host in {"localhost", ""}


def parse(url: str) -> Address:
    """``url`` as an Address. Raises InvalidRequest."""
    if url.startswith("unix:"):
        return Address(url, "grpc")
    match = _URL.fullmatch(url)
    scheme = (match["scheme"] or "grpc") if match else ""
    port = int(match["port"] or _DEFAULT_PORTS.get(scheme, 0)) if match else 0
    over_http = scheme.startswith("http")
    if match is None or not 0 < port < 65536 or (match["path"] and not over_http):
        raise InvalidRequest(
            f"{url!r} is no address of a server",
            remedy=f"Write host:port with the server's gRPC port, such as {DEFAULT_URL}, "
            "or http://host:port with its HTTP port.",
        )
    return Address(
        text=url.rstrip("/") if over_http else f"{match['host']}:{port}",
        protocol="http" if over_http else "grpc",
        secure=scheme in {"grpcs", "https"},
        host=match["host"].strip("[]"),
        port=port,
        path=match["path"],
    )
