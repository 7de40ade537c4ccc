# SPDX-License-Identifier: Apache-2.0
"""Tokens from logits for the requests of one round, each by its own settings.

Plain greedy requests need an argmax and nothing else. The others go through distributions; for a greedy
one with constraints all probability is on one token, which needs no case of its own.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import torch
from torch import Tensor

from specbuild.torch_runtime.sampling import Shape, distributions, draw, largest
from specbuild.torch_runtime.sequence import Sequence
from specbuild.torch_runtime.verification import verify_greedy, verify_sampled


class Chooser:
    """Proposes draft tokens and judges them. ``sequences`` draft ``lengths`` tokens, in falling order."""

    def __init__(self, sequences: Items[Sequence], lengths: Items[int], device: torch.device) -> None:
        self._device = device
        self._lengths = list(lengths)
        self._shaped = [row for row, sequence in enumerate(sequences) if not sequence.plain_greedy]
        self._others = _Shaped(
            [sequences[row] for row in self._shaped], [lengths[row] for row in self._shaped], device
        )

    def propose(self, logits: Tensor, drafted: Tensor, step: int) -> Tensor:
        """Draft token ``step`` [rows] of the first requests; the earlier ones are in ``drafted`` [B, G]."""
        tokens = largest(logits)
        if rows := [row for row in self._shaped if row < len(logits)]:
            index = torch.tensor(rows, device=self._device)
            tokens[index] = self._others.propose(logits[index], drafted[index], step)
        return tokens

    def judge(self, logits: Tensor, drafted: Tensor) -> tuple[Tensor, Tensor]:
        """Accepted [B] and following token [B] of all requests, by the target's ``logits`` [rows, V].

        A request has one row after each of its draft tokens and one before them, in this order.
        """
        lengths = torch.tensor(self._lengths, device=self._device)
        starts, grid = _grid(self._lengths, drafted.shape[1])
        choices = largest(logits)[torch.tensor(grid, device=self._device)]
        accepted, following = verify_greedy(choices, drafted, lengths)
        if self._shaped:
            rows = [starts[i] + j for i in self._shaped for j in range(self._lengths[i] + 1)]
            index = torch.tensor(self._shaped, device=self._device)
            shaped_logits = logits[torch.tensor(rows, device=self._device)]
            accepted[index], following[index] = self._others.judge(
                shaped_logits, drafted[index], lengths[index]
            )
        return accepted, following


class _Shaped:
    """The requests whose tokens are drawn from a distribution."""

    def __init__(self, sequences: Items[Sequence], lengths: Items[int], device: torch.device) -> None:
        self._sequences = sequences
        self._lengths = list(lengths)
        self._device = device
        self._q: list[Tensor] = []
        if sequences:
            self._shape = _shape(sequences, device)
            self._for_draft, self._for_target = self._uniform(max(lengths))

    def propose(self, logits: Tensor, drafted: Tensor, step: int) -> Tensor:
        active = len(logits)
        shape = self._shape.first(active)
        q = distributions(self._scale(logits, shape, [1] * active, drafted, step), shape)
        self._q.append(q)
        return draw(q, self._for_draft[:active, step])

    def judge(self, logits: Tensor, drafted: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        counts = [length + 1 for length in self._lengths]
        shape = self._shape.repeated(lengths + 1)
        flat = distributions(self._scale(logits, shape, counts, drafted, 0), shape)
        most = max(self._lengths)
        _, grid = _grid(self._lengths, most)
        p = flat[torch.tensor(grid, device=self._device)]
        q = flat.new_zeros(len(counts), most, flat.shape[1])
        for step, distribution in enumerate(self._q):
            q[: len(distribution), step] = distribution
        return verify_sampled(p, q, drafted[:, :most], lengths, self._for_target)

    def _scale(self, logits: Tensor, shape: Shape, counts: Items[int], drafted: Tensor, first: int) -> Tensor:
        """Logits by temperature, constrained; request i has the next ``counts[i]`` rows of them."""
        scaled = logits.float() / shape.temperature[:, None]
        start = 0
        for row, (count, sequence) in enumerate(zip(counts, self._sequences, strict=False)):
            if sequence.constraints is not None:
                past = drafted[row, : first + count - 1]
                scaled[start : start + count] = sequence.constraints.apply(
                    scaled[start : start + count], past, first
                )
            start += count
        return scaled

    def _uniform(self, most: int) -> tuple[Tensor, Tensor]:
        """Numbers for drafting [requests, most] and for verifying [requests, most + 1].

        A request takes them from its own stream, so that its tokens do not depend on its neighbours.
        """
        drafting = np.zeros((len(self._sequences), most))
        verifying = np.zeros((len(self._sequences), most + 1))
        for row, (sequence, length) in enumerate(zip(self._sequences, self._lengths, strict=True)):
            numbers = sequence.uniform()
            half = len(numbers) // 2
            drafting[row, :length] = numbers[:length]
            verifying[row, :length] = numbers[half : half + length]
            verifying[row, -1] = numbers[-1]
        return torch.from_numpy(drafting).to(self._device), torch.from_numpy(verifying).to(self._device)


def _shape(sequences: Items[Sequence], device: torch.device) -> Shape:
    settings = [sequence.request.sampling for sequence in sequences]
    # A greedy request needs no truncation, whatever it asked for.
    top_k = [0 if one.greedy else one.top_k for one in settings]
    top_p = [1.0 if one.greedy else one.top_p for one in settings]
    return Shape(
        temperature=torch.tensor([1.0 if s.greedy else s.temperature for s in settings], device=device),
        greedy=torch.tensor([s.greedy for s in settings], device=device),
        top_k=torch.tensor(top_k, device=device) if any(top_k) else None,
        top_p=torch.tensor(top_p, device=device) if min(top_p) < 1 else None,
    )


def _grid(lengths: Items[int], most: int) -> tuple[list[int], list[list[int]]]:
    """First row of each request, and its rows [requests, most + 1], the last one repeated to fill up."""
    starts = [sum(lengths[:i]) + i for i in range(len(lengths))]
    grid = [
        [start + min(j, length) for j in range(most + 1)]
        for start, length in zip(starts, lengths, strict=True)
    ]
    return starts, grid
