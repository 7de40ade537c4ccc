# SPDX-License-Identifier: Apache-2.0
"""Answers in the shapes of OpenAI's two endpoints, whole and in pieces. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from specbuild.openai_front.generation import Piece

TokenText = Callable[[int], str]


@dataclass(slots=True)
class Choice:
    """One answer as far as it has come."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.token_ids += piece.token_ids
        self.log_probs += piece.log_probs
        self.finish_reason = piece.finish_reason


class Shape(Protocol):
    """One endpoint's documents. With ``token_text`` a choice carries its log-probabilities."""

    prefix: str
    whole_object: str
    piece_object: str

    def whole(self, choice: Choice, token_text: TokenText | None) -> dict[str, Any]: ...

    def opening(self, index: int) -> list[dict[str, Any]]:
        """What a stream says of a choice before its first text."""

    def piece(self, piece: Piece, token_text: TokenText | None, offset: int) -> dict[str, Any]:
        """``offset`` characters of the choice's tokens came before."""


class CompletionShape:
    """``/v1/completions``."""

    prefix = "cmpl"
    whole_object = piece_object = "text_completion"

    def whole(self, choice: Choice, token_text: TokenText | None) -> dict[str, Any]:
        return self._choice(
            choice.index,
            choice.text,
            choice.finish_reason,
            _legacy(choice.token_ids, choice.log_probs, token_text, 0),
        )

    def opening(self, index: int) -> list[dict[str, Any]]:
        del index
        return []

    def piece(self, piece: Piece, token_text: TokenText | None, offset: int) -> dict[str, Any]:
        log_probs = _legacy(piece.token_ids, piece.log_probs, token_text, offset)
        return self._choice(piece.choice, piece.text, piece.finish_reason, log_probs)

    def _choice(
        self, index: int, text: str, reason: str | None, log_probs: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": log_probs, "finish_reason": reason}


class ChatShape:
    """``/v1/chat/completions``."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def whole(self, choice: Choice, token_text: TokenText | None) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": _content(choice.token_ids, choice.log_probs, token_text),
            "finish_reason": choice.finish_reason,
        }

    def opening(self, index: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def piece(self, piece: Piece, token_text: TokenText | None, offset: int) -> dict[str, Any]:
        del offset
        return {
            "index": piece.choice,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": _content(piece.token_ids, piece.log_probs, token_text),
            "finish_reason": piece.finish_reason,
        }


def _legacy(
    ids: Sequence[int], log_probs: Sequence[float], token_text: TokenText | None, offset: int
) -> dict[str, Any] | None:
    if token_text is None:
        return None
    tokens = [token_text(token_id) for token_id in ids]
    offsets = [offset + sum(map(len, tokens[:position])) for position in range(len(tokens))]
    return {
        "tokens": tokens,
        "token_logprobs": list(log_probs),
        "top_logprobs": None,
        "text_offset": offsets,
    }


def _content(
    ids: Sequence[int], log_probs: Sequence[float], token_text: TokenText | None
) -> dict[str, Any] | None:
    if token_text is None:
        return None
    content = []
    for token_id, log_prob in zip(ids, log_probs, strict=False):
        text = token_text(token_id)
        # A part of a character has no text of its own.
        data = None if "\ufffd" in text else list(text.encode())
        content.append({"token": text, "logprob": log_prob, "bytes": data, "top_logprobs": []})
    return {"content": content, "refusal": None}
