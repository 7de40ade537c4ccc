# SPDX-License-Identifier: Apache-2.0
"""Logits become the distributions that the settings describe, and uniform numbers their tokens."""

from __future__ import annotations

import pytest
import torch

from specbuild.torch_runtime.sampling import Shape, distributions, draw

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, 1.5]])


def shape(*, greedy: bool = False, top_k: int | None = None, top_p: float | None = None) -> Shape:
    return Shape(
        temperature=torch.ones(1),
        greedy=torch.tensor([greedy]),
        top_k=None if top_k is None else torch.tensor([top_k]),
        top_p=None if top_p is None else torch.tensor([top_p]),
    )


def test_without_truncation_it_is_the_softmax() -> None:
    assert torch.allclose(distributions(LOGITS, shape()), LOGITS.softmax(-1))


def test_top_k_keeps_the_k_largest_and_renormalises() -> None:
    expected = torch.tensor([[2.0, -torch.inf, -torch.inf, -torch.inf, 1.5]]).softmax(-1)
    assert torch.allclose(distributions(LOGITS, shape(top_k=2)), expected)


def test_top_k_keeps_exactly_k_of_equal_logits() -> None:
    kept = distributions(torch.zeros(1, 6), shape(top_k=3))
    assert kept.tolist()[0] == pytest.approx([1 / 3] * 3 + [0] * 3)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, {0}), (0.5, {0, 4}), (0.75, {0, 4, 1}), (0.999, {0, 1, 2, 3, 4})]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, kept: set[int]) -> None:
    result = distributions(LOGITS, shape(top_p=top_p))[0]
    assert set(result.nonzero()[:, 0].tolist()) == kept
    assert result.sum().item() == pytest.approx(1)


def test_top_p_looks_at_what_top_k_left() -> None:
    # Of the two largest (0.62 and 0.38) the first alone reaches 0.6; of all five it has only 0.46.
    result = distributions(LOGITS, shape(top_k=2, top_p=0.6))
    assert result.tolist() == [[1, 0, 0, 0, 0]]


def test_rows_without_truncation_are_untouched_beside_rows_with_it() -> None:
    both = Shape(
        temperature=torch.ones(2),
        greedy=torch.tensor([False, False]),
        top_k=torch.tensor([2, 0]),
        top_p=torch.tensor([0.9, 1.0]),
    )
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 500, generator=generator).expand(2, -1)
    result = distributions(logits, both)
    assert result[0].count_nonzero() == 2
    assert torch.allclose(result[1], logits[1].softmax(-1), atol=1e-7)
    assert result[1].count_nonzero() == 500


def test_greedy_puts_all_probability_on_the_first_of_the_largest() -> None:
    result = distributions(torch.tensor([[0.0, 3.0, 3.0]]), shape(greedy=True))
    assert result.tolist() == [[0, 1, 0]]


def test_draw_inverts_the_cumulated_weights() -> None:
    weights = torch.tensor([0.0, 2.0, 0.0, 1.0, 1.0, 0.0])
    uniform = torch.tensor([0.0, 0.25, 0.499, 0.501, 0.74, 0.751, 0.999, 1 - 2**-53], dtype=torch.float64)
    drawn = draw(weights.expand(len(uniform), -1), uniform)
    assert drawn.tolist() == [1, 1, 1, 3, 3, 4, 4, 4]


def test_draw_never_takes_a_token_of_weight_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(2000, 64, generator=generator) * (torch.rand(2000, 64, generator=generator) < 0.1)
    weights[:, 5] += 1e-20  # at least one is possible
    extremes = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64).repeat(1000)
    for uniform in (extremes, torch.rand(2000, generator=generator, dtype=torch.float64)):
        tokens = draw(weights, uniform)
        assert (weights.gather(1, tokens[:, None]) > 0).all()


def test_first_and_repeated_take_rows_of_every_tensor() -> None:
    both = Shape(
        temperature=torch.tensor([1.0, 2.0]),
        greedy=torch.tensor([False, True]),
        top_k=torch.tensor([3, 4]),
        top_p=None,
    )
    repeated = both.repeated(torch.tensor([2, 1]))
    assert repeated.temperature.tolist() == [1, 1, 2]
    assert repeated.greedy.tolist() == [False, False, True]
    assert repeated.top_k is not None and repeated.top_k.tolist() == [3, 3, 4]
    assert both.first(1).temperature.tolist() == [1]


def test_weights_that_are_no_numbers_still_give_a_token() -> None:
    assert int(draw(torch.full((1, 4), torch.nan), torch.tensor([0.5]))) < 4


def test_a_top_p_that_rounds_to_nothing_keeps_the_first() -> None:
    shape = Shape(torch.ones(1), torch.tensor([False]), None, torch.tensor([1e-46]))
    assert distributions(torch.tensor([[1.0, 3.0, 2.0]]), shape).tolist() == [[0.0, 1.0, 0.0]]
