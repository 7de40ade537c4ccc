# SPDX-License-Identifier: Apache-2.0
"""The answers of one request: each a stream of the server's, all at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from specbuild.openai_front.stopping import StopText
from specclient import AsyncStream, Counters

_BUFFERED_PIECES = 64


@dataclass(frozen=True, slots=True)
class Piece:
    """What one answer has more to show."""

    choice: int
    text: str
    token_ids: Sequence[int]
    log_probs: Sequence[float]
    finish_reason: Literal["stop", "length"] | None


@dataclass(slots=True)
class Generation:
    """One answer while it is made."""

    choice: int
    prompt: int
    """Which of the request's prompts it answers."""
    stream: AsyncStream
    stops: Sequence[str]
    counters: Counters = field(default_factory=Counters)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The answer; a stop text ends it, and the server's work on it. Raises SpecClientError."""
        stop = StopText(self.stops)
        async with self.stream as chunks:
            async for chunk in chunks:
                self.counters = chunk.counters
                last = chunk.finish_reason is not None
                text = stop.feed(chunk.text, last=last)
                reason = "stop" if stop.found else chunk.finish_reason
                log_probs = tuple(_finite(value) for value in chunk.log_probs)
                yield Piece(self.choice, text, chunk.token_ids, log_probs, reason)
                if stop.found:
                    return


def _finite(log_prob: float) -> float:
    """OpenAI's stand-in for what JSON cannot say."""
    return log_prob if log_prob > -9999.0 else -9999.0


async def together(generations: Sequence[Generation]) -> AsyncGenerator[Piece, None]:
    """The pieces of all, as they come. Closing it cancels what is left. Raises SpecClientError."""
    if len(generations) == 1:
        async with contextlib.aclosing(generations[0].pieces()) as pieces:
            async for piece in pieces:
                yield piece
        return
    queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue(_BUFFERED_PIECES)

    async def pump(generation: Generation) -> None:
        try:
            async with contextlib.aclosing(generation.pieces()) as pieces:
                async for piece in pieces:
                    await queue.put(piece)
            await queue.put(None)
        except Exception as error:  # any: the reader raises it again, and would wait for ever without it
            await queue.put(error)

    tasks = [asyncio.ensure_future(pump(generation)) for generation in generations]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def usage(generations: Sequence[Generation]) -> dict[str, object]:
    """OpenAI's counts, with the figures of speculation in the extension ``speculation``."""
    counters = [generation.counters for generation in generations]
    prompts = {generation.prompt: generation.counters.num_input_tokens for generation in generations}
    total = Counters(
        num_input_tokens=sum(prompts.values()),
        num_output_tokens=sum(one.num_output_tokens for one in counters),
        num_rounds=sum(one.num_rounds for one in counters),
        total_draft_tokens=sum(one.total_draft_tokens for one in counters),
        total_accepted_draft_tokens=sum(one.total_accepted_draft_tokens for one in counters),
    )
    return {
        "prompt_tokens": total.num_input_tokens,
        "completion_tokens": total.num_output_tokens,
        "total_tokens": total.num_input_tokens + total.num_output_tokens,
        "speculation": {
            "rounds": total.num_rounds,
            "draft_tokens": total.total_draft_tokens,
            "accepted_draft_tokens": total.total_accepted_draft_tokens,
            "acceptance_length": total.acceptance_length,
            "draft_acceptance_rate": total.draft_acceptance_rate,
        },
    }
