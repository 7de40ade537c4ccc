# SPDX-License-Identifier: Apache-2.0
"""Penalties, bad words and min_tokens look at prompt, output and the draft tokens before a position."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from specbuild.torch_runtime import Request, Sampling
from specbuild.torch_runtime.constraints import BANNED, Constraints

CPU = torch.device("cpu")
VOCAB = 8
NOTHING = torch.zeros(0, dtype=torch.long)


def constraints(
    prompt: list[int], *, end: frozenset[int] = frozenset(), minimum: int = 0, **sampling: Any
) -> Constraints:
    request = Request(
        prompt=prompt, max_tokens=20, end_ids=end, min_tokens=minimum, sampling=Sampling(**sampling)
    )
    assert Constraints.needed(request)
    return Constraints(request, VOCAB, CPU)


def logits(rows: int = 1) -> torch.Tensor:
    return torch.tensor([[2.0, -2.0, 1.0, -1.0, 0.5, -0.5, 3.0, 0.0]]).repeat(rows, 1)


def test_penalties_follow_tensorrt_llm_over_prompt_and_output() -> None:
    kept = constraints([0, 0, 1], repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5)
    kept.append([6])
    result = kept.apply(logits(), NOTHING, 0)[0]
    expected = logits()[0]
    expected[0] = 2.0 / 2 - 0.25 - 2 * 0.5
    expected[1] = -2.0 * 2 - 0.25 - 0.5
    expected[6] = 3.0 / 2 - 0.25 - 0.5
    assert torch.equal(result, expected)


def test_penalties_inside_a_burst_count_the_draft_tokens_before_each_position() -> None:
    kept = constraints([0], frequency_penalty=1.0)
    drafted = torch.tensor([2, 2, 4])
    result = kept.apply(logits(4), drafted, 0)
    change = logits(4) - result
    assert change[:, 0].tolist() == [1, 1, 1, 1]
    assert change[:, 2].tolist() == [0, 1, 2, 2]
    assert change[:, 4].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_a_draft_step_sees_what_the_same_row_of_the_verification_sees(step: int) -> None:
    kept = constraints(
        [5, 1], end=frozenset({7}), minimum=3, repetition_penalty=1.3, bad_words=((1, 2), (2, 3, 6), (4,))
    )
    kept.append([0])
    drafted = torch.tensor([1, 2, 3])
    whole = kept.apply(logits(4), drafted, 0)
    assert torch.equal(kept.apply(logits(), drafted[:step], step), whole[step : step + 1])


def test_a_single_bad_word_is_banned_everywhere() -> None:
    result = constraints([0], bad_words=((6,), (2,))).apply(logits(3), torch.tensor([1, 1]), 0)
    assert (result[:, [2, 6]] == BANNED).all()
    assert (result[:, [0, 1, 3, 4, 5, 7]] == logits(3)[:, [0, 1, 3, 4, 5, 7]]).all()


def test_the_last_token_of_a_bad_sequence_is_banned_after_its_beginning_only() -> None:
    kept = constraints([3, 4], bad_words=((3, 4, 6),))
    assert kept.apply(logits(), NOTHING, 0)[0, 6] == BANNED
    result = kept.apply(logits(4), torch.tensor([3, 4, 0]), 0)
    assert (result[:, 6] == BANNED).tolist() == [True, False, True, False]


def test_a_bad_sequence_may_begin_in_the_output_and_go_on_in_the_draft() -> None:
    kept = constraints([0], bad_words=((3, 4, 6),))
    assert kept.apply(logits(), NOTHING, 0)[0, 6] == 3.0
    kept.append([3])
    result = kept.apply(logits(2), torch.tensor([4]), 0)
    assert (result[:, 6] == BANNED).tolist() == [False, True]


def test_end_tokens_are_banned_until_min_tokens() -> None:
    kept = constraints([0], end=frozenset({1, 7}), minimum=3)
    banned = kept.apply(logits(5), torch.tensor([2, 2, 2, 2]), 0)[:, 7] == BANNED
    assert banned.tolist() == [True, True, True, False, False]
    kept.append([2, 2])
    banned = kept.apply(logits(2), torch.tensor([2]), 0)[:, 1] == BANNED
    assert banned.tolist() == [True, False]


def test_banning_every_token_leaves_finite_probabilities() -> None:
    kept = constraints([0], bad_words=tuple((token,) for token in range(VOCAB)))
    assert kept.apply(logits(), NOTHING, 0).softmax(-1).isfinite().all()


def test_logits_are_not_changed_in_place() -> None:
    before = logits()
    constraints([0], bad_words=((6,),), frequency_penalty=1.0).apply(before, NOTHING, 0)
    assert torch.equal(before, logits())


def test_plain_requests_need_none() -> None:
    assert not Constraints.needed(Request(prompt=[1], max_tokens=1, min_tokens=5))
    assert not Constraints.needed(
        Request(prompt=[1], max_tokens=1, sampling=Sampling(temperature=2.0, top_k=3))
    )
