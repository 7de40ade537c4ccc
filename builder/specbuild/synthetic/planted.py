# SPDX-License-Identifier: Apache-2.0
"""Planted successors: which token follows which, for a target and for a draft that errs by design.

Pure; needs torch. A bigram table of 128,256 tokens does not fit anywhere. So each token has one planted
successor, a permutation: the target's logit of y after x is e(x)·e(y'), with y' the token before y, and
the rows e are random signs, hence long along themselves and nearly orthogonal to all others. The draft
has the same with some successors exchanged.

The vocabulary falls into *cycles*, one for each acceptance α: greedy decoding never leaves the cycle of
its prompt's last token, and in it the draft errs after exactly a share 1 - α of the tokens, at random
places. So one pair serves every α, chosen by the prompt. At temperature 1 the probability that is not on
the planted successor is below 1e-6, so that sampling accepts what greedy decoding accepts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from specbuild.synthetic.tokenizer import BOS_ID, EOS_ID
from specbuild.synthetic.weights import DTYPE, Ends

_LOGIT = 64.0
"""Of the planted successor, the others' being 0 ± 64 / sqrt(hidden)."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """A closed sequence of tokens in the target's greedy order."""

    alpha: float
    """Share of its tokens after which the draft's best token is the target's: exact, not an expectation."""
    tokens: tuple[int, ...]

    def prompt(self, length: int, seed: int) -> list[int]:
        """``length`` tokens, drawn from the cycle by ``seed``; the last one decides what follows."""
        generator = np.random.default_rng(seed)
        return [self.tokens[place] for place in generator.integers(len(self.tokens), size=length)]


@dataclass(frozen=True, slots=True)
class Plant:
    """What is planted in both models; successors are [V] int64 on the CPU."""

    target: torch.Tensor
    draft: torch.Tensor
    cycles: tuple[Cycle, ...]

    def cycle(self, alpha: float) -> Cycle:
        """The cycle planted for ``alpha``. Raises KeyError."""
        for cycle in self.cycles:
            if math.isclose(cycle.alpha, alpha, abs_tol=0.5 / len(cycle.tokens)):
                return cycle
        raise KeyError(f"no cycle has an acceptance of {alpha}")


def plan(vocab_size: int, alphas: Sequence[float], seed: int) -> Plant:
    """Cycles of equal size over the whole vocabulary but the begin and the end token, which never follow.

    Those two are followed by the first cycle's first token.
    """
    generator = torch.Generator().manual_seed(seed)
    special = (BOS_ID, EOS_ID)
    ordinary = torch.tensor([token for token in range(vocab_size) if token not in special])
    order = ordinary[torch.randperm(len(ordinary), generator=generator)]
    target = torch.empty(vocab_size, dtype=torch.long)
    target[list(special)] = order[0]
    draft = target.clone()
    cycles = []
    for alpha, tokens in zip(alphas, order.tensor_split(len(alphas)), strict=True):
        target[tokens] = tokens.roll(-1)
        draft[tokens] = tokens.roll(-1)
        wrong = torch.randperm(len(tokens), generator=generator)[: round((1 - alpha) * len(tokens))]
        draft[tokens[wrong]] = tokens.roll(-2)[wrong]
        cycles.append(Cycle(1 - len(wrong) / len(tokens), tuple(tokens.tolist())))
    return Plant(target, draft, tuple(cycles))


def ends(successor: torch.Tensor, hidden: int, seed: int) -> Ends:
    """The two ends of a model whose greedy next token is ``successor`` [V].

    Embedding rows of +-1 have a mean square of 1, which the final norm leaves as it is. All products and
    sums are exact in bfloat16, so what is planted does not depend on how a device sums.
    """
    vocab_size = len(successor)
    bits = np.frombuffer(np.random.default_rng(seed).bytes(-(-vocab_size * hidden // 8)), np.uint8)
    signs = np.unpackbits(bits, count=vocab_size * hidden).reshape(vocab_size, hidden)
    embedding = torch.from_numpy(signs).to(DTYPE).mul_(2).sub_(1)
    # A power of two, which scales without rounding.
    scale = 2.0 ** round(math.log2(_LOGIT / hidden))
    head = torch.zeros(vocab_size, hidden, dtype=DTYPE).index_add_(0, successor, embedding).mul_(scale)
    return Ends(embedding, head)
