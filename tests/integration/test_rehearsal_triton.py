# SPDX-License-Identifier: Apache-2.0
"""The generated repository on a real Triton: the pair says what the target alone says, and cleans up."""

from __future__ import annotations

import itertools
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specbuild.config import Config
from specbuild.server import RunningServer
from support.rehearsal import Front, rehearsed, settings_for
from support.synthetic import tiny_pair
from support.waiting import until

PROMPTS = ("def parse(self, text):", "class Reader:", "import os, sys", "    raise ValueError(")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module", params=["exact", "logits"])
def settings(pair: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Config:
    speculation = {"acceptance": request.param}
    return settings_for(pair, tmp_path_factory.mktemp(request.param), speculation=speculation)


@pytest.fixture(scope="module")
def triton(settings: Config) -> Iterator[RunningServer]:
    with rehearsed(settings) as server:
        yield server


@pytest.fixture
def front(triton: RunningServer) -> Iterator[Front]:
    client = Front(triton.grpc)
    yield client
    client.close()


def metric(server: RunningServer, name: str, **labels: str) -> float:
    """Sum of the metric over its labels; Triton publishes what the model has told it."""
    text = urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(f"specbuild_{name}{{") and all(part in line for part in wanted)
    )


def pair_and_target(front: Front, prompt: str, **fields: Any) -> tuple[list[int], list[int]]:
    drafts = {"num_draft_tokens": fields.pop("num_draft_tokens")} if "num_draft_tokens" in fields else {}
    fields |= {"text_input": prompt, "exclude_input_in_output": True}
    return front.ask(**fields, **drafts).tokens, front.ask("ensemble_baseline", **fields).tokens


@pytest.mark.parametrize("num_draft_tokens", range(6))
def test_greedy_tokens_are_the_targets_for_every_draft_length(front: Front, num_draft_tokens: int) -> None:
    for prompt, max_tokens in itertools.product(PROMPTS[:2], (1, 2, 7, 40)):
        ours, theirs = pair_and_target(
            front, prompt, max_tokens=max_tokens, num_draft_tokens=num_draft_tokens
        )
        assert ours == theirs
        assert len(ours) == max_tokens


