# SPDX-License-Identifier: Apache-2.0
"""What the device knows of the running requests, so that a round can follow the last one without the host."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from specbuild.torch_runtime.sequence import Sequence

SETTINGS = 6
"""Numbers in an order before the uniform ones: slot, most draft tokens, temperature, greedy, top_k, top_p."""


class DeviceState:
    """One entry per slot, and one more for rows that only fill up a batch; one row per request of a round."""

    def __init__(self, slots: int, draft_length: int, where: torch.device) -> None:
        def integers(*shape: int, kind: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=where)

        self.filler = slots
        self.draft_length = draft_length
        self.device = where
        self.length = integers(slots + 1)
        """Position of each slot's last token. The target's cache holds all tokens before it."""
        self.last = integers(slots + 1, kind=torch.long)
        self.previous = integers(slots + 1, kind=torch.long)
        """The token before the last one. The draft reads both, and so need not know how far it had come."""
        self.remaining = integers(slots + 1)
        """Tokens that the request may still produce."""
        self.length[slots] = 1

        self.orders = torch.zeros(slots, SETTINGS + 2 * draft_length + 1, dtype=torch.double, device=where)
        self.slots, self.positions, self.limits = integers(slots), integers(slots), integers(slots)
        self.pairs = integers(slots, 2, kind=torch.long)
        self.grid = integers(slots, draft_length + 1, kind=torch.long)
        self.choices = integers(slots, draft_length + 1, kind=torch.long)
        self.outcome = integers(slots, draft_length + 2, kind=torch.long)

    def idle(self) -> None:
        """Make every row of the next round a filler."""
        self.orders.zero_()
        self.orders[:, :SETTINGS] = torch.tensor(_idle(self.filler), dtype=torch.double).to(self.device)

    def seat(self, sequences: Items[Sequence]) -> None:
        """Enter ``sequences`` as they are now: with a first output token, before their first round."""
        rows = [
            (s.slot, len(s.tokens) - 1, s.tokens[-1], s.tokens[-2], s.request.max_tokens - s.produced)
            for s in sequences
        ]
        facts = torch.tensor(rows).to(self.device).T
        slot = facts[0]
        self.length[slot] = facts[1].int()
        self.last[slot] = facts[2]
        self.previous[slot] = facts[3]
        self.remaining[slot] = facts[4].int()


def write_orders(orders: Tensor, sequences: Items[Sequence], limits: Items[int], filler: int) -> None:
    """Fill ``orders`` float64 [rows, SETTINGS + 2 · most + 1] on the host; further rows are fillers.

    The uniform numbers are those for drafting, those for judging each draft token, and one for the token
    after.
    """
    array = orders.numpy()
    most = (array.shape[1] - SETTINGS - 1) // 2
    array[:, :SETTINGS] = _idle(filler)
    for row, (sequence, limit) in enumerate(zip(sequences, limits, strict=False)):
        sampling = sequence.request.sampling
        array[row, 0], array[row, 1] = sequence.slot, limit
        if sampling.greedy:
            continue
        array[row, 2:SETTINGS] = (sampling.temperature, 0.0, sampling.top_k, sampling.top_p)
        numbers = sequence.uniform()
        own = len(numbers) // 2
        array[row, SETTINGS : SETTINGS + own] = numbers[:own]
        array[row, SETTINGS + most : SETTINGS + most + own] = numbers[own:-1]
        array[row, -1] = numbers[-1]


def _idle(filler: int) -> tuple[float, ...]:
    return (filler, 0, 1.0, 1.0, 0, 1.0)


def pinned(shape: tuple[int, ...], kind: torch.dtype, where: torch.device) -> Tensor:
    """Host memory that ``where`` copies from and to without waiting."""
    return torch.zeros(shape, dtype=kind, pin_memory=where.type == "cuda")
