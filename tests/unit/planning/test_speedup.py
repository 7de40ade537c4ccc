# SPDX-License-Identifier: Apache-2.0
"""Speed-up arithmetic against closed forms, simulation and published tables."""

from __future__ import annotations

import random

import pytest

from specbuild.planning import speedup as s
from specbuild.planning.speedup import StepTimes


def at_cost(ratio: float) -> StepTimes:
    return StepTimes(target=1.0, draft=ratio)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.5, [1.50, 1.75, 1.88, 1.94, 1.97, 1.99, 2.00]),
        (0.6, [1.60, 1.96, 2.18, 2.31, 2.38, 2.46, 2.49]),
        (0.7, [1.70, 2.19, 2.53, 2.77, 2.94, 3.14, 3.27]),
        (0.8, [1.80, 2.44, 2.95, 3.36, 3.69, 4.16, 4.57]),
        (0.9, [1.90, 2.71, 3.44, 4.10, 4.69, 5.70, 6.86]),
    ],
)
def test_tokens_per_round_follows_the_closed_form(alpha: float, expected: list[float]) -> None:
    lengths = [1, 2, 3, 4, 5, 7, 10]
    assert [s.tokens_per_round(alpha, length) for length in lengths] == pytest.approx(expected, abs=0.0051)


def test_tokens_per_round_agrees_with_simulation() -> None:
    rng = random.Random(7)
    trials = 50_000
    accepted = 0
    for _ in range(trials):
        for _ in range(5):
            if rng.random() >= 0.7:
                break
            accepted += 1
    # The standard error of a mean of values from 0 to 5 is below 2.5 / sqrt(trials) = 0.011.
    assert 1 + accepted / trials == pytest.approx(s.tokens_per_round(0.7, 5), abs=0.04)


@pytest.mark.parametrize(("alpha", "tokens"), [(0.0, 1.0), (1.0, 6.0), (1 - 1e-12, 6.0)])
def test_tokens_per_round_holds_at_the_ends(alpha: float, tokens: float) -> None:
    assert s.tokens_per_round(alpha, 5) == pytest.approx(tokens)


def test_rates_by_position_multiply() -> None:
    assert s.tokens_per_round_by_position([0.8, 0.5]) == pytest.approx(1 + 0.8 + 0.4)
    assert s.tokens_per_round_by_position([0.7] * 5) == pytest.approx(s.tokens_per_round(0.7, 5))
    assert s.tokens_per_round_by_position([]) == 1


BEST = {
    0.5: [(5, 1.88), (4, 1.79), (3, 1.63), (2, 1.46), (1, 1.25), (1, 1.15)],  # 2 gives 1.25, too
    0.6: [(7, 2.30), (6, 2.17), (4, 1.92), (3, 1.67), (2, 1.40), (1, 1.23)],
    0.7: [(9, 2.97), (8, 2.76), (6, 2.35), (4, 1.98), (3, 1.58), (2, 1.37)],
    0.8: [(14, 4.23), (11, 3.82), (8, 3.09), (6, 2.47), (4, 1.87), (3, 1.55)],
    0.9: [(20, 7.42), (19, 6.37), (13, 4.67), (10, 3.43), (7, 2.37), (5, 1.87)],
}


@pytest.mark.parametrize("alpha", BEST)
def test_best_draft_length_for_each_cost_ratio(alpha: float) -> None:
    for ratio, (length, speedup) in zip([0.01, 0.02, 0.05, 0.1, 0.2, 0.3], BEST[alpha], strict=True):
        choice = s.best_draft_length(alpha, at_cost(ratio))
        assert choice.draft_length == length, ratio
        assert choice.speedup == pytest.approx(speedup, abs=0.0051), ratio


def test_no_draft_is_best_when_alpha_is_below_its_cost() -> None:
    assert s.best_draft_length(0.2, at_cost(0.3)) == s.Choice(0, 1.0)
    assert s.best_draft_length(0.31, at_cost(0.3)).draft_length == 1


def test_recommendation_is_shorter_than_the_best_and_nearly_as_fast() -> None:
    best = s.best_draft_length(0.9, at_cost(0.02))
    recommended = s.recommended_draft_length(0.9, at_cost(0.02))
    assert recommended.draft_length < best.draft_length
    assert recommended.speedup >= 0.98 * best.speedup
    assert s.speedup(0.9, recommended.draft_length - 1, at_cost(0.02)) < 0.98 * best.speedup


@pytest.mark.parametrize(("tokens", "length", "alpha"), [(3.0, 4, 0.741), (2.5, 4, 0.644)])
def test_alpha_from_the_acceptance_length(tokens: float, length: int, alpha: float) -> None:
    assert s.alpha_of_length(tokens, length) == pytest.approx(alpha, abs=0.00051)


def test_alpha_from_the_acceptance_rate() -> None:
    assert s.alpha_of_rate(0.60, 5) == pytest.approx(0.834, abs=0.00051)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("length", [1, 4, 8])
def test_conversions_are_inverse(alpha: float, length: int) -> None:
    tokens = s.tokens_per_round(alpha, length)
    assert s.acceptance_length(s.acceptance_rate(tokens, length), length) == pytest.approx(tokens)
    assert s.alpha_of_length(tokens, length) == pytest.approx(alpha, abs=1e-9)


@pytest.mark.parametrize(("length", "rate"), [(1, 0.80), (4, 0.59), (10, 0.36)])
def test_acceptance_rate_falls_with_the_draft_length(length: int, rate: float) -> None:
    assert s.acceptance_rate(s.tokens_per_round(0.8, length), length) == pytest.approx(rate, abs=0.0051)


@pytest.mark.parametrize("tokens", [0.9, 6.1])
def test_impossible_acceptance_length_is_refused(tokens: float) -> None:
    with pytest.raises(ValueError, match="impossible with draft length 5"):
        s.alpha_of_length(tokens, 5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_must_be_a_probability(alpha: float) -> None:
    with pytest.raises(ValueError, match="not a probability"):
        s.tokens_per_round(alpha, 3)


def test_break_even_is_the_cost_ratio_when_verification_is_free() -> None:
    assert s.break_even_rate(4, at_cost(0.3)) == pytest.approx(0.3)


def test_speedup_is_one_at_the_break_even_rate() -> None:
    times = StepTimes(target=40.0, draft=2.0, verify_token=0.5, overhead=3.0)
    rate = s.break_even_rate(5, times)
    assert rate == pytest.approx((5 * 2.0 + 5 * 0.5 + 3.0) / 40.0 / 5)
    assert s.speedup(s.alpha_of_rate(rate, 5), 5, times) == pytest.approx(1.0)


def test_measured_times_lower_the_speedup_as_the_formula_says() -> None:
    times = StepTimes(target=41.0, draft=2.0, verify_token=0.3, overhead=1.0)
    expected = s.tokens_per_round(0.8, 5) * 41.0 / (5 * 2.0 + (41.0 + 5 * 0.3) + 1.0)
    assert s.speedup(0.8, 5, times) == pytest.approx(expected)
    assert times.cost_ratio == pytest.approx(2 / 41)


def test_extra_arithmetic_counts_rejected_tokens() -> None:
    alpha, length, ratio = 0.7, 5, 0.05
    expected = (1 - alpha) * (length * ratio + length + 1) / (1 - alpha ** (length + 1))
    assert s.extra_arithmetic(alpha, length, ratio) == pytest.approx(expected)
