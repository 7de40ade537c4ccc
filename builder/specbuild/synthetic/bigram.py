# SPDX-License-Identifier: Apache-2.0
"""The bigram table of a text and its low-rank factorisation. Pure; needs torch.

Words: V tokens in the vocabulary, R the rank. A *context* is the last token, the row of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_SPARE = 64  # extra directions of the randomised factorisation: they keep the last of the R accurate
_PASSES = 2


@dataclass(frozen=True, slots=True)
class Table:
    """Smoothed next-token probabilities and how often each token is a context and a successor."""

    probabilities: torch.Tensor
    """[V, V] float32; rows sum to 1 and no entry is 0."""
    contexts: torch.Tensor
    """[V] float32, sums to 1."""
    successors: torch.Tensor
    """[V] float32, sums to 1."""


@dataclass(frozen=True, slots=True)
class Factors:
    """``left @ right.T`` approximates a table's log-probabilities, up to a constant for each row."""

    left: torch.Tensor
    """[V, R] float32, one row for each context."""
    right: torch.Tensor
    """[V, R] float32, one row for each successor."""

    def truncated(self, rank: int) -> Factors:
        """The best factors of a lower rank under the same weights: the leading columns."""
        return Factors(self.left[:, :rank].clone(), self.right[:, :rank].clone())


def count(documents: Sequence[npt.NDArray[np.int64]], vocab_size: int) -> torch.Tensor:
    """[V, V] float32: how often token y follows token x inside a document."""
    counts = np.zeros(vocab_size * vocab_size, np.int64)
    pairs = np.concatenate([ids[:-1] * vocab_size + ids[1:] for ids in documents])
    values, times = np.unique(pairs, return_counts=True)
    counts[values] = times
    return torch.from_numpy(counts.reshape(vocab_size, vocab_size)).float()


def smooth(counts: torch.Tensor) -> Table:
    """Witten-Bell smoothing: a context gives mass to unseen successors as it has distinct seen ones.

    Source: Witten and Bell, "The zero-frequency problem", IEEE Trans. Information Theory 37 (1991).
    """
    successors = counts.sum(0) + 0.5
    successors /= successors.sum()
    contexts = counts.sum(1) + 0.5
    escape = (counts > 0).sum(1, keepdim=True) + 1.0
    probabilities = (counts + escape * successors) / (counts.sum(1, keepdim=True) + escape)
    return Table(probabilities, contexts / contexts.sum(), successors)


def factorise(table: Table, rank: int, seed: int) -> Factors:
    """Factors of rank ``rank`` that are closest to the table where the text is frequent.

    An entry's squared error weighs contexts[x] x successors[y]. Each row's largest log-probability is
    moved to 0 first: softmax does not see it, and bfloat16 logits are finest near 0, where the likely
    tokens then are. A randomised factorisation (Halko, Martinsson and Tropp, SIAM Review 53, 2011)
    is accurate enough and takes seconds where the full one takes minutes.
    """
    logits = table.probabilities.log()
    logits -= logits.max(1, keepdim=True).values
    rows, columns = table.contexts.sqrt()[:, None], table.successors.sqrt()[:, None]
    weighted = logits * rows * columns.T
    generator = torch.Generator().manual_seed(seed)
    width = min(rank + _SPARE, weighted.shape[0])
    basis = torch.linalg.qr(weighted @ torch.randn(weighted.shape[1], width, generator=generator)).Q
    for _ in range(_PASSES):
        basis = torch.linalg.qr(weighted @ torch.linalg.qr(weighted.T @ basis).Q).Q
    u, s, vt = torch.linalg.svd(basis.T @ weighted, full_matrices=False)
    root = s[:rank].sqrt()
    return Factors((basis @ u[:, :rank]) * root / rows, vt[:rank].T * root / columns)
