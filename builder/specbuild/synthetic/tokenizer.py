# SPDX-License-Identifier: Apache-2.0
"""The tokenizer both models of a synthetic pair share: byte-level BPE trained on the text, or mere words."""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
BOS_ID, EOS_ID = 0, 1
MIN_VOCAB_SIZE = 256 + 2
_LETTERS = 4

_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "# {{ message['role'] }}: {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}# assistant: {% endif %}"
)


def train(documents: Sequence[str], vocab_size: int) -> Any:
    """A ``tokenizers.Tokenizer`` of at most ``vocab_size`` tokens, the same for the same documents.

    All 256 bytes are tokens, so that any UTF-8 text survives encoding and decoding. Encoding puts the
    begin token first, as Llama does. A small text yields fewer tokens than asked for.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    return tokenizer


def made_of_words(vocab_size: int) -> Any:
    """A ``tokenizers.Tokenizer`` of exactly ``vocab_size`` tokens, for models that know no text.

    Every token but the special ones is a word of ``_LETTERS`` letters with the space before it, in the
    byte-level alphabet, so that any sequence of tokens is a text that encodes to it again. What is no such
    word encodes to the begin token; no begin token is added.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = itertools.product(string.ascii_lowercase, repeat=_LETTERS)
    words = {f"Ġ{''.join(word)}": number for number, word in zip(range(2, vocab_size), letters, strict=False)}
    tokenizer = Tokenizer(models.WordLevel({BOS: BOS_ID, EOS: EOS_ID, **words}, unk_token=BOS))
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def encode(tokenizer: Any, documents: Sequence[str]) -> list[npt.NDArray[np.int64]]:
    """The token ids of each document, begin token included."""
    return [np.asarray(encoding.ids, np.int64) for encoding in tokenizer.encode_batch_fast(list(documents))]


def write(tokenizer: Any, folder: Path, *, max_length: int) -> None:
    """``tokenizer.json`` and ``tokenizer_config.json`` in ``folder``, as transformers loads them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
