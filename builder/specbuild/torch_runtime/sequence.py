# SPDX-License-Identifier: Apache-2.0
"""One request in a slot: its tokens, how far the caches know them, and its counts."""

from __future__ import annotations

import time
from collections.abc import Sequence as Tokens

import numpy as np
import torch
from numpy.typing import NDArray

from specbuild.errors import EngineError
from specbuild.torch_runtime.constraints import Constraints
from specbuild.torch_runtime.draft_length import Acceptance, DraftLengthPolicy
from specbuild.torch_runtime.request import Chunk, Counters, FinishReason, Request


class Sequence:
    """A request that owns ``slot``. Prompt and output are one list of tokens.

    ``target_known`` and ``draft_known`` say how many of them the caches hold. Between rounds the target
    knows all but the last one; the draft may be further behind, and catches up when it next drafts.
    """

    def __init__(self, request: Request, slot: int, arrival_ns: int, draft_limit: int) -> None:
        self.request = request
        self.slot = slot
        self.tokens = list(request.prompt)
        self.target_known = 0
        self.draft_known = 0
        self.finish_reason: FinishReason | None = None
        self.failure: EngineError | None = None
        """Why it cannot go on, where the pass that found out did well for others."""
        self.acceptance: Acceptance = DraftLengthPolicy.new_request()
        self.constraints: Constraints | None = None
        self._draft_limit = draft_limit if request.draft_length is None else request.draft_length
        self._random = np.random.default_rng(request.sampling.seed)
        self._rounds = 0
        self._drafted = [0] * self._draft_limit
        self._accepted = [0] * self._draft_limit
        self._arrival_ns = arrival_ns
        self._scheduled_ns = time.monotonic_ns()
        self._first_token_ns = 0
        self._last_token_ns = 0

    def constrain(self, vocab_size: int, device: torch.device) -> None:
        """Prepare the constraints on ``device``, if the request has any."""
        if Constraints.needed(self.request):
            self.constraints = Constraints(self.request, vocab_size, device)

    @property
    def produced(self) -> int:
        """Output tokens so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def draft_limit(self) -> int:
        """Most draft tokens in the next round: the round's own token must still fit into max_tokens."""
        return min(self._draft_limit, self.request.max_tokens - self.produced - 1)

    @property
    def plain_greedy(self) -> bool:
        """Whether the next token is simply the one with the largest logit."""
        return self.request.sampling.greedy and self.constraints is None

    @property
    def reproducible(self) -> bool:
        """Whether its tokens depend on the draft length, which must then not depend on its neighbours."""
        return self.request.sampling.seed is not None and not self.request.sampling.greedy

    @property
    def prefilled(self) -> bool:
        """Whether both caches hold the prompt, so that rounds may begin."""
        return self.produced > 0 and (self._draft_limit == 0 or self.draft_known >= len(self.request.prompt))

    def uniform(self) -> NDArray[np.float64]:
        """Numbers in [0, 1) for one round, from the request's own stream: 2 · n + 1 for n draft tokens.

        Always as many, so that a round's numbers do not depend on how much earlier rounds drafted.
        """
        return self._random.random(2 * self._draft_limit + 1)

    @property
    def drafts(self) -> bool:
        """Whether draft tokens are proposed to it at all."""
        return self._draft_limit > 0

    def extend(self, tokens: Tokens[int], drafted: int, log_probs: Tokens[float] = ()) -> Chunk:
        """Take the outcome of a round: all of ``tokens`` but the last one were among ``drafted`` ones.

        Tokens after an end are dropped. Returns the chunk for the caller; ``finish_reason`` is set when
        it is the last one.
        """
        first = self.produced == 0
        accepted = len(tokens) - 1
        kept = self._append(tokens)
        if kept <= accepted:
            drafted = accepted = kept
        for counts, number in ((self._drafted, drafted), (self._accepted, accepted)):
            for position in range(number):
                counts[position] += 1
        self._rounds += not first
        self._last_token_ns = time.monotonic_ns()
        if first:
            self._first_token_ns = self._last_token_ns
        if self.constraints is not None:
            self.constraints.append(tokens[:kept])
        return Chunk(tuple(tokens[:kept]), tuple(log_probs[:kept]), self.finish_reason, self.counters())

    def counters(self) -> Counters:
        """The counts so far."""
        return Counters(
            input_tokens=len(self.request.prompt),
            output_tokens=self.produced,
            rounds=self._rounds,
            drafted=sum(self._drafted),
            accepted=sum(self._accepted),
            accepted_by_position=tuple(self._accepted),
            drafted_by_position=tuple(self._drafted),
            arrival_ns=self._arrival_ns,
            first_scheduled_ns=self._scheduled_ns,
            first_token_ns=self._first_token_ns,
            last_token_ns=self._last_token_ns,
        )

    def _append(self, tokens: Tokens[int]) -> int:
        """Append up to the end of the request; how many were appended."""
        for kept, token in enumerate(tokens, start=1):
            self.tokens.append(token)
            if self._stops(token):
                self.finish_reason = "stop"
            elif self.produced >= self.request.max_tokens:
                self.finish_reason = "length"
            if self.finish_reason is not None:
                return kept
        return len(tokens)

    def _stops(self, token: int) -> bool:
        if self.produced < max(self.request.min_tokens, 1):
            return False
        if token in self.request.end_ids:
            return True
        return any(
            len(stop) <= self.produced and tuple(self.tokens[-len(stop) :]) == stop
            for stop in self.request.stop_sequences
        )
