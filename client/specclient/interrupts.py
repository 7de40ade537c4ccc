# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM for work in an event loop.

A signal handler that raises does so wherever the main thread happens to be. Inside a library's lock that
leaves the lock in a state that the library does not expect: in gRPC's condition variable, for example,
``RuntimeError: cannot release un-acquired lock`` took the place of KeyboardInterrupt. So here the handler
cancels the work instead, except while the work itself writes its output, where a reader that has stopped
reading must not hold the user up.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Runs work that signals cancel."""

    def __init__(self) -> None:
        self._writing = False
        self._cancel: Callable[[], Any] = _nothing
        self._interrupted = False

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """For a write that its reader may block: a signal raises KeyboardInterrupt out of it."""
        self._writing = True
        try:
            yield
        finally:
            self._writing = False

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of ``work``. Raises KeyboardInterrupt once the cancelled work has ended.

        Signals that the program ignores or leaves to the system stay so; outside the main thread, which
        alone gets signals, it is ``asyncio.run``.
        """
        if threading.current_thread() is not threading.main_thread():
            return asyncio.run(work)
        handled = [number for number in _SIGNALS if callable(signal.getsignal(number))]
        before = {number: signal.signal(number, self._interrupt) for number in handled}
        try:
            result = asyncio.run(self._cancellable(work))
            if not self._interrupted:
                return result
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        raise KeyboardInterrupt

    async def _cancellable(self, work: Coroutine[Any, Any, Result]) -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self._interrupted:  # while the loop was made
            task.cancel()
        return await work

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupted = True
        if self._writing:
            raise KeyboardInterrupt
        with contextlib.suppress(RuntimeError):  # the loop has closed: the work is done
            self._cancel()


def _nothing() -> None:
    """There is no work yet."""
