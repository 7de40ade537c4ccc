# SPDX-License-Identifier: Apache-2.0
"""What speculation gains: tokens per round, speed-up, the best draft length.

Three figures are called acceptance and must not be mixed. With draft length γ:

- α, the probability that one draft token is accepted when the ones before it were;
- the acceptance length τ = 1 + accepted / rounds, which counts the bonus token;
- the draft acceptance rate r = accepted / drafted = (τ - 1) / γ, which falls with γ even where α
  does not.

Model: draft tokens are accepted independently (Leviathan, Kalman and Matias, arXiv 2211.17192). Where
they are not, ``tokens_per_round_by_position`` takes the rate of each position. Times may be in any
unit, all in the same.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

MAX_DRAFT_LENGTH = 20
_NEARLY_BEST = 0.98  # speed-up is flat around the best draft length, and shorter costs less elsewhere


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Time of one forward pass of each model, as deployed."""

    target: float
    """The target for one token."""
    draft: float
    """The draft for one token."""
    verify_token: float = 0.0
    """What each further token adds to the target's pass; near 0 while memory sets the pace."""
    overhead: float = 0.0
    """What a round costs besides: sampling, copies, a scheduler's turn."""

    @property
    def cost_ratio(self) -> float:
        """c: a draft token's time in target passes."""
        return self.draft / self.target

    def round(self, draft_length: int) -> float:
        """One round: a burst of ``draft_length`` and the pass that verifies it."""
        burst = draft_length * (self.draft + self.verify_token)
        return burst + self.target + self.overhead


@dataclass(frozen=True, slots=True)
class Choice:
    """A draft length and the speed-up it gives; length 0 is plain decoding."""

    draft_length: int
    speedup: float


def tokens_per_round(alpha: float, draft_length: int) -> float:
    """τ, the expected tokens of a round: (1 - α^(γ+1)) / (1 - α)."""
    _check_alpha(alpha)
    # The sum, not the quotient, which loses all digits near α = 1.
    return math.fsum(alpha**position for position in range(draft_length + 1))


def tokens_per_round_by_position(rates: Sequence[float]) -> float:
    """τ where position i is accepted with ``rates[i]`` given that all before it were."""
    for rate in rates:
        _check_alpha(rate)
    return 1 + math.fsum(itertools.accumulate(rates, operator.mul))


def acceptance_rate(tokens: float, draft_length: int) -> float:
    """r from the acceptance length ``tokens``."""
    return (tokens - 1) / draft_length


def acceptance_length(rate: float, draft_length: int) -> float:
    """τ from the draft acceptance rate ``rate``."""
    return 1 + draft_length * rate


def alpha_of_length(tokens: float, draft_length: int) -> float:
    """The α whose τ is ``tokens``, by bisection. Raises ValueError outside 1 to γ + 1."""
    if not 1 <= tokens <= draft_length + 1:
        raise ValueError(f"{tokens} tokens a round are impossible with draft length {draft_length}")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if tokens_per_round(middle, draft_length) < tokens:
            low = middle
        else:
            high = middle
    return high


def alpha_of_rate(rate: float, draft_length: int) -> float:
    """The α whose draft acceptance rate is ``rate``."""
    return alpha_of_length(acceptance_length(rate, draft_length), draft_length)


def speedup_of_length(tokens: float, draft_length: int, times: StepTimes) -> float:
    """Speed-up over plain decoding when a round yields ``tokens``: τ·T / round time."""
    return tokens * times.target / times.round(draft_length)


def speedup(alpha: float, draft_length: int, times: StepTimes) -> float:
    """Speed-up over plain decoding for a given α; 1 for draft length 0."""
    if draft_length == 0:
        return 1.0
    return speedup_of_length(tokens_per_round(alpha, draft_length), draft_length, times)


def break_even_rate(draft_length: int, times: StepTimes) -> float:
    """The draft acceptance rate above which this draft length is faster than none.

    The plain cost ratio c when verification is free; above 1 there is nothing to gain.
    """
    return acceptance_rate(times.round(draft_length) / times.target, draft_length)


def best_draft_length(alpha: float, times: StepTimes, limit: int = MAX_DRAFT_LENGTH) -> Choice:
    """The draft length from 0 to ``limit`` with the largest speed-up; the shorter one of equals."""
    return max(_choices(alpha, times, limit), key=lambda choice: choice.speedup)


def recommended_draft_length(alpha: float, times: StepTimes, limit: int = MAX_DRAFT_LENGTH) -> Choice:
    """The shortest draft length within 2 % of the largest speed-up."""
    choices = _choices(alpha, times, limit)
    enough = _NEARLY_BEST * max(choice.speedup for choice in choices)
    return next(choice for choice in choices if choice.speedup >= enough)


def extra_arithmetic(alpha: float, draft_length: int, flop_ratio: float) -> float:
    """Arithmetic per token over plain decoding's, where ``flop_ratio`` is the draft's share."""
    spent = draft_length * flop_ratio + draft_length + 1
    return spent / tokens_per_round(alpha, draft_length)


def _choices(alpha: float, times: StepTimes, limit: int) -> list[Choice]:
    return [Choice(length, speedup(alpha, length, times)) for length in range(limit + 1)]


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"an acceptance of {alpha} is not a probability")
