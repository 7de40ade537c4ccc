# SPDX-License-Identifier: Apache-2.0
"""The draft length is the one that yields most tokens per second, and 0 where drafting does not pay."""

from __future__ import annotations

import pytest

from specbuild.torch_runtime.draft_length import (
    Acceptance,
    Costs,
    DraftLengthPolicy,
    RoundCosts,
    best_length,
    expected_tokens,
    step_costs,
)


def costs(seconds: dict[int, float]) -> Costs:
    return Costs(dict(seconds))


def flat(c: float) -> tuple[Costs, Costs]:
    """A draft step of c, and a target whose pass takes 1 however many tokens it has."""
    return costs({1: c, 64: c}), costs({1: 1.0, 512: 1.0})


def best(alphas: list[float], limits: list[int], draft: Costs, target: Costs) -> int:
    return best_length(alphas, limits, step_costs(limits, draft, target))


def choose(policy: DraftLengthPolicy, requests: list[Acceptance], limits: list[int]) -> int:
    return policy.choose(requests, limits, step_costs(limits, policy.draft, policy.target))


@pytest.mark.parametrize(
    ("alpha", "tau"), [(0.5, 1.97), (0.6, 2.38), (0.7, 2.94), (0.8, 3.69), (0.9, 4.69), (1.0, 6.0)]
)
def test_expected_tokens_of_five_draft_tokens(alpha: float, tau: float) -> None:
    assert expected_tokens(alpha, 5) == pytest.approx(tau, abs=0.005)


@pytest.mark.parametrize(
    ("alpha", "c", "fastest"), [(0.5, 0.05, 3), (0.7, 0.05, 6), (0.8, 0.1, 6), (0.9, 0.2, 7), (0.6, 0.3, 1)]
)
def test_best_length_is_the_shortest_within_two_percent_of_the_best(
    alpha: float, c: float, fastest: int
) -> None:
    draft, target = flat(c)
    speeds = [expected_tokens(alpha, n) / (n * c + 1) for n in range(21)]
    assert speeds.index(max(speeds)) == fastest
    chosen = best([alpha], [20], draft, target)
    assert chosen <= fastest
    assert speeds[chosen] >= 0.98 * max(speeds)


def test_no_drafting_when_acceptance_is_below_the_cost_ratio() -> None:
    draft, target = flat(0.5)
    assert best([0.3], [8], draft, target) == 0


def test_dear_verification_shortens_the_draft() -> None:
    draft = costs({1: 0.02, 8: 0.02})
    cheap = costs({1: 1.0, 128: 1.0})
    dear = costs({1: 1.0, 8: 1.0, 128: 16.0})
    alphas, limits = [0.8] * 8, [8] * 8
    assert best(alphas, limits, draft, dear) < best(alphas, limits, draft, cheap)


def test_limits_of_single_requests_are_kept() -> None:
    draft, target = flat(0.01)
    assert best([0.9], [2], draft, target) == 2
    assert best([0.9, 0.9], [0, 0], draft, target) == 0


def test_acceptance_is_shrunk_while_little_is_known_and_then_measured() -> None:
    request = Acceptance(memory=100)
    assert request.estimate(0.7) == 0.7
    request.observe(4, 0)
    assert 0.5 < request.estimate(0.7) < 0.7
    for _ in range(100):
        request.observe(4, 0)
    assert request.estimate(0.7) < 0.1


def test_acceptance_counts_only_tokens_that_were_tried() -> None:
    request = Acceptance(memory=10_000)
    for _ in range(300):
        request.observe(8, 3)  # three stood, the fourth did not, the rest was never tried
    assert request.estimate(0.5) == pytest.approx(0.75, abs=0.01)


def test_acceptance_forgets() -> None:
    request = Acceptance(memory=100)
    for _ in range(50):
        request.observe(4, 4)
    for _ in range(50):
        request.observe(4, 0)
    assert request.estimate(0.7) < 0.6


def test_costs_are_interpolated_between_measured_numbers_and_flat_outside() -> None:
    known = costs({1: 1.0, 5: 3.0})
    assert [known.estimate(n) for n in (1, 2, 3, 5, 9)] == [1.0, 1.5, 2.0, 3.0, 3.0]
    assert costs({4: 2.0}).estimate(1) == 2.0
    assert costs({}).estimate(3) == 0.0


def test_one_outlier_hardly_moves_a_cost() -> None:
    known = costs({1: 1.0})
    known.observe(1, 100.0)
    assert known.estimate(1) == pytest.approx(1.2)
    for _ in range(100):
        known.observe(1, 2.0)
    assert known.estimate(1) == pytest.approx(2.0, rel=0.01)


def test_drafting_is_tried_again_from_time_to_time() -> None:
    policy = DraftLengthPolicy()
    policy.draft, policy.target = flat(0.5)
    request = policy.new_request()
    for _ in range(200):
        policy.observe(request, 4, 0)
    chosen = [choose(policy, [request], [4]) for _ in range(100)]
    assert set(chosen) == {0, 1}
    assert 1 <= chosen.count(1) <= 5


def test_drafting_comes_back_when_acceptance_does() -> None:
    policy = DraftLengthPolicy()
    policy.draft, policy.target = flat(0.05)
    request = policy.new_request()
    for _ in range(200):
        policy.observe(request, 4, 0)
    assert choose(policy, [request], [8]) == 0
    lengths = []
    for _ in range(2000):
        lengths.append(choose(policy, [request], [8]))
        policy.observe(request, lengths[-1], lengths[-1])
    assert lengths[-1] == 8
    assert choose(policy, [], []) == 0


def test_a_round_that_got_slower_makes_the_other_lengths_slower_by_as_much() -> None:
    costs = RoundCosts({(1, 0): 4.0, (1, 3): 7.0, (4, 3): 8.0})
    for _ in range(200):
        costs.observe(1, 3, 14.0)
    assert costs.seconds[1, 3] == pytest.approx(14.0, rel=0.01)
    assert costs.seconds[1, 0] == pytest.approx(8.0, rel=0.01)
    assert costs.seconds[4, 3] == 8.0


def test_one_round_beside_other_work_moves_little() -> None:
    costs = RoundCosts({(1, 0): 4.0, (1, 3): 7.0})
    costs.observe(1, 3, 7000.0)
    assert costs.seconds[1, 3] < 2 * 7.0
