# SPDX-License-Identifier: Apache-2.0
"""One request as it was measured: times and raw responses while it runs, its completion afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from specclient.bench.workload import Prompt
from specclient.completion import Completion
from specclient.errors import SpecClientError
from specclient.parameters import GenerationParameters


@dataclass(slots=True, eq=False)
class Sample:
    """One request. Times are of ``time.perf_counter_ns``; 0 is not yet.

    After the run exactly one of ``completion`` and ``error`` is set, or neither when it was cut off.
    """

    position: int
    """Which prompt of the run: the arms of a pair share it."""
    prompt: Prompt
    parameters: GenerationParameters
    scheduled_ns: int | None = None
    """When the open loop wanted it sent; None in a closed loop."""
    block: int | None = None
    """Of an interleaved comparison."""
    warmup: bool = False
    sent_ns: int = 0
    ended_ns: int = 0
    request_id: str | None = None
    receipts: list[tuple[int, Any]] = field(default_factory=list)
    """Time and raw form of each response; emptied when they are decoded."""
    completion: Completion | None = None
    """With the times since ``origin_ns``."""
    error: SpecClientError | None = None

    @property
    def origin_ns(self) -> int:
        """What latencies count from: the schedule where there is one, so that no delay is omitted."""
        return self.sent_ns if self.scheduled_ns is None else self.scheduled_ns
