# SPDX-License-Identifier: Apache-2.0
"""What the caller gets: a response after every round of a stream, or one at the end. Pure.

Counts and times cover the whole request so far, never its last round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from asked import Asked
from rounds import Text


class Reply:
    """The responses of one request; its times are time.monotonic_ns."""

    def __init__(self, asked: Asked, text: Text) -> None:
        self._asked = asked
        self._text = text
        self._log_probs: list[float] = []
        self._answered = 0
        self._arrival_ns = time.monotonic_ns()
        self._scheduled_ns = self._first_token_ns = self._last_token_ns = 0

    def scheduled(self) -> None:
        """The request's work begins now."""
        self._scheduled_ns = time.monotonic_ns()

    def took(self, tokens: Sequence[int], log_probs: Sequence[float]) -> None:
        """A round has ended with ``tokens``, which are part of the text by now."""
        self._last_token_ns = time.monotonic_ns()
        self._first_token_ns = self._first_token_ns or self._last_token_ns
        self._log_probs += log_probs[: len(tokens)]

    def due(self) -> dict[str, np.ndarray] | None:
        """The tensors of the response that is due; None while a request that does not stream goes on."""
        final = bool(self._text.finish)
        if not (self._asked.streaming or final):
            return None
        output = self._text.output
        start, self._answered = self._answered, len(output)
        tokens: Sequence[int] = output[start:]
        if not (self._asked.streaming or self._asked.exclude_input):
            # Only then: what streams never holds the prompt (TensorRT-LLM, LlmRequest::createResult).
            tokens = [*self._asked.prompt, *tokens]
        return self._tensors(tokens, output[:start], self._log_probs[start:])

    def sign_of_life(self) -> dict[str, np.ndarray]:
        """A response without tokens: the client gets nothing, but whether it is still there shows."""
        return self._tensors((), (), ())

    def _tensors(
        self, tokens: Sequence[int], context: Sequence[int], log_probs: Sequence[float]
    ) -> dict[str, np.ndarray]:
        counts = self._text.counts
        return {
            "output_ids": np.array(tokens, dtype=np.int32)[None, None],
            "sequence_length": _int(len(tokens)),
            "context_ids": np.array(context, dtype=np.int32)[None],
            "is_final": np.array([[bool(self._text.finish)]]),
            "request_key": np.array([[self._asked.key or 0]], dtype=np.uint64),
            "cum_log_probs": _float(sum(self._log_probs)),
            "output_log_probs": np.array([[log_probs or [0.0]]], dtype=np.float32),
            "arrival_time_ns": _long(self._arrival_ns),
            "first_scheduled_time_ns": _long(self._scheduled_ns),
            "first_token_time_ns": _long(self._first_token_ns),
            "last_token_time_ns": _long(self._last_token_ns),
            "acceptance_rate": _float(counts.accepted / max(1, counts.drafted)),
            "total_accepted_draft_tokens": _int(counts.accepted),
            "total_draft_tokens": _int(counts.drafted),
            "num_input_tokens": _int(self._text.prompt),
            "num_output_tokens": _int(self._text.produced),
            "num_rounds": _int(counts.rounds),
            "finish_reason": np.array([[self._text.finish.encode()]], dtype=object),
        }


def _int(value: int) -> np.ndarray:
    return np.array([[value]], dtype=np.int32)


def _long(value: int) -> np.ndarray:
    return np.array([[value]], dtype=np.int64)


def _float(value: float) -> np.ndarray:
    return np.array([[value]], dtype=np.float32)
