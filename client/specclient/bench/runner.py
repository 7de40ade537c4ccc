# SPDX-License-Identifier: Apache-2.0
"""Sends the same prompts in several arms, alternating, in a closed loop.

The run is cut into blocks. A block's prompts are sent in one arm, then in the other, and the order is
reversed from block to block, so that a machine that gets slower or faster during the run treats both
alike. At concurrency 1 a block is one prompt; above, a block keeps all workers busy with one arm, since
requests of both arms in one batch would measure a mixture.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from specclient.aio import AsyncSpecClient
from specclient.bench.workload import Prompt
from specclient.completion import Completion
from specclient.errors import InvalidRequest, QueueFull, ServerFailure, SpecClientError
from specclient.parameters import GenerationParameters

TOLERATED = (QueueFull, ServerFailure, InvalidRequest)
"""Errors of one request, counted beside the figures; any other ends the run."""

PROMPTS_PER_WORKER = 2
"""In a block, when there are several workers: fewer leave them waiting for the slowest one's end."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request of the measured part; exactly one of ``completion`` and ``error`` is set."""

    arm: str
    block: int
    position: int
    """Which prompt of the run: the arms of a pair share it."""
    prompt: Prompt
    completion: Completion | None = None
    error: SpecClientError | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, warm-up included."""

    phase: Literal["warm-up", "measuring"]
    done: int
    total: int
    record: Record


OnProgress = Callable[[Progress], None]


@dataclass(slots=True)
class Recording:
    """What has been measured so far; complete blocks only count for throughput."""

    records: list[Record] = field(default_factory=list)
    wall_s: dict[tuple[str, int], float] = field(default_factory=dict)
    """(arm, block) -> duration, once the block is complete."""


class Runner:
    """One run against one client. ``arms`` maps a name to the parameters of a position."""

    def __init__(
        self,
        client: AsyncSpecClient,
        arms: Mapping[str, Callable[[int], GenerationParameters]],
        *,
        concurrency: int,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._client = client
        self._arms = arms
        self._concurrency = concurrency
        self._on_progress = on_progress
        self._done = 0
        self._total = 0

    async def run(self, prompts: Sequence[Prompt], warmup: Sequence[Prompt], recording: Recording) -> None:
        """Send ``warmup`` and ``prompts`` in every arm; what is measured goes to ``recording`` at once.

        Raises SpecClientError for what is not TOLERATED; ``recording`` keeps what was measured before.
        """
        self._total = len(self._arms) * (len(warmup) + len(prompts))
        await self._blocks(warmup, Recording(), "warm-up")
        await self._blocks(prompts, recording, "measuring")

    async def _blocks(
        self, prompts: Sequence[Prompt], recording: Recording, phase: Literal["warm-up", "measuring"]
    ) -> None:
        size = 1 if self._concurrency == 1 else PROMPTS_PER_WORKER * self._concurrency
        numbered = list(enumerate(prompts))
        for block, start in enumerate(range(0, len(prompts), size)):
            arms = list(self._arms)[:: 1 if block % 2 == 0 else -1]
            for arm in arms:
                await self._block(arm, block, numbered[start : start + size], recording, phase)

    async def _block(
        self,
        arm: str,
        block: int,
        prompts: Sequence[tuple[int, Prompt]],
        recording: Recording,
        phase: Literal["warm-up", "measuring"],
    ) -> None:
        waiting = iter(prompts)

        async def worker() -> None:
            for position, prompt in waiting:
                record = await self._request(arm, block, position, prompt)
                recording.records.append(record)
                self._report(phase, record)

        start = time.perf_counter()
        await _together([worker() for _ in range(min(self._concurrency, len(prompts)))])
        recording.wall_s[arm, block] = time.perf_counter() - start

    async def _request(self, arm: str, block: int, position: int, prompt: Prompt) -> Record:
        try:
            completion = await self._client.generate(prompt.text, self._arms[arm](position))
        except TOLERATED as error:
            return Record(arm, block, position, prompt, error=error)
        return Record(arm, block, position, prompt, completion=completion)

    def _report(self, phase: Literal["warm-up", "measuring"], record: Record) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(Progress(phase, self._done, self._total, record))


async def _together(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all; when one fails, cancel and await the others before raising."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
