# SPDX-License-Identifier: Apache-2.0
"""The draft length that pays, from what has been measured."""

from __future__ import annotations

import random
from typing import Any

import pytest

from support.triton import model_module

draft_length = model_module("speculative", "draft_length")
LIMIT = 8


def play(
    policy: Any, rounds: int, *, alpha: float, draft_ms: float, target_ms: float, plain_ms: float
) -> list[int]:
    """Rounds of one request on engines of these costs; the draft lengths that were chosen."""
    chance = random.Random(0)
    request = draft_length.new_request()
    chosen = []
    for _ in range(rounds):
        length = policy.choose(request, LIMIT)
        chosen.append(length)
        if not length:
            policy.ran_plain(draft_length.PLAIN_BURST, draft_length.PLAIN_BURST * plain_ms / 1e3)
            continue
        accepted = next((n for n in range(length) if chance.random() > alpha), length)
        policy.drafted(length, (1 + length * draft_ms) / 1e3)
        policy.verified(length + 1, target_ms / 1e3)
        policy.judged(request, length, accepted)
    return chosen


def common(values: list[int]) -> int:
    return max(set(values), key=values.count)


def test_a_good_and_cheap_draft_is_used_to_the_full() -> None:
    policy = draft_length.Policy(adaptive=True)
    assert common(play(policy, 200, alpha=0.95, draft_ms=0.5, target_ms=25, plain_ms=24)) >= 7


def test_a_poor_draft_is_asked_for_less() -> None:
    policy = draft_length.Policy(adaptive=True)
    assert 1 <= common(play(policy, 200, alpha=0.4, draft_ms=1.5, target_ms=25, plain_ms=24)[50:]) <= 3


def test_a_draft_that_does_not_pay_is_left_alone_and_looked_at_again() -> None:
    policy = draft_length.Policy(adaptive=True)
    chosen = play(policy, 200, alpha=0.2, draft_ms=12, target_ms=25, plain_ms=22)[50:]
    assert common(chosen) == 0
    assert 0 < sum(map(bool, chosen)) < len(chosen) / 4


def test_it_comes_back_when_the_draft_gets_better() -> None:
    policy = draft_length.Policy(adaptive=True)
    play(policy, 150, alpha=0.1, draft_ms=12, target_ms=25, plain_ms=22)
    assert common(play(policy, 1500, alpha=0.95, draft_ms=0.3, target_ms=25, plain_ms=22)[-100:]) > 2


def test_it_comes_back_soon_when_the_draft_gets_faster() -> None:
    policy = draft_length.Policy(adaptive=True)
    assert common(play(policy, 150, alpha=0.8, draft_ms=40, target_ms=25, plain_ms=22)[50:]) == 0
    assert common(play(policy, 40, alpha=0.8, draft_ms=1, target_ms=25, plain_ms=22)[-20:]) > 2


def test_where_it_is_close_plain_decoding_is_measured_too() -> None:
    policy = draft_length.Policy(adaptive=True)
    play(policy, 300, alpha=0.6, draft_ms=3, target_ms=25, plain_ms=24)
    assert policy.plain.known


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_limit_is_never_exceeded(limit: int) -> None:
    policy = draft_length.Policy(adaptive=True)
    for _ in range(50):
        assert policy.choose(draft_length.new_request(), limit) <= limit
        policy.drafted(3, 0.001)
        policy.verified(4, 0.03)
        policy.judged(draft_length.new_request(), 3, 3)


def test_without_adaption_it_is_always_the_limit() -> None:
    policy = draft_length.Policy(adaptive=False)
    assert set(play(policy, 50, alpha=0.0, draft_ms=50, target_ms=25, plain_ms=20)) == {LIMIT}


def test_costs_follow_the_measurements() -> None:
    cost = draft_length.Cost(fixed=1.0)
    cost.observe(4, 0.02)
    assert cost.estimate(1) == cost.estimate(8) == pytest.approx(0.02)
    for _ in range(30):
        cost.observe(2, 0.012)
        cost.observe(6, 0.020)
    assert cost.estimate(4) == pytest.approx(0.016, rel=0.1)
    assert cost.estimate(8) == pytest.approx(0.024, rel=0.15)


def test_a_slope_in_the_noise_is_not_believed() -> None:
    """Under load a call takes what the others let it take."""
    chance = random.Random(1)
    for _ in range(20):
        cost = draft_length.Cost(fixed=1.0)
        for _ in range(60):
            cost.observe(chance.randint(2, 6), chance.uniform(0.1, 0.3))
        assert cost.estimate(1) == pytest.approx(cost.estimate(6), rel=0.01)


@pytest.mark.parametrize("load", [4.0, 0.25])
def test_drafting_goes_on_when_the_load_changes(load: float) -> None:
    policy = draft_length.Policy(adaptive=True)
    play(policy, 300, alpha=0.8, draft_ms=1.5, target_ms=25, plain_ms=24)
    chosen = play(policy, 60, alpha=0.8, draft_ms=1.5 * load, target_ms=25 * load, plain_ms=24 * load)
    assert sum(map(bool, chosen)) > 50


def test_what_all_requests_add_to_a_pass_is_taken_into_account() -> None:
    """One request alone drafts to the full; eight would make the passes long, and draft less."""
    policy = draft_length.Policy(adaptive=True)

    def verify(requests: int, tokens: int) -> None:
        entered = [policy.traffic.enter(tokens) for _ in range(requests)]
        for one in entered:
            together = policy.traffic.leave(tokens, one)
            policy.verified(together, 0.020 + 0.005 * together)

    def choose(requests: int) -> int:
        for _ in range(30):
            length = policy.choose(draft_length.new_request(), LIMIT) or 1
            policy.drafted(length, 0.001 * length)
            verify(requests, length + 1)
        return int(policy.choose(draft_length.new_request(), LIMIT))

    alone = choose(1)
    assert choose(8) < alone
    assert choose(1) == alone


def test_one_slow_call_is_not_believed() -> None:
    cost = draft_length.Cost(fixed=0.0)
    for _ in range(20):
        cost.observe(5, 0.01)
    cost.observe(5, 5.0)
    assert cost.estimate(5) < 0.02


def test_little_evidence_stays_near_what_is_expected() -> None:
    request = draft_length.new_request()
    request.observe(3, 0)
    assert 0.5 < request.estimate(0.8) < 0.8
    for _ in range(50):
        request.observe(3, 0)
    assert request.estimate(0.8) < 0.2
