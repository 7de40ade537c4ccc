# SPDX-License-Identifier: Apache-2.0
"""Serves many requests at a time in one event loop. Free of Triton and TensorRT-LLM.

The loop must be the one that the LLM API is called in. A client that has gone must not keep its slot. Whether
it has gone shows in two ways. A direct caller's ``gone`` says so. Behind an ensemble it never does (see
postprocessing), so a request that has a key shows signs of life instead: a streamed chunk is one, and a
request that has nothing to say sends an empty one, on which postprocessing may answer with ``stop``.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import exchange
import numpy as np

SIGN_PAUSE_S = 0.2
"""The longest silence of a request; then it shows a sign of life, or finds that nobody listens."""


class Channel(Protocol):
    """The way back to the caller of one request: a Triton response sender, or a test's."""

    def send(self, tensors: Mapping[str, np.ndarray], *, final: bool) -> None: ...

    def fail(self, error: Exception) -> None:
        """End the request with ``error``."""

    def leave(self) -> None:
        """End the request of a client that has gone; nobody reads an answer."""

    def gone(self) -> bool:
        """Whether the caller has left."""


class Generation(Protocol):
    """One request inside the LLM API; iterating gives what is known so far, step by step."""

    def __aiter__(self) -> AsyncIterator[exchange.Step]: ...

    def abort(self) -> None: ...


class FullError(Exception):
    """More requests wait than the deployment lets wait."""


class Service:
    """Requests on their way. ``start`` hands one to the LLM API; it is called in the event loop."""

    def __init__(
        self, start: Callable[[exchange.Job], Generation], *, draft_length: int, capacity: int
    ) -> None:
        self._start = start
        self._draft_length = draft_length
        self._capacity = capacity
        self._active = 0
        self._stops: dict[int, asyncio.Event] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llmapi", daemon=True)
        self._thread.start()

    def submit(self, job: exchange.Job, channel: Channel) -> None:
        """Returns at once; every request gets its last answer through ``channel``."""
        asyncio.run_coroutine_threadsafe(self._serve(job, channel), self._loop)

    def stop(self, key: int) -> None:
        """Abort the request with this key; there may be none any more."""
        self._loop.call_soon_threadsafe(self._stop, key)

    def close(self) -> None:
        """Let running requests finish, then end the loop."""
        asyncio.run_coroutine_threadsafe(self._drain(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _stop(self, key: int) -> None:
        if key in self._stops:
            self._stops[key].set()

    async def _drain(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, job: exchange.Job, channel: Channel) -> None:
        try:
            if self._active >= self._capacity:
                raise FullError(f"{self._capacity} requests are running or waiting")
            self._active += 1
            try:
                with self._watched(job) as stop:
                    await self._deliver(job, channel, stop)
            finally:
                self._active -= 1
        except Exception as error:  # a request must get an answer, whatever happens
            channel.fail(error)

    @contextlib.contextmanager
    def _watched(self, job: exchange.Job) -> Any:
        stop = asyncio.Event()
        if job.key is not None:
            self._stops[job.key] = stop
        try:
            yield stop
        finally:
            if job.key is not None:
                del self._stops[job.key]

    async def _deliver(self, job: exchange.Job, channel: Channel, stop: asyncio.Event) -> None:
        transcript = exchange.Transcript(job)
        running = self._start(job)
        async with contextlib.aclosing(_Steps(running, stop)) as steps:
            while True:
                step = await steps.next(SIGN_PAUSE_S)
                if stop.is_set() or (job.key is None and channel.gone()):
                    channel.leave()
                    return
                answer = transcript.add(step) if step else None
                if answer is not None:
                    final = bool(answer.finish_reason)
                    steps.finished = final and step is not None and step.finish_reason is not None
                    channel.send(exchange.tensors(answer, job, self._draft_length), final=final)
                    if final:
                        return
                elif step is None and job.key is not None:
                    channel.send(exchange.tensors(exchange.NOTHING_YET, job, 0), final=False)


class _Steps:
    """The steps of one generation, waited for with a limit; aborts what is left of it when closed."""

    def __init__(self, running: Generation, stop: asyncio.Event) -> None:
        self._running = running
        self._iterator = running.__aiter__()
        self._next: asyncio.Task[exchange.Step] | None = None
        self._stop = asyncio.ensure_future(stop.wait())
        self.finished = False

    async def next(self, timeout_s: float) -> exchange.Step | None:
        """The next step; None when there was none within ``timeout_s`` or the request was stopped."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._advance())
        await asyncio.wait({self._next, self._stop}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not self._next.done():
            return None
        task, self._next = self._next, None
        return task.result()

    async def _advance(self) -> exchange.Step:
        try:
            return await self._iterator.__anext__()
        except StopAsyncIteration:
            raise RuntimeError("the generation ended without saying why") from None

    async def aclose(self) -> None:
        waiting = [task for task in (self._next, self._stop) if task is not None]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if not self.finished:
            self._running.abort()
