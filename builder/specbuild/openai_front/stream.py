# SPDX-License-Identifier: Apache-2.0
"""A streamed answer as the documents that OpenAI's clients read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specbuild.openai_front.documents import Shape, TokenText
from specbuild.openai_front.generation import Generation, Piece, usage
from specbuild.openai_front.refusal import from_server
from specclient import SpecClientError


@dataclass(slots=True)
class Stream:
    """One response while it is sent."""

    frame: Mapping[str, Any]
    """What all documents share."""
    shape: Shape
    token_text: TokenText | None
    generations: Sequence[Generation]
    include_usage: bool
    _characters: dict[int, int] = field(default_factory=dict)
    """Choice -> how many characters its tokens had so far."""

    async def documents(
        self, first: Piece | None, rest: AsyncGenerator[Piece, None]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """One document after another. An error has become one, since the status has been sent."""
        async with contextlib.aclosing(rest):
            piece = first
            while piece is not None:
                for choice in self._choices(piece):
                    yield self._framed([choice])
                try:
                    piece = await anext(rest, None)
                except SpecClientError as error:
                    yield from_server(error).document
                    return
        if self.include_usage:
            yield self._framed([], usage(self.generations))

    def _choices(self, piece: Piece) -> list[dict[str, Any]]:
        choices = []
        if piece.choice not in self._characters:
            self._characters[piece.choice] = 0
            choices += self.shape.opening(piece.choice)
        if piece.text or piece.finish_reason or self.token_text is not None:
            choices.append(self.shape.piece(piece, self.token_text, self._characters[piece.choice]))
        if self.token_text is not None:
            self._characters[piece.choice] += sum(len(self.token_text(token)) for token in piece.token_ids)
        return choices

    def _framed(
        self, choices: list[dict[str, Any]], figures: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        # With include_usage every document has the field, and only the last one a value.
        return {**self.frame, "choices": choices, **({"usage": figures} if self.include_usage else {})}
