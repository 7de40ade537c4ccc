# SPDX-License-Identifier: Apache-2.0
"""The acceptance of two bigram models, computed from their logits instead of measured. Pure; needs torch.

Words: p and q are the target's and the draft's next-token probabilities [V, V], alpha the probability
that one draft token is accepted, averaged over the contexts that decoding meets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

MAX_DRAFT_LENGTH = 8
_TOLERANCE = 1e-6
_MAX_STEPS = 2000


@dataclass(frozen=True, slots=True)
class Sampled:
    """Acceptance at temperature 1 with rejection sampling and nothing cut off (no top-k, no top-p)."""

    alpha: float
    """Over the stationary distribution of the target's chain, which sampled text follows."""
    acceptance_length: tuple[float, ...]
    """Expected tokens of a round in a long generation, bonus included, for draft lengths 1, 2, ..."""
    entropy: float
    """Of the target's next token, in nats, over the same contexts."""


@dataclass(frozen=True, slots=True)
class Greedy:
    """Acceptance when both models take their best token."""

    alpha: float
    """Over the contexts that long greedy decoding meets: the cycles it ends in, each weighted with the
    share of the text's tokens that lead to it."""
    alpha_on_text: float
    """Over the tokens of the text as contexts, as when the models are read along real text."""
    cycle_length: int
    """Tokens in the cycle that most prompts lead to."""
    cycle_share: float
    """Share of the text's tokens that lead to it."""
    ties: float
    """Share of the cycles' tokens after which the target's two best logits are equal."""


def sampled(target_logits: torch.Tensor, draft_logits: torch.Tensor) -> Sampled:
    """The closed form for sampling from the target."""
    p, q = target_logits.softmax(1), draft_logits.softmax(1)
    contexts = _fixed_point(torch.full((1, len(p)), 1 / len(p)), lambda row: row @ p)[0]
    entropy = -torch.special.xlogy(p, p).sum(1)
    kept = torch.minimum(p, q)
    return Sampled(
        alpha=float(contexts @ kept.sum(1)),
        acceptance_length=_acceptance_lengths(p, kept, contexts),
        entropy=float(contexts @ entropy),
    )


def _acceptance_lengths(p: torch.Tensor, kept: torch.Tensor, contexts: torch.Tensor) -> tuple[float, ...]:
    """Expected tokens a round over the contexts at which rounds start, for each draft length.

    A draft token y after x is accepted with probability kept[x, y] = min(p, q) and replaced by y with
    probability p - kept. So the context of a draft's token i is spread as ``start @ kept^i``, and the
    next round starts at a replacement or, after a whole accepted draft, at the bonus token from p.
    """
    lengths = torch.arange(1, MAX_DRAFT_LENGTH + 1)[:, None]
    replaced = p - kept

    def follow(start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Contexts at which some draft token is judged, summed, and at which the bonus is drawn."""
        judged, reached = torch.zeros_like(start), start
        for position in range(MAX_DRAFT_LENGTH):
            active = position < lengths
            judged = judged + torch.where(active, reached, 0)
            reached = torch.where(active, reached @ kept, reached)
        return judged, reached

    def next_start(start: torch.Tensor) -> torch.Tensor:
        judged, reached = follow(start)
        return judged @ replaced + reached @ p

    start = _fixed_point(contexts.expand(MAX_DRAFT_LENGTH, -1), next_start)
    accepted = follow(start)[0] @ kept.sum(1)
    return tuple(1 + float(value) for value in accepted)


def greedy(target_logits: torch.Tensor, draft_logits: torch.Tensor, text: torch.Tensor) -> Greedy:
    """The closed form for greedy decoding of prompts that end like the tokens of ``text`` [V]."""
    best = target_logits.topk(2, 1).values
    successor = target_logits.argmax(1)
    agree = (successor == draft_logits.argmax(1)).float()
    tied = (best[:, 0] == best[:, 1]).float()
    shares = _cycles(successor.tolist(), text.tolist())
    contexts = torch.zeros_like(text)
    for cycle, share in shares.items():
        contexts[list(cycle)] = share / len(cycle)
    main = max(shares, key=lambda cycle: shares[cycle])
    return Greedy(
        alpha=float(contexts @ agree),
        alpha_on_text=float(text @ agree),
        cycle_length=len(main),
        cycle_share=shares[main] / sum(shares.values()),
        ties=float(contexts @ tied),
    )


def _cycles(successor: list[int], weight: list[float]) -> dict[tuple[int, ...], float]:
    """Each cycle of the map ``successor``, with the summed weight of the tokens that lead to it."""
    cycle_of: dict[int, tuple[int, ...]] = {}
    shares: dict[tuple[int, ...], float] = {}
    for start in range(len(successor)):
        path: dict[int, None] = {}
        token = start
        while token not in cycle_of and token not in path:
            path[token] = None
            token = successor[token]
        if token not in cycle_of:
            seen = list(path)
            cycle_of[token] = tuple(seen[seen.index(token) :])
        cycle = cycle_of[token]
        cycle_of.update(dict.fromkeys(path, cycle))
        shares[cycle] = shares.get(cycle, 0.0) + weight[start]
    return shares


def _fixed_point(rows: torch.Tensor, step: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The distributions, one a row, that ``step`` leaves as they are, by power iteration."""
    for _ in range(_MAX_STEPS):
        following = step(rows)
        following = following / following.sum(1, keepdim=True)  # rounding must not add up
        if float((following - rows).abs().sum(1).max()) < _TOLERANCE:
            return following
        rows = following
    return rows
