# SPDX-License-Identifier: Apache-2.0
"""Every error that specclient raises on purpose; nothing of gRPC leaks through.

    SpecClientError
    ├── InvalidRequest          the request cannot be served as it is
    ├── ConnectError            nothing answers there, or the connection broke before the first token
    │   └── TlsError            the two sides do not agree on encryption, or on whom to trust
    ├── RequestTimeout
    │   ├── ConnectTimeout      no connection within ``Timeout.connect``
    │   ├── FirstTokenTimeout   connected, but no token within ``Timeout.first_token``
    │   ├── IdleTimeout         the stream fell silent for ``Timeout.idle``
    │   └── TotalTimeout        not complete within ``Timeout.total``
    ├── AccessDenied            the server wants other credentials
    ├── ModelNotFound           the server has no such model
    ├── ModelNotReady           the model is not loaded, or no longer
    ├── QueueFull               the server refuses because too many requests wait
    ├── ServerFailure           the server failed on this request
    ├── IncompleteStream        the stream ended before its final response
    └── ClientClosed            the client was closed, or belongs to another process or event loop

Each carries the endpoint, the request id, what to do about it, and the text that had arrived before.
"""

# ruff: noqa: N818  (the names say what happened; the base class says that it is an error)

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import ClassVar


class SpecClientError(Exception):
    """A request that was not completed, or could not be sent."""

    default_remedy: ClassVar[str] = "Look into the server's log."
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed a moment later, as long as no token has arrived."""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.default_remedy
        self.endpoint: str | None = None
        self.request_id: str | None = None
        self.text = ""
        """What the stream had delivered before the error; usable as it is, but not the whole answer."""

    def __str__(self) -> str:
        subject = [f"endpoint {self.endpoint}"] if self.endpoint else []
        subject += [f"request {self.request_id}"] if self.request_id else []
        return f"{self.message} ({', '.join(subject)})" if subject else self.message


class InvalidRequest(SpecClientError):
    """The prompt or a parameter is not acceptable, to this client or to the server."""

    default_remedy = "Correct the request; the server is fine and takes others."


class ConnectError(SpecClientError):
    """There is no connection: refused, unknown host, TLS mismatch, not a gRPC port, or it broke."""

    default_remedy = (
        "Check that the server is running and that the address is its gRPC port (8001 unless configured), "
        "or http:// with its HTTP port (8000)."
    )
    retryable = True


class TlsError(ConnectError):
    """Something answers, but not with the TLS that was asked for."""

    default_remedy = (
        "The two sides do not agree on TLS: pass tls=Tls(...) with the server's root certificate, "
        "or none for a server without TLS."
    )
    retryable = False


class RequestTimeout(SpecClientError):
    """A deadline of ``Timeout`` has passed; the request was cancelled on the server."""


class ConnectTimeout(RequestTimeout):
    """The endpoint did not complete a connection in time."""

    default_remedy = "Check the address and the network, or raise Timeout.connect."
    retryable = True


class FirstTokenTimeout(RequestTimeout):
    """Connected, but no token came in time: the server is overloaded, stopped, or its model died."""

    default_remedy = "Check the server's load and log, or raise Timeout.first_token."


class IdleTimeout(RequestTimeout):
    """The stream fell silent between two tokens."""

    default_remedy = "Check the server's log: its model process may have died. Or raise Timeout.idle."


class TotalTimeout(RequestTimeout):
    """The answer was not complete in time."""

    default_remedy = "Ask for fewer tokens, or raise Timeout.total."


class AccessDenied(SpecClientError):
    """The server refuses these credentials."""

    default_remedy = "Pass the bearer token or the headers that the server's restriction expects."


class ModelNotFound(SpecClientError):
    """The server does not have the model."""

    default_remedy = "Name a model of the server's repository; specbuild's front model is `ensemble`."


class ModelNotReady(SpecClientError):
    """The server knows the model but cannot run it at present."""

    default_remedy = "Wait until it is loaded; the server's log says why when it never is."
    retryable = True


class QueueFull(SpecClientError):
    """The server refuses at once because its queue is full."""

    default_remedy = "Send fewer requests at a time, or raise serving.max_queue_size."
    retryable = True


class ServerFailure(SpecClientError):
    """The server answered with an error that is not the request's fault."""


class IncompleteStream(SpecClientError):
    """The stream ended before its final response; ``text`` has what came until then."""

    default_remedy = "Send the request again; the server or the connection went away half-way."


class ClientClosed(SpecClientError):
    """The client cannot be used here or any more."""

    default_remedy = "Create a client in the process and event loop that use it, and close it last."


@contextlib.contextmanager
def subject(endpoint: str, request_id: str | None = None) -> Iterator[None]:
    """Every SpecClientError that leaves the block names its endpoint and request."""
    try:
        yield
    except SpecClientError as error:
        error.endpoint = error.endpoint or endpoint
        error.request_id = error.request_id or request_id
        raise
