# SPDX-License-Identifier: Apache-2.0
"""One request's life without I/O: what both clients share, so that each is a thin loop around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypeVar

from specclient import stream
from specclient.completion import Chunk, Completion
from specclient.errors import (
    ConnectError,
    FirstTokenTimeout,
    IdleTimeout,
    IncompleteStream,
    RequestTimeout,
    SpecClientError,
    TotalTimeout,
)
from specclient.parameters import GenerationParameters
from specclient.retry import RetryBudget
from specclient.status import translate
from specclient.timeouts import Timeout

Failure = TypeVar("Failure", bound=SpecClientError)

CLOSE_GRACE_S = 1.0
"""How long the end of the stream may take once the final response is here."""


class Exchange:
    """A request, its attempts, and what has arrived. Used by one thread or task at a time."""

    def __init__(
        self,
        prompt: str,
        parameters: GenerationParameters,
        *,
        model: str,
        endpoint: str,
        request_id: str,
        timeout: Timeout,
        budget: RetryBudget,
    ) -> None:
        self.request = stream.encode(prompt, parameters, model=model, request_id=request_id)
        self.endpoint = endpoint
        self.request_id = request_id
        self._log_probs = parameters.return_log_probs
        self._timeout = timeout
        self._budget = budget
        self._give_up_at = None if timeout.total is None else time.monotonic() + timeout.total
        self._attempts = 0
        self._sent_ns = time.perf_counter_ns()
        self._decoder = stream.Decoder()
        self._chunks: list[Chunk] = []
        budget.deposit()

    def finished(self) -> bool:
        """Whether the final response has arrived."""
        return self._decoder.final

    @property
    def chunks(self) -> Sequence[Chunk]:
        """What has arrived so far."""
        return self._chunks

    def begin(self) -> float | None:
        """Start an attempt; returns the seconds it may take in all."""
        self._attempts += 1
        self._decoder = stream.Decoder(log_probs=self._log_probs)
        self._sent_ns = time.perf_counter_ns()
        return self._remaining()

    def patience(self) -> float | None:
        """Seconds to wait for the next response."""
        if self.finished():
            return CLOSE_GRACE_S
        return self._timeout.idle if self._chunks else self._timeout.first_token

    def receive(self, response: Any) -> Chunk | None:
        """Take one ``ModelStreamInferResponse``; its chunk, or None when it has no content.

        Raises the error that the response stands for.
        """
        received_ns = time.perf_counter_ns()
        if response.error_message:
            raise self.attributed(translate("", response.error_message))
        chunk = self._decoder.chunk(response.infer_response, received_ns)
        if chunk is not None:
            self._chunks.append(chunk)
        return chunk

    def silence(self) -> RequestTimeout:
        """The error for a wait longer than ``patience``."""
        if self._chunks:
            error: RequestTimeout = IdleTimeout(f"no further token within {self._timeout.idle} s")
        else:
            error = FirstTokenTimeout(f"no token within {self._timeout.first_token} s")
        return self.attributed(error)

    def failure(self, code: str, text: str) -> SpecClientError:
        """The error for a stream that ended with gRPC status ``code``."""
        error = translate(code, text)
        if isinstance(error, ConnectError) and self._chunks:
            error = IncompleteStream(
                f"the connection broke after {len(self.text)} characters: {error.message}"
            )
        if isinstance(error, TotalTimeout):
            error = TotalTimeout(f"not complete within {self._timeout.total} s")
        return self.attributed(error)

    def cut(self) -> IncompleteStream:
        """The error for a stream that ended well but without its final response."""
        return self.attributed(
            IncompleteStream(f"the stream ended after {len(self.text)} characters without a final response")
        )

    def pause(self, error: SpecClientError) -> float | None:
        """Seconds to wait before the next attempt; None when ``error`` is final."""
        if self._chunks:
            return None
        pause = self._budget.pause(error, self._attempts)
        remaining = self._remaining()
        return pause if pause is None or remaining is None or pause < remaining else None

    def attributed(self, error: Failure) -> Failure:
        """``error`` with the endpoint, the request id and the text so far."""
        error.endpoint, error.request_id, error.text = self.endpoint, self.request_id, self.text
        return error

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(chunk.text for chunk in self._chunks)

    def completion(self) -> Completion:
        """The whole answer, once the stream has ended."""
        return Completion(self.request_id, tuple(self._chunks), self._sent_ns, self._attempts)

    def _remaining(self) -> float | None:
        return None if self._give_up_at is None else max(0.0, self._give_up_at - time.monotonic())
