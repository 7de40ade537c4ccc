# SPDX-License-Identifier: Apache-2.0
"""How many tokens to draft next: the number with the most tokens per second, by what has been measured. Pure.

With α the probability that one draft token is accepted, a round of γ draft tokens yields
τ(α, γ) = 1 + α + ... + α^γ tokens (Leviathan et al., arXiv 2211.17192). It costs a call to the draft and a
call to the target, as they take at this moment and under this load: their times are what is measured here,
with queueing and the way there and back. A pass of the target takes the tokens of all requests together, so
its time goes by the tokens of all calls that are under way, and a length is judged as if all requests took
it: what one adds for the others would not show in its own calls.

Whether drafting pays at all is not computed from such costs but tried, at each level of load of its own: one
request that drafts among others that do not rides in their passes, and one that does not waits for the
verifications of those that do, so neither shows what it would be if all did the same. All requests draft for
a few tokens, then none does, and the better one goes on until the next look.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
PLAIN_BURST = 16
"""Tokens per call to the target while it works alone."""
STREAMED_BURST = 4
"""The same for a client that reads along."""
LONG_BURST = 64
"""The same while the next look is far: each call costs a pass in which the request is missing."""
LONG_BURSTS_GAIN = 1.05
"""What plain decoding is expected to gain by them over the bursts of a trial."""
TRIAL_TOKENS = 16
"""Tokens of each request in a trial. A plain burst is that long, so that one of each request is measured."""
LOOK_COST = 0.02
"""Share of the time that trials of the slower mode may take: the slower it is, the longer a pause."""
FIRST_PAUSE, USUAL_PAUSE, LONGEST_PAUSE = 96.0, 384.0, 4096.0
"""Tokens of each request between two looks, at least: at first, and where looks confirm each other, as they
cost more than their trials; and at most."""
PACE_MEMORY = 256.0
"""Tokens of each request after which an earlier pace has lost most of its weight."""
NEW_TRIAL = 0.5
"""What the earlier pace keeps of its weight when a new trial begins."""
UNCLEAR = 0.25
"""What a token that is no measurement counts for the length of a trial: it ends even if nothing is."""


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
        self._calls = 0
        self._tokens = 0

    def enter(self, tokens: int) -> tuple[int, int]:
        """A call begins; calls and tokens with it."""
        self._calls += 1
        self._tokens += tokens
        return self._calls, self._tokens

    def leave(self, tokens: int, entered: tuple[int, int]) -> tuple[float, float]:
        """The call has ended; calls and tokens that were under way with it, its own included."""
        shared = (entered[0] + self._calls) / 2, (entered[1] + self._tokens) / 2
        self._calls -= 1
        self._tokens -= tokens
        return shared


class Pace:
    """Tokens and seconds of a request's rounds in one mode, while all requests were in it."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    @property
    def known(self) -> bool:
        return self._tokens > 0

    @property
    def speed(self) -> float:
        """Tokens per second of one request; 0 if nothing is known."""
        return self._tokens / max(self._seconds, 1e-9)

    def observe(self, tokens: float, seconds: float) -> None:
        self.fade(max(0.0, 1 - tokens / PACE_MEMORY))
        self._tokens += tokens
        self._seconds += seconds

    def fade(self, keep: float) -> None:
        self._tokens *= keep
        self._seconds *= keep


class Level:
    """One level of load: what calls take, how fast requests are with the draft and without it, what is tried.

    All counts of tokens are a request's: those of all requests, divided by their number.
    """

    def __init__(self, nearest: Level | None = None) -> None:
        """What is expected at first is what is known of the ``nearest`` level."""
        self.draft: Cost = replace(nearest.draft) if nearest else Cost(fixed=0.0)
        """A call to the draft by its tokens."""
        self.target: Cost = replace(nearest.target) if nearest else Cost(fixed=1.0)
        """A verification by all tokens under way."""
        self.calls: float = nearest.calls if nearest else 1.0
        """Verifications at a time, lately."""
        drafting = nearest is None or nearest.drafts
        self.drafting = Pace()
        self.plain = Pace()
        self.trial: bool | None = drafting
        """Whether all draft, or none; None between two looks."""
        self.tokens_left = float(TRIAL_TOKENS)
        """Tokens until the trial ends or the next look begins."""
        self._second = not drafting
        """What is tried second in a look: what went on until then, so that both are compared at one time."""
        self._pause = FIRST_PAUSE / 2

    @property
    def drafts(self) -> bool:
        """Whether drafting has shown to be the faster."""
        return self.pays(1.0)

    def pays(self, merit: float) -> bool:
        """Whether drafting is the faster for a request that has ``merit`` times the usual speed by it."""
        return merit * self.drafting.speed > LONG_BURSTS_GAIN * self.plain.speed

    def best(self, alpha: float, limit: int) -> int:
        """The number of draft tokens, at least one, that gives most tokens per second."""
        if not self.draft.known:
            return limit
        speeds = {length: self.speed(alpha, length) for length in range(1, limit + 1)}
        return next(n for n, speed in speeds.items() if speed >= NEARLY_BEST * max(speeds.values()))

    def speed(self, alpha: float, length: int) -> float:
        """Tokens per second expected of rounds with ``length`` draft tokens, one at least."""
        seconds = self.draft.estimate(length) + self.target.estimate(self.calls * (length + 1))
        return sum(alpha**position for position in range(length + 1)) / max(seconds, 1e-9)

    def advance(self, drafting: bool, tokens: float, seconds: float, *, clear: bool) -> None:
        """Count a round; it is ``clear`` if all others were in its mode and nobody came or went."""
        if clear:
            (self.drafting if drafting else self.plain).observe(tokens, seconds)
        measures = self.trial is None or (clear and drafting == self.trial)
        self.tokens_left -= tokens if measures else UNCLEAR * tokens
        if self.tokens_left > 0:
            return
        if self.trial is None:
            self._second = self.drafts
            self._try(not self.drafts)
        elif self.trial != self._second:
            self._try(self._second)
        else:
            self._conclude()

    def _try(self, drafting: bool) -> None:
        (self.drafting if drafting else self.plain).fade(NEW_TRIAL)
        self.trial, self.tokens_left = drafting, TRIAL_TOKENS

    def _conclude(self) -> None:
        if not (self.drafting.known and self.plain.known):
            self._try(not self._second)
            return
        slower, faster = sorted((self.drafting.speed, self.plain.speed))
        pause = TRIAL_TOKENS * (faster / slower - 1) / LOOK_COST
        confirmed = self.drafts == self._second
        least = min(2 * self._pause, USUAL_PAUSE) if confirmed else FIRST_PAUSE
        self._pause = min(max(pause, least), LONGEST_PAUSE)
        self.trial, self.tokens_left = None, self._pause


