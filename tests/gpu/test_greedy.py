# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding on a GPU: with speculation and in company the same tokens as alone, but for near-ties."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from specbuild.synthetic import planted_pair, predict_greedy
from specbuild.torch_runtime import Engine, Request
from support import running
from support.near_ties import require_ties_only

from .conftest import MakeEngine, Models

pytestmark = pytest.mark.gpu

TOKENS = 80


def prompts(models: Models, count: int, *, longest: int, seed: int = 0) -> list[list[int]]:
    """Prompts of 1 to ``longest`` tokens."""
    chosen = random.Random(seed)
    lengths = [1, longest, *(chosen.randint(1, longest) for _ in range(count - 2))]
    return [[chosen.randrange(3, models.vocab_size) for _ in range(length)] for length in lengths]


def plain(engine: Engine, asked: list[list[int]], tokens: int = TOKENS) -> list[list[int]]:
    """What each prompt gets alone, without speculation."""
    return [
        running.finish(engine, Request(prompt=prompt, max_tokens=tokens, draft_length=0)).tokens
        for prompt in asked
    ]


def test_plain_decoding_is_the_models_own(engine: Engine, models: Models) -> None:
    """Every token is the reference's best after the tokens before it, or nearly."""
    asked = prompts(models, 8, longest=300)
    found = [
        one
        for prompt, tokens in zip(asked, plain(engine, asked), strict=True)
        for one in models.referee.misjudged(prompt, tokens)
    ]
    require_ties_only(found, len(asked), len(asked) * TOKENS, "plain against float32", most=0.05)


@pytest.mark.parametrize("length", [1, 3, 8])
def test_speculation_changes_nothing(engine: Engine, models: Models, length: int) -> None:
    asked = prompts(models, 10, longest=400)
    expected = plain(engine, asked)
    requests = [Request(prompt=prompt, max_tokens=TOKENS, draft_length=length) for prompt in asked]
    done = [running.finish(engine, request) for request in requests]
    found = models.referee.divergences(asked, expected, [one.tokens for one in done])
    require_ties_only(found, len(asked), len(asked) * TOKENS, f"draft length {length}")
    assert sum(one.counters.accepted for one in done) > 0
    assert sum(one.counters.accepted for one in done) < sum(one.counters.drafted for one in done)


def test_many_requests_at_mixed_positions_get_what_they_get_alone(engine: Engine, models: Models) -> None:
    """72 requests on 64 slots: prompts of 1 to 1,000 tokens, speculating or not, ending at all times."""
    asked = prompts(models, 72, longest=1000, seed=1)
    limits = [20 + 5 * (n % 12) for n in range(len(asked))]
    expected = [
        tokens[:limit] for tokens, limit in zip(plain(engine, asked, max(limits)), limits, strict=True)
    ]
    requests = [
        Request(prompt=prompt, max_tokens=limit, draft_length=(0, 1, 4, 8)[n % 4])
        for n, (prompt, limit) in enumerate(zip(asked, limits, strict=True))
    ]
    done = running.finish_all(engine, requests)
    found = models.referee.divergences(asked, expected, [one.tokens for one in done])
    require_ties_only(found, len(asked), sum(limits), "many at once")


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_planted_pair_is_followed_to_the_token(
    planted: Path, engine_on_device: MakeEngine, adaptive: bool
) -> None:
    """No ties here: margins are wide. Rounds and accepted tokens are those that were foreseen."""
    plant = planted_pair.read(planted)
    asked = [cycle.prompt(1 + 37 * n, seed=n) for cycle in plant.cycles for n in range(20)]
    with engine_on_device(planted / "target", planted / "draft", adaptive=adaptive) as loaded:
        done = running.finish_all(loaded, [Request(prompt=prompt, max_tokens=100) for prompt in asked])
    for prompt, one in zip(asked, done, strict=True):
        before = [prompt[-1], *one.tokens[:-1]]
        assert one.tokens == [int(plant.target[token]) for token in before]
    if not adaptive:
        foreseen = predict_greedy(planted, [prompt[-1] for prompt in asked], tokens=100, draft_length=8)
        assert sum(one.counters.rounds for one in done) == foreseen.rounds
        assert sum(one.counters.accepted for one in done) == foreseen.accepted


def test_the_end_of_the_context_window(engine: Engine, models: Models) -> None:
    asked = prompts(models, 3, longest=1000, seed=2)
    for prompt in asked:
        room = 2048 - len(prompt)
        whole = running.finish(engine, Request(prompt=prompt, max_tokens=room, draft_length=8))
        assert len(whole.tokens) == room
        assert whole.finish_reason == "length"


@pytest.mark.parametrize("rounded", ["draft", "both"])
def test_weights_in_8_bits_change_nothing_but_the_model(
    models: Models, engine_on_device: MakeEngine, rounded: str
) -> None:
    """With a rounded draft the target's tokens stay; with a rounded target speculation changes nothing."""
    asked = prompts(models, 8, longest=300)
    quantization = {"draft_quantization": "int8_wo"}
    if rounded == "both":
        quantization["target_quantization"] = "int8_wo"
    with engine_on_device(models.target, models.draft, **quantization) as engine:
        expected = plain(engine, asked)
        done = running.finish_all(
            engine, [Request(prompt=prompt, max_tokens=TOKENS, draft_length=4) for prompt in asked]
        )
    found = models.referee.divergences(asked, expected, [one.tokens for one in done])
    require_ties_only(found, len(asked), len(asked) * TOKENS, f"in 8 bits: {rounded}")
    drafted = sum(one.counters.drafted for one in done)
    assert 0.2 < sum(one.counters.accepted for one in done) / drafted < 1
