# SPDX-License-Identifier: Apache-2.0
"""Retries: few, spread out, and bounded by a budget."""

from __future__ import annotations

import pytest

from specclient import QueueFull, Retry, ServerFailure
from specclient.errors import SpecClientError
from specclient.retry import RetryBudget


def pauses(policy: Retry, error: SpecClientError, seed: int = 0) -> list[float]:
    budget = RetryBudget(policy, seed=seed)
    found = []
    while (pause := budget.pause(error, len(found) + 1)) is not None:
        found.append(pause)
    return found


def test_an_error_is_retried_as_often_as_the_policy_says() -> None:
    assert len(pauses(Retry(attempts=4), QueueFull("x"))) == 3
    assert pauses(Retry(attempts=1), QueueFull("x")) == []


def test_what_would_fail_again_is_not_retried() -> None:
    assert pauses(Retry(attempts=4), ServerFailure("x")) == []


def test_pauses_are_jittered_below_a_growing_ceiling() -> None:
    policy = Retry(attempts=8, base=1, ceiling=4)
    runs = [pauses(policy, QueueFull("x"), seed) for seed in range(200)]
    for number, ceiling in enumerate([1, 2, 4, 4, 4, 4, 4]):
        values = [run[number] for run in runs]
        assert 0.9 * ceiling < max(values) <= ceiling
        assert min(values) < 0.1 * ceiling


def test_the_budget_bounds_retries_to_a_share_of_requests() -> None:
    budget = RetryBudget(Retry(attempts=2, budget=0.25, reserve=3))
    retries = 0
    for _ in range(100):
        budget.deposit()
        retries += budget.pause(QueueFull("x"), 1) is not None
    assert retries == pytest.approx(3 + 25, abs=1)
