# SPDX-License-Identifier: Apache-2.0
"""Two engines that are nothing but their times, and requests whose draft lengths the policy chooses.

Each engine runs in passes: the calls that wait when one begins go along, and those that come meanwhile wait
for the next. A pass takes the same time up to some number of tokens, and is linear above.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from support.triton import model_module

draft_length = model_module("speculative", "draft_length")


@dataclass
class Engine:
    """Seconds of a pass: ``base_s``, and ``slope_s`` for each token above ``free``."""

    base_s: float
    slope_s: float
    free: int
    waiting: list[Call] = field(default_factory=list)
    running: list[Call] = field(default_factory=list)

    def pass_s(self) -> float:
        return self.base_s + self.slope_s * max(0, sum(call.width for call in self.running) - self.free)


@dataclass
class Call:
    """A request's call: it takes ``passes``, with ``width`` tokens in each."""

    request: Iterator[Work]
    width: int
    passes: int


Work = tuple[Engine, int, int]
"""An engine, tokens in a pass, passes."""


class Simulation:
    """Requests without an end on two engines; time is virtual. ``target`` and ``draft`` may be exchanged."""

    def __init__(self, policy: Any, target: Engine, draft: Engine, *, alpha: float, limit: int) -> None:
        self.policy = policy
        self.target = target
        self.draft = draft
        self.alpha = alpha
        self.limit = limit
        self.lengths: Counter[int] = Counter()
        """Tokens by the draft length of their round, since ``play`` began."""
        self._now = 0.0
        self._wanted = self._present = 0
        self._chance = random.Random(0)
        self._passes: list[tuple[float, int, Engine]] = []
        self._order = itertools.count()

    def play(self, requests: int, tokens: int) -> float:
        """Tokens per second of so many requests at once, which generate ``tokens`` each on average."""
        self._wanted = requests
        while self._present < requests:
            self._present += 1
            self.policy.arrived()
            self._go_on(self._request())
        while self._present > requests:
            self._next_pass()
        self.lengths.clear()
        start = self._now
        while self.lengths.total() < requests * tokens:
            self._next_pass()
        return self.lengths.total() / (self._now - start)

    def _request(self) -> Iterator[Work]:
        """One request; it leaves when fewer are wanted."""
        acceptance = draft_length.new_request()
        while self._present <= self._wanted:
            length = self.policy.choose(acceptance, self.limit)
            started, start = self.policy.begin(drafting=length > 0), self._now
            tokens = yield from self._drafted(acceptance, length) if length else self._plain()
            self.policy.end(started, tokens, self._now - start, typical=True)
            self.lengths[length] += tokens
        self._present -= 1
        self.policy.left()

    def _plain(self) -> Iterator[Work]:
        burst = self.policy.burst()
        entered = self.policy.traffic.enter(1)
        yield self.target, 1, burst
        self.policy.traffic.leave(1, entered)
        return burst

    def _drafted(self, acceptance: Any, length: int) -> Iterator[Work]:
        policy, start = self.policy, self._now
        yield self.draft, 1, length
        policy.drafted(length, self._now - start)
        entered, start = policy.traffic.enter(length + 1), self._now
        yield self.target, length + 1, 1
        policy.verified(policy.traffic.leave(length + 1, entered), self._now - start)
        accepted = next((n for n in range(length) if self._chance.random() > self.alpha), length)
        policy.judged(acceptance, length, accepted)
        return accepted + 1

    def _go_on(self, request: Iterator[Work]) -> None:
        work = next(request, None)
        if work is not None:
            engine, width, passes = work
            engine.waiting.append(Call(request, width, passes))
            self._begin_pass(engine)

    def _begin_pass(self, engine: Engine) -> None:
        if engine.waiting and not engine.running:
            engine.running, engine.waiting = engine.waiting, []
            heapq.heappush(self._passes, (self._now + engine.pass_s(), next(self._order), engine))

    def _next_pass(self) -> None:
        """Let time go on to the end of a pass."""
        self._now, _, engine = heapq.heappop(self._passes)
        calls, engine.running = engine.running, []
        for call in calls:
            call.passes -= 1
        engine.waiting += [call for call in calls if call.passes]
        for call in calls:
            if not call.passes:
                self._go_on(call.request)
        self._begin_pass(engine)
