# SPDX-License-Identifier: Apache-2.0
"""Deadlines for blocking reads: gRPC's synchronous API has one deadline per call, and none per message."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Watchdog:
    """One thread that runs an action when its deadline passes; setting and clearing one is cheap."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._deadlines: dict[int, tuple[float, Callable[[], None]]] = {}
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None
        self._closed = False

    def arm(self, key: int, seconds: float, action: Callable[[], None]) -> None:
        """Run ``action`` on the watchdog's thread unless ``key`` is disarmed within ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._condition:
            self._deadlines[key] = (deadline, action)
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="specclient-watchdog", daemon=True)
                thread.start()
                self._thread = (
                    thread  # not before: Ctrl-C in start() must not leave one that cannot be joined
                )
            elif deadline < self._wakes_at:
                self._condition.notify()

    def disarm(self, key: int) -> None:
        """Forget ``key``; its action may be running."""
        with self._condition:
            self._deadlines.pop(key, None)

    def close(self) -> None:
        """End the thread; what is armed never runs."""
        with self._condition:
            self._closed = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with self._condition:
            while not self._closed:
                now = time.monotonic()
                for key in [key for key, (at, _) in self._deadlines.items() if at <= now]:
                    _, action = self._deadlines.pop(key)
                    action()
                self._wakes_at = min((at for at, _ in self._deadlines.values()), default=math.inf)
                self._condition.wait(None if self._wakes_at == math.inf else self._wakes_at - now)
