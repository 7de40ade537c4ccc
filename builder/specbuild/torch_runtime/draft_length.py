# SPDX-License-Identifier: Apache-2.0
"""How many tokens to draft: the number that yields most tokens per second. Pure arithmetic.

With α the probability that one draft token is accepted, a round of γ draft tokens yields
τ(α, γ) = (1 − α^(γ+1)) ÷ (1 − α) tokens (Leviathan et al., arXiv 2211.17192) and costs γ draft steps and
one pass of the target over γ + 1 tokens. All requests of a round share its cost, so they share γ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_PRIOR_ACCEPTANCE = 0.7
_PRIOR_WEIGHT = 8.0
_ENGINE_MEMORY = 2000.0
_REQUEST_MEMORY = 100.0
_SMOOTHING = 0.1
_OUTLIER = 3.0
# The curve is flat near its maximum; a shorter burst wastes less when the estimate is wrong.
_TOLERANCE = 0.02
_PROBE_EVERY = 32


@dataclass(slots=True)
class Acceptance:
    """Estimate of α, shrunk to what is expected while little has been seen."""

    memory: float
    """Trials after which older ones have lost most of their weight."""
    accepted: float = 0.0
    trials: float = 0.0

    def observe(self, drafted: int, accepted: int) -> None:
        """Count one round. The tokens after the first rejected one were never tried."""
        tried = accepted + (accepted < drafted)
        fade = max(0.0, 1 - tried / self.memory)
        self.accepted = self.accepted * fade + accepted
        self.trials = self.trials * fade + tried

    def estimate(self, expected: float) -> float:
        """α, where ``expected`` is worth a few trials."""
        return (self.accepted + _PRIOR_WEIGHT * expected) / (self.trials + _PRIOR_WEIGHT)


@dataclass(slots=True)
class Costs:
    """Moving averages of step times in seconds, by how many tokens a step takes."""

    seconds: dict[int, float] = field(default_factory=dict)

    def observe(self, tokens: int, seconds: float) -> None:
        """Add a measurement; one far above the average is clipped, as something else ran then."""
        known = self.seconds.get(tokens)
        if known is None:
            self.seconds[tokens] = seconds
        else:
            self.seconds[tokens] = known + _SMOOTHING * (min(seconds, _OUTLIER * known) - known)

    def estimate(self, tokens: int) -> float:
        """Time for ``tokens``: linear between measured numbers, and the nearest one's outside them.

        Outside it is optimistic, which makes an unknown length worth trying. 0 if nothing is known.
        """
        below = max((n for n in self.seconds if n <= tokens), default=None)
        above = min((n for n in self.seconds if n >= tokens), default=None)
        if below is None or above is None:
            nearest = above if below is None else below
            return 0.0 if nearest is None else self.seconds[nearest]
        if below == above:
            return self.seconds[below]
        share = (tokens - below) / (above - below)
        return self.seconds[below] + share * (self.seconds[above] - self.seconds[below])


@dataclass
class RoundCosts:
    """Moving averages of whole rounds in seconds, by rows and draft length."""

    seconds: dict[tuple[int, int], float] = field(default_factory=dict)

    def observe(self, rows: int, length: int, seconds: float) -> None:
        """Add a measurement of a round that is known already.

        What made it slower or faster than before, longer contexts say, does so for the other lengths too:
        they change by the same factor, so that the one that is played is not judged by newer times.
        """
        known = self.seconds[rows, length]
        factor = 1 + _SMOOTHING * (min(seconds, _OUTLIER * known) / known - 1)
        for key in self.seconds:
            if key[0] == rows:
                self.seconds[key] *= factor


def expected_tokens(alpha: float, drafted: int) -> float:
    """τ: tokens that a round of ``drafted`` draft tokens yields."""
    return float(drafted + 1) if alpha >= 1 else (1 - alpha ** (drafted + 1)) / (1 - alpha)


def step_costs(limits: Sequence[int], draft: Costs, target: Costs) -> Callable[[int], float]:
    """Seconds of a round by its draft length, when each request drafts at most its limit."""

    def seconds(length: int) -> float:
        lengths = [min(length, limit) for limit in limits]
        verification = target.estimate(sum(lengths) + len(lengths))
        return verification + sum(draft.estimate(sum(n > step for n in lengths)) for step in range(length))

    return seconds


def best_length(alphas: Sequence[float], limits: Sequence[int], seconds: Callable[[int], float]) -> int:
    """The draft length with most tokens per second for requests of acceptance ``alphas``.

    A request drafts at most its limit. Within 2 % of the best the shortest length is taken.
    """

    def speed(length: int) -> float:
        lengths = [min(length, limit) for limit in limits]
        tokens = sum(expected_tokens(a, n) for a, n in zip(alphas, lengths, strict=True))
        return tokens / max(seconds(length), 1e-9)

    speeds = [speed(length) for length in range(max(limits) + 1)]
    return next(length for length, value in enumerate(speeds) if value >= (1 - _TOLERANCE) * max(speeds))


class DraftLengthPolicy:
    """Chooses the draft length of each round from what the earlier ones measured."""

    def __init__(self) -> None:
        self.draft = Costs()
        self.target = Costs()
        self.engine = Acceptance(_ENGINE_MEMORY)
        self._plain_rounds = 0

    @staticmethod
    def new_request() -> Acceptance:
        """The estimate of one request, to be kept with it."""
        return Acceptance(_REQUEST_MEMORY)

    @property
    def alpha(self) -> float:
        """α over all requests."""
        return self.engine.estimate(_PRIOR_ACCEPTANCE)

    def choose(
        self, requests: Sequence[Acceptance], limits: Sequence[int], seconds: Callable[[int], float]
    ) -> int:
        """Draft tokens for the next round of ``requests``, of which each takes at most its limit.

        ``seconds`` tells what a round of a draft length takes. When drafting does not pay, a short burst from
        time to time looks whether it does again.
        """
        if not requests or max(limits) == 0:
            return 0
        alphas = [request.estimate(self.alpha) for request in requests]
        length = best_length(alphas, limits, seconds)
        self._plain_rounds = 0 if length else self._plain_rounds + 1
        if self._plain_rounds >= _PROBE_EVERY:
            self._plain_rounds = 0
            length = 1
        return length

    def observe(self, request: Acceptance, drafted: int, accepted: int) -> None:
        """Count the outcome of one request's round."""
        if drafted:
            request.observe(drafted, accepted)
            self.engine.observe(drafted, accepted)
