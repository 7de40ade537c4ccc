# SPDX-License-Identifier: Apache-2.0
"""Preprocessing: text fields to ids in NVIDIA's layout, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from specclient import protocol
from support.triton import model_module

prompt = model_module("preprocessing", "prompt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>", "<pad>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def spaced_tokenizer() -> Tokenizer:
    """Puts a space before every text, as SentencePiece tokenizers do."""
    pieces = {piece: index for index, piece in enumerate(["<unk>", "▁", "s", "t", "o", "p", "\n"])}
    tokenizer = Tokenizer(models.BPE(pieces, [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def write(folder: Path, name: str, document: object) -> None:
    (folder / name).write_text(json.dumps(document), encoding="utf-8")


def test_the_prompt_keeps_its_full_length_and_gets_the_bos_token(folder: Path) -> None:
    vocabulary = prompt.Vocabulary.load(folder)
    ids = vocabulary.prompt("héllo wörld".encode())
    assert ids[0] == vocabulary.tokenizer.token_to_id("<bos>")
    assert len(ids) == 1 + len("héllo wörld".encode())


def test_special_tokens_can_be_left_to_the_client(folder: Path) -> None:
    assert len(prompt.Vocabulary.load(folder, add_special_tokens=False).prompt(b"abc")) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "text_input: the prompt is empty"),
        (b"ab\xff", "text_input: not valid UTF-8 at byte 2"),
        (b"\xed\xa0\x80", "text_input: not valid UTF-8 at byte 0"),  # a lone surrogate
        (b"a" * 10_000_000, "text_input: 10000000 bytes, at most 4194304 are accepted"),
    ],
)
def test_bad_prompts_are_refused_by_name(folder: Path, text: bytes, reason: str) -> None:
    with pytest.raises(prompt.InputError, match=f"^{reason}$"):
        prompt.Vocabulary.load(folder).prompt(text)


def test_a_prompt_that_cannot_fit_is_refused_by_its_size(folder: Path) -> None:
    vocabulary = prompt.Vocabulary.load(folder, max_input_len=10)
    longest = len("<bos>")
    with pytest.raises(prompt.InputError, match=r"text_input: 51 tokens, at most 10 are accepted"):
        vocabulary.prompt(b"a" * 10 * longest)
    with pytest.raises(prompt.InputError, match=r"text_input: 51 bytes, at most 50 are accepted"):
        vocabulary.prompt(b"a" * (10 * longest + 1))


def test_the_longest_prompt_is_counted_in_tokens(folder: Path) -> None:
    whole = len(prompt.Vocabulary.load(folder).prompt(b"hello"))
    assert len(prompt.Vocabulary.load(folder, max_input_len=whole).prompt(b"hello")) == whole
    with pytest.raises(prompt.InputError, match=f"text_input: {whole} tokens, at most {whole - 1} are"):
        prompt.Vocabulary.load(folder, max_input_len=whole - 1).prompt(b"hello")


def test_the_largest_text_is_the_protocols() -> None:
    assert prompt.MAX_TEXT_BYTES == protocol.MAX_TEXT_BYTES


@pytest.mark.parametrize("text", [b" ", b"\x00", "\u202eabc".encode(), "\U0001f468\u200d\U0001f469".encode()])
def test_unusual_text_is_served(folder: Path, text: bytes) -> None:
    assert prompt.Vocabulary.load(folder).prompt(text)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([b"a"] * 257, "stop_words: 257 words, at most 256 are accepted"),
        ([b"a" * 5000], "stop_words: a word has 5000 bytes, at most 4096"),
        ([b"\xff"], "stop_words: not valid UTF-8 at byte 0"),
    ],
)
def test_bad_words_are_refused_by_name(folder: Path, words: list[bytes], reason: str) -> None:
    with pytest.raises(prompt.InputError, match=f"^{reason}$"):
        prompt.Vocabulary.load(folder).words(words, "stop_words")


def test_words_have_no_special_tokens_and_empty_ones_are_left_out(folder: Path) -> None:
    vocabulary = prompt.Vocabulary.load(folder)
    a = vocabulary.tokenizer.token_to_id("a")
    assert vocabulary.words([b"", b"aa"], "stop_words") == [[a, a]]


def test_a_word_is_found_also_inside_a_text() -> None:
    """A tokenizer that puts a space before a text would never produce the word's ids in the middle of one."""
    vocabulary = prompt.Vocabulary(spaced_tokenizer(), end_ids=(), pad_id=0)
    assert vocabulary.words([b"stop"], "stop_words") == [[1, 2, 3, 4, 5], [2, 3, 4, 5]]


def test_word_lists_have_nvidias_layout() -> None:
    expected = [[[7, 8, 9], [2, 3, -1]]]
    assert prompt.word_list([[7, 8], [9]]).tolist() == expected
    assert prompt.word_list([]).shape == (1, 2, 0)
    assert prompt.word_list([]).dtype == np.int32


def test_the_generation_config_decides_which_tokens_end_a_text(folder: Path) -> None:
    write(folder, "config.json", {"eos_token_id": 1})
    write(folder, "generation_config.json", {"eos_token_id": [3, 5, 3], "pad_token_id": 4})
    vocabulary = prompt.Vocabulary.load(folder)
    assert (vocabulary.end_ids, vocabulary.pad_id) == ((3, 5), 4)


def test_then_the_model_and_then_the_tokenizer_decide(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {"eos_token": {"content": "<eos>"}, "pad_token": "<pad>"})
    tokenizer = prompt.Vocabulary.load(folder)
    assert tokenizer.end_ids == (tokenizer.tokenizer.token_to_id("<eos>"),)
    assert tokenizer.pad_id == tokenizer.tokenizer.token_to_id("<pad>")
    write(folder, "config.json", {"eos_token_id": 0})
    assert prompt.Vocabulary.load(folder).end_ids == (0,)


def test_a_model_may_have_no_end_token(folder: Path) -> None:
    vocabulary = prompt.Vocabulary.load(folder)
    assert (vocabulary.end_ids, vocabulary.pad_id) == ((), 0)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        prompt.Vocabulary.load(tmp_path)
