# SPDX-License-Identifier: Apache-2.0
"""Token counts, and text of an exact number of tokens. The ``tokenizers`` library alone, imported late."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from specclient.bench.workload.errors import WorkloadError

ATTEMPTS = 8
"""Cuts tried until a text has the asked number of tokens: pieces that meet at a cut may merge into one."""


class TextTokenizer:
    """The tokenizer of the served model, with the special tokens that it puts around a text."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        """``tokenizer`` is a ``tokenizers.Tokenizer``."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.name = name

    @classmethod
    def load(cls, source: str) -> TextTokenizer:
        """That of a folder, a tokenizer.json or a Hugging Face id. Raises WorkloadError."""
        from tokenizers import Tokenizer

        path = Path(source)
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            found = Tokenizer.from_file(str(file)) if path.exists() else Tokenizer.from_pretrained(source)
        except Exception as error:  # the library raises plain Exception
            raise WorkloadError(
                f"cannot load the tokenizer {source}: {error}",
                remedy="Name the target's folder, its tokenizer.json or its Hugging Face id.",
            ) from error
        return cls(found, path.name or source)

    @functools.cached_property
    def _ordinary(self) -> list[int]:
        """The ids of all tokens that are text."""
        special = set(self._tokenizer.get_added_tokens_decoder())
        return [i for i in range(self._tokenizer.get_vocab_size()) if i not in special]

    @property
    def sha256(self) -> str:
        """Identifies the tokenizer by its definition."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def count(self, text: str) -> int:
        """Tokens of ``text`` as a whole prompt, special tokens included."""
        return len(self._tokenizer.encode(text).ids)

    def random_text(self, tokens: int, ids: Iterator[int]) -> str:
        """The text of ``tokens`` random tokens; tokenized again it has about as many."""
        chosen = [self._ordinary[next(ids) % len(self._ordinary)] for _ in range(tokens)]
        return str(self._tokenizer.decode(chosen))

    def fit(self, text: str, tokens: int, filler: Iterator[str]) -> tuple[str, int]:
        """``text`` with ``tokens`` tokens, and how many it has: some texts allow a near miss only.

        A longer text loses its end. A shorter one gets ``filler`` before it, so that its own end stays; the
        filler's beginning is cut.
        """
        pieces = [text] if text else []
        total = self.count(text) if text else 0
        extended = total < tokens
        while total < tokens:
            piece = next(filler)
            pieces.insert(0, piece)
            total += max(1, self.count(piece))
        return self._cut("\n\n".join(pieces), tokens, keep_end=extended)

    def fit_start(self, text: str, tokens: int, filler: Iterator[str]) -> tuple[str, int]:
        """As ``fit``, but the beginning stays: filler goes to the end."""
        total = self.count(text)
        pieces = [text]
        while total < tokens:
            pieces.append(next(filler))
            total += max(1, self.count(pieces[-1]))
        return self._cut("\n\n".join(pieces), tokens, keep_end=False)

    def _cut(self, text: str, tokens: int, *, keep_end: bool) -> tuple[str, int]:
        encoding = self._tokenizer.encode(text)
        spans = [
            span
            for span, special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
            if not special
        ]
        keep = tokens - (len(encoding.ids) - len(spans))
        best = text, len(encoding.ids)
        for _ in range(ATTEMPTS):
            keep = min(max(keep, 1), len(spans))
            cut = text[spans[-keep][0] :] if keep_end else text[: spans[keep - 1][1]]
            count = self.count(cut)
            if cut and abs(count - tokens) < abs(best[1] - tokens):
                best = cut, count
            if count == tokens:
                break
            keep += tokens - count
        return best
