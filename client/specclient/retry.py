# SPDX-License-Identifier: Apache-2.0
"""When a request is sent again: before its first token only, and never so often that it adds to an overload.

Retried are refused and broken connections, full queues and models that are not ready. The pauses have
full jitter (a random share of an exponentially growing ceiling), and a budget bounds retries to a share
of all requests, as in Finagle's RetryBudget: when everything fails, the load grows by that share only.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass

from specclient.errors import InvalidRequest, SpecClientError


@dataclass(frozen=True, slots=True)
class Retry:
    """A policy. ``Retry(attempts=1)`` never sends again."""

    attempts: int = 3
    """Tries in all, the first one included."""
    base: float = 0.1
    """Ceiling of the first pause in seconds; each further one is twice as long."""
    ceiling: float = 2.0
    """Longest pause in seconds."""
    budget: float = 0.2
    """Retries per request, over all requests of the client."""
    reserve: int = 10
    """Retries that are free before the budget counts."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.base, self.ceiling, self.budget, self.reserve) < 0:
            raise InvalidRequest(
                f"{self} is not a policy", remedy="attempts is at least 1, the others are at least 0."
            )


class RetryBudget:
    """The state of one client's ``Retry``; safe to use from many threads."""

    def __init__(self, policy: Retry, *, seed: int | None = None) -> None:
        self._policy = policy
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._credit = float(policy.reserve)

    def deposit(self) -> None:
        """Count one new request."""
        with self._lock:
            self._credit = min(self._credit + self._policy.budget, max(self._policy.reserve, 1.0) * 10)

    def pause(self, error: SpecClientError, attempt: int) -> float | None:
        """Seconds to wait before trying again after the ``attempt``-th try (from 1); None to give up."""
        if not error.retryable or attempt >= self._policy.attempts:
            return None
        with self._lock:
            if self._credit < 1:
                return None
            self._credit -= 1
            return self._random.uniform(0, min(self._policy.ceiling, self._policy.base * 2 ** (attempt - 1)))
