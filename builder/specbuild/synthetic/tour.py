# SPDX-License-Identifier: Apache-2.0
"""A long round trip for greedy decoding.

Greedy decoding of a bigram model follows one successor for each token and ends in a cycle. In a
natural text that cycle is a few tokens long (``.self.self.self``), which makes greedy output, and what a
draft gets right in it, all or nothing. So a plausible tour of some hundred tokens is looked for in the
table, and the models are taught to prefer it: the target everywhere, the draft as well as one
step of correction makes it.
"""

from __future__ import annotations

import torch

from specbuild.synthetic.bigram import Factors, Table

BRANCHING = 16
"""A tour goes on with one of this many most likely successors, so that it reads like the text."""
_STARTS = 64
_MARGIN = 1.0
_ROUNDS = 50


def find(table: Table) -> list[int]:
    """A cycle of tokens, each followed by one of its likely successors and the last by the first.

    From each of the most frequent tokens, walk to the likeliest successor not yet visited until there
    is none; the longest cycle that such a walk closes is taken.
    """
    likely: list[list[int]] = table.probabilities.topk(BRANCHING, 1).indices.tolist()
    starts = table.contexts.topk(min(_STARTS, len(likely))).indices.tolist()
    return max((_walk(likely, start) for start in starts), key=len)


def _walk(likely: list[list[int]], start: int) -> list[int]:
    place = {start: 0}
    token = start
    while (following := next((y for y in likely[token] if y not in place), None)) is not None:
        place[following] = len(place)
        token = following
    back = min(place[successor] for successor in likely[token])
    return list(place)[back:]


def teach(factors: Factors, tour: list[int], *, rounds: int = _ROUNDS) -> Factors:
    """The factors with context rows changed so that each tour token's best successor is the next one.

    A round moves a row along the difference of two successor vectors, just far enough to put the wanted
    token a margin above the best other one. That lifts others too, hence several rounds; after
    a few only, some tokens still miss their successor.
    """
    left, right = factors.left.clone(), factors.right
    context, wanted = torch.tensor(tour), torch.tensor(tour[1:] + tour[:1])
    for _ in range(rounds):
        logits = left[context] @ right.T
        mine = logits.gather(1, wanted[:, None]).squeeze(1)
        rival = logits.scatter(1, wanted[:, None], -torch.inf).max(1)
        lead = mine - rival.values
        if (lead >= _MARGIN / 2).all():
            break
        direction = right[wanted] - right[rival.indices]
        step = (_MARGIN - lead).clamp_min(0) / direction.square().sum(1)
        left[context] += step[:, None] * direction
    return Factors(left, right)
