# SPDX-License-Identifier: Apache-2.0
"""Text to token ids: the prompt, and stop and bad words in NVIDIA's layout. Refusals name the field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

MAX_TEXT_BYTES = 4 << 20  # gRPC itself has no limit on a request
MAX_WORDS = 256
MAX_WORD_BYTES = 4096


class InputError(ValueError):
    """The request cannot be served; the message is for its sender."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with the ids that end and pad a text, as the checkpoint defines them."""

    tokenizer: Tokenizer
    end_ids: tuple[int, ...]
    pad_id: int
    add_special_tokens: bool = True
    max_text_bytes: int = MAX_TEXT_BYTES
    max_input_len: int | None = None

    @classmethod
    def load(
        cls, folder: Path, *, add_special_tokens: bool = True, max_input_len: int | None = None
    ) -> Vocabulary:
        """Read ``folder``'s tokenizer. Raises ValueError when it cannot be read.

        Text that ``max_input_len`` tokens could not hold if all were the longest one is refused by its size:
        to tokenize 4 MiB takes seconds, in which nobody else would be served.
        """
        path = folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"cannot read the tokenizer {path}: {error}") from None
        # A saved tokenizer may carry the truncation and padding of its training.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        end_ids = _end_ids(folder, tokenizer)
        pad_id = _pad_id(folder, tokenizer, default=end_ids[0] if end_ids else 0)
        longest = max(len(token.encode("utf-8")) for token in tokenizer.get_vocab())
        limit = MAX_TEXT_BYTES if max_input_len is None else min(MAX_TEXT_BYTES, max_input_len * longest)
        return cls(tokenizer, end_ids, pad_id, add_special_tokens, limit, max_input_len)

    def prompt(self, text: bytes) -> list[int]:
        """The prompt's token ids. Raises InputError."""
        if not text:
            raise InputError("text_input: the prompt is empty")
        if len(text) > self.max_text_bytes:
            raise InputError(f"text_input: {len(text)} bytes, at most {self.max_text_bytes} are accepted")
        decoded = _utf8(text, "text_input")
        ids: list[int] = self.tokenizer.encode(decoded, add_special_tokens=self.add_special_tokens).ids
        if not ids:
            raise InputError("text_input: the prompt has no tokens")
        if self.max_input_len is not None and len(ids) > self.max_input_len:
            raise InputError(f"text_input: {len(ids)} tokens, at most {self.max_input_len} are accepted")
        return ids

    def words(self, words: Sequence[bytes], field: str) -> list[list[int]]:
        """The token ids of each word; empty words are left out, as NVIDIA does. Raises InputError."""
        if len(words) > MAX_WORDS:
            raise InputError(f"{field}: {len(words)} words, at most {MAX_WORDS} are accepted")
        sequences = []
        for word in words:
            if len(word) > MAX_WORD_BYTES:
                raise InputError(f"{field}: a word has {len(word)} bytes, at most {MAX_WORD_BYTES}")
            sequences += self._spellings(_utf8(word, field))
        return sequences

    def _spellings(self, word: str) -> list[list[int]]:
        """The word's ids at the start of a text and inside one: SentencePiece puts a space at the start."""
        at_start = self.tokenizer.encode(word, add_special_tokens=False).ids
        anchor = self.tokenizer.encode("\n", add_special_tokens=False).ids
        inside = self.tokenizer.encode("\n" + word, add_special_tokens=False).ids
        spellings = [at_start]
        if inside[: len(anchor)] == anchor:
            spellings.append(inside[len(anchor) :])
        return [list(ids) for ids in dict.fromkeys(map(tuple, spellings)) if ids]


def word_list(sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """NVIDIA's layout [1, 2, n]: all ids, and where each sequence ends, padded with 0 and -1."""
    ids = [token_id for sequence in sequences for token_id in sequence]
    ends = np.cumsum([len(sequence) for sequence in sequences], dtype=np.int32)
    rows = np.zeros((1, 2, len(ids)), dtype=np.int32)
    rows[0, 0] = ids
    rows[0, 1] = -1
    rows[0, 1, : len(ends)] = ends
    return rows


def _utf8(text: bytes, field: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{field}: not valid UTF-8 at byte {error.start}") from None


def _end_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end a text: generation_config.json's, else config.json's, else the tokenizer's."""
    for name in ("generation_config.json", "config.json"):
        value = _json(folder / name).get("eos_token_id")
        if value is not None:
            return tuple(dict.fromkeys(value if isinstance(value, list) else [value]))
    token_id = _token_id(folder, tokenizer, "eos_token")
    return () if token_id is None else (token_id,)


def _pad_id(folder: Path, tokenizer: Tokenizer, *, default: int) -> int:
    value = _json(folder / "generation_config.json").get("pad_token_id")
    if value is None:
        value = _token_id(folder, tokenizer, "pad_token")
    return default if value is None else int(value)


def _token_id(folder: Path, tokenizer: Tokenizer, key: str) -> int | None:
    token = _json(folder / "tokenizer_config.json").get(key)
    if isinstance(token, dict):
        token = token.get("content")
    return tokenizer.token_to_id(token) if isinstance(token, str) else None


def _json(path: Path) -> dict[str, Any]:
    """The document in ``path``; empty when there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
