# SPDX-License-Identifier: Apache-2.0
"""The generated repository on a real Triton: the pair says what the target alone says, and cleans up."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from tokenizers import Tokenizer

from specbuild.config import Config
from specbuild.server import RunningServer
from support.rehearsal import Front, metric, pair_and_target, rehearsed, settings_for
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


def streamed(front: Front, prompt: str) -> list[list[int]]:
    """Tokens of the opening and of each round."""
    answer = front.ask(text_input=prompt, max_tokens=40, stream=True)
    return [one["output_ids"].reshape(-1).tolist() for one in answer.responses]


def test_an_end_token_inside_a_draft_ends_both_and_is_not_returned(front: Front) -> None:
    tried = 0
    for prompt in PROMPTS:
        rounds = streamed(front, prompt)
        whole = [token for one in rounds for token in one]
        # All but the last token of a round were draft tokens.
        inside = [token for one in rounds for token in one[:-1] if whole.count(token) == 1]
        for end in inside[:2]:
            ours, theirs = pair_and_target(front, prompt, max_tokens=40, end_id=end)
            assert ours == theirs == whole[: whole.index(end)]
            tried += 1
    assert tried


def test_a_stop_sequence_that_spans_two_rounds_ends_both_and_is_returned(front: Front, pair: Path) -> None:
    text = Tokenizer.from_file(str(pair / "target" / "tokenizer.json"))
    spanning = [
        (prompt, ids)
        for prompt in PROMPTS
        for before, after in itertools.pairwise(streamed(front, prompt)[1:])
        if text.encode(text.decode(ids := [before[-1], after[0]]), add_special_tokens=False).ids == ids
    ]
    assert spanning
    for prompt, ids in spanning[:4]:
        words = ["never said", text.decode(ids)]
        ours, theirs = pair_and_target(front, prompt, max_tokens=40, stop_words=words)
        assert ours == theirs
        assert ours[-2:] == ids


def test_a_prompt_at_the_length_limit_is_served_and_one_beyond_it_is_refused(front: Front) -> None:
    longest = "self" + " self" * 254  # and a token for the beginning
    assert front.ask(text_input=longest, max_tokens=1).last("num_input_tokens") == 256
    ours, theirs = pair_and_target(front, longest, max_tokens=40)
    assert ours == theirs
    assert len(ours) == 40
    refused = front.ask(text_input=longest + " self", max_tokens=1)
    assert "257 tokens" in (refused.error or "")


def test_output_is_cut_where_the_engines_end(front: Front) -> None:
    for num_draft_tokens in (0, 1, 5):
        ours, theirs = pair_and_target(
            front, "self " * 200, max_tokens=400, num_draft_tokens=num_draft_tokens
        )
        assert ours == theirs
        assert 0 < len(ours) < 400


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


def test_sampled_requests_have_the_distribution_of_the_target_alone(front: Front) -> None:
    """Chi-square test of homogeneity: 400 texts of each side, position by position, three tokens in each.

    At level 1e-4 a shift of 0.17 from one of three equally probable tokens to another is found with power
    0.96: 2 degrees of freedom, noncentrality 400 / 2 * 2 * 0.17^2 * 3 = 35. The pure loop's test is sharper.
    """
    fields = {"text_input": PROMPTS[0], "max_tokens": 4, "top_k": 3, "temperature": 2.0}
    fields["exclude_input_in_output"] = True
    number = 400
    sides = {
        model: [
            answer
            for start in range(first, first + number, 100)  # less than the queue holds
            for answer in front.ask_all([{**fields, "seed": start + n} for n in range(100)], model)
        ]
        for model, first in (("ensemble", 0), ("ensemble_baseline", number))
    }
    drawn = {model: [answer.tokens for answer in answers] for model, answers in sides.items()}
    assert sum(answer.last("total_draft_tokens") for answer in sides["ensemble"]) >= number
    for position in range(4):
        seen = {model: Counter(tokens[position] for tokens in texts) for model, texts in drawn.items()}
        common = [token for token, count in sum(seen.values(), Counter()).items() if count >= 20]
        table = [[seen[model][token] for token in common] for model in seen]
        assert stats.chi2_contingency(table).pvalue > 1e-4


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


def publish(server: RunningServer) -> None:
    """Return when all that has been counted is published: so is a refusal, the latest count of all."""
    refused = metric(server, "spec_decode_num_requests_total", outcome="refused")
    client = Front(server.grpc)
    assert client.ask(text_input=PROMPTS[0], max_tokens=1, num_draft_tokens=6).error
    client.close()
    until(
        lambda: metric(server, "spec_decode_num_requests_total", outcome="refused") > refused,
        "the counters to be published",
    )


def test_the_counters_agree_with_what_the_requests_say(triton: RunningServer, front: Front) -> None:
    names = ("num_draft_tokens_total", "num_accepted_tokens_total", "num_generation_tokens_total")
    publish(triton)
    before = [metric(triton, f"spec_decode_{name}") for name in names]
    answer = front.ask(text_input=PROMPTS[2], max_tokens=40)
    expected = (answer.last("total_draft_tokens"), answer.last("total_accepted_draft_tokens"), 40)

    def counted() -> bool:
        now = [metric(triton, f"spec_decode_{name}") for name in names]
        return tuple(a - b for a, b in zip(now, before, strict=True)) == expected

    until(counted, "the counters")
