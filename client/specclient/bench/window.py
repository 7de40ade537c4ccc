# SPDX-License-Identifier: Apache-2.0
"""Where the measured part of a run of a given time begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from specclient.bench.run import Run
from specclient.bench.sample import Sample
from specclient.bench.settings import Settings, Stability

AGREEING = 3
"""Intervals that must agree before a load point counts as stable."""


class Window:
    """Asked before each request; notes the window in its run."""

    def __init__(self, run: Run, settings: Settings) -> None:
        self._run = run
        self._duration_s = settings.duration_s
        self._stability = settings.stability
        self._edges_ns: list[int] = []

    def open(self, now_ns: int) -> None:
        """The first measured request is sent, or due, now."""
        self._edges_ns = [now_ns]
        if self._duration_s is not None:
            self._run.window_ns = (now_ns, now_ns + round(self._duration_s * 1e9))

    def over(self, now_ns: int) -> bool:
        """Whether no further request belongs to the run."""
        if not self._edges_ns:
            return False
        if self._stability is None:
            return self._run.window_ns is not None and now_ns >= self._run.window_ns[1]
        return self._settled(now_ns, self._stability)

    def _settled(self, now_ns: int, rule: Stability) -> bool:
        length = round(rule.interval_s * 1e9)
        while now_ns >= self._edges_ns[-1] + length:
            self._edges_ns.append(self._edges_ns[-1] + length)
            figures = interval_figures(self._run.samples, self._edges_ns)
            stable = agree(figures, rule)
            if stable or len(figures) >= rule.trials:
                self._run.stable = stable
                self._run.intervals = [rate for rate, _ in figures]
                self._run.window_ns = (self._edges_ns[-1 - AGREEING], self._edges_ns[-1])
                return True
        return False


def interval_figures(samples: Sequence[Sample], edges_ns: Sequence[int]) -> list[tuple[float, float]]:
    """Requests per second and mean latency in seconds of the requests that ended in each interval."""
    figures = []
    for start, end in pairwise(edges_ns):
        times = [
            (s.ended_ns - s.origin_ns) / 1e9 for s in samples if start <= s.ended_ns < end and s.error is None
        ]
        mean = sum(times) / len(times) if times else 0.0
        figures.append((len(times) / ((end - start) / 1e9), mean))
    return figures


def agree(figures: Sequence[tuple[float, float]], rule: Stability) -> bool:
    """Whether the last three intervals are within the rule's percentage of their means."""
    last = figures[-AGREEING:]
    if len(last) < AGREEING or any(rate == 0 for rate, _ in last):
        return False
    for values in zip(*last, strict=True):
        mean = sum(values) / len(values)
        if any(abs(value - mean) > mean * rule.percentage / 100 for value in values):
            return False
    return True
