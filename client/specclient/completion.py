# SPDX-License-Identifier: Apache-2.0
"""What comes back: chunks while the answer is generated, and the completion made of them.

Times are of the monotonic clock ``time.perf_counter_ns`` at receipt; durations are in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from specclient.protocol import FinishReason


@dataclass(frozen=True, slots=True)
class Counters:
    """Counts of the request so far, as the server reports them; 0 where it reports none."""

    num_input_tokens: int = 0
    num_output_tokens: int = 0
    num_rounds: int = 0
    """Draft bursts with their verification."""
    total_draft_tokens: int = 0
    total_accepted_draft_tokens: int = 0

    @property
    def draft_acceptance_rate(self) -> float | None:
        """accepted ÷ drafted; None without drafts."""
        if self.total_draft_tokens == 0:
            return None
        return self.total_accepted_draft_tokens / self.total_draft_tokens

    @property
    def acceptance_length(self) -> float | None:
        """Tokens per round, bonus token included: 1 + accepted ÷ rounds; None without drafts."""
        if self.num_rounds == 0 or self.total_draft_tokens == 0:
            return None
        return 1 + self.total_accepted_draft_tokens / self.num_rounds


@dataclass(frozen=True, slots=True)
class Chunk:
    """One response of the stream. With speculation a chunk often holds several tokens."""

    text: str
    """May be empty: a token can hold a part of a character only."""
    token_ids: tuple[int, ...]
    index: int
    """Position in the stream, from 0."""
    received_ns: int
    finish_reason: FinishReason | None = None
    """None until the last chunk, and on it when the server does not say."""
    counters: Counters = Counters()
    log_probs: tuple[float, ...] = ()
    """One for each token, when the request asked for them."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A complete answer. Durations are None where the definition has no value for it."""

    request_id: str
    chunks: tuple[Chunk, ...]
    sent_ns: int
    """When the attempt that succeeded was sent."""
    attempts: int = 1

    @property
    def text(self) -> str:
        """The generated text without the prompt."""
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The generated tokens; empty when the server does not send them."""
        return tuple(token for chunk in self.chunks for token in chunk.token_ids)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why generation ended; None when the server does not say."""
        return self.chunks[-1].finish_reason if self.chunks else None

    @property
    def counters(self) -> Counters:
        """The server's counts of the whole request."""
        return self.chunks[-1].counters if self.chunks else Counters()

    @property
    def output_tokens(self) -> int:
        """Generated tokens, counted by the server; never by splitting text again."""
        return self.counters.num_output_tokens or len(self.token_ids)

    @property
    def ttft(self) -> float | None:
        """Time to first token: from sending to the first chunk."""
        return (self.chunks[0].received_ns - self.sent_ns) / 1e9 if self.chunks else None

    @property
    def latency(self) -> float | None:
        """From sending to the last chunk."""
        return (self.chunks[-1].received_ns - self.sent_ns) / 1e9 if self.chunks else None

    @property
    def tpot(self) -> float | None:
        """Time per output token: (last token - first token) ÷ (tokens - 1).

        None for one token, and when all tokens came in one chunk.
        """
        if len(self.chunks) < 2 or self.output_tokens < 2:
            return None
        elapsed = self.chunks[-1].received_ns - self.chunks[0].received_ns
        return elapsed / 1e9 / (self.output_tokens - 1)

    @property
    def chunk_gaps(self) -> Sequence[float]:
        """Inter-chunk latency: the time between each two chunks."""
        times = [chunk.received_ns for chunk in self.chunks]
        return [(after - before) / 1e9 for before, after in pairwise(times)]

    @property
    def draft_acceptance_rate(self) -> float | None:
        """accepted ÷ drafted over the whole request; None without drafts."""
        return self.counters.draft_acceptance_rate

    @property
    def acceptance_length(self) -> float | None:
        """1 + accepted ÷ rounds over the whole request; None without drafts."""
        return self.counters.acceptance_length
