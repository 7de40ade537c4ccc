# SPDX-License-Identifier: Apache-2.0
"""Sends the requests of one run, in a closed or in an open loop, until its length is reached."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

from specclient.bench.load import Concurrency, OpenLoop
from specclient.bench.run import Run
from specclient.bench.sample import Sample
from specclient.bench.settings import Settings
from specclient.bench.window import Window
from specclient.bench.workload import Prompt
from specclient.errors import (
    ConnectTimeout,
    InvalidRequest,
    QueueFull,
    RequestTimeout,
    ServerFailure,
)

TOLERATED = (QueueFull, ServerFailure, InvalidRequest, RequestTimeout)
"""Errors of one request, counted beside the figures; any other ends the run."""
OVERLOAD = (QueueFull, RequestTimeout)
"""Errors that a load point may have throughout without ending the benchmark."""
ERRORS_IN_A_ROW = 10
"""So many timeouts with no answer between them: the server is taken for dead. So many errors of another
kind before any answer: every request is wrong."""
DRAWN = 1000
"""Prompts drawn when the number of requests is not known beforehand; then they come again."""

OnSample = Callable[[Sample], None]


class Tolerance:
    """Decides which error ends the benchmark."""

    def __init__(self) -> None:
        self._timeouts = 0
        self._useless = 0
        self._answered = False

    def check(self, sample: Sample) -> None:
        """Raise the sample's error unless the run goes on without it."""
        error = sample.error
        if error is None:
            self._timeouts, self._answered = 0, True
            return
        self._useless += not (self._answered or isinstance(error, OVERLOAD))
        if isinstance(error, RequestTimeout):
            self._timeouts += 1
            if isinstance(error, ConnectTimeout) or self._timeouts >= ERRORS_IN_A_ROW:
                raise error
        elif not isinstance(error, TOLERATED) or self._useless >= ERRORS_IN_A_ROW:
            raise error


class Driver:
    """The load of one run."""

    def __init__(self, run: Run, settings: Settings, on_sample: OnSample) -> None:
        self._run = run
        self._settings = settings
        self._on_sample = on_sample
        self._tolerance = Tolerance()

    async def drive(self) -> None:
        """Send until the run's length is reached. Raises SpecClientError when the benchmark cannot go on."""
        run, settings = self._run, self._settings
        run.rule = "time" if settings.duration_s else "stable" if settings.stability else "all"
        run.started_ns = time.perf_counter_ns()
        if isinstance(run.load, Concurrency):
            await self._closed(run.load)
        else:
            await self._open(run.load)
        run.complete = True

    async def block(self, prompts: Sequence[tuple[int, Prompt]], number: int | None) -> None:
        """Send these prompts by their positions, once each, in a closed loop; block None is the warm-up."""
        assert isinstance(self._run.load, Concurrency)
        samples = (
            self._sample(position, prompt, warmup=number is None, block=number)
            for position, prompt in prompts
        )
        start = time.perf_counter()
        await together([self._user(samples) for _ in range(min(self._run.load.value, len(prompts)))])
        if number is not None:
            self._run.walls_s[number] = time.perf_counter() - start

    # --- closed loop ---

    async def _closed(self, load: Concurrency) -> None:
        samples = self._counted(load) if self._run.rule == "all" else self._timed()
        pause = self._settings.ramp_s / load.value
        await together([self._user(samples, user * pause) for user in range(load.value)])

    async def _user(self, samples: Iterator[Sample], delay_s: float = 0.0) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        for sample in samples:
            await self._send(sample)

    def _counted(self, load: Concurrency) -> Iterator[Sample]:
        """Warm-up requests, then those that count; each is made when a user is free."""
        count = self._settings.count(load)
        prompts = self._draw(count + self._settings.warmup_request_count)
        measured = 0
        for index in itertools.count():
            if measured >= count:
                return
            warmup = self._warming(index, time.perf_counter_ns())
            position = count + index if warmup else measured
            measured += not warmup
            yield self._sample(position, prompts[position % len(prompts)], warmup=warmup)

    def _timed(self) -> Iterator[Sample]:
        """Requests until the window is over. Those in flight then end outside of it."""
        prompts, window, opened = self._draw(DRAWN), Window(self._run, self._settings), False
        for index in itertools.count():
            now_ns = time.perf_counter_ns()
            warmup = self._warming(index, now_ns)
            if not warmup and not opened:
                opened = True
                window.open(now_ns)
            if window.over(now_ns):
                return
            yield self._sample(index, prompts[index % len(prompts)], warmup=warmup)

    # --- open loop ---

    async def _open(self, load: OpenLoop) -> None:
        """Requests leave at absolute times; one that is late delays none, and all are waited for."""
        in_flight: set[asyncio.Task[None]] = set()
        failed: list[BaseException] = []

        def ended(task: asyncio.Task[None]) -> None:
            in_flight.discard(task)
            if not task.cancelled() and task.exception() is not None:
                failed.append(task.exception())  # type: ignore[arg-type]

        try:
            async for sample in self._scheduled(load):
                if failed:
                    raise failed[0]
                task = asyncio.ensure_future(self._send(sample))
                in_flight.add(task)
                task.add_done_callback(ended)
            while in_flight and not failed:
                await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
            if failed:
                raise failed[0]
        finally:
            await cancelled(in_flight)

    async def _scheduled(self, load: OpenLoop) -> AsyncIterator[Sample]:
        """Each request when it is due."""
        settings, start_ns = self._settings, self._run.started_ns
        limit = settings.warmup_request_count + settings.count(load) if self._run.rule == "all" else None
        prompts = self._draw(DRAWN if limit is None else limit)
        window, opened = Window(self._run, settings), False
        for index, due_s in enumerate(load.arrivals(settings.seed)):
            due_ns = start_ns + round(due_s * 1e9)
            warmup = self._warming(index, due_ns)
            if not warmup and not opened:
                opened = True
                window.open(due_ns)
            if index == limit:
                return
            # Before the window is asked: its intervals must be over when they are judged.
            await asyncio.sleep(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9))
            if window.over(due_ns):
                return
            yield self._sample(index, prompts[index % len(prompts)], warmup=warmup, scheduled_ns=due_ns)

    # --- both ---

    def _draw(self, count: int) -> list[Prompt]:
        return self._settings.workload.draw(count, seed=self._settings.seed)

    def _warming(self, index: int, now_ns: int) -> bool:
        ramp_end_ns = self._run.started_ns + self._settings.ramp_s * 1e9
        return index < self._settings.warmup_request_count or now_ns < ramp_end_ns

    def _sample(
        self,
        position: int,
        prompt: Prompt,
        *,
        warmup: bool,
        block: int | None = None,
        scheduled_ns: int | None = None,
    ) -> Sample:
        parameters = self._settings.request(prompt, position, self._run.num_draft_tokens)
        return Sample(position, prompt, parameters, scheduled_ns=scheduled_ns, block=block, warmup=warmup)

    async def _send(self, sample: Sample) -> None:
        self._run.samples.append(sample)
        await self._run.target.send(sample)
        self._on_sample(sample)
        self._tolerance.check(sample)


async def together(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all; when one fails, cancel and await the others before raising."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancelled(tasks)


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel ``tasks`` and wait until they have ended."""
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
