# SPDX-License-Identifier: Apache-2.0
"""Logits → probabilities → tokens. Pure: tensors in, tensors out, nothing is drawn here.

Randomness comes in as uniform numbers, so that a request's tokens depend on its own stream only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Below 1 by two of float64's steps there: u times a sum stays below the sum in whichever way it is rounded.
_BELOW_ONE = 1 - 2**-52


@dataclass(frozen=True, slots=True)
class Shape:
    """How rows of logits become distributions. Tensors have one entry per row."""

    temperature: Tensor
    """float32 [rows]; 1 for greedy rows."""
    greedy: Tensor
    """bool [rows]: all probability on the largest logit, the first one of equals."""
    top_k: Tensor | None
    """int64 [rows], 0 for all; None if no row has one."""
    top_p: Tensor | None
    """float32 [rows]; None if no row has one below 1."""

    def repeated(self, times: Tensor) -> Shape:
        """Row i of this shape ``times[i]`` times."""

        def repeat(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.repeat_interleave(times)

        return Shape(
            self.temperature.repeat_interleave(times),
            self.greedy.repeat_interleave(times),
            repeat(self.top_k),
            repeat(self.top_p),
        )

    def first(self, rows: int) -> Shape:
        """The first ``rows`` rows."""

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[:rows]

        return Shape(self.temperature[:rows], self.greedy[:rows], cut(self.top_k), cut(self.top_p))


def largest(logits: Tensor) -> Tensor:
    """The token [rows] of the largest logit, the first of equals; a CPU takes thrice as long for argmax."""
    return logits.max(-1).indices


def distributions(scaled: Tensor, shape: Shape) -> Tensor:
    """Probabilities float32 [rows, vocab] of logits that are already divided by the temperature.

    top-k keeps the k largest, then top-p the smallest set of the largest whose sum reaches p; what is
    left is renormalised.
    """
    probabilities = torch.softmax(scaled.float(), dim=-1)
    if shape.top_k is not None or shape.top_p is not None:
        probabilities = _truncate(probabilities, shape)
    choice = torch.zeros_like(probabilities).scatter_(1, scaled.argmax(-1, keepdim=True), 1.0)
    return torch.where(shape.greedy[:, None], choice, probabilities)


def _truncate(probabilities: Tensor, shape: Shape) -> Tensor:
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    if shape.top_k is not None:
        rank = torch.arange(ordered.shape[1], device=ordered.device)
        ordered = ordered.masked_fill((rank >= shape.top_k[:, None]) & (shape.top_k[:, None] > 0), 0.0)
        ordered = ordered / ordered.sum(-1, keepdim=True)
    if shape.top_p is not None:
        before = ordered.cumsum(-1) - ordered
        # A row with top_p 1 keeps everything: rounding must not cut its tail.
        cut = (before >= shape.top_p[:, None]) & (shape.top_p[:, None] < 1)
        cut[:, 0] = False  # a top_p that float32 rounds to 0 keeps the first
        ordered = ordered.masked_fill(cut, 0.0)
        ordered = ordered / ordered.sum(-1, keepdim=True)
    return torch.zeros_like(probabilities).scatter_(1, tokens, ordered)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """The token [rows] at which the cumulated ``weights`` [rows, vocab] pass ``uniform`` [rows] in [0, 1).

    Weights need not sum to 1. A token of weight 0 is never drawn.
    """
    cumulated = weights.double().cumsum(-1)
    mark = (uniform.double() * _BELOW_ONE)[:, None] * cumulated[:, -1:]
    # Weights that are no numbers must not become a token that is none: it would fail the others of the batch.
    return torch.searchsorted(cumulated, mark, right=True)[:, 0].clamp_(max=weights.shape[1] - 1)
