# SPDX-License-Identifier: Apache-2.0
"""The canary judges the server that was started, and nothing between here and there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from specbuild.server import canary
from specclient.testing import FakeServer, Hang, Received, Step


def test_an_answer_with_a_token_is_no_complaint() -> None:
    with FakeServer() as server:
        assert canary.sing(server.url, 10) is None
        assert server.requests[0].inputs["max_tokens"] == 1


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with FakeServer() as server:
        assert canary.sing(server.url, 10) is None


def test_silence_is_a_complaint() -> None:
    def silent(_request: Received) -> Iterator[Step]:
        yield Hang()

    with FakeServer(silent) as server:
        assert canary.sing(server.url, 1.0) == "no answer within 1 s"
