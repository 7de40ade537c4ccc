# SPDX-License-Identifier: Apache-2.0
"""The one table from status codes and Triton's texts to ``specclient.errors``.

Triton's own checks of a request answer on a stream with a text and no code, even when codes are asked
for; errors from a model come with their code (measured on 2.51). A rule with code None fits both.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import NamedTuple

from specclient.errors import (
    AccessDenied,
    ConnectError,
    ConnectTimeout,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    ServerFailure,
    SpecClientError,
    TlsError,
    TotalTimeout,
)


class Rule(NamedTuple):
    """``error`` is meant when the code fits and ``pattern`` occurs in the text; the first rule wins."""

    code: str | None
    pattern: str
    error: type[SpecClientError]
    remedy: str | None = None


RULES: tuple[Rule, ...] = (
    # Texts of gRPC core 1.6x to 1.85.
    Rule("UNAVAILABLE", r"attempt timed out|handshaker shutdown|Connection timed out", ConnectTimeout),
    Rule(
        "UNAVAILABLE",
        r"handshake failed|TSI_|SSL_ERROR|CERTIFICATE",
        TlsError,
    ),
    Rule(
        "UNAVAILABLE",
        r"resolv|lookup failed|DNS",
        ConnectError,
        "Check the host's name; there is no such address.",
    ),
    Rule(
        "UNAVAILABLE",
        r"failed to connect.*Socket closed",
        ConnectError,
        "Whatever listens there closes the connection: it may want TLS (pass tls=Tls(...)), "
        "or the port is not the server's gRPC port (8001 unless configured).",
    ),
    Rule("DEADLINE_EXCEEDED", r"", TotalTimeout),
    # Texts of Triton 2.51 to 2.70 (server/src/grpc, core/src).
    Rule(None, r"Exceeds maximum queue size|maximum queue size", QueueFull),
    Rule(None, r"no available versions|is not ready|not yet ready|has not been loaded", ModelNotReady),
    Rule(None, r"unknown model", ModelNotFound),
    Rule(None, r"(protocol|API) is restricted|expecting header", AccessDenied),
    Rule(
        None,
        r"Stub process .* is not healthy",
        ServerFailure,
        "The model's process has died and Triton does not start it again: restart the server.",
    ),
    Rule("UNAUTHENTICATED", r"", AccessDenied),
    Rule("PERMISSION_DENIED", r"", AccessDenied),
    Rule("INVALID_ARGUMENT", r"", InvalidRequest),
    Rule("NOT_FOUND", r"", ModelNotFound),
    Rule(
        "UNIMPLEMENTED",
        r"",
        ConnectError,
        "Something else than Triton answers there: check the address and the port.",
    ),
    Rule("UNAVAILABLE", r"", ConnectError),
    Rule("", r"^unexpected |expected \d+ |must be |is missing |not supported", InvalidRequest),
)
"""An empty code is an error that came as text alone."""


def translate(code: str, text: str) -> SpecClientError:
    """The error for gRPC status ``code`` (its name; empty for none) and the server's ``text``."""
    for rule in RULES:
        if (rule.code is None or rule.code == code) and re.search(rule.pattern, text, re.IGNORECASE):
            return rule.error(_message(code, text), remedy=rule.remedy)
    return ServerFailure(_message(code, text))


_CODES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
_CODES |= {429: "UNAVAILABLE", 500: "INTERNAL", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE"}
"""HTTP status -> the gRPC code that Triton maps to it (server/src/http_server.cc, HttpCodeFromError)."""


def translate_http(status: int, text: str) -> SpecClientError:
    """The error for HTTP ``status`` with Triton's ``text``; the text is empty when something else answers."""
    if text:
        return translate(_CODES.get(status, ""), text)
    said = f"HTTP status {status} without Triton's explanation"
    if status in {401, 403}:
        return AccessDenied(said)
    if status == 429:
        return QueueFull(said, remedy="A proxy limits the rate: send fewer requests at a time.")
    if status in {502, 503, 504}:
        return ConnectError(said, remedy="A proxy answers, but the server behind it does not.")
    if status >= 500 and status != 501:
        return ServerFailure(said)
    return translate("UNIMPLEMENTED", said)


def translate_connecting(error: OSError) -> SpecClientError:
    """The error for a TCP or TLS connection that could not be made."""
    if isinstance(error, socket.gaierror):
        return ConnectError(
            f"cannot connect: {error.strerror}", remedy="Check the host's name; there is no such address."
        )
    if isinstance(error, ssl.SSLError):
        return TlsError(f"cannot connect: {error}")
    if isinstance(error, TimeoutError):
        return ConnectTimeout("cannot connect: no answer in time")
    # asyncio words it its own way.
    return ConnectError(f"cannot connect: {os.strerror(error.errno) if error.errno else error}")


_WORDING = (
    # Triton prefixes some texts with the request id, which the error carries anyway.
    (r"^\[request id: [^\]]*\] ", ""),
    (r"^in ensemble '[^']*', ", ""),
    (r"^failed to connect to all addresses; last error: \w+: (ipv[46]:\S+ |unix:\S+ )?", "cannot connect: "),
    (r"^(errors resolving|DNS resolution failed for) ([^:]+).*", r"cannot connect: unknown host \2"),
)


def _message(code: str, text: str) -> str:
    for pattern, replacement in _WORDING:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    return text.strip() or code.lower().replace("_", " ") or "the server gave no reason"
