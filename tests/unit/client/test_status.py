# SPDX-License-Identifier: Apache-2.0
"""Statuses and texts, as gRPC core and Triton 2.51 really give them, each become the right error."""

from __future__ import annotations

import socket
import ssl

import pytest

from specclient import errors
from specclient.status import translate, translate_connecting, translate_http

CONNECT = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (
            "UNAVAILABLE",
            CONNECT + "Failed to connect to remote host: Connection refused",
            errors.ConnectError,
        ),
        (
            "UNAVAILABLE",
            CONNECT + "connection attempt timed out before receiving SETTINGS frame",
            errors.ConnectTimeout,
        ),
        ("UNAVAILABLE", CONNECT + "tcp handshaker shutdown", errors.ConnectTimeout),
        (
            "UNAVAILABLE",
            CONNECT + "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL",
            errors.TlsError,
        ),
        ("UNAVAILABLE", "errors resolving no.invalid:80: [field:hostname lookup error]", errors.ConnectError),
        ("UNAVAILABLE", "Socket closed", errors.ConnectError),
        ("UNAVAILABLE", "[request id: x] Exceeds maximum queue size", errors.QueueFull),
        ("", "[request id: x] Exceeds maximum queue size", errors.QueueFull),
        ("", "Request for unknown model: 'x' is not found", errors.ModelNotFound),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found", errors.ModelNotFound),
        (
            "UNAVAILABLE",
            "Request for unknown model: 'x' has no available versions",
            errors.ModelNotReady,
        ),
        ("", "unexpected inference input 'zz' for model 'dec'", errors.InvalidRequest),
        ("", "expected 1 inputs but got 2 inputs for model 'dec'", errors.InvalidRequest),
        ("INVALID_ARGUMENT", "max_tokens: 0, at least 1 is needed", errors.InvalidRequest),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", errors.TotalTimeout),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'key'", errors.AccessDenied),
        ("UNAUTHENTICATED", "", errors.AccessDenied),
        ("UNIMPLEMENTED", "Method not found!", errors.ConnectError),
        ("INTERNAL", "Stub process 'x_0_0' is not healthy.", errors.ServerFailure),
        ("INTERNAL", "must be a bug", errors.ServerFailure),
        ("", "something new", errors.ServerFailure),
    ],
)
def test_a_status_becomes_its_error(code: str, text: str, expected: type[errors.SpecClientError]) -> None:
    assert type(translate(code, text)) is expected


def test_messages_lose_the_noise_of_the_layers_below() -> None:
    assert (
        str(translate("UNAVAILABLE", CONNECT + "Connection refused")) == "cannot connect: Connection refused"
    )
    assert str(translate("", "[request id: x] Exceeds maximum queue size")) == "Exceeds maximum queue size"
    text = "in ensemble 'ensemble', text_input: the prompt is empty"
    assert str(translate("INVALID_ARGUMENT", text)) == "text_input: the prompt is empty"
    assert str(translate("INTERNAL", "")) == "internal"


def test_a_tls_mismatch_and_a_dead_stub_say_what_helps() -> None:
    assert "tls=" in translate("UNAVAILABLE", CONNECT + "Ssl handshake failed: TSI_PROTOCOL_FAILURE").remedy
    assert "restart" in translate("INTERNAL", "Stub process 'x_0_0' is not healthy.").remedy


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (400, "max_tokens: 0, at least 1 is needed", errors.InvalidRequest),
        (404, "Request for unknown model: 'x' is not found", errors.ModelNotFound),
        (400, "Request for unknown model: 'x' has no available versions", errors.ModelNotReady),
        (503, "[request id: x] Exceeds maximum queue size", errors.QueueFull),
        (403, "This API is restricted, expecting header 'key'", errors.AccessDenied),
        (500, "out of memory", errors.ServerFailure),
        (401, "", errors.AccessDenied),
        (404, "", errors.ConnectError),
        (301, "", errors.ConnectError),
        (429, "", errors.QueueFull),
        (502, "", errors.ConnectError),
        (500, "", errors.ServerFailure),
    ],
)
def test_an_http_status_becomes_its_error(
    status: int, text: str, expected: type[errors.SpecClientError]
) -> None:
    assert type(translate_http(status, text)) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(111, "Connection refused"), errors.ConnectError),
        (socket.gaierror(-2, "Name or service not known"), errors.ConnectError),
        (TimeoutError(), errors.ConnectTimeout),
        (ssl.SSLCertVerificationError("self-signed"), errors.TlsError),
    ],
)
def test_a_connection_that_cannot_be_made_says_why(
    error: OSError, expected: type[errors.SpecClientError]
) -> None:
    assert type(translate_connecting(error)) is expected