@pytest.mark.parametrize(
    "fields",
    [
        {"stop_words": ["e"]},
        {"stop_words": ["zz", "self", "t", "("]},
        {"bad_words": ["e", "self"]},
        {"repetition_penalty": 1.4},
        {"presence_penalty": 0.7, "frequency_penalty": 0.3},
        {"min_tokens": 20, "end_id": 300},
        {"end_id": 300},
        {"top_k": 1, "temperature": 0.5},
        {"temperature": 0.5},
    ],
    ids=str,
)
def test_every_field_of_a_greedy_request_reaches_the_target(front: Front, fields: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        ours, theirs = pair_and_target(front, prompt, max_tokens=30, **fields)
        assert ours == theirs


def test_an_end_token_in_the_middle_ends_both_and_is_not_returned(front: Front) -> None:
    whole, _ = pair_and_target(front, PROMPTS[0], max_tokens=30)
    end = next(token for index, token in enumerate(whole) if index > 8 and token not in whole[:index])
    ours, theirs = pair_and_target(front, PROMPTS[0], max_tokens=30, end_id=end)
    assert ours == theirs == whole[: whole.index(end)]


def test_output_is_cut_where_the_engines_end(front: Front) -> None:
    long = "self " * 600
    answer = front.ask(text_input=long, max_tokens=10)
    assert answer.error is not None
    assert "the engines take 512 tokens" in answer.error
    ours, theirs = pair_and_target(front, "self " * 200, max_tokens=400)
    assert ours == theirs


def test_text_streams_from_the_opening_on(front: Front) -> None:
    answer = front.ask(text_input=PROMPTS[0], max_tokens=40, stream=True)
    assert answer.responses[0]["output_ids"].size == 1
    assert len(answer.responses) > 5
    whole = front.ask(text_input=PROMPTS[0], max_tokens=40)
    assert answer.text == whole.text
    assert answer.last("finish_reason") == b"length"
    assert [one["finish_reason"].item() for one in answer.responses[:-1]] == [b""] * (
        len(answer.responses) - 1
    )


def test_counts_cover_the_whole_request(front: Front) -> None:
    answer = front.ask(text_input=PROMPTS[0], max_tokens=40)
    rounds, accepted = answer.last("num_rounds"), answer.last("total_accepted_draft_tokens")
    assert answer.last("num_output_tokens") == 40 == 1 + rounds + accepted
    assert answer.last("total_draft_tokens") >= rounds
    assert answer.last("acceptance_rate") == pytest.approx(accepted / answer.last("total_draft_tokens"))


def test_sampled_requests_repeat_with_their_seed(front: Front) -> None:
    def sampled(seed: int) -> list[int]:
        return front.ask(text_input=PROMPTS[0], max_tokens=30, top_p=1.0, seed=seed).tokens

    assert sampled(1) == sampled(1) != sampled(2)


def test_requests_at_once_get_what_they_get_alone(front: Front) -> None:
    requests = [
        {"text_input": PROMPTS[number % 4], "max_tokens": 10 + number, "stream": bool(number % 2)}
        for number in range(24)
    ]
    alone = [front.ask(**fields).tokens for fields in requests]
    assert [answer.tokens for answer in front.ask_all(requests)] == alone


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_draft_tokens": 6}, "num_draft_tokens: 6, this deployment takes 0 to 5"),
        ({"beam_width": 2}, "beam_width: beam search"),
        ({"return_context_logits": True}, "context logits"),
        ({"max_tokens": 0}, "max_tokens: 0"),
        ({"temperature": float("nan"), "top_p": 0.9}, "engine failed"),
    ],
    ids=str,
)
def test_a_refused_request_says_why_and_the_next_one_works(
    front: Front, triton: RunningServer, fields: dict[str, Any], message: str
) -> None:
    answer = front.ask(**{"text_input": PROMPTS[0], "max_tokens": 5, **fields})
    assert message in (answer.error or "")
    again = Front(triton.grpc)
    assert len(again.ask(text_input=PROMPTS[0], max_tokens=5).tokens) == 5
    again.close()


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_leave_nothing_behind(triton: RunningServer, stream: bool) -> None:
    before = metric(triton, "spec_decode_num_requests_total", outcome="cancelled")
    clients = [Front(triton.grpc) for _ in range(8)]
    for client in clients:
        client.send({"text_input": PROMPTS[0], "max_tokens": 400, "stream": stream})
    if stream:
        for client in clients:
            client.wait()
    until(lambda: metric(triton, "spec_decode_running_requests") == 8, "the requests to run")
    for client in clients:
        client.close()

    def all_gone() -> bool:
        cancelled = metric(triton, "spec_decode_num_requests_total", outcome="cancelled")
        return cancelled == before + 8 and metric(triton, "spec_decode_running_requests") == 0

    until(all_gone, "the requests to end")
    calls = metric(triton, "rehearsal_calls_total")
    time.sleep(0.3)
    assert metric(triton, "rehearsal_calls_total") == calls


def test_the_counters_agree_with_what_the_requests_say(triton: RunningServer, front: Front) -> None:
    names = ("num_draft_tokens_total", "num_accepted_tokens_total", "num_generation_tokens_total")
    before = [metric(triton, f"spec_decode_{name}") for name in names]
    answer = front.ask(text_input=PROMPTS[2], max_tokens=40)
    expected = (answer.last("total_draft_tokens"), answer.last("total_accepted_draft_tokens"), 40)

    def counted() -> bool:
        now = [metric(triton, f"spec_decode_{name}") for name in names]
        return tuple(a - b for a, b in zip(now, before, strict=True)) == expected

    until(counted, "the counters")


def test_a_draft_that_refuses_leaves_the_target_alone(pair: Path, tmp_path: Path) -> None:
    """Its engine is built for shorter texts than the target's."""

    def shorten(settings: Config) -> None:
        path = settings.engines_dir / "draft" / "config.json"
        document = json.loads(path.read_text())
        document["build_config"]["max_input_len"] = 24
        path.write_text(json.dumps(document))

    with rehearsed(settings_for(pair, tmp_path), change=shorten) as server:
        front = Front(server.grpc)
        ours, theirs = pair_and_target(front, PROMPTS[1], max_tokens=60)
        assert ours == theirs
        until(lambda: metric(server, "spec_decode_num_fallbacks_total", reason="error") == 1, "the counter")
        assert metric(server, "spec_decode_num_drafts_total") > 0
        front.close()
