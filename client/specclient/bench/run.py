# SPDX-License-Identifier: Apache-2.0
"""What was recorded of one arm at one load point, and which of it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from specclient.bench.load import Concurrency, Load
from specclient.bench.meter import Meter
from specclient.bench.sample import Sample
from specclient.bench.server_side import Statistics
from specclient.bench.targets import Target
from specclient.completion import Completion
from specclient.errors import ServerFailure, SpecClientError


@dataclass(slots=True, eq=False)
class Run:
    """One arm at one load point, filled while it runs."""

    arm: str
    load: Load
    target: Target
    num_draft_tokens: int | None
    rule: Literal["all", "time", "stable", "blocks"] = "all"
    samples: list[Sample] = field(default_factory=list)
    """In the order in which they were sent."""
    started_ns: int = 0
    window_ns: tuple[int, int] | None = None
    """Start and end of the measured window under the rules time and stable."""
    stable: bool | None = None
    intervals: list[float] = field(default_factory=list)
    """Requests per second of each interval of the stability rule."""
    walls_s: dict[int, float] = field(default_factory=dict)
    """Duration of each complete block of a comparison."""
    meter: Meter = field(default_factory=Meter)
    statistics: list[Statistics] = field(default_factory=list)
    """Differences of the server's totals; their sum is the run's."""
    complete: bool = False

    def decode(self) -> None:
        """Turn what was received into completions; idempotent."""
        for sample in self.samples:
            if sample.receipts and sample.ended_ns and sample.error is None and sample.completion is None:
                self._complete(sample)
            sample.receipts = []

    def _complete(self, sample: Sample) -> None:
        """One unreadable answer must not take the others with it."""
        try:
            chunks = self.target.decode(sample)
        except SpecClientError as error:
            sample.error = error
        except (ValueError, TypeError, AttributeError) as error:
            sample.error = ServerFailure(f"the answer cannot be read: {type(error).__name__}")
        else:
            sample.completion = Completion(sample.request_id or "", chunks, sample.origin_ns)

    @property
    def measured(self) -> list[Sample]:
        """The ended requests that count.

        In a closed loop of a given time those that ended in its window, wherever they began: else the rate
        would lack what was in flight at its start. In an open loop those that were due in it, however long
        they took: leaving the slow ones out would hide what the window is to show.
        """
        ended = [s for s in self.samples if s.ended_ns]
        if self.window_ns is None:
            return [s for s in ended if not s.warmup]
        start, end = self.window_ns
        if isinstance(self.load, Concurrency):
            return [s for s in ended if start <= s.ended_ns <= end]
        return [s for s in ended if start <= s.origin_ns < end and not s.warmup]

    @property
    def cut_off(self) -> int:
        """Requests that were still running at the end."""
        return sum(not s.ended_ns for s in self.samples)

    @property
    def duration_s(self) -> float | None:
        """Time of the measured part: what rates are divided by."""
        measured = self.measured
        if self.rule == "blocks":
            return sum(self.walls_s.values()) or None
        if not measured:
            return None
        last = max(s.ended_ns for s in measured)
        if self.window_ns is None:
            return ((last - min(s.origin_ns for s in measured)) / 1e9) or None
        start, end = self.window_ns
        if not self.complete:  # cut short: the rest of the window was not measured
            end = min(end, last)
        return ((end if isinstance(self.load, Concurrency) else max(end, last)) - start) / 1e9


def completions(samples: Sequence[Sample]) -> list[Completion]:
    """The answers of the samples that succeeded."""
    return [s.completion for s in samples if s.completion is not None]
