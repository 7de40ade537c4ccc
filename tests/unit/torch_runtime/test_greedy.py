# SPDX-License-Identifier: Apache-2.0
"""Greedy decoding equals transformers' generate, with and without a draft, to the end of the window."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specbuild.torch_runtime import Engine, Request, Sampling
from support import running, tiny_models

PROMPT = [1, 5, 9, 33, 20, 7]
WINDOW = tiny_models.MAX_POSITIONS


def generated(model: torch.nn.Module, prompt: list[int], tokens: int) -> list[int]:
    output = model.generate(  # type: ignore[operator]
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    continued: list[int] = output[0, len(prompt) :].tolist()
    return continued


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A target, and a draft that agrees with it about half of the time."""
    folder = tmp_path_factory.mktemp("pair")
    target = tiny_models.save(folder / "target")
    return target, tiny_models.save_related(folder / "draft", like=target, noise=0.03)


@pytest.fixture(scope="module")
def engine(pair: tuple[Path, Path]) -> Engine:
    with running.engine(*pair, max_seq_len=WINDOW) as loaded:
        yield loaded


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_family_decodes_as_transformers_does(family: str, tmp_path: Path) -> None:
    target = tiny_models.save(tmp_path / "target", family)
    draft = tiny_models.save_related(tmp_path / "draft", like=target, noise=0.03)
    expected = generated(tiny_models.model(family), PROMPT, 80)
    with running.engine(target, draft) as loaded:
        for length in (0, 1, 4):
            request = Request(prompt=PROMPT, max_tokens=80, draft_length=length)
            assert running.finish(loaded, request).tokens == expected, length


@pytest.mark.parametrize("length", range(1, 9))
def test_draft_lengths_up_to_the_end_of_the_window(engine: Engine, length: int) -> None:
    tokens = WINDOW - len(PROMPT)
    plain = running.finish(engine, Request(prompt=PROMPT, max_tokens=tokens, draft_length=0))
    result = running.finish(engine, Request(prompt=PROMPT, max_tokens=tokens, draft_length=length))
    assert result.tokens == plain.tokens
    assert len(result.tokens) == tokens
    assert result.finish_reason == "length"
    assert result.counters.accepted > 0
    assert result.counters.accepted < result.counters.drafted


def test_every_max_tokens_gives_the_beginning_of_the_same_output(engine: Engine) -> None:
    whole = running.finish(engine, Request(prompt=PROMPT, max_tokens=40, draft_length=0)).tokens
    requests = [
        Request(prompt=PROMPT, max_tokens=tokens, draft_length=length)
        for tokens in range(1, 25)
        for length in range(1, 9)
    ]
    for request, result in zip(requests, running.finish_all(engine, requests), strict=True):
        assert result.tokens == whole[: request.max_tokens], request


def test_prompts_that_nearly_fill_the_window(pair: tuple[Path, Path]) -> None:
    ids = torch.randint(3, 64, (WINDOW - 1,), generator=torch.Generator().manual_seed(3)).tolist()
    with running.engine(*pair, max_input_len=WINDOW - 1) as loaded:
        for room in range(1, 12):
            prompt = ids[: WINDOW - room]
            plain, *others = running.finish_all(
                loaded, [Request(prompt=prompt, max_tokens=room, draft_length=n) for n in (0, 1, 3, 8)]
            )
            assert len(plain.tokens) == room
            assert [one.tokens for one in others] == [plain.tokens] * 3


def test_a_draft_equal_to_the_target_is_always_accepted(pair: tuple[Path, Path]) -> None:
    target, _ = pair
    with running.engine(target, target) as loaded:
        counters = running.finish(loaded, Request(prompt=PROMPT, max_tokens=100)).counters
    assert counters.accepted == counters.drafted
    assert counters.rounds == 11  # 99 tokens after the first one, 9 in a round


def test_greedy_constraints_do_not_depend_on_the_draft_length(engine: Engine) -> None:
    sampling = Sampling(
        repetition_penalty=1.3, presence_penalty=0.2, frequency_penalty=0.1, bad_words=((5,), (9, 33))
    )
    plain, *others = running.finish_all(
        engine,
        [
            Request(prompt=PROMPT, max_tokens=60, sampling=sampling, draft_length=length)
            for length in (0, 1, 2, 5, 8)
        ],
    )
    assert [one.tokens for one in others] == [plain.tokens] * 4
    assert 5 not in plain.tokens
    unconstrained = running.finish(engine, Request(prompt=PROMPT, max_tokens=60))
    assert plain.tokens != unconstrained.tokens


def test_chunked_prefill_equals_whole_prefill(pair: tuple[Path, Path]) -> None:
    prompt = torch.randint(3, 64, (90,), generator=torch.Generator().manual_seed(4)).tolist()
    request = Request(prompt=prompt, max_tokens=30)
    results = []
    for chunk in (1, 7, 32, 256):
        with running.engine(*pair, prefill_chunk=chunk) as loaded:
            results.append(running.finish(loaded, request).tokens)
    assert results == [results[0]] * 4


def test_adaptive_lengths_do_not_change_the_output(engine: Engine, pair: tuple[Path, Path]) -> None:
    request = Request(prompt=PROMPT, max_tokens=100)
    with running.engine(*pair, adaptive=True) as loaded:
        assert running.finish(loaded, request).tokens == running.finish(engine, request).tokens


def test_a_draft_with_another_padding_of_the_vocabulary_serves(tmp_path: Path) -> None:
    target = tiny_models.save(tmp_path / "target")
    expected = generated(tiny_models.model("llama"), PROMPT, 40)
    for size in (60, 72):
        draft = tiny_models.save(tmp_path / str(size), vocab_size=size)
        with running.engine(target, draft) as loaded:
            assert running.finish(loaded, Request(prompt=PROMPT, max_tokens=40)).tokens == expected


def test_an_engine_without_a_draft_decodes_plainly(pair: tuple[Path, Path], engine: Engine) -> None:
    request = Request(prompt=PROMPT, max_tokens=30)
    with running.engine(pair[0], None) as loaded:
        alone = running.finish(loaded, request)
    assert alone.tokens == running.finish(engine, request).tokens
    assert alone.counters.drafted == 0
