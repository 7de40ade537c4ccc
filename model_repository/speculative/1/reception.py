# SPDX-License-Identifier: Apache-2.0
"""Takes requests in from Triton's thread and runs each as a coroutine of one event loop.

Calls between models go through Triton's ``async_exec`` on this loop. The engines see at most as many requests
as they have slots: more would push each other's prefixes out of the KV cache between two rounds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import asked
import numpy as np
from conversation import Channel, ClientGoneError, Conversation, House

THREADS_PER_REQUEST = 3
"""async_exec waits in a thread of the loop's pool: for the draft, the target, and a call given up."""


PUBLISH_PAUSE_S = 0.25
"""Between two publications of the counters."""


class QueueFullError(Exception):
    """Too many requests wait; the same one may be sent again later."""


class Caller(Channel, Protocol):
    """The way back to one caller, with the ends of a request that did not work out."""

    def fail(self, error: BaseException) -> None: ...

    def leave(self) -> None:
        """End without a word: the caller has left."""


class Turnover(Protocol):
    """Counters of requests."""

    def requests(self, running: int, waiting: int) -> None: ...

    def finished(self, outcome: str) -> None: ...

    def flush(self) -> None:
        """Publish what has been counted since the last time."""


class Reception:
    """An event loop in a thread of its own, and the requests on it."""

    def __init__(
        self,
        house: House,
        limits: asked.Limits,
        turnover: Turnover,
        log_error: Callable[[str], None],
        *,
        seats: int,
        queue: int,
    ) -> None:
        self._house = house
        self._limits = limits
        self._turnover = turnover
        self._log_error = log_error
        self._seats = seats
        self._most = seats + queue
        self._tasks: dict[asyncio.Task[None], Conversation] = {}
        self._free = asyncio.Semaphore(seats)
        self._loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(THREADS_PER_REQUEST * seats, thread_name_prefix="engine-call")
        self._loop.set_default_executor(self._pool)
        self._loop.call_soon(self._publish)
        self._thread = threading.Thread(target=self._loop.run_forever, name="rounds", daemon=True)
        self._thread.start()

    def submit(self, tensors: Mapping[str, np.ndarray], caller: Caller) -> None:
        """Returns at once; everything else goes through ``caller``."""
        self._loop.call_soon_threadsafe(self._start, tensors, caller)

    def stop(self, key: int) -> None:
        """End the request with this key; there may be none any more."""
        self._loop.call_soon_threadsafe(self._cancel, lambda task_key: task_key == key)

    def close(self) -> None:
        """End all requests and the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, tensors: Mapping[str, np.ndarray], caller: Caller) -> None:
        try:
            wanted = asked.read(tensors, self._limits)
            if len(self._tasks) >= self._most:
                raise QueueFullError(f"{len(self._tasks) - self._seats} requests are waiting already")
        except Exception as error:  # a request must get an answer, whatever happens
            self._turnover.finished("refused")
            caller.fail(error)
            return
        conversation = Conversation(wanted, self._house, caller)
        task = self._loop.create_task(self._serve(conversation, caller))
        self._tasks[task] = conversation
        self._report()
        task.add_done_callback(self._left)

    async def _serve(self, conversation: Conversation, caller: Caller) -> None:
        try:
            await conversation.wait(self._free)
            self._report()
            try:
                self._turnover.finished(await conversation.run())
            finally:
                self._free.release()
        except (asyncio.CancelledError, ClientGoneError):
            self._turnover.finished("cancelled")
            caller.leave()
        except Exception as error:
            self._turnover.finished("error")
            caller.fail(error)

    def _left(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._report()
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            self._log_error(f"a request was not ended: {type(error).__name__}: {error}")

    def _report(self) -> None:
        running = min(len(self._tasks), self._seats)
        self._turnover.requests(running, len(self._tasks) - running)

    def _publish(self) -> None:
        self._turnover.flush()
        self._loop.call_later(PUBLISH_PAUSE_S, self._publish)

    def _cancel(self, chosen: Callable[[int | None], bool]) -> None:
        for task, conversation in self._tasks.items():
            if chosen(conversation.key):
                conversation.cancel(task)

    async def _close(self) -> None:
        self._cancel(lambda _: True)
        if self._tasks:
            await asyncio.wait(self._tasks)
