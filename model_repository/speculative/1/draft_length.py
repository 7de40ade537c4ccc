# SPDX-License-Identifier: Apache-2.0
"""How many tokens to draft next: the number with the most tokens per second, by what has been measured. Pure.

With α the probability that one draft token is accepted, a round of γ draft tokens yields
τ(α, γ) = 1 + α + ... + α^γ tokens (Leviathan et al., arXiv 2211.17192). It costs a call to the draft and a
call to the target, as they take at this moment and under this load: their times are what is measured here,
with queueing and the way there and back. A pass of the target takes the tokens of all requests together, so
its time goes by the tokens of all calls that are under way, and a length is judged as if all requests took
it: what one adds for the others would not show in its own calls. The choice that is not taken is measured
again from time to time.
"""

from __future__ import annotations

from dataclasses import dataclass

PRIOR_ACCEPTANCE = 0.7
PRIOR_TRIALS = 8.0
REQUEST_MEMORY = 100.0
MODEL_MEMORY = 2000.0
COST_MEMORY = 0.95
"""What a measurement keeps of its weight when the next one comes, and once more for every FORGET_TOKENS
tokens between them: of a choice that has not been taken for long, the first new measurement says most."""
FORGET_TOKENS = 4
OUTLIER = 4.0
TRAFFIC_SHARE = 0.2
"""Weight of the latest call in what is usual."""
SURELY = 3.0
"""Standard errors by which a measured slope must differ from the expected one to count."""
NEARLY_BEST = 0.98
"""The curve is flat near its maximum; a shorter burst wastes less when the estimate is wrong."""
PROBE_TOKENS = 96
"""Tokens between two looks at the choice that is not taken."""
CLEARLY = 1.5
"""Speed-up from which plain decoding need not be looked at."""
PROBE_DRAFT = 2


class Acceptance:
    """Estimate of α that forgets, shrunk to what is expected while little has been seen."""

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._accepted = 0.0
        self._trials = 0.0

    def observe(self, drafted: int, accepted: int) -> None:
        """Count one round. The tokens after the first rejected one were never tried."""
        tried = accepted + (accepted < drafted)
        fade = max(0.0, 1 - tried / self._memory)
        self._accepted = self._accepted * fade + accepted
        self._trials = self._trials * fade + tried

    def estimate(self, expected: float) -> float:
        """α, where ``expected`` is worth a few trials."""
        return (self._accepted + PRIOR_TRIALS * expected) / (self._trials + PRIOR_TRIALS)


@dataclass
class Cost:
    """Seconds of a call as base + tokens × slope, by least squares that forget.

    ``fixed`` is the share of a call's time that is taken for its base until the measured slope clearly says
    otherwise: under load the time of a call depends more on what else runs than on its length, and a slope
    that is found in that noise would make long drafts look dear.
    """

    fixed: float
    weight: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    tokens_squared: float = 0.0
    seconds_squared: float = 0.0
    product: float = 0.0
    latest: int = 0

    def observe(self, tokens: float, seconds: float, clock: int = 0) -> None:
        """Add a measurement; one far above what was expected is clipped, as something else ran then.

        ``clock`` counts the tokens that the model has generated.
        """
        keep = COST_MEMORY ** (1 + (clock - self.latest) / FORGET_TOKENS)
        self.latest = clock
        if self.known:
            seconds = min(seconds, OUTLIER * self.estimate(tokens))
        sums = ("weight", 1.0), ("tokens", tokens), ("seconds", seconds)
        squares = (
            ("tokens_squared", tokens**2),
            ("seconds_squared", seconds**2),
            ("product", tokens * seconds),
        )
        for name, value in (*sums, *squares):
            setattr(self, name, keep * getattr(self, name) + value)

    @property
    def known(self) -> bool:
        return self.weight > 0

    def estimate(self, tokens: float) -> float:
        """Seconds of a call with ``tokens``; 0 if nothing is known."""
        if not self.known:
            return 0.0
        mean_tokens, mean_seconds = self.tokens / self.weight, self.seconds / self.weight
        slope = self._slope(mean_tokens, mean_seconds)
        return max(mean_seconds + slope * (tokens - mean_tokens), 0.1 * mean_seconds)

    def _slope(self, mean_tokens: float, mean_seconds: float) -> float:
        prior = (1 - self.fixed) * mean_seconds / mean_tokens
        spread = self.tokens_squared / self.weight - mean_tokens**2
        if spread < 0.05:
            return prior
        measured = (self.product / self.weight - mean_tokens * mean_seconds) / spread
        noise = max(0.0, self.seconds_squared / self.weight - mean_seconds**2 - measured**2 * spread)
        if abs(measured - prior) < SURELY * (noise / (self.weight * spread)) ** 0.5:
            return prior
        return min(max(measured, 0.0), mean_seconds / mean_tokens)


