# SPDX-License-Identifier: Apache-2.0
"""What a response is, whichever protocol carried it, and what chunks are made of it. No I/O."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from specclient.completion import Chunk, Counters
from specclient.contract import Contract, Tensors
from specclient.protocol import FinishReason

READ = frozenset(
    {
        "text_output",
        "finish_reason",
        "output_ids",
        "output_log_probs",
        "num_input_tokens",
        "num_output_tokens",
        "num_rounds",
        "total_draft_tokens",
        "total_accepted_draft_tokens",
    }
)
"""The outputs that are looked at."""

_OURS = Contract()
_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request that is ready for either protocol."""

    model: str
    request_id: str
    tensors: Tensors
    decoupled: bool


class Reply(NamedTuple):
    """One response."""

    outputs: Mapping[str, Sequence[Any]]
    """Output -> its elements, flat; text as bytes."""
    final: bool


class Decoder:
    """Turns the replies of one answer into chunks; keeps half a character until the rest arrives."""

    def __init__(self, contract: Contract = _OURS, *, log_probs: bool = False, drop_prefix: str = "") -> None:
        """``drop_prefix`` is the prompt, where a model repeats it at the start of its answer."""
        self._counts_requests = contract.counts_requests
        self._accumulates = contract.accumulates and not drop_prefix  # then the answer is one response
        self._log_probs = log_probs
        self._prefix = drop_prefix
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._index = 0
        self._counters = Counters()
        self.final = False
        """Whether the final reply has been seen."""

    def chunk(self, reply: Reply, received_ns: int) -> Chunk | None:
        """The content of ``reply``; None when it has none."""
        self.final = reply.final
        outputs = reply.outputs
        reason = b"".join(outputs.get("finish_reason", ())).decode("ascii", "replace")
        if "num_output_tokens" in outputs:
            self._counters = self._count(outputs)
        chunk = Chunk(
            text=self._new_text(b"".join(outputs.get("text_output", ()))),
            token_ids=tuple(outputs.get("output_ids", ())),
            index=self._index,
            received_ns=received_ns,
            finish_reason=_FINISH_REASONS.get(reason),
            counters=self._counters,
            log_probs=tuple(outputs.get("output_log_probs", ())) if self._log_probs else (),
        )
        if not (chunk.text or chunk.token_ids or chunk.finish_reason):
            return None
        self._index += 1
        return chunk

    def _new_text(self, data: bytes) -> str:
        if self._accumulates:
            return self._grown(data)
        text = self._utf8.decode(data, self.final)
        if self._prefix and text:
            text, self._prefix = _after(self._prefix, text), ""
        return text

    def _grown(self, data: bytes) -> str:
        """What ``data``, all text so far, adds; a replacement character at its end may still change."""
        if not data:
            return ""
        text = data.decode("utf-8", "replace")
        settled = text if self.final else text.rstrip("\ufffd")
        new = settled[len(self._text) :]
        self._text += new
        return new

    def _count(self, outputs: Mapping[str, Sequence[Any]]) -> Counters:
        def count(name: str) -> int:
            return int(outputs[name][0]) if outputs.get(name) else 0

        if not self._counts_requests:
            # The prompt's length is the request's; all else is of the last call of the engine.
            return Counters(num_input_tokens=count("num_input_tokens"))
        return Counters(
            num_input_tokens=count("num_input_tokens"),
            num_output_tokens=count("num_output_tokens"),
            num_rounds=count("num_rounds"),
            total_draft_tokens=count("total_draft_tokens"),
            total_accepted_draft_tokens=count("total_accepted_draft_tokens"),
        )


def _after(prompt: str, text: str) -> str:
    """``text`` without ``prompt`` at its start; detokenizing may have changed the space before it."""
    if text.startswith(prompt):
        return text[len(prompt) :]
    bare, space = prompt.strip(), len(text) - len(text.lstrip())
    return text[space + len(bare) :] if text.startswith(bare, space) else text
