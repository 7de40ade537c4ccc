# SPDX-License-Identifier: Apache-2.0
"""One request's life without I/O: what both clients share, so that each is a thin loop around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeVar

from specclient import protocol
from specclient.completion import Chunk, Completion
from specclient.contract import Contract
from specclient.errors import (
    ConnectError,
    FirstTokenTimeout,
    IdleTimeout,
    IncompleteStream,
    InvalidRequest,
    RequestTimeout,
    SpecClientError,
    TotalTimeout,
)
from specclient.parameters import GenerationParameters, checked_text
from specclient.reply import Decoder, Outgoing, Reply
from specclient.retry import RetryBudget
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
        """Raises InvalidRequest."""
        self.model = model
        self.endpoint = endpoint
        self.request_id = request_id
        self._prompt = checked_prompt(prompt)
        self._parameters = parameters
        self._timeout = timeout
        self._budget = budget
        self._give_up_at = None if timeout.total is None else time.monotonic() + timeout.total
        self._attempts = 0
        self._sent_ns = time.perf_counter_ns()
        self._decoder = Decoder()
        self._waits_for_total = False
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
        return self.remaining()

    def outgoing(self, contract: Contract) -> Outgoing:
        """What to send to a model with ``contract``; the time to the first token counts from here.

        Raises InvalidRequest for what the model cannot do.
        """
        tensors = contract.tensors(self._prompt, self._parameters)
        repeated = contract.speculates_in_one_piece(self._parameters)
        self._decoder = Decoder(
            contract,
            log_probs=self._parameters.return_log_probs,
            drop_prefix=self._prompt.decode() if repeated else "",
        )
        self._sent_ns = time.perf_counter_ns()
        return Outgoing(self.model, self.request_id, tensors, decoupled=contract.decoupled)

    def patience(self) -> float | None:
        """Seconds to wait for the next reply."""
        if self.finished():
            return CLOSE_GRACE_S
        limit = self._timeout.idle if self._chunks else self._timeout.first_token
        remaining = self.remaining()
        self._waits_for_total = remaining is not None and (limit is None or remaining <= limit)
        return remaining if self._waits_for_total else limit

    def receive(self, reply: Reply) -> Chunk | None:
        """Take one reply; its chunk, or None when it has no content."""
        chunk = self._decoder.chunk(reply, time.perf_counter_ns())
        if chunk is not None:
            self._chunks.append(chunk)
        return chunk

    def silence(self) -> RequestTimeout:
        """The error for a wait longer than ``patience``."""
        if self._waits_for_total:
            error: RequestTimeout = TotalTimeout(f"not complete within {self._timeout.total} s")
        elif self._chunks:
            error = IdleTimeout(f"no further token within {self._timeout.idle} s")
        else:
            error = FirstTokenTimeout(f"no token within {self._timeout.first_token} s")
        return self.attributed(error)

    def failure(self, error: SpecClientError) -> SpecClientError:
        """The error for an attempt that ended with ``error``."""
        if isinstance(error, ConnectError) and self._chunks:
            error = IncompleteStream(
                f"the connection broke after {len(self.text)} characters: {error.message}"
            )
        if isinstance(error, TotalTimeout):  # the server was faster to see that the time is over
            return self.silence()
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
        remaining = self.remaining()
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

    def remaining(self) -> float | None:
        """Seconds until the whole must be complete; None without a limit."""
        return None if self._give_up_at is None else max(0.0, self._give_up_at - time.monotonic())


def checked_prompt(prompt: str) -> bytes:
    """``prompt`` as UTF-8. Raises InvalidRequest when it is empty, too long or no text."""
    text = checked_text(prompt, "prompt")
    if len(text) > protocol.MAX_TEXT_BYTES:
        raise InvalidRequest(
            f"the prompt has {len(text):,} bytes", remedy=f"At most {protocol.MAX_TEXT_BYTES:,} are accepted."
        )
    return text
