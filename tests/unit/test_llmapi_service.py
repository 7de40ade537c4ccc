# SPDX-License-Identifier: Apache-2.0
"""Many requests in one event loop, and clients that leave."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from support.triton import model_module
from support.waiting import until

STAND_IN = Path(__file__).parents[1] / "support" / "llmapi"
exchange = model_module("llmapi", "exchange")
service = model_module("llmapi", "service")
llm = model_module("llmapi", "llm")
LIMITS = exchange.Limits(max_input_len=100, max_seq_len=128, draft_length=3)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(STAND_IN))
    file = tmp_path / "model.yaml"
    speculation = {"decoding_type": "DraftTarget", "max_draft_len": 3, "speculative_model_dir": "draft"}
    file.write_text(yaml.safe_dump({"model": "target", "speculative_config": speculation}))
    engine = llm.Engine(file)
    yield engine
    engine.close()
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
        del sys.modules[name]


@pytest.fixture
def running(engine: Any) -> Iterator[Any]:
    running = service.Service(engine.start, draft_length=3, capacity=64)
    yield running
    running.close()


class Client:
    """The receiving end of one request."""

    def __init__(self) -> None:
        self.answers: list[dict[str, np.ndarray]] = []
        self.error: Exception | None = None
        self.left = False
        self.away = False
        self.ended = threading.Event()

    def send(self, tensors: dict[str, np.ndarray], *, final: bool) -> None:
        self.answers.append(tensors)
        if final:
            self.ended.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    def leave(self) -> None:
        self.left = True
        self.ended.set()

    def gone(self) -> bool:
        return self.away

    def tokens(self) -> list[int]:
        return [token for answer in self.answers for token in answer["output_ids"].reshape(-1).tolist()]


def job(*prompt: int, tokens: int = 20, **tensors: Any) -> Any:
    inputs = {"input_ids": [list(prompt)], "request_output_len": [[tokens]], **tensors}
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return exchange.job(arrays, exclude_input=True, limits=LIMITS)


def served(running: Any, *jobs: Any) -> list[Client]:
    clients = [Client() for _ in jobs]
    for each, client in zip(jobs, clients, strict=True):
        running.submit(each, client)
    for client in clients:
        assert client.ended.wait(20)
    return clients


def test_a_stream_and_a_whole_answer_hold_the_same_tokens(running: Any) -> None:
    stream, whole = served(running, job(5, streaming=[[True]]), job(5))
    assert len(stream.answers) > 1
    assert len(whole.answers) == 1
    assert stream.tokens() == whole.tokens() == list(range(6, 26))


def test_many_requests_do_not_mix(running: Any) -> None:
    clients = served(running, *(job(start, streaming=[[True]]) for start in range(40)))
    assert [client.tokens() for client in clients] == [
        list(range(start + 1, start + 21)) for start in range(40)
    ]


def test_counts_cover_the_whole_request(running: Any) -> None:
    [client] = served(running, job(5))
    figures = {
        name: int(client.answers[-1][name].item())
        for name in ("num_rounds", "total_draft_tokens", "total_accepted_draft_tokens", "num_output_tokens")
    }
    assert figures["num_output_tokens"] == 20
    assert figures["total_draft_tokens"] == 3 * figures["num_rounds"]
    assert figures["total_accepted_draft_tokens"] == 20 - figures["num_rounds"]
    assert client.answers[-1]["last_token_time_ns"].item() == figures["num_rounds"] * 10**9


def test_a_stop_sequence_of_several_tokens_ends_the_work_too(running: Any, engine: Any) -> None:
    stop = np.array([[[9, 10], [2, -1]]])
    [client] = served(running, job(5, tokens=100, stop_words_list=stop))
    assert client.tokens() == [6, 7, 8, 9, 10]
    assert client.answers[-1]["finish_reason"].item() == b"stop"
    until(lambda: not engine._llm.live, "the LLM API to forget the request")


def test_log_probabilities_come_with_their_tokens(running: Any) -> None:
    [client] = served(running, job(5, tokens=4, return_log_probs=[[True]]))
    assert client.answers[-1]["output_log_probs"].reshape(-1).tolist() == [-0.5] * 4
    assert client.answers[-1]["cum_log_probs"].item() == -2.0


def test_a_direct_caller_that_leaves_is_noticed(running: Any, engine: Any) -> None:
    client = Client()
    client.away = True
    running.submit(job(5, tokens=100, streaming=[[True]]), client)
    assert client.ended.wait(20)
    assert client.left
    until(lambda: not engine._llm.live, "the LLM API to forget the request")


def test_a_request_behind_an_ensemble_is_stopped_by_its_key(running: Any, engine: Any) -> None:
    client = Client()
    running.submit(job(5, tokens=100, request_key=[[77]]), client)
    until(lambda: engine._llm.live, "the request to be at work")
    running.stop(78)
    running.stop(77)
    assert client.ended.wait(20)
    assert client.left
    until(lambda: not engine._llm.live, "the LLM API to forget the request")


class Silent:
    """A request that says nothing until it is aborted."""

    def __init__(self) -> None:
        self.aborted = False

    async def __aiter__(self) -> Any:
        await asyncio.Event().wait()
        yield None

    def abort(self) -> None:
        self.aborted = True


def test_a_silent_request_with_a_key_shows_signs_of_life() -> None:
    silent = Silent()
    running = service.Service(lambda _: silent, draft_length=3, capacity=1)
    client = Client()
    running.submit(job(5, request_key=[[1]]), client)
    until(lambda: client.answers, "a sign of life")
    assert client.tokens() == []
    assert not client.answers[0]["is_final"].item()
    running.stop(1)
    assert client.ended.wait(20)
    running.close()
    assert silent.aborted


def test_more_than_the_capacity_is_refused_at_once() -> None:
    running = service.Service(lambda _: Silent(), draft_length=3, capacity=2)
    clients = [Client() for _ in range(3)]
    for key, client in enumerate(clients):
        running.submit(job(5, request_key=[[key]]), client)
    assert clients[2].ended.wait(20)
    assert isinstance(clients[2].error, service.FullError)
    running.stop(0)
    running.stop(1)
    running.close()


def test_what_the_llm_api_refuses_reaches_the_client_and_nobody_else() -> None:
    def start(asked: Any) -> Any:
        raise ValueError("top_k must be positive")

    running = service.Service(start, draft_length=3, capacity=1)
    for _ in range(3):
        [client] = served(running, job(5))
        assert isinstance(client.error, ValueError)
    running.close()


def test_arguments_that_the_release_does_not_know_end_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump({"model": "t", "speculative_config": {"decoding_type": "Draft_Target"}}))
    with pytest.raises(ValueError, match="Invalid decoding type"):
        llm.Engine(file)
