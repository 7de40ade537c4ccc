# SPDX-License-Identifier: Apache-2.0
"""The clients, ``generate`` and ``bench compare`` against a real Triton with a tiny pair."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import specclient as sc
from specbuild import cli, server
from specbuild.server import RunningServer
from support import deployment

PROMPT = "def main():\n    return "
NEVER = 2**31 - 1
"""An end token that is not in the vocabulary: random models end when they like."""


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = deployment.write(tmp_path_factory.mktemp("client"))
    with server.running(settings) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def at(server: RunningServer, protocol: str) -> str:
    return server.grpc if protocol == "grpc" else f"http://{server.http}"


@pytest.fixture
def client(triton: RunningServer, protocol: str) -> Iterator[sc.SpecClient]:
    with sc.SpecClient(at(triton, protocol)) as client:
        yield client


def test_the_server_is_ready_and_describes_itself(client: sc.SpecClient) -> None:
    assert client.is_live() and client.is_ready()
    metadata = client.metadata()
    assert metadata.decoupled and not metadata.accumulates
    assert (metadata.server_name, metadata.model) == ("triton", "ensemble")
    assert {"output_ids", "num_rounds", "finish_reason"} <= set(metadata.outputs)


def test_a_stream_delivers_rounds_and_ends_with_its_reason(client: sc.SpecClient) -> None:
    stream = client.stream(PROMPT, max_tokens=40, end_id=NEVER)
    chunks = list(stream)
    answer = stream.completion()
    assert len(chunks) > 2 and max(len(chunk.token_ids) for chunk in chunks) > 1
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert (len(answer.token_ids), answer.output_tokens, answer.finish_reason) == (40, 40, "length")
    assert answer.counters.num_input_tokens == len(PROMPT.encode())
    assert answer.acceptance_length is not None and 1 < answer.acceptance_length <= 9
    assert answer.draft_acceptance_rate is not None and 0 < answer.draft_acceptance_rate < 1


def test_greedy_answers_are_the_same_with_and_without_speculation(client: sc.SpecClient) -> None:
    for parameters in ({}, {"temperature": 0}, {"top_k": 1}):
        plain = client.generate(PROMPT, max_tokens=50, num_draft_tokens=0, **parameters)  # type: ignore[arg-type]
        drafted = client.generate(PROMPT, max_tokens=50, **parameters)  # type: ignore[arg-type]
        assert plain.token_ids == drafted.token_ids and plain.text == drafted.text
        assert plain.acceptance_length is None


def test_a_temperature_alone_samples_and_a_seed_repeats_it(client: sc.SpecClient) -> None:
    answers = [
        client.generate(PROMPT, max_tokens=30, temperature=1.0, seed=seed, end_id=NEVER) for seed in (1, 1, 2)
    ]
    assert answers[0].token_ids == answers[1].token_ids != answers[2].token_ids


@pytest.mark.parametrize("fields", [{"max_tokens": 1_000_000}, {"num_draft_tokens": 1_000}])
def test_what_only_the_server_can_refuse_comes_back_typed(
    client: sc.SpecClient, fields: dict[str, int]
) -> None:
    with pytest.raises(sc.InvalidRequest, match=next(iter(fields))):
        client.generate(PROMPT, **fields)  # type: ignore[arg-type]
    assert client.generate(PROMPT, max_tokens=1).token_ids


def test_log_probs_come_on_request(client: sc.SpecClient) -> None:
    answer = client.generate(
        PROMPT, max_tokens=9, return_log_probs=True, temperature=1.0, seed=1, end_id=NEVER
    )
    log_probs = [value for chunk in answer.chunks for value in chunk.log_probs]
    assert len(log_probs) == 9 and all(value < 0 for value in log_probs)


def test_both_protocols_give_the_same_answer(triton: RunningServer) -> None:
    fields = {"max_tokens": 40, "temperature": 1.0, "seed": 7, "end_id": NEVER, "stop": ("zq", "qz")}
    answers = []
    for protocol in ("grpc", "http"):
        with sc.SpecClient(at(triton, protocol)) as client:
            answers.append(client.generate("naïve 😀", **fields))  # type: ignore[arg-type]
    assert answers[0].text == answers[1].text and answers[0].token_ids == answers[1].token_ids
    assert answers[0].counters == answers[1].counters


def test_an_unknown_model_is_model_not_found(triton: RunningServer, protocol: str) -> None:
    with sc.SpecClient(at(triton, protocol), "no-such-model") as client:
        assert not client.is_ready()
        with pytest.raises(sc.ModelNotFound):
            client.generate(PROMPT)
        with pytest.raises(sc.ModelNotFound):
            client.metadata()


def test_the_http_port_is_not_taken_for_the_grpc_port(triton: RunningServer) -> None:
    with (
        sc.SpecClient(triton.http, retry=sc.Retry(attempts=1)) as client,
        pytest.raises(sc.ConnectError) as caught,
    ):
        client.generate(PROMPT)
    assert "gRPC port" in caught.value.remedy


def test_the_grpc_port_is_not_taken_for_the_http_port(triton: RunningServer) -> None:
    with (
        sc.SpecClient(f"http://{triton.grpc}", retry=sc.Retry(attempts=1)) as client,
        pytest.raises(sc.ConnectError) as caught,
    ):
        client.generate(PROMPT)
    assert "HTTP port" in caught.value.remedy


def test_tls_at_a_server_without_it_is_its_own_error(triton: RunningServer, protocol: str) -> None:
    url = f"grpcs://{triton.grpc}" if protocol == "grpc" else f"https://{triton.http}"
    with sc.SpecClient(url) as client, pytest.raises(sc.TlsError):
        client.generate(PROMPT)


def test_a_deadline_frees_the_slot(client: sc.SpecClient) -> None:
    with pytest.raises(sc.TotalTimeout) as caught:
        client.generate(
            PROMPT, max_tokens=4000, num_draft_tokens=0, end_id=NEVER, timeout=sc.Timeout(total=0.5)
        )
    assert caught.value.text is not None
    assert client.generate(PROMPT, max_tokens=2, timeout=sc.Timeout(first_token=20)).text is not None


def test_closing_streams_frees_their_slots(client: sc.SpecClient) -> None:
    """Four slots, four endless streams: the next request waits unless they are gone."""
    streams = [client.stream(PROMPT, max_tokens=1_000, num_draft_tokens=0, end_id=NEVER) for _ in range(4)]
    for stream in streams:
        next(stream)
    for stream in streams:
        stream.close()
    answer = client.generate(PROMPT, max_tokens=2, timeout=sc.Timeout(first_token=10))
    assert len(answer.token_ids) == 2


async def test_fifty_at_a_time_get_what_each_gets_alone(triton: RunningServer, protocol: str) -> None:
    prompts = [f"value_{number} = " for number in range(50)]
    async with sc.AsyncSpecClient(at(triton, protocol)) as client:
        together = await asyncio.gather(*(client.generate(p, max_tokens=12) for p in prompts))
        alone = [await client.generate(p, max_tokens=12) for p in prompts[:5]]
    assert [a.token_ids for a in together[:5]] == [a.token_ids for a in alone]
    assert len({answer.request_id for answer in together}) == 50


def test_generate_and_compare_from_the_command_line(
    triton: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["generate", PROMPT, "-u", triton.grpc, "--max-tokens", "20"]) == 0
    assert " tokens · TTFT" in capsys.readouterr().err
    path = tmp_path / "report.json"
    argv = ["bench", "compare", "-u", triton.grpc, "--max-tokens", "16", "-o", str(path)]
    assert cli.run([*argv, "--request-count", "4", "--concurrency", "2"]) == 0
    report = json.loads(path.read_text())
    assert report["complete"] is True and report["greedy_identical"] is True
    assert {one["server"] for one in report["provenance"]["servers"]} == {"triton"}
    assert report["speculative"]["tokens_per_chunk"]["mean"] > 1


@pytest.mark.parametrize("victim", ["tritonserver", "triton_python_backend_stub"])
def test_a_process_killed_in_mid_stream_ends_the_stream_with_an_error(
    tmp_path: Path, victim: str, protocol: str
) -> None:
    """Triton itself: the connection breaks. The model's process: silence, until the idle timeout."""
    settings = deployment.write(tmp_path)
    timeout = sc.Timeout(first_token=10, idle=3)
    with server.running(settings) as running, sc.SpecClient(at(running, protocol), timeout=timeout) as client:
        stream = client.stream(PROMPT, max_tokens=1_000, num_draft_tokens=0, end_id=NEVER)
        first = next(stream)
        for process in psutil.Process(os.getpid()).children(recursive=True):
            if process.name().startswith(victim[:15]):
                process.send_signal(signal.SIGKILL)
        with pytest.raises((sc.IncompleteStream, sc.IdleTimeout, sc.ServerFailure)) as caught:
            list(stream)
    assert caught.value.text.startswith(first.text)
    if victim == "tritonserver":
        assert isinstance(caught.value, sc.IncompleteStream)


def test_a_full_queue_is_its_own_error(tmp_path: Path) -> None:
    """One slot, one place to wait: of eight requests at once some are refused, and the others are whole."""
    settings = deployment.write(tmp_path, limits={"max_batch_size": 1}, serving={"max_queue_size": 1})
    fields = {"max_tokens": 300, "num_draft_tokens": 0, "end_id": NEVER}

    async def burst(url: str) -> list[sc.Completion | BaseException]:
        async with sc.AsyncSpecClient(url, retry=sc.Retry(attempts=1)) as client:
            return await asyncio.gather(
                *(client.generate(PROMPT, **fields) for _ in range(8)),  # type: ignore[arg-type]
                return_exceptions=True,
            )

    with server.running(settings) as running:
        for protocol in ("grpc", "http"):
            outcomes = asyncio.run(burst(at(running, protocol)))
            whole = [one for one in outcomes if isinstance(one, sc.Completion)]
            refused = [one for one in outcomes if isinstance(one, sc.QueueFull)]
            assert whole and refused and len(whole) + len(refused) == 8
            assert all(one.output_tokens == 300 for one in whole)
