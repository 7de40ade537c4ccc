# SPDX-License-Identifier: Apache-2.0
"""Any model of transformers inside a captured graph: its own modules, over slots on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specbuild.torch_runtime.attention import attach
from specbuild.torch_runtime.cuda.attention_pass import Groups, Heads, Meeting, attend
from specbuild.torch_runtime.kv_cache import KvCache
from specbuild.torch_runtime.module_walk import WholeModel


class DeviceSlots:
    """The cache of a model, and the tokens of the pass that is being computed. One per model."""

    def __init__(self, cache: KvCache, slots: int, most_tokens: int) -> None:
        self.groups: Groups | None = None
        self._cache = cache
        self._slots = slots
        self._most_tokens = most_tokens
        self._meetings: dict[tuple[int, int, int], Meeting] = {}

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Store the new keys and values, and attend. Query [1, heads, tokens, d] → [1, tokens, heads, d]."""
        assert self.groups is not None
        groups = self.groups
        keys, values = self._cache.layer(layer, key, value)
        slots, positions = rows_of(groups)
        keys[slots, :, positions] = key[0].transpose(0, 1)
        values[slots, :, positions] = value[0].transpose(0, 1)
        queries = query[0].transpose(0, 1).contiguous()
        out = torch.empty_like(queries)
        heads = Heads(queries.shape[1], keys.shape[1], queries.shape[2], scaling)
        shape = (heads.queries, heads.keys, heads.size)
        if shape not in self._meetings:
            self._meetings[shape] = Meeting(heads, self._most_tokens, query.device)
        attend(
            queries,
            keys,
            values,
            out,
            groups=groups,
            heads=heads,
            meeting=self._meetings[shape],
            slots=self._slots,
            window=window,
            softcap=softcap,
        )
        return out[None]


class ModuleStack:
    """Computes ``model`` by its own code, which costs nothing more once it is captured.

    Fillers write to a slot of their own.
    """

    takes_few = False

    def __init__(self, model: Any, *, slots: int, longest: int, length: int, most_tokens: int) -> None:
        self._longest = longest
        self.device: torch.device = model.get_input_embeddings().weight.device
        self._forward = WholeModel(model)
        self._slots = DeviceSlots(KvCache(slots + 1, length), slots, most_tokens)
        attach(model, self._slots)
        self._vocab_size: int = model.config.get_text_config().vocab_size

    def step(
        self, tokens: Tensor, groups: Groups, *, last: bool, choices: Tensor | None = None
    ) -> Tensor | None:
        """As ``FusedStack.step``."""
        flat = tokens[: groups.count, : groups.tokens].reshape(-1)
        rows = None
        if last:
            rows = torch.arange(1, groups.count + 1, device=self.device) * groups.tokens - 1
        logits = self.forward(flat, groups, rows)
        if choices is None:
            return logits
        width = 1 if last else groups.tokens
        choices[: groups.count, :width] = logits.argmax(-1).view(groups.count, width)
        return None

    def forward(self, tokens: Tensor, groups: Groups, rows: Tensor | None) -> Tensor:
        """As ``FusedStack.forward``."""
        self._slots.groups = groups
        _, positions = rows_of(groups)
        known = tokens.clamp(max=self._vocab_size - 1)
        # Beyond the end are draft tokens that never stand; the model may know no such position.
        return self._forward(known, positions.clamp(max=self._longest - 1), rows)


def rows_of(groups: Groups) -> tuple[Tensor, Tensor]:
    """Slot and position of each row of a pass, int64."""
    steps = torch.arange(groups.row_tokens, device=groups.row_slots.device)
    count = groups.count if groups.firsts is None else len(groups.row_slots)
    positions = groups.row_positions[:count, None] + groups.shift + steps
    slots = groups.row_slots[:count, None].expand(-1, groups.row_tokens)
    return slots.reshape(-1).long(), positions.reshape(-1).long()
