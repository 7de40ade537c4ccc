# SPDX-License-Identifier: Apache-2.0
"""Verification yields the target's distribution, whatever the draft's is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from specbuild.torch_runtime.sampling import draw
from specbuild.torch_runtime.verification import verify_greedy, verify_sampled

P = torch.tensor([0.5, 0.3, 0.15, 0.05])
Q = torch.tensor([0.4, 0.35, 0.2, 0.05])
TRIALS = 200_000


def test_greedy_accepts_the_leading_matches_and_goes_on_with_the_targets_choice() -> None:
    choices = torch.tensor([[4, 5, 6, 7], [4, 5, 6, 7], [4, 5, 6, 7], [4, 5, 6, 7]])
    drafted = torch.tensor([[4, 5, 6], [4, 9, 6], [9, 5, 6], [4, 5, 0]])
    accepted, following = verify_greedy(choices, drafted, torch.tensor([3, 3, 3, 2]))
    assert accepted.tolist() == [3, 1, 0, 2]
    assert following.tolist() == [7, 5, 4, 6]


def test_greedy_ignores_matches_beyond_a_requests_own_length() -> None:
    accepted, following = verify_greedy(torch.tensor([[0, 0, 0]]), torch.tensor([[0, 0]]), torch.tensor([1]))
    assert accepted.tolist() == [1]
    assert following.tolist() == [0]


def test_acceptance_and_output_of_a_published_example() -> None:
    # Σ min(p, q) = 0.9, and the output has p's frequencies.
    uniform = torch.rand(TRIALS, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    drafted = draw(Q.expand(TRIALS, -1), uniform[:, 0])[:, None]
    p = P.expand(TRIALS, 2, 4)
    q = Q.expand(TRIALS, 1, 4)
    accepted, following = verify_sampled(p, q, drafted, torch.ones(TRIALS, dtype=torch.long), uniform[:, 1:])
    assert accepted.double().mean().item() == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / TRIALS))
    tokens = torch.where(accepted == 1, drafted[:, 0], following)
    counts = torch.bincount(tokens, minlength=4).numpy()
    assert stats.chisquare(counts, TRIALS * np.array([0.5, 0.3, 0.15, 0.05])).pvalue > 1e-3


@pytest.mark.parametrize("length", [1, 2, 3])
def test_joint_distribution_of_a_round_is_the_targets(length: int) -> None:
    """Two-token outputs against enumerated p, for random p and q that depend on the token before.

    N = 200,000 at level 0.001: a verifier that wrongly lets 3 % of outputs through as drafted would be
    found with probability above 0.999, which is asserted.
    """
    generator = torch.Generator().manual_seed(length)
    size = 5
    p_table = torch.softmax(1.2 * torch.randn(size + 1, size, generator=generator), -1)
    q_table = torch.softmax(1.2 * torch.randn(size + 1, size, generator=generator), -1)
    uniform = torch.rand(TRIALS, 2 * length + 2, generator=generator, dtype=torch.float64)
    before = torch.full((TRIALS,), size)
    drafted = torch.empty(TRIALS, length, dtype=torch.long)
    q = torch.empty(TRIALS, length, size)
    p = torch.empty(TRIALS, length + 1, size)
    for step in range(length):
        p[:, step], q[:, step] = p_table[before], q_table[before]
        before = drafted[:, step] = draw(q[:, step], uniform[:, step])
    p[:, length] = p_table[before]
    lengths = torch.full((TRIALS,), length)
    accepted, following = verify_sampled(p, q, drafted, lengths, uniform[:, length : 2 * length + 1])
    padded = torch.cat([drafted, drafted[:, -1:]], 1)
    padded[torch.arange(TRIALS), accepted] = following
    # Outputs of one token get their second from the target itself, as the next round would give.
    later = draw(p_table[padded[:, 0]], uniform[:, -1])
    second = torch.where(accepted == 0, later, padded[:, 1])
    counts = torch.bincount(padded[:, 0] * size + second, minlength=size * size).numpy()

    pairs = list(itertools.product(range(size), repeat=2))
    expected = np.array([float(p_table[size, a] * p_table[a, b]) for a, b in pairs])
    drafts = np.array([float(q_table[size, a] * q_table[a, b]) for a, b in pairs])
    expected, drafts = expected / expected.sum(), drafts / drafts.sum()
    noncentrality = TRIALS * np.sum((0.03 * (drafts - expected)) ** 2 / expected)
    critical = stats.chi2.ppf(0.999, len(pairs) - 1)
    assert stats.ncx2.sf(critical, len(pairs) - 1, noncentrality) > 0.999
    assert stats.chisquare(counts, TRIALS * expected).pvalue > 1e-3


def test_a_token_impossible_for_the_target_is_never_accepted() -> None:
    p = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    q = torch.tensor([[[1.0, 0.0]]])
    accepted, following = verify_sampled(p, q, torch.tensor([[0]]), torch.tensor([1]), torch.zeros(1, 2))
    assert (accepted.item(), following.item()) == (0, 1)


def test_equal_distributions_accept_everything() -> None:
    p = torch.full((64, 4, 10), 0.1)
    uniform = torch.rand(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drafted = torch.randint(10, (64, 3), generator=torch.Generator().manual_seed(1))
    accepted, _ = verify_sampled(p, p[:, :3], drafted, torch.full((64,), 3), uniform)
    assert accepted.tolist() == [3] * 64


def test_without_draft_tokens_the_target_alone_decides() -> None:
    p = torch.tensor([[[0.0, 0.0, 1.0]]])
    empty = torch.zeros(1, 0, dtype=torch.long)
    accepted, following = verify_sampled(p, torch.zeros(1, 0, 3), empty, torch.tensor([0]), torch.zeros(1, 1))
    assert (accepted.item(), following.item()) == (0, 2)


def test_shorter_requests_take_their_bonus_at_their_own_end() -> None:
    p = torch.eye(4)[[0, 1, 2]][None]
    q = torch.eye(4)[[0, 3]][None]
    accepted, following = verify_sampled(p, q, torch.tensor([[0, 3]]), torch.tensor([1]), torch.zeros(1, 3))
    assert (accepted.item(), following.item()) == (1, 1)
