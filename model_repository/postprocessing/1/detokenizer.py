# SPDX-License-Identifier: Apache-2.0
"""Token ids to text, chunk by chunk, without state between the chunks.

A token is not a piece of text: one character of UTF-8 may span several tokens, and some tokenizers drop
the first space of an output. The tokens that precede a chunk decide both, so they come with every chunk,
and for any way of cutting a sequence the chunks' texts join to the text of the whole sequence.

For tokenizers whose tokens stand for bytes (byte-level BPE as in GPT-2, Llama 3 and Qwen; SentencePiece
with byte fallback as in Llama 2, Mistral and Gemma; Metaspace) only the last bytes before a chunk matter.
Other decoders decode everything twice, which is exact too as long as their text only grows.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

_SPACE = "▁"  # SentencePiece's visible space
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_STRIP_FIRST_SPACE = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_BYTE_FALLBACK = [
    {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]


class Detokenizer(Protocol):
    """Turns chunks into text."""

    def text(self, context: Sequence[int], chunk: Sequence[int], *, final: bool) -> str:
        """What ``chunk`` adds to the text of ``context``, all tokens before it.

        An incomplete character at the end waits for the next chunk, or becomes U+FFFD when ``final``.
        """


def load(folder: Path, *, skip_special_tokens: bool = True) -> Detokenizer:
    """The detokenizer for ``folder/tokenizer.json``. Raises ValueError when it cannot be read."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"cannot read the tokenizer {path}: {error}") from None
    return for_tokenizer(tokenizer, skip_special_tokens=skip_special_tokens)


def for_tokenizer(tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> Detokenizer:
    """The cheapest exact detokenizer for ``tokenizer``'s decoder."""
    special = (
        {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        if skip_special_tokens
        else set()
    )

    def visible(token_id: int) -> str | None:
        """The token as written in the vocabulary; None when it leaves no trace in the text."""
        token: str | None = tokenizer.id_to_token(int(token_id))
        return None if token in special else token

    decoder: Any = json.loads(tokenizer.to_str())["decoder"] or {}
    if decoder.get("type") == "ByteLevel":
        return ByteDetokenizer(visible, byte_level)
    if decoder.get("type") == "Metaspace":
        return ByteDetokenizer(visible, *_metaspace(decoder))
    if decoder.get("type") == "Sequence":
        parts = decoder["decoders"]
        if parts == _BYTE_FALLBACK:
            return ByteDetokenizer(visible, byte_fallback)
        if parts == [*_BYTE_FALLBACK, _STRIP_FIRST_SPACE]:
            return ByteDetokenizer(visible, byte_fallback, strip_first_space=True)
    return WholeDetokenizer(
        lambda ids: str(tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens))
    )


class ByteDetokenizer:
    """For decoders that map every token to bytes, whatever surrounds it.

    ``to_bytes`` maps a token; ``first_to_bytes`` maps the first token of an output where that differs;
    ``strip_first_space`` drops one space at the start of an output.
    """

    def __init__(
        self,
        visible: Callable[[int], str | None],
        to_bytes: Callable[[str], bytes],
        first_to_bytes: Callable[[str], bytes] | None = None,
        *,
        strip_first_space: bool = False,
    ) -> None:
        self._visible = visible
        self._to_bytes = to_bytes
        self._first_to_bytes = first_to_bytes or to_bytes
        self._strip_first_space = strip_first_space
        self._cache: dict[int, bytes | None] = {}

    def text(self, context: Sequence[int], chunk: Sequence[int], *, final: bool) -> str:
        tail = self._tail(context)
        data = pending(tail) + self._bytes(chunk, first=self._is_start(context))
        if self._strip_first_space and not tail and data.startswith(b" "):
            data = data[1:]
        held = b"" if final else pending(data)
        return data[: len(data) - len(held)].decode("utf-8", errors="replace")

    def _tail(self, context: Sequence[int]) -> bytes:
        """The last bytes of the context, 3 at least when there are so many: all that `pending` looks at."""
        tail = b""
        for token_id in reversed(context):
            tail = (self._piece(token_id) or b"") + tail
            if len(tail) >= 3:
                break
        return tail

    def _bytes(self, chunk: Sequence[int], *, first: bool) -> bytes:
        pieces = []
        for token_id in chunk:
            piece = self._piece(token_id)
            if piece is None:
                continue
            if first:
                piece = self._first_to_bytes(self._visible(token_id) or "")
                first = False
            pieces.append(piece)
        return b"".join(pieces)

    def _piece(self, token_id: int) -> bytes | None:
        """The token's bytes; None when it leaves no trace."""
        if token_id not in self._cache:
            token = self._visible(token_id)
            self._cache[token_id] = None if token is None else self._to_bytes(token)
        return self._cache[token_id]

    def _is_start(self, context: Sequence[int]) -> bool:
        return all(self._piece(token_id) is None for token_id in context)


class WholeDetokenizer:
    """For any decoder whose text grows with its tokens: the difference between two whole decodings."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode

    def text(self, context: Sequence[int], chunk: Sequence[int], *, final: bool) -> str:
        # Replacement characters at the end may be the start of a character that the next token completes.
        before = self._decode(context).rstrip("\ufffd") if len(context) else ""
        whole = self._decode([*context, *chunk])
        return (whole if final else whole.rstrip("\ufffd"))[len(before) :]


def pending(data: bytes) -> bytes:
    """The incomplete character at the end of ``data``: the part that more bytes could complete."""
    for start in range(len(data) - 1, max(-1, len(data) - 4), -1):
        if data[start] >= 0xC0:  # a lead byte
            suffix = data[start:]
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            return suffix if not decoder.decode(suffix) else b""
        if data[start] < 0x80:
            break
    return b""


def byte_level(token: str) -> bytes:
    """The bytes of a byte-level BPE token; a token that is not written in that alphabet stands for itself."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode("utf-8")


def byte_fallback(token: str) -> bytes:
    """The bytes of a SentencePiece token: ``<0xE4>`` is a byte, ``▁`` a space, the rest is text."""
    match = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token.replace(_SPACE, " ").encode("utf-8")


def _metaspace(decoder: dict[str, Any]) -> tuple[Callable[[str], bytes], Callable[[str], bytes]]:
    """How Metaspace decodes a token, and the first one, which loses the spaces that encoding put there."""
    mark = decoder["replacement"]

    def spaced(token: str) -> bytes:
        return str(token.replace(mark, " ")).encode("utf-8")

    def bare(token: str) -> bytes:
        return str(token.replace(mark, "")).encode("utf-8")

    return spaced, spaced if decoder["prepend_scheme"] == "never" else bare


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (openai/gpt-2, src/encoder.py, bytes_to_unicode)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
