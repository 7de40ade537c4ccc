# SPDX-License-Identifier: Apache-2.0
"""Drives an engine with the planted pair: many requests at once, their speed, and whether they are right."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from specbuild.synthetic.planted import Plant
from specbuild.torch_runtime import Chunk, Engine, Request
from specbuild.torch_runtime import engine as engine_module

DEADLINE_S = 300.0
PLAIN, ADAPTIVE = 0, None
"""Draft lengths of a request: none, and what the engine chooses."""


@dataclass
class Stream:
    """The chunks of one request, with the time of each."""

    prompt: Sequence[int]
    chunks: list[tuple[float, Chunk]] = field(default_factory=list)
    error: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def on_chunk(self, chunk: Chunk) -> None:
        self.chunks.append((time.perf_counter(), chunk))
        if chunk.finish_reason is not None:
            self.ended.set()

    def on_error(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    @property
    def tokens(self) -> list[int]:
        return [token for _, chunk in self.chunks for token in chunk.token_ids]


@dataclass(frozen=True)
class Speed:
    """Of requests that were submitted at once."""

    whole: float
    """Output tokens per second from the submission to the last token: prefill included."""
    steady: float
    """Output tokens per second while all of them were decoding."""
    step_ms: float
    """Mean time of a round while all of them were decoding."""
    acceptance_length: float
    drafted_per_round: float
    astray: int
    """Tokens that are not the planted ones."""
    first_token_ms: float
    """Median time to the first token."""


def measure(
    engine: Engine, prompts: Sequence[Sequence[int]], tokens: int, draft_length: int | None, plant: Plant
) -> Speed:
    """Submit all ``prompts`` at once for ``tokens`` output tokens each, and wait for them."""
    streams = [Stream(prompt) for prompt in prompts]
    start = time.perf_counter()
    for stream in streams:
        request = Request(prompt=stream.prompt, max_tokens=tokens, draft_length=draft_length)
        engine.submit(request, on_chunk=stream.on_chunk, on_error=stream.on_error)
    for stream in streams:
        if not stream.ended.wait(DEADLINE_S):
            raise TimeoutError(f"a request did not end within {DEADLINE_S:.0f} s")
        if stream.error is not None:
            raise stream.error
    return _speed(streams, start, plant)


def _speed(streams: Sequence[Stream], start: float, plant: Plant) -> Speed:
    end = max(stream.chunks[-1][0] for stream in streams)
    produced = sum(len(stream.tokens) for stream in streams)
    # All are decoding from the last one's second chunk, its first round, to the first one's end.
    low = max(stream.chunks[min(1, len(stream.chunks) - 1)][0] for stream in streams)
    high = min(stream.chunks[-1][0] for stream in streams)
    inside = [chunk for stream in streams for at, chunk in stream.chunks if low < at <= high]
    rounds = len(inside) / len(streams)
    counters = [stream.chunks[-1][1].counters for stream in streams]
    total_rounds = sum(one.rounds for one in counters)
    first = sorted(stream.chunks[0][0] - start for stream in streams)
    valid = high > low and rounds > 0
    return Speed(
        whole=produced / (end - start),
        steady=sum(len(chunk.token_ids) for chunk in inside) / (high - low) if valid else float("nan"),
        step_ms=1e3 * (high - low) / rounds if valid else float("nan"),
        acceptance_length=1 + sum(one.accepted for one in counters) / max(1, total_rounds),
        drafted_per_round=sum(one.drafted for one in counters) / max(1, total_rounds),
        astray=sum(astray(stream.prompt, stream.tokens, plant) for stream in streams),
        first_token_ms=1e3 * first[len(first) // 2],
    )


def astray(prompt: Sequence[int], tokens: Sequence[int], plant: Plant) -> int:
    """How many of ``tokens`` are not the planted successor of the one before."""
    before = [prompt[-1], *tokens[:-1]]
    return sum(int(plant.target[x]) != y for x, y in zip(before, tokens, strict=True))


def prompts(plant: Plant, alpha: float, count: int, length: int, seed: int = 0) -> list[list[int]]:
    """``count`` different prompts of ``length`` tokens in the cycle of ``alpha``."""
    cycle = plant.cycle(alpha)
    return [cycle.prompt(length, 1000 * seed + number) for number in range(count)]


@contextmanager
def prompts_taken_as_read() -> Iterator[None]:
    """Requests begin as if all of the prompt but its last token were in the caches already.

    What a planted pair answers does not depend on the keys and values of the prompt, and a step costs the
    same whatever they are; 64 prompts of 4,096 tokens cost a minute to read and a second to decode.
    """

    class Read(engine_module.Sequence):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.target_known = self.draft_known = len(self.request.prompt) - 1

    with mock.patch.object(engine_module, "Sequence", Read):
        yield
