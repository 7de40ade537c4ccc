# SPDX-License-Identifier: Apache-2.0
"""Errors in OpenAI's shape: a status, and ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import specclient as sc


class Refusal(Exception):  # noqa: N818  (it is the answer to a request)
    """A request that gets an error for an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.document: dict[str, Any] = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }


RULES: tuple[tuple[type[sc.SpecClientError], int, str, str | None], ...] = (
    (sc.InvalidRequest, 400, "invalid_request_error", None),
    (sc.QueueFull, 503, "server_error", "engine_overloaded"),
    (sc.ModelNotFound, 503, "server_error", "model_not_ready"),
    (sc.ModelNotReady, 503, "server_error", "model_not_ready"),
    (sc.ConnectError, 503, "server_error", "server_unavailable"),
    (sc.ClientClosed, 503, "server_error", "server_unavailable"),
    (sc.RequestTimeout, 504, "server_error", "timeout"),
    (sc.IncompleteStream, 502, "server_error", "incomplete_stream"),
)
"""(error of the server behind, status, type, code); the first that fits. OpenAI's clients retry 503."""


def from_server(error: sc.SpecClientError) -> Refusal:
    """The answer to a request that failed in the server behind."""
    for kind, status, type_, code in RULES:
        if isinstance(error, kind):
            message = error.message if status == 400 else f"{error.message}. {error.remedy}"
            headers = {"retry-after": "1"} if status == 503 else {}
            return Refusal(status, message, kind=type_, code=code, headers=headers)
    return Refusal(500, f"{error.message}. {error.remedy}", kind="server_error", code="server_failure")
