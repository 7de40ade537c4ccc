# SPDX-License-Identifier: Apache-2.0
"""The torch deployment behind a real Triton: streaming, exactness, concurrency, refusals."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from specbuild import server
from specbuild.server import RunningServer
from specclient.protocol import OUTPUTS
from support import deployment
from support.deployment import tokenizer
from support.monitoring import queries, samples
from support.promql import selectors
from support.waiting import until
from support.wire import Response, Stream, WireError, ask

PROMPTS = ["hello world", "The quick 漢字", "zzz 🎉", "def f(x):\n    return x", "ä"]
NEVER = -1  # as end_id: the text does not end by itself


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = deployment.write(tmp_path_factory.mktemp("deployment"))
    with server.running(settings) as running:
        yield running


def joined(responses: list[Response]) -> tuple[str, list[int]]:
    ids = [token_id for response in responses for token_id in response.ids]
    return "".join(response.text for response in responses), ids


def test_every_response_has_every_output_and_the_last_one_is_final(triton: RunningServer) -> None:
    responses = ask(triton.grpc, PROMPTS[0], 20, stream=True, end_id=NEVER)
    assert len(responses) > 1
    assert [response.final for response in responses] == [False] * (len(responses) - 1) + [True]
    for response in responses:
        assert set(response.tensors) == set(OUTPUTS)
    assert [response.figure("finish_reason") for response in responses[:-1]] == [b""] * (len(responses) - 1)
    assert responses[-1].figure("finish_reason") == b"length"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_streamed_chunks_join_to_the_whole_decoding(triton: RunningServer, prompt: str) -> None:
    text, ids = joined(ask(triton.grpc, prompt, 120, stream=True, end_id=NEVER))
    whole = ask(triton.grpc, prompt, 120, end_id=NEVER)
    assert len(whole) == 1
    assert ids == whole[0].ids
    assert text == whole[0].text == tokenizer().decode(ids)


@pytest.mark.parametrize("drafts", range(1, 9))
def test_greedy_speculation_equals_plain_decoding(triton: RunningServer, drafts: int) -> None:
    plain = ask(triton.grpc, PROMPTS[1], 100, num_draft_tokens=0, end_id=NEVER)[0]
    speculative = ask(triton.grpc, PROMPTS[1], 100, num_draft_tokens=drafts, end_id=NEVER)[0]
    assert speculative.ids == plain.ids
    assert plain.figure("total_draft_tokens") == 0
    assert speculative.figure("total_draft_tokens") > speculative.figure("total_accepted_draft_tokens") > 0
    assert speculative.figure("num_rounds") < plain.figure("num_rounds")


def test_up_to_the_end_of_the_context_window(triton: RunningServer) -> None:
    prompt = "a" * 3000
    room = 4096 - 3000
    plain = ask(triton.grpc, prompt, room, num_draft_tokens=0, end_id=NEVER)[0]
    assert plain.figure("num_output_tokens") == room
    assert ask(triton.grpc, prompt, room, num_draft_tokens=8, end_id=NEVER)[0].ids == plain.ids


def test_the_figures_cover_the_whole_request(triton: RunningServer) -> None:
    responses = ask(triton.grpc, PROMPTS[0], 50, stream=True, end_id=NEVER, return_log_probs=True)
    last = responses[-1]
    assert last.figure("num_input_tokens") == len(tokenizer().encode(PROMPTS[0]).ids)
    assert last.figure("num_output_tokens") == 50
    drafted, accepted = (last.figure(f"total_{kind}draft_tokens") for kind in ("", "accepted_"))
    assert last.figure("acceptance_rate") == pytest.approx(accepted / drafted)
    log_probs = np.concatenate([response.tensors["output_log_probs"].reshape(-1) for response in responses])
    assert len(log_probs) == 50
    assert last.figure("cum_log_probs") == pytest.approx(float(log_probs.sum()), rel=1e-4)
    times = [
        last.figure(f"{name}_time_ns") for name in ("arrival", "first_scheduled", "first_token", "last_token")
    ]
    assert times == sorted(times)
    assert times[0] > 0


def test_the_prompt_is_repeated_only_when_asked_for_and_never_in_a_stream(triton: RunningServer) -> None:
    plain = ask(triton.grpc, PROMPTS[0], 10, end_id=NEVER)[0].text
    whole = ask(triton.grpc, PROMPTS[0], 10, end_id=NEVER, exclude_input_in_output=False)[0].text
    assert whole == PROMPTS[0] + plain
    streamed = ask(triton.grpc, PROMPTS[0], 10, end_id=NEVER, exclude_input_in_output=False, stream=True)
    assert joined(streamed)[0] == plain


def test_stop_words_end_the_text(triton: RunningServer) -> None:
    free = ask(triton.grpc, PROMPTS[1], 60, end_id=NEVER)[0]
    text = tokenizer()
    stop = next(
        piece for piece in (text.decode([token_id]) for token_id in free.ids[5:]) if "\ufffd" not in piece
    )
    stopped = ask(triton.grpc, PROMPTS[1], 60, end_id=NEVER, stop_words=[b"never said", stop.encode()])[0]
    assert stopped.figure("finish_reason") == b"stop"
    assert stopped.ids == free.ids[: len(stopped.ids)]
    assert stopped.text.endswith(stop)


def test_bad_words_are_not_said(triton: RunningServer) -> None:
    free = ask(triton.grpc, PROMPTS[1], 30, end_id=NEVER)[0]
    text = tokenizer()
    bad = next(piece for piece in (text.decode([token_id]) for token_id in free.ids) if "\ufffd" not in piece)
    banned = ask(triton.grpc, PROMPTS[1], 30, end_id=NEVER, bad_words=[bad.encode()])[0]
    assert text.encode(bad).ids[0] not in banned.ids


def test_a_seed_repeats_a_sampled_text(triton: RunningServer) -> None:
    def sample(seed: int) -> list[int]:
        return ask(triton.grpc, PROMPTS[0], 40, temperature=1.0, seed=seed, end_id=NEVER)[0].ids

    assert sample(7) == sample(7)
    assert len({tuple(sample(seed)) for seed in range(3)}) == 3


def test_fifty_concurrent_prompts_give_what_they_give_alone(triton: RunningServer) -> None:
    prompts = [f"{PROMPTS[index % len(PROMPTS)]} {index}" for index in range(50)]

    def complete(prompt: str) -> list[int]:
        return joined(ask(triton.grpc, prompt, 24, stream=len(prompt) % 2 == 0, end_id=NEVER))[1]

    alone = [complete(prompt) for prompt in prompts]
    with ThreadPoolExecutor(50) as pool:
        together = list(pool.map(complete, prompts))
    assert together == alone


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "empty prompt": ({"text_input": b""}, "text_input: the prompt is empty"),
    "invalid UTF-8": ({"text_input": b"ab\xff\xfe"}, "text_input: not valid UTF-8 at byte 2"),
    "10 MB prompt": ({"text_input": b"a" * 10_000_000}, "text_input: 10000000 bytes, at most"),
    "prompt beyond max_input_len": ({"text_input": b"a" * 3001}, "3001 tokens"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens: 0, at least 1 is needed"),
    "max_tokens beyond the context": ({"max_tokens": 5000}, "max_seq_len"),
    "NaN temperature": ({"temperature": float("nan")}, "temperature"),
    "negative temperature": ({"temperature": -1.0}, "temperature"),
    "top_p 2": ({"top_p": 2.0}, "top_p"),
    "negative top_k": ({"top_k": -1}, "top_k"),
    "too many draft tokens": ({"num_draft_tokens": 9}, "num_draft_tokens: 9, this deployment takes 0 to 8"),
    "beams": ({"beam_width": 2}, "beam_width: beam search is not available"),
    "several sequences": ({"num_return_sequences": 2}, "num_return_sequences: several sequences"),
    "context logits": ({"return_context_logits": True}, "return_context_logits: context logits"),
    "unknown input": ({"zork": 1}, "unexpected inference input 'zork'"),
    "wrong shape": ({"top_k": np.array([[1, 2]], np.int32)}, "top_k"),
    "wrong type": ({"max_tokens": np.array([[9]], np.int64)}, "max_tokens"),
    "several rows": (
        {
            "text_input": np.array([[b"a"], [b"b"], [b"c"]], object),
            "max_tokens": np.array([[1], [1], [1]], np.int32),
        },
        "text_input: 3 rows; a request is one prompt, send several as concurrent requests",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_a_clear_error_and_the_next_request_works(triton: RunningServer, case: str) -> None:
    values, message = REFUSED[case]
    request = {"text_input": b"hello", "max_tokens": 4, **values}
    with pytest.raises(WireError) as error, Stream(triton.grpc, request) as stream:
        stream.next()
    assert message in str(error.value)
    assert "model.py" not in str(error.value)
    assert "/" not in str(error.value)
    assert ask(triton.grpc, "hello", 4, end_id=NEVER)[0].figure("num_output_tokens") == 4


def test_a_missing_input_is_named(triton: RunningServer) -> None:
    with pytest.raises(WireError, match="text_input"), Stream(triton.grpc, {"max_tokens": 4}) as stream:
        stream.next()


def post(url: str, document: dict[str, Any]) -> list[str]:
    request = urllib.request.Request(url, json.dumps(document).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return [line.decode() for line in reply]


def test_http_generates_too(triton: RunningServer) -> None:
    document = {"text_input": PROMPTS[1], "max_tokens": 30, "end_id": NEVER}
    expected = ask(triton.grpc, PROMPTS[1], 30, end_id=NEVER)[0].text
    url = f"http://{triton.http}/v2/models/ensemble/generate"
    assert json.loads(post(url, document)[0])["text_output"] == expected
    events = [
        line for line in post(f"{url}_stream", {**document, "stream": True}) if line.startswith("data: ")
    ]
    assert len(events) > 1
    assert "".join(json.loads(event[6:])["text_output"] for event in events) == expected


def test_a_client_of_nvidias_reads_the_text_as_it_always_did(triton: RunningServer) -> None:
    """Theirs takes ``text_output[0]``, and sends a beam width and a temperature with everything."""
    response = ask(triton.grpc, PROMPTS[0], 5, beam_width=1, temperature=1.0, num_return_sequences=1, seed=1)[
        0
    ]
    assert isinstance(response.tensors["text_output"][0], bytes)


def test_the_dashboard_reads_what_the_server_exports(triton: RunningServer) -> None:
    exported = samples(triton.metrics)
    for query in queries():
        for name, wanted in selectors(query):
            if name.startswith("specbuild_"):
                found = [labels for metric, labels, _ in exported if metric == name]
                assert any(wanted.items() <= labels.items() for labels in found), query


def test_the_counters_agree_with_what_the_requests_say(triton: RunningServer) -> None:
    def counted(name: str, **labels: str) -> float:
        return sum(
            value
            for metric, found, value in samples(triton.metrics)
            if metric == f"specbuild_spec_decode_{name}" and labels.items() <= found.items()
        )

    def counts() -> tuple[float, ...]:
        totals = ("num_rounds", "num_draft_tokens", "num_accepted_tokens", "num_generation_tokens")
        return (*(counted(f"{name}_total") for name in totals), counted("round_seconds_count"))

    refused = counted("num_requests_total", outcome="refused")
    with pytest.raises(WireError):
        ask(triton.grpc, PROMPTS[0], 4, num_draft_tokens=9)
    # Counts are published in turn: with the refusal all that was counted before it.
    until(lambda: counted("num_requests_total", outcome="refused") > refused, "the refusal to be counted")
    before = counts()
    last = ask(triton.grpc, PROMPTS[1], 50, stream=True, end_id=NEVER)[-1]
    rounds, drafted, accepted = (
        last.figure(name) for name in ("num_rounds", "total_draft_tokens", "total_accepted_draft_tokens")
    )
    expected = (rounds, drafted, accepted, 50, rounds)
    until(
        lambda: tuple(b - a for a, b in zip(before, counts(), strict=True)) == expected,
        "the request to be counted",
    )
