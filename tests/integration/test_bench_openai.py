# SPDX-License-Identifier: Apache-2.0
"""The harness against an OpenAI-compatible server: counts are the server's, faults are typed."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specbuild import cli
from specclient import AccessDenied, ConnectError, GenerationParameters, IncompleteStream
from specclient.bench import Arm, Concurrency, Outcome, Prompt, Settings, Workload, document, servers
from specclient.bench.targets import OpenAITarget
from specclient.bench.workload import Message
from specclient.testing import FakeServer, words
from specclient.timeouts import Timeout
from support import endpoints
from support.openai_server import OpenAIServer

TOKENS = 12


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(burst=3) as server:
        yield server


def run(server: OpenAIServer, timeout: Timeout | None = None, **changes: Any) -> Outcome:
    settings = Settings(
        **{
            "request_count": 4,
            "warmup_request_count": 1,
            "loads": (Concurrency(2),),
            "parameters": GenerationParameters(max_tokens=TOKENS),
            **changes,
        }
    )
    return servers(
        settings,
        lambda: (
            Arm("vllm", OpenAITarget(server.url + "/v1", timeout=timeout or Timeout(), token="secret")),
        ),
    )


def test_tokens_and_bursts_are_counted_by_the_server(server: OpenAIServer) -> None:
    report = document(run(server))
    assert report["complete"], report["failure"]
    (made,) = report["runs"]
    figures = made["figures"]
    assert figures["output_tokens"]["p50"] == TOKENS and figures["input_tokens"]["p50"] == 7
    assert figures["tokens_per_chunk"]["mean"] == 3 and figures["itl_ms"]["n"] == 4 * (TOKENS - 1)
    assert made["requests"]["succeeded"] == 4 and made["acceptance"]["length"] is None
    assert figures["latency_ms"]["min"] >= 20 * 4 and figures["tpot_ms"] is not None
    assert report["provenance"]["servers"][0]["model"] == "tiny"
    assert "secret" not in json.dumps(report)
    sent = server.requests[0]
    assert sent["path"] == "/v1/completions" and sent["temperature"] == 0 and sent["stream"] is True
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_a_count_at_the_end_alone_leaves_token_gaps_undefined(server: OpenAIServer) -> None:
    server.continuous = False
    figures = document(run(server))["runs"][0]["figures"]
    assert figures["output_tokens"]["p50"] == TOKENS and figures["tpot_ms"] is not None
    assert figures["itl_ms"] is None and figures["tokens_per_chunk"] is None


def test_conversations_go_to_the_chat_endpoint(server: OpenAIServer) -> None:
    prompt = Prompt("a", "chat", "Hi", messages=(Message("user", "Hi"),))
    report = document(run(server, workload=Workload("w", "CC0-1.0", (prompt,))))
    assert report["runs"][0]["figures"]["output_tokens"]["p50"] == TOKENS
    assert server.requests[0]["path"] == "/v1/chat/completions"
    assert server.requests[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_refusals_are_counted_and_a_wrong_token_ends_the_run(server: OpenAIServer) -> None:
    count = iter(range(100))
    server.refuse = lambda _body: (429, "slow down") if next(count) == 2 else None
    report = document(run(server))
    assert report["complete"] and report["runs"][0]["errors"] == {"QueueFull": 1}
    assert "slow down" in (report["runs"][0]["first_error"] or "")
    server.refuse = lambda _body: (401, "who are you?")
    assert isinstance(run(server).failure, AccessDenied)


def test_a_broken_stream_and_a_missing_server_are_failures(server: OpenAIServer) -> None:
    server.cut_after = 2
    outcome = run(server)
    assert isinstance(outcome.failure, IncompleteStream) and not document(outcome)["complete"]
    gone = Settings(request_count=1)
    target = f"http://127.0.0.1:{endpoints.free_port()}"
    outcome = servers(gone, lambda: (Arm("gone", OpenAITarget(target, timeout=Timeout())),))
    assert isinstance(outcome.failure, ConnectError)


def test_silence_is_a_timeout_of_its_own(server: OpenAIServer) -> None:
    server.gap = 30.0
    report = document(run(server, timeout=Timeout(idle=0.2), loads=(Concurrency(4),)))
    assert report["runs"][0]["errors"] == {"IdleTimeout": 4}
    server.first = 30.0
    report = document(run(server, timeout=Timeout(first_token=0.2), loads=(Concurrency(4),)))
    assert report["runs"][0]["errors"] == {"FirstTokenTimeout": 4}


def test_one_report_compares_servers(server: OpenAIServer, tmp_path: Path) -> None:
    with FakeServer(functools.partial(words, first=0.02, gap=0.01, burst=3)) as triton:
        path = tmp_path / "report.json"
        argv = ["bench", "openai", "-u", f"vllm={server.url}", "-u", f"triton=grpc://{triton.url}"]
        argv += ["--max-tokens", "12", "--request-count", "4", "--warmup-request-count", "0", "-o", str(path)]
        assert cli.run(argv) == 0
    report = json.loads(path.read_text())
    assert [made["arm"] for made in report["runs"]] == ["vllm", "triton"]
    (found,) = report["comparisons"]
    assert (found["baseline"], found["candidate"]) == ("vllm", "triton")
    assert found["tpot"]["pairs"] == 4 and found["greedy"] is None
    assert len(server.requests) == len(triton.requests) == 4
    assert [r["prompt"] for r in server.requests] == [r.prompt for r in triton.requests]


@pytest.mark.parametrize(
    "urls", [["ftp://x"], ["a=http://x:1", "a=http://x:2"], ["nothing"], ["http://x:1", "http://x:1"]]
)
def test_wrong_addresses_are_wrong_usage(urls: list[str]) -> None:
    assert cli.run(["bench", "openai", *(word for url in urls for word in ("-u", url))]) == 2
