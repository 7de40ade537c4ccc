# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM for commands that wait in an event loop.

A signal handler that raises does so wherever the main thread happens to be. Inside a library's lock that
leaves the lock in a state that the library does not expect: in gRPC's condition variable, for example,
``RuntimeError: cannot release un-acquired lock`` took the place of KeyboardInterrupt, and the command
exited 1. So here the handler cancels the work instead, except while the command itself writes its output,
where a reader that has stopped reading must not hold the user up.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

import click

Result = TypeVar("Result")


class Interrupts:
    """Passed to the work: how it writes."""

    def __init__(self) -> None:
        self._writing = False
        self._cancel: Callable[[], Any] = _nothing
        self._interrupted = False

    def echo(self, text: str) -> None:
        """Write to stdout. Raises KeyboardInterrupt when interrupted meanwhile."""
        self._writing = True
        try:
            click.echo(text, nl=False)
        finally:
            self._writing = False

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of ``work``. Raises KeyboardInterrupt once the cancelled work has ended."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return asyncio.run(self._cancellable(work))
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            raise KeyboardInterrupt from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def _cancellable(self, work: Coroutine[Any, Any, Result]) -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)
        return await work

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupted = True
        if self._writing:
            raise KeyboardInterrupt
        with contextlib.suppress(RuntimeError):  # the loop has closed: the work is done
            self._cancel()


def _nothing() -> None:
    """There is no work yet."""
