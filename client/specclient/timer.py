# SPDX-License-Identifier: Apache-2.0
"""Deadlines for reads in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Timer:
    """Runs an action when a wait gets too long. Re-arming costs no timer of the loop."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self.expired = False

    def arm(self, seconds: float | None) -> None:
        """Run the action in ``seconds`` unless disarmed; None never runs it."""
        self._deadline = None if seconds is None else self._loop.time() + seconds
        if self._deadline is not None and (self._handle is None or self._deadline < self._handle.when()):
            self._schedule(self._deadline)

    def disarm(self) -> None:
        """The wait is over."""
        self._deadline = None

    def close(self) -> None:
        """Give the loop's timer back."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self, when: float) -> None:
        self.close()
        self._handle = self._loop.call_at(when, self._check)

    def _check(self) -> None:
        self._handle = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._schedule(self._deadline)
        else:
            self.expired = True
            self._action()
