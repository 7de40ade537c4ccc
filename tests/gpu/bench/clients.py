# SPDX-License-Identifier: Apache-2.0
"""Streaming clients in processes of their own: one Python process could not keep up with 32 streams.

Imports neither torch nor the runtime, so that a process starts in a second.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

from specclient import AsyncSpecClient

_MOST_PROCESSES = 8
_CONNECTED_WITHIN_S = 60


@dataclass(frozen=True)
class Outcome:
    """``answers`` are the token ids of each request, in the order of the texts."""

    seconds: float
    answers: list[list[int]]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.answers))


def ask(address: str, texts: Sequence[str], tokens: int, drafts: int | None) -> Outcome:
    """Send all ``texts`` at once; the clock runs from when all are connected to the last answer's end."""
    processes = min(_MOST_PROCESSES, len(texts), max(1, (os.cpu_count() or 1) // 2))
    context = multiprocessing.get_context("spawn")
    barrier, replies = context.Barrier(processes), context.SimpleQueue()
    workers = [
        context.Process(
            target=_client, args=(n, address, texts[n::processes], tokens, drafts, barrier, replies)
        )
        for n in range(processes)
    ]
    with _started(workers):
        parts: dict[int, Any] = dict(replies.get() for _ in workers)
    for part in parts.values():
        if isinstance(part, str):
            raise RuntimeError(part)
    answers: list[list[int]] = [[] for _ in texts]
    for n, (_, _, received) in parts.items():
        answers[n::processes] = received
    seconds = max(end for _, end, _ in parts.values()) - min(start for start, _, _ in parts.values())
    return Outcome(seconds, answers)


@contextmanager
def _started(workers: list[Any]) -> Iterator[None]:
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.join(timeout=10)
            if worker.is_alive():
                worker.kill()


def _client(
    number: int,
    address: str,
    texts: list[str],
    tokens: int,
    drafts: int | None,
    barrier: Barrier,
    replies: Any,
) -> None:
    """Put (number, (start, end, token ids)) into ``replies``, or what went wrong as text."""
    try:
        replies.put((number, asyncio.run(_requests(address, texts, tokens, drafts, barrier))))
    except Exception as error:
        barrier.abort()
        replies.put((number, f"{type(error).__name__}: {error}"))


async def _requests(
    address: str, texts: list[str], tokens: int, drafts: int | None, barrier: Barrier
) -> tuple[float, float, list[list[int]]]:
    async with AsyncSpecClient(address) as client:
        assert await client.is_ready()
        barrier.wait(_CONNECTED_WITHIN_S)
        start = time.monotonic()  # the same clock in all processes of a machine
        completions = await asyncio.gather(
            *(client.generate(text, max_tokens=tokens, num_draft_tokens=drafts) for text in texts)
        )
        return start, time.monotonic(), [list(completion.token_ids) for completion in completions]
