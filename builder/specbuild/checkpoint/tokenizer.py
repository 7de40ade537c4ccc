# SPDX-License-Identifier: Apache-2.0
"""The tokenizer and chat template of a checkpoint, as data to compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from specbuild.checkpoint.folder import Folder, parse_object
from specbuild.errors import CheckpointError

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
_OTHER_FORMATS = ("tokenizer.model", "spiece.model", "tekken.json", "vocab.json", "qwen.tiktoken")
_MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What text the ids stand for, and by which rules text is cut."""

    tokens: Mapping[int, str]
    """Every id with its text, added tokens included."""
    added: Mapping[int, bool]
    """Ids of the added tokens; True where they are special (control) tokens."""
    rules: Mapping[str, str]
    """Fingerprint per part of tokenizer.json that cuts text: normalizer, merges, ..."""

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.tokens, default=-1) + 1


def read(folder: Folder) -> Tokenizer:
    """The tokenizer of tokenizer.json. Raises CheckpointError when it is missing or not usable."""
    data = folder.read(TOKENIZER, max_bytes=_MAX_BYTES)
    if data is None:
        raise _missing(folder)
    document = parse_object(data, source=folder.path / TOKENIZER)
    library = _load(folder, data)
    return Tokenizer(
        tokens={index: text for text, index in library.get_vocab(with_added_tokens=True).items()},
        added={index: token.special for index, token in library.get_added_tokens_decoder().items()},
        rules=_rules(document),
    )


def read_chat_template(folder: Folder) -> str | None:
    """The default chat template, from its own file or from tokenizer_config.json; None without one."""
    if (data := folder.read(CHAT_TEMPLATE)) is not None:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _invalid(folder, CHAT_TEMPLATE, f"not UTF-8 text (byte {error.start})") from None
    template = (folder.json(TOKENIZER_CONFIG) or {}).get("chat_template")
    if isinstance(template, list):  # several, each with a name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _missing(folder: Folder) -> CheckpointError:
    other = next((name for name in _OTHER_FORMATS if folder.find(name) is not None), None)
    if other is None:
        return CheckpointError(
            f"{folder.path} has no {TOKENIZER}",
            remedy="Complete the download of the checkpoint.",
            code="tokenizer-missing",
        )
    return CheckpointError(
        f"{folder.path} has its tokenizer only as {other}, not as {TOKENIZER}",
        remedy='Convert it with the sentencepiece package installed: python -c "from transformers import '
        f"AutoTokenizer as T; T.from_pretrained('{folder.path}').save_pretrained('{folder.path}')\"",
        code="tokenizer-missing",
    )


def _load(folder: Folder, data: bytes) -> Any:
    """``data`` as the tokenizers library loads it; its refusal is the checkpoint's error."""
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_buffer(data)
    except BaseException as error:
        # A Rust panic arrives as PanicException, which derives from BaseException alone.
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise _invalid(folder, TOKENIZER, f"the tokenizers library refuses it: {error}") from None


def _rules(document: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of the parts that decide how text becomes tokens, apart from the vocabulary."""
    model = document.get("model") or {}
    # Older files write a merge as "a b", newer ones as ["a", "b"].
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or []]
    parts = {
        "model type": model.get("type"),
        "merges": merges,
        "normalizer": document.get("normalizer"),
        "pre-tokenizer": document.get("pre_tokenizer"),
    }
    encode = partial(json.dumps, sort_keys=True)
    return {name: hashlib.sha256(encode(part).encode()).hexdigest() for name, part in parts.items()}


def _invalid(folder: Folder, name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder.path / name}: {reason[:300]}",
        remedy="Download the file again, or update specbuild's tokenizers package.",
        code="file-invalid",
    )
