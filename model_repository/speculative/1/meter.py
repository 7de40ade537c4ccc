# SPDX-License-Identifier: Apache-2.0
"""The model's counters on Triton's metrics endpoint. Names follow vLLM's ``spec_decode`` metrics.

Triton's Python models have counters and gauges in every version, and histograms in the newest only. So a
histogram is written as what it is on the wire: counters ``_bucket``, ``_sum`` and ``_count``. A change costs
a round trip to the server's process, a tenth of a millisecond, so changes are gathered.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils

PREFIX = "specbuild_spec_decode_"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
LOOP_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)


class TritonMeter:
    """Everything that is counted."""

    def __init__(self, model: str, max_draft_length: int) -> None:
        labels = {"model": model}
        self._families: list[Family] = []

        def counter(name: str, text: str, by: str = "", values: Sequence[str] = ("",)) -> Family:
            kind = pb_utils.MetricFamily.COUNTER
            return self._registered(Family(name, text, kind, labels, by=by, values=values))

        def gauge(name: str, text: str) -> Family:
            return self._registered(Family(name, text, pb_utils.MetricFamily.GAUGE, labels))

        def histogram(name: str, text: str, bounds: Sequence[float]) -> Histogram:
            made = Histogram(name, text, bounds, labels)
            self._families += made.families
            return made

        positions = [str(position) for position in range(max_draft_length)]
        self.drafts = counter("num_drafts_total", "Rounds with draft tokens")
        self.draft_tokens = counter("num_draft_tokens_total", "Draft tokens")
        self.accepted = counter("num_accepted_tokens_total", "Accepted draft tokens")
        self.per_position = counter(
            "num_accepted_tokens_per_pos_total", "Accepted draft tokens by position", "position", positions
        )
        self.rounds = counter("num_rounds_total", "Calls to the target", "kind", ("draft", "plain"))
        self.tokens = counter("num_generation_tokens_total", "Tokens generated")
        self.finished_requests = counter(
            "num_requests_total",
            "Requests by their end",
            "outcome",
            ("stop", "length", "cancelled", "error", "refused"),
        )
        self.fallbacks = counter(
            "num_fallbacks_total",
            "Requests that went on without the draft",
            "reason",
            ("error", "timeout"),
        )
        self.draft_length = gauge("draft_length", "Draft tokens of the latest round")
        self.running = gauge("running_requests", "Requests at work")
        self.waiting = gauge("waiting_requests", "Requests that wait for a slot")
        self.round_seconds = histogram("round_seconds", "Time of a round", SECONDS)
        self.loop_seconds = histogram("loop_seconds", "A round outside its calls", LOOP_SECONDS)
        self.tokens_per_round = histogram(
            "tokens_per_round", "Tokens of a round with draft", range(1, max_draft_length + 2)
        )

    def opened(self, tokens: int) -> None:
        """The prompt's own pass has given ``tokens``; it is no round."""
        self.tokens.add(tokens)

    def played(self, *, asked: int, drafted: int, accepted: int, tokens: int, seconds: float) -> None:
        """A round of one request: draft tokens asked for, proposed and accepted, and its tokens."""
        self.tokens.add(tokens)
        self.rounds.add(1, "draft" if asked else "plain")
        self.draft_length.set(asked)
        self.round_seconds.observe(seconds)
        if asked:
            self.drafts.add(1)
            self.draft_tokens.add(drafted)
            self.accepted.add(accepted)
            self.tokens_per_round.observe(tokens)
            for position in range(accepted):
                self.per_position.add(1, str(position))

    def spent_outside(self, seconds: float) -> None:
        """The part of a round that was spent outside its calls."""
        self.loop_seconds.observe(seconds)

    def fallback(self, reason: str) -> None:
        self.fallbacks.add(1, reason)

    def requests(self, running: int, waiting: int) -> None:
        self.running.set(running)
        self.waiting.set(waiting)

    def finished(self, outcome: str) -> None:
        self.finished_requests.add(1, outcome)

    def flush(self) -> None:
        """Tell Triton what has been counted since the last time."""
        for family in self._families:
            family.flush()

    def _registered(self, family: Family) -> Family:
        self._families.append(family)
        return family


class Family:
    """Metrics of one name: one, or one for each value of a label, all of them there from the start."""

    def __init__(
        self,
        name: str,
        text: str,
        kind: object,
        labels: Mapping[str, str],
        *,
        by: str = "",
        values: Sequence[str] = ("",),
    ) -> None:
        self._family = pb_utils.MetricFamily(name=PREFIX + name, description=text, kind=kind)
        self._metrics = {
            value: self._family.Metric(labels={**labels, **({by: value} if by else {})}) for value in values
        }

        self._pending: dict[str, float] = {}
        self._latest: float | None = None
        self._published: float | None = None

    def add(self, amount: float, value: str = "") -> None:
        if amount:
            self._pending[value] = self._pending.get(value, 0) + amount

    def set(self, amount: float) -> None:
        self._latest = amount

    def flush(self) -> None:
        for value, amount in self._pending.items():
            self._metrics[value].increment(amount)
        self._pending.clear()
        if self._latest != self._published:
            self._metrics[""].set(self._latest)
            self._published = self._latest


class Histogram:
    """Counters as Prometheus spells a histogram."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Mapping[str, str]) -> None:
        counter = pb_utils.MetricFamily.COUNTER
        self._bounds = list(bounds)
        self._names = [*map(str, self._bounds), "+Inf"]
        self._buckets = Family(f"{name}_bucket", text, counter, labels, by="le", values=self._names)
        self._sum = Family(f"{name}_sum", text, counter, labels)
        self._count = Family(f"{name}_count", text, counter, labels)
        self.families = [self._buckets, self._sum, self._count]

    def observe(self, value: float) -> None:
        for name in self._names[bisect_left(self._bounds, value) :]:
            self._buckets.add(1, name)
        self._sum.add(value)
        self._count.add(1)
