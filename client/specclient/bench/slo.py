# SPDX-License-Identifier: Apache-2.0
"""Goodput: which requests kept the limits of a service level, and the search for the highest such rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from specclient.bench.sample import Sample
from specclient.errors import InvalidRequest

METRICS = {
    "ttft": "ttft",
    "time_to_first_token": "ttft",
    "tpot": "tpot",
    "time_per_output_token": "tpot",
    # genai-perf's inter token latency is (latency - TTFT) / (output tokens - 1): the TPOT of here.
    "itl": "tpot",
    "inter_token_latency": "tpot",
    "latency": "latency",
    "request_latency": "latency",
    "e2el": "latency",
}
"""Name on the command line, with those of genai-perf and vLLM -> attribute of a completion."""


def limits(texts: Iterable[str]) -> dict[str, float]:
    """``["ttft:200", "tpot:20"]`` as milliseconds by metric. Raises InvalidRequest."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition(":")
        metric = METRICS.get(name.strip().lower())
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if metric is None or not (math.isfinite(limit) and limit > 0):
            raise InvalidRequest(
                f"{text!r} is no limit", remedy="Write METRIC:MILLISECONDS with ttft, tpot or latency."
            )
        found[metric] = limit
    return found


def good(sample: Sample, limits_ms: Mapping[str, float]) -> bool:
    """Whether the request succeeded within every limit. An undefined time (TPOT of one token) breaks none."""
    if sample.completion is None:
        return False
    times = ((getattr(sample.completion, metric), limit) for metric, limit in limits_ms.items())
    return all(time is None or time * 1e3 <= limit for time, limit in times)


@dataclass(slots=True)
class RateSearch:
    """Doubles the rate from ``low`` until the limits break or ``high`` is reached, then halves the interval.

    Ask ``next`` for a rate, report with ``record``; it ends when the ends are within ``precision``.
    """

    low: float
    high: float
    precision: float = 0.05
    kept: float | None = None
    """The highest rate that kept the limits."""
    broken: float | None = None
    """The lowest rate that did not."""
    steps: list[tuple[float, float | None, bool]] = field(default_factory=list)
    """Rate, share of good requests, whether it counts as kept."""

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise InvalidRequest(
                f"{self.low:g}:{self.high:g} is no range of rates", remedy="Write LOW:HIGH in requests/s."
            )

    def next(self) -> float | None:
        """The rate to try; None when the answer is known."""
        if not self.steps:
            return self.low
        if self.kept is None or self.kept >= self.high:
            return None
        if self.broken is None:
            return min(self.high, self.kept * 2)
        if self.broken / self.kept <= 1 + self.precision:
            return None
        return math.sqrt(self.kept * self.broken)

    def record(self, rate: float, share: float | None, *, kept: bool) -> None:
        """What ``rate`` gave."""
        self.steps.append((rate, share, kept))
        if kept:
            self.kept = rate if self.kept is None else max(self.kept, rate)
        else:
            self.broken = rate if self.broken is None else min(self.broken, rate)
