# SPDX-License-Identifier: Apache-2.0
"""What the front must know about the deployment that it speaks for."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbuild.config import Config
from specbuild.errors import RepositoryError
from specbuild.openai_front.refusal import Refusal
from specbuild.repository import modelconfig
from specclient import ChatTemplate, InvalidRequest


@dataclass(frozen=True)
class Deployment:
    """One served pair."""

    name: str
    """What clients call the model."""
    url: str
    """The server's gRPC address."""
    max_seq_len: int
    tokenizer_dir: Path
    add_special_tokens: bool = True
    api_key: str | None = None

    @classmethod
    def of(cls, settings: Config, url: str, *, api_key: str | None) -> Deployment:
        """The deployment of ``settings``, served at ``url``. Raises RepositoryError."""
        try:
            parameters = modelconfig.read(settings.repository_dir / "preprocessing").parameters
        except (OSError, ValueError) as error:
            raise RepositoryError(
                f"{settings.repository_dir} has no readable preprocessing model: {error}",
                remedy="Write the repository again: `specbuild repository --config FILE`.",
            ) from error
        return cls(
            name=settings.name,
            url=url,
            max_seq_len=settings.limits.max_seq_len,
            tokenizer_dir=Path(parameters["tokenizer_dir"].string_value),
            add_special_tokens=parameters["add_special_tokens"].string_value != "false",
            api_key=api_key,
        )

    @functools.cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The target's chat template; None when it has none."""
        try:
            return ChatTemplate.load(self.tokenizer_dir, add_special_tokens=self.add_special_tokens)
        except InvalidRequest:
            return None

    def room_after(self, prompt: str) -> int:
        """How many tokens fit after ``prompt``; at least 1, so that the server says what is too long.

        Raises Refusal without a tokenizer, as ``token_text`` does.
        """
        count = len(self._tokenizer.encode(prompt, add_special_tokens=self.add_special_tokens).ids)
        return max(1, self.max_seq_len - count)

    def token_text(self, token_id: int) -> str:
        """One token as text; U+FFFD stands for a part of a character."""
        return str(self._tokenizer.decode([token_id], skip_special_tokens=False))

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        path = self.tokenizer_dir / "tokenizer.json"
        if not path.is_file():
            raise Refusal(
                400, "this server has no tokenizer at hand: give max_tokens, and leave logprobs out"
            )
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
