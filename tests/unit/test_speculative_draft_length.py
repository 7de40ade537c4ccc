# SPDX-License-Identifier: Apache-2.0
"""The draft length that pays, from what has been measured."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest

from support.simulated_engines import Engine, Simulation, draft_length

LIMIT = 5
WARM_UP, LONG = 400, 1500
"""Tokens of each request."""


def simulation(
    policy: Any,
    *,
    alpha: float = 0.8,
    target_ms: float = 20,
    draft_ms: float = 1,
    token_ms: float = 4,
    free: int = 8,
) -> Simulation:
    """A target whose passes are free up to ``free`` tokens, and a draft whose are free."""
    target, draft = Engine(target_ms / 1e3, token_ms / 1e3, free), Engine(draft_ms / 1e3, 0.0, 0)
    return Simulation(policy, target, draft, alpha=alpha, limit=LIMIT)


def adaptive(**engines: float) -> Simulation:
    return simulation(draft_length.Policy(adaptive=True), **engines)


class Fixed(draft_length.Policy):  # type: ignore[misc]
    """Always the same draft length."""

    def __init__(self, length: int) -> None:
        super().__init__(adaptive=False)
        self.length = length

    def choose(self, request: Any, limit: int) -> int:
        return self.length


@functools.cache
def best_fixed(requests: int, **engines: float) -> float:
    """Tokens per second at the best of all lengths, 0 included."""
    return max(simulation(Fixed(length), **engines).play(requests, LONG) for length in range(LIMIT + 1))


def common(subject: Simulation) -> int:
    """The draft length by which most tokens came."""
    return subject.lengths.most_common(1)[0][0]


@pytest.mark.parametrize("token_ms", [0.5, 4])
@pytest.mark.parametrize("free", [8, 16])
@pytest.mark.parametrize("alpha", [0.4, 0.8])
def test_at_any_load_it_is_nearly_as_fast_as_the_best_length(
    alpha: float, free: int, token_ms: float
) -> None:
    engines = {"alpha": alpha, "free": free, "token_ms": token_ms}
    subject = adaptive(**engines)
    for requests in (1, 8, 1, 4, 2, 16, 8):
        subject.play(requests, WARM_UP)
        assert subject.play(requests, LONG) > 0.9 * best_fixed(requests, **engines)


def test_it_drafts_for_one_request_stops_at_eight_and_resumes() -> None:
    subject = adaptive()
    for requests, drafts in ((1, True), (8, False), (1, True), (8, False)):
        subject.play(requests, WARM_UP)
        subject.play(requests, LONG)
        assert (common(subject) > 0) is drafts


def test_a_load_it_knows_needs_no_trial() -> None:
    subject = adaptive()
    for requests in (1, 8):
        subject.play(requests, LONG)
    subject.play(1, 10)
    subject.play(1, 50)
    assert common(subject) > 0


def test_where_verification_is_free_eight_requests_draft_too() -> None:
    subject = adaptive(token_ms=0)
    subject.play(8, WARM_UP)
    subject.play(8, LONG)
    assert common(subject) > 0


def test_a_good_and_cheap_draft_is_used_to_the_full() -> None:
    subject = adaptive(alpha=0.95, draft_ms=0.5)
    subject.play(1, LONG)
    assert common(subject) == LIMIT


def test_a_poor_draft_is_asked_for_less() -> None:
    subject = adaptive(alpha=0.4)
    subject.play(1, LONG)
    assert 1 <= common(subject) <= 3


def test_a_draft_that_does_not_pay_is_left_alone_and_looked_at_again() -> None:
    subject = adaptive(alpha=0.2, draft_ms=12)
    subject.play(1, WARM_UP)
    subject.play(1, 3 * LONG)
    drafted = subject.lengths.total() - subject.lengths[0]
    assert 0 < drafted < subject.lengths.total() / 10


@pytest.mark.parametrize("change", ["better", "faster"])
def test_it_comes_back_when_the_draft_gets(change: str) -> None:
    subject = adaptive(alpha=0.1, draft_ms=5) if change == "better" else adaptive(draft_ms=60)
    subject.play(1, LONG)
    assert common(subject) == 0
    if change == "better":
        subject.alpha = 0.95
    subject.draft = Engine(0.001, 0.0, 0)
    subject.play(1, 5 * LONG)
    subject.play(1, LONG)
    assert common(subject) > 2


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_limit_is_never_exceeded(limit: int) -> None:
    subject = adaptive()
    subject.limit = limit
    for requests in (1, 8):
        subject.play(requests, LONG)
        assert max(subject.lengths) <= limit


def test_without_adaption_it_is_always_the_limit() -> None:
    subject = simulation(draft_length.Policy(adaptive=False), alpha=0.0, draft_ms=50)
    subject.play(2, LONG)
    assert set(subject.lengths) == {LIMIT}


def test_a_look_ends_though_no_round_can_be_measured() -> None:
    """Requests that come and go all the time leave no round undisturbed."""
    policy = draft_length.Policy(adaptive=True)
    policy.arrived()
    level, chosen = policy.level, set()
    for _ in range(100):
        chosen.add(policy.choose(draft_length.new_request(), LIMIT) > 0)
        policy.end(policy.begin(drafting=True), 4, 0.02, typical=False)
    assert chosen == {True, False}
    assert not level.drafting.known


def test_plain_bursts_are_long_only_while_no_look_is_near() -> None:
    subject = adaptive()
    assert subject.policy.burst() == draft_length.PLAIN_BURST
    bursts = set()
    for _ in range(100):
        subject.play(8, 10)
        bursts.add(subject.policy.burst())
    assert max(bursts) == draft_length.LONG_BURST
    assert min(bursts) == draft_length.PLAIN_BURST


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


def test_what_all_requests_add_to_a_pass_is_taken_into_account() -> None:
    """One request alone drafts to the full; eight would make the passes long, and draft less."""
    policy = draft_length.Policy(adaptive=True)

    def best(requests: int) -> int:
        while policy.requests < requests:
            policy.arrived()
        for _ in range(30):
            length = policy.level.best(0.8, LIMIT)
            policy.drafted(length, 0.001 * length)
            entered = [policy.traffic.enter(length + 1) for _ in range(requests)]
            for one in entered:
                calls, tokens = policy.traffic.leave(length + 1, one)
                policy.verified((calls, tokens), 0.020 + 0.005 * tokens)
        return int(policy.level.best(0.8, LIMIT))

    alone = best(1)
    assert best(8) < alone


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
