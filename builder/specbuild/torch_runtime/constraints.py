# SPDX-License-Identifier: Apache-2.0
"""What depends on the tokens so far: penalties, bad words, and no end before ``min_tokens``.

Inside a draft burst a position's past includes the draft tokens before it. Those are on the device and
stay there: nothing here waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specbuild.torch_runtime.request import Request

BANNED = -1e30
"""Logit of a token that must not be drawn: finite, so that banning every token does not yield NaN."""


class Constraints:
    """The constraints of one request and the past they look at.

    ``append`` after each output token; ``apply`` to the logits of positions that follow.
    """

    def __init__(self, request: Request, vocab_size: int, device: torch.device) -> None:
        sampling = request.sampling
        self._repetition = sampling.repetition_penalty
        self._presence = sampling.presence_penalty
        self._frequency = sampling.frequency_penalty
        self._end = _tokens([t for t in sorted(request.end_ids) if 0 <= t < vocab_size], device)
        self._min_tokens = request.min_tokens if len(self._end) else 0
        self._banned = _tokens([word[0] for word in sampling.bad_words if len(word) == 1], device)
        self._words = [word for word in sampling.bad_words if len(word) > 1]
        self._counts = self._count(request.prompt, vocab_size, device) if sampling.penalised else None
        self._reach = max((len(word) - 1 for word in self._words), default=0)
        # -1 is no token: a word cannot begin before the prompt does.
        self._tail = [*[-1] * self._reach, *request.prompt][len(request.prompt) :]
        self._produced = 0

    @staticmethod
    def needed(request: Request) -> bool:
        """Whether the request's distributions depend on its tokens so far."""
        sampling = request.sampling
        return bool(sampling.penalised or sampling.bad_words or (request.min_tokens and request.end_ids))

    def append(self, tokens: Sequence[int]) -> None:
        """Make ``tokens`` part of the past."""
        self._produced += len(tokens)
        self._tail = [*self._tail, *tokens][len(tokens) :]
        if self._counts is not None:
            new = torch.tensor(tokens, device=self._counts.device)
            self._counts.index_add_(0, new, torch.ones_like(new, dtype=self._counts.dtype))

    def apply(self, scaled: Tensor, drafted: Tensor, first: int) -> Tensor:
        """``scaled`` [rows, vocab], the logits divided by the temperature, with the constraints applied.

        Row i follows the past and the first ``first + i`` of ``drafted`` [at least first + rows − 1].
        """
        if self._counts is not None:
            scaled = self._penalise(scaled, drafted, first)
        scaled = scaled.clone()
        scaled[:, self._banned] = BANNED
        scaled[: max(0, self._min_tokens - self._produced - first), self._end] = BANNED
        for word in self._words:
            self._ban_last(word, scaled, drafted, first)
        return scaled

    def _penalise(self, scaled: Tensor, drafted: Tensor, first: int) -> Tensor:
        assert self._counts is not None
        counts = self._counts.repeat(len(scaled), 1)
        for index in range(first + len(scaled) - 1):
            later = counts[max(0, index + 1 - first) :]
            later.index_add_(1, drafted[index : index + 1], later.new_ones(len(later), 1))
        repeated = torch.where(scaled < 0, scaled * self._repetition, scaled / self._repetition)
        penalised = repeated - self._presence - self._frequency * counts
        return torch.where(counts > 0, penalised, scaled)

    def _ban_last(self, word: Sequence[int], scaled: Tensor, drafted: Tensor, first: int) -> None:
        """Ban the last token of ``word`` in the rows whose past ends with the tokens before it."""
        *beginning, last = word
        past = torch.cat([_tokens(self._tail, drafted.device), drafted])
        start = self._reach - len(beginning) + first
        windows = past[start : start + len(scaled) + len(beginning) - 1].unfold(0, len(beginning), 1)
        complete = (windows == _tokens(beginning, drafted.device)).all(1)
        scaled[:, last].masked_fill_(complete, BANNED)

    @staticmethod
    def _count(prompt: Sequence[int], vocab_size: int, device: torch.device) -> Tensor:
        return torch.bincount(_tokens(prompt, device), minlength=vocab_size).float()


def _tokens(tokens: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.long, device=device)
