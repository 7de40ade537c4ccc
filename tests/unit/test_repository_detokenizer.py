# SPDX-License-Identifier: Apache-2.0
"""Chunks of text join to the decoding of all tokens, for every kind of tokenizer and every cut."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from support.triton import model_module

detokenizer = model_module("postprocessing", "detokenizer")

TEXTS = ["the", " the", "é", "你好", "🎉", "\n", "  ", "naïve", "Ω≈ç", "x"]
PIECES = ["▁", "▁▁", "▁the", "the", "é", "你", "▁🎉", "\n", "a", "b▁c", "Ω"]


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = [token for text in TEXTS for token, _ in pre_tokenizers.ByteLevel(False).pre_tokenize_str(text)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(alphabet + merged))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>", "<é>"])
    tokenizer.add_tokens([AddedToken("<tool call>"), AddedToken("«é»")])
    return tokenizer


def sentencepiece(*, strip: bool) -> Tokenizer:
    tokens = ["<unk>", *[f"<0x{byte:02X}>" for byte in range(256)], *PIECES]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def metaspace(scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in ["<unk>", *PIECES]], 0, False))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def word_pieces() -> Tokenizer:
    tokens = ["[UNK]", "the", "##re", "cat", "##s", "é", "##ê"]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}))
    tokenizer.decoder = decoders.WordPiece("##", cleanup=False)
    tokenizer.add_special_tokens(["[SEP]"])
    return tokenizer


TOKENIZERS = {
    "byte level": byte_level(),
    "SentencePiece BPE": sentencepiece(strip=True),
    "SentencePiece BPE that keeps the first space": sentencepiece(strip=False),
    "Metaspace": metaspace("always"),
    "Metaspace that adds no space": metaspace("never"),
    "WordPiece": word_pieces(),
}


def sequences(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Any ids, also some that the tokenizer lacks; SentencePiece's byte tokens as whole characters."""
    size = tokenizer.get_vocab_size()
    byte_ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    if byte_ids[0] is None:
        return st.lists(st.integers(0, size + 2), max_size=30)
    # The library turns a run of byte tokens that is not UTF-8 into one U+FFFD per byte, including its valid
    # part; that cannot be known before the run ends, so only valid runs can agree with it.
    character = st.characters(exclude_categories=["Cs"]).map(
        lambda text: [byte_ids[byte] for byte in text.encode()]
    )
    other = st.integers(257, size + 2).map(lambda token_id: [token_id])
    return st.lists(st.one_of(character, other), max_size=20).map(
        lambda parts: list(chain.from_iterable(parts))
    )


def cut(ids: list[int], places: list[int]) -> list[list[int]]:
    bounds = sorted({0, len(ids), *(place % (len(ids) + 1) for place in places)})
    return [ids[start:end] for start, end in pairwise(bounds)] or [[]]


def stream(subject: object, chunks: list[list[int]]) -> list[str]:
    context: list[int] = []
    texts = []
    for index, chunk in enumerate(chunks):
        texts.append(subject.text(context, chunk, final=index == len(chunks) - 1))  # type: ignore[attr-defined]
        context += chunk
    return texts


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("skip", [True, False], ids=["special tokens skipped", "special tokens kept"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_chunks_join_to_the_whole_decoding(kind: str, skip: bool, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    subject = detokenizer.for_tokenizer(tokenizer, skip_special_tokens=skip)
    ids = data.draw(sequences(tokenizer))
    chunks = cut(ids, data.draw(st.lists(st.integers(0, 60), max_size=8)))
    assert "".join(stream(subject, chunks)) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", ["byte level", "SentencePiece BPE"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_cut_changes_nothing_even_in_broken_text(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    subject = detokenizer.for_tokenizer(tokenizer)
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size()), max_size=30))
    chunks = cut(ids, data.draw(st.lists(st.integers(0, 60), max_size=8)))
    assert "".join(stream(subject, chunks)) == subject.text([], ids, final=True)


def test_no_chunk_holds_half_a_character() -> None:
    tokenizer = TOKENIZERS["byte level"]
    subject = detokenizer.for_tokenizer(tokenizer)
    alphabet = {byte: character for character, byte in detokenizer._BYTE_OF.items()}
    text = "é你🎉"
    ids = [tokenizer.token_to_id(alphabet[byte]) for byte in text.encode()]
    texts = stream(subject, [[token_id] for token_id in ids])
    assert [piece for piece in texts if piece] == list(text)


def test_an_unfinished_character_becomes_a_replacement_at_the_end_only() -> None:
    subject = detokenizer.for_tokenizer(TOKENIZERS["SentencePiece BPE"])
    half = TOKENIZERS["SentencePiece BPE"].token_to_id("<0xE4>")
    assert subject.text([], [half], final=False) == ""
    assert subject.text([half], [], final=True) == "\ufffd"


def test_whole_decoding_serves_any_other_decoder() -> None:
    tokenizer = TOKENIZERS["byte level"]
    subject = detokenizer.WholeDetokenizer(tokenizer.decode)
    ids = tokenizer.encode("").ids + list(range(40, 60))
    assert "".join(stream(subject, [ids[:7], ids[7:8], ids[8:]])) == tokenizer.decode(ids)


def test_a_missing_tokenizer_is_named(tmp_path: object) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        detokenizer.load(tmp_path)