@dataclass(frozen=True)
class Started:
    """A round that is under way."""

    level: Level
    drafting: bool
    clear: bool
    """Whether no round in the other mode was under way."""
    requests: int
    """Requests at work."""


class Policy:
    """The model's own knowledge; ``Acceptance`` is a request's. All requests share the engines' costs."""

    def __init__(self, *, adaptive: bool) -> None:
        self.adaptive = adaptive
        self.acceptance = Acceptance(MODEL_MEMORY)
        self.traffic = Traffic()
        self.requests = 0
        """At work."""
        self._levels: dict[int, Level] = {}
        self._rounds = {True: 0, False: 0}
        """Under way, with the draft and without it."""
        self._clock = 0

    def arrived(self) -> None:
        """One request more is at work."""
        self.requests += 1

    def left(self) -> None:
        """One request fewer is at work."""
        self.requests -= 1

    @property
    def level(self) -> Level:
        """What is known at this load: 1, 2, 3 to 4, 5 to 8 requests at work, and so on."""
        number = max(self.requests - 1, 0).bit_length()
        if number not in self._levels:
            nearest = min(self._levels, key=lambda known: abs(known - number), default=number)
            self._levels[number] = Level(self._levels.get(nearest))
        return self._levels[number]

    def choose(self, request: Acceptance, limit: int) -> int:
        """Draft tokens for the next round, ``limit`` at most; 0 is plain decoding."""
        if limit <= 0 or not self.adaptive:
            return max(limit, 0)
        level = self.level
        usual = self.acceptance.estimate(PRIOR_ACCEPTANCE)
        alpha = request.estimate(usual)
        best = level.best(alpha, limit)
        if level.trial is not None:
            return best if level.trial else 0
        if self.requests > 1:
            # Together: those that draft among others that do not make the passes of all longer.
            return best if level.drafts else 0
        # The pace is that of requests as they usually are; this one may be easier to draft for, or harder.
        merit = level.speed(alpha, best) / level.speed(usual, level.best(usual, limit))
        return best if level.pays(merit) else 0

    def burst(self) -> int:
        """Tokens of a call to the target without draft tokens, for a client that does not read along."""
        level = self.level
        if not self.adaptive or level.trial is not None:
            return PLAIN_BURST
        return min(max(PLAIN_BURST, int(level.tokens_left)), LONG_BURST)

    def drafted(self, tokens: int, seconds: float) -> None:
        """Count a call to the draft."""
        self.level.draft.observe(tokens, seconds, self._clock)

    def verified(self, together: tuple[float, float], seconds: float) -> None:
        """Count a verification; so many calls and tokens were under way ``together`` with it."""
        level, (calls, tokens) = self.level, together
        level.calls += TRAFFIC_SHARE * (calls - level.calls)
        level.target.observe(tokens, seconds, self._clock)

    def judged(self, request: Acceptance, drafted: int, accepted: int) -> None:
        """Count a round's draft tokens."""
        request.observe(drafted, accepted)
        self.acceptance.observe(drafted, accepted)

    def begin(self, *, drafting: bool) -> Started:
        """A round begins that could have been either."""
        self._rounds[drafting] += 1
        return Started(self.level, drafting, not self._rounds[not drafting], max(self.requests, 1))

    def end(self, started: Started, tokens: int, seconds: float, *, typical: bool) -> None:
        """The round has ended; ``typical`` unless something took time that is no part of most rounds."""
        self._rounds[started.drafting] -= 1
        self._clock += tokens
        together = started.clear and not self._rounds[not started.drafting]
        clear = typical and together and started.level is self.level
        share = 1 / started.requests
        started.level.advance(started.drafting, tokens * share, seconds * share, clear=clear)


def new_request() -> Acceptance:
    """The estimate of one request, to be kept with it."""
    return Acceptance(REQUEST_MEMORY)
