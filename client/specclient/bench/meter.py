# SPDX-License-Identifier: Apache-2.0
"""Whether the load generator itself was the limit: its processor time and the lag of its event loop."""

from __future__ import annotations

import asyncio
import gc
import time
from types import TracebackType

PERIOD_S = 0.02


class Meter:
    """Measures while its ``async with`` block runs. The collector of cycles stands still in the meantime."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.wall_s = 0.0
        self.lags_s: list[float] = []
        """How late a timer fired that was due every 20 ms."""
        self._task: asyncio.Task[None] | None = None
        self._collecting = False

    @property
    def cpu_share(self) -> float | None:
        """Processor time ÷ time; 1 is one core."""
        return self.cpu_s / self.wall_s if self.wall_s else None

    async def __aenter__(self) -> Meter:
        self._collecting = gc.isenabled()
        gc.disable()
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        self._task = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
        self.wall_s += time.perf_counter() - self._start
        self.cpu_s += time.process_time() - self._cpu_start
        if self._collecting:
            gc.enable()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + PERIOD_S, loop.time())
            await asyncio.sleep(due - loop.time())
            self.lags_s.append(max(0.0, loop.time() - due))