class Traffic:
    """Calls to the target that are under way, and their tokens in one pass of it."""

    def __init__(self) -> None:
        self.usual = 1.0
        """Calls at a time, lately."""
        self._calls = 0
        self._tokens = 0

    def enter(self, tokens: int) -> tuple[int, int]:
        """A call begins; calls and tokens with it."""
        self._calls += 1
        self._tokens += tokens
        return self._calls, self._tokens

    def leave(self, tokens: int, entered: tuple[int, int]) -> float:
        """The call has ended; tokens that were under way with it, its own included."""
        calls, shared = (entered[0] + self._calls) / 2, (entered[1] + self._tokens) / 2
        self._calls -= 1
        self._tokens -= tokens
        self.usual += TRAFFIC_SHARE * (calls - self.usual)
        return shared


class Policy:
    """The model's own knowledge; ``Drafting`` is a request's. All requests share the engines' costs."""

    def __init__(self, *, adaptive: bool) -> None:
        self.adaptive = adaptive
        self.acceptance = Acceptance(MODEL_MEMORY)
        self.draft = Cost(fixed=0.0)
        self.target = Cost(fixed=1.0)
        self.traffic = Traffic()
        self.plain = Cost(fixed=0.0)
        self._clock = 0
        self._since_probe = 0

    def choose(self, request: Acceptance, limit: int) -> int:
        """Draft tokens for the next round, ``limit`` at most; 0 is plain decoding."""
        if limit <= 0 or not self.adaptive or not self.draft.known:
            return max(limit, 0)
        alpha = request.estimate(self.acceptance.estimate(PRIOR_ACCEPTANCE))
        speeds = [self.speed(alpha, length) for length in range(limit + 1)]
        best = next(n for n, speed in enumerate(speeds) if speed >= NEARLY_BEST * max(speeds))
        if self._since_probe < PROBE_TOKENS:
            return best
        self._since_probe = 0
        if not best:
            return min(PROBE_DRAFT, limit)
        return best if speeds[best] > CLEARLY * speeds[0] else 0

    def speed(self, alpha: float, length: int) -> float:
        """Tokens per second expected of rounds with ``length`` draft tokens."""
        if not length:
            return 1 / max(self._plain_token(), 1e-9)
        seconds = self.draft.estimate(self.traffic.usual * length) + self._pass(length + 1)
        return sum(alpha**position for position in range(length + 1)) / max(seconds, 1e-9)

    def drafted(self, tokens: int, seconds: float) -> None:
        """Count a call to the draft."""
        self.draft.observe(self.traffic.usual * tokens, seconds, self._clock)

    def verified(self, tokens: float, seconds: float) -> None:
        """Count a verification; ``tokens`` were under way with it."""
        self.target.observe(tokens, seconds, self._clock)

    def judged(self, request: Acceptance, drafted: int, accepted: int) -> None:
        """Count a round's draft tokens."""
        self._tick(accepted + 1)
        if drafted:
            request.observe(drafted, accepted)
            self.acceptance.observe(drafted, accepted)

    def ran_plain(self, tokens: int, seconds: float) -> None:
        """Count a round without draft tokens."""
        self._tick(tokens)
        self.plain.observe(tokens, seconds, self._clock)

    def _tick(self, tokens: int) -> None:
        self._clock += tokens
        self._since_probe += tokens

    def _plain_token(self) -> float:
        """Seconds of a token without the draft."""
        if self.plain.known:
            return self.plain.estimate(PLAIN_BURST) / PLAIN_BURST
        return self._pass(1)

    def _pass(self, tokens: int) -> float:
        """Seconds of a call to the target when each of the usual calls has ``tokens``."""
        return self.target.estimate(self.traffic.usual * tokens)


PLAIN_BURST = 16
"""Tokens per call to the target while it works alone."""
STREAMED_BURST = 4
"""The same for a client that reads along."""


def new_request() -> Acceptance:
    """The estimate of one request, to be kept with it."""
    return Acceptance(REQUEST_MEMORY)
