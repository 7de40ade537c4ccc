# SPDX-License-Identifier: Apache-2.0
"""The one table from gRPC's status codes and Triton's texts to ``specclient.errors``.

Triton's own checks of a request answer on a stream with a text and no code, even when codes are asked
for; errors from a model come with their code (measured on 2.51). A rule with code None fits both.
"""

from __future__ import annotations

import re
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
        ConnectError,
        "The two sides do not agree on TLS: pass tls=Tls(...) with the server's root certificate, "
        "or none for a server without TLS.",
    ),
    Rule(
        "UNAVAILABLE",
        r"resolv|lookup failed|DNS",
        ConnectError,
        "Check the host's name; there is no such address.",
    ),
    Rule("DEADLINE_EXCEEDED", r"", TotalTimeout),
    # Texts of Triton 2.51 to 2.70 (server/src/grpc, core/src).
    Rule(None, r"Exceeds maximum queue size|maximum queue size", QueueFull),
    Rule(None, r"no available versions|is not ready|not yet ready|has not been loaded", ModelNotReady),
    Rule(None, r"unknown model", ModelNotFound),
    Rule(None, r"protocol is restricted|expecting header", AccessDenied),
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
