# SPDX-License-Identifier: Apache-2.0
"""Attention of many requests in one product.

On a CPU a product per request and layer costs more in calls than in arithmetic: eight requests of a
16-layer model wait for 256 of them. Here all requests are rows of one product over neighbouring slots of
the cache, padded to the longest. What pads is masked, and adds zeros to sums whose order stays the same,
so that in
bfloat16 a token still has, bit for bit, the result that it has alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specbuild.torch_runtime.kv_cache import aligned
from specbuild.torch_runtime.mixing import first_block, mix
from specbuild.torch_runtime.span import Span

_MOST_QUERIES = 16
_WASTE = 2
"""Padding may at most double the slots, and the keys, that are read."""


def similar(spans: Sequence[Span]) -> bool:
    """Whether ``spans`` are many, short, and alike enough to be computed together."""
    if len(spans) < 2 or max(span.length for span in spans) > _MOST_QUERIES:
        return False
    width = max(span.slot for span in spans) + 1 - min(span.slot for span in spans)
    longest = aligned(max(span.end for span in spans))
    return width <= _WASTE * len(spans) and width * longest <= _WASTE * sum(aligned(s.end) for s in spans)


class Together:
    """One pass over ``spans``: S neighbouring slots with at most N queries each, over L keys."""

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        first = min(span.slot for span in spans)
        self._slots = slice(first, max(span.slot for span in spans) + 1)
        self._length = aligned(max(span.end for span in spans))
        most = max(span.length for span in spans)
        self._start = min(span.start for span in spans)
        rows = [[0] * most for _ in range(self._slots.stop - first)]
        positions = [[self._start] * most for _ in rows]
        grid: list[int] = []
        slots: list[int] = []
        offset = 0
        for span in spans:
            row = span.slot - first
            # Queries that pad repeat the last one, and slots without a request see some token.
            rows[row] = [offset + min(j, span.length - 1) for j in range(most)]
            positions[row] = [span.start + min(j, span.length - 1) for j in range(most)]
            grid += [row * most + j for j in range(span.length)]
            slots += [span.slot] * span.length
            offset += span.length
        self._rows = torch.tensor(rows, device=device)
        self._grid = torch.tensor(grid, device=device)
        self._positions = torch.tensor(positions, device=device)
        self._written = torch.tensor(slots, device=device), self._positions.flatten()[self._grid]
        self._masks: dict[int | None, Tensor] = {}

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Query [1, heads, tokens, d] → [1, tokens, heads, d], over a layer's cache ``keys`` and ``values``.

        The new ``key`` and ``value`` [1, kv_heads, tokens, d] are stored there first.
        """
        slots, positions = self._written
        keys[slots, :, positions] = key[0].transpose(0, 1)
        values[slots, :, positions] = value[0].transpose(0, 1)
        first, length = self._first(window), self._length - self._first(window)
        past_keys, past_values = (
            past[self._slots, :, first : self._length].flatten(0, 1) for past in (keys, values)
        )
        kv_heads, heads, size = keys.shape[1], query.shape[1], query.shape[3]
        count, most = self._rows.shape
        grouped = query[0].transpose(0, 1)[self._rows].transpose(1, 2)  # [S, heads, N, d]
        grouped = grouped.reshape(count * kv_heads, heads // kv_heads * most, size)
        scores = torch.bmm(grouped, past_keys.transpose(1, 2)).float().mul_(scaling)
        if softcap is not None:
            scores = scores.div_(softcap).tanh_().mul_(softcap)
        scores = scores.view(count, heads, most, length).add_(self._mask(window))
        weights = torch.softmax(scores, dim=-1).to(values.dtype).view(count * kv_heads, -1, length)
        output = mix(weights, past_values).view(count, heads, most, values.shape[3])
        return output.transpose(1, 2).flatten(0, 1)[self._grid][None]

    def _first(self, window: int | None) -> int:
        """The first key that any query may see."""
        return 0 if window is None else first_block(self._start + 1 - window)

    def _mask(self, window: int | None) -> Tensor:
        """-inf for keys that a query does not see, else 0 [S, 1, N, L]."""
        mask = self._masks.get(window)
        if mask is None:
            key = torch.arange(self._first(window), self._length, device=self._positions.device)
            query = self._positions[..., None]
            hidden = key > query
            if window is not None:
                hidden |= key <= query - window
            mask = torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)[:, None]
            self._masks[window] = mask
        return mask
