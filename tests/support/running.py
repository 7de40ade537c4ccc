# SPDX-License-Identifier: Apache-2.0
"""Drives a torch_runtime engine in tests: many requests at once, their tokens and their errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specbuild.torch_runtime import Chunk, Counters, Engine, Request, Settings

DEADLINE_S = 60


@dataclass
class Collected:
    """What the callbacks of one request got."""

    chunks: list[Chunk] = field(default_factory=list)
    error: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def on_chunk(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        if chunk.finish_reason is not None:
            self.ended.set()

    def on_error(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    @property
    def tokens(self) -> list[int]:
        return [token for chunk in self.chunks for token in chunk.token_ids]

    @property
    def counters(self) -> Counters:
        return self.chunks[-1].counters

    @property
    def finish_reason(self) -> str | None:
        return self.chunks[-1].finish_reason

    def wait(self) -> Collected:
        assert self.ended.wait(DEADLINE_S), "the request did not end"
        return self


@contextmanager
def engine(target: Path, draft: Path | None, **changes: Any) -> Iterator[Engine]:
    """An engine for tiny models on one thread."""
    settings: dict[str, Any] = {
        "draft_length": 8,
        "adaptive": False,
        "max_batch_size": 4,
        "max_input_len": 100,
        "max_seq_len": 128,
        "device": "cpu",
        "threads": 1,
    }
    with Engine.load(target, draft, Settings(**{**settings, **changes})) as loaded:
        yield loaded


def start(loaded: Engine, request: Request) -> Collected:
    """Submit ``request``; its chunks and its error are collected."""
    collected = Collected()
    loaded.submit(request, on_chunk=collected.on_chunk, on_error=collected.on_error)
    return collected


def finish(loaded: Engine, request: Request) -> Collected:
    """``request`` when it has ended without an error."""
    collected = start(loaded, request).wait()
    assert collected.error is None, collected.error
    return collected


def finish_all(loaded: Engine, requests: Sequence[Request]) -> list[Collected]:
    """All ``requests``, submitted at once, when they have ended without an error."""
    collected = [start(loaded, request) for request in requests]
    for one in collected:
        assert one.wait().error is None, one.error
    return collected
