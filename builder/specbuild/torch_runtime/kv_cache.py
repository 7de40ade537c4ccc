# SPDX-License-Identifier: Apache-2.0
"""Keys and values of past tokens: one preallocated tensor per layer.

A slot belongs to one request. Which of its positions hold valid tokens is the caller's knowledge, so
taking back rejected tokens costs nothing: the next pass starts at an earlier position and overwrites
them, and attention masks whatever lies behind a query's own position.
"""

from __future__ import annotations

import torch
from torch import Tensor

ALIGNMENT = 32
"""Attention reads keys in multiples of this, and so the length of a slot is one."""


class KvCache:
    """Tensors ``[slots, kv_heads, length, head_dim]`` for the keys and the values of each layer."""

    def __init__(self, slots: int, length: int) -> None:
        self.slots = slots
        self.length = aligned(length)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The cache of a layer whose keys and values look like ``key`` and ``value`` [1, kv_heads, n, d].

        The first call allocates: heads and sizes differ between layers in some models, and the tensors
        themselves tell it more surely than the configuration.
        """
        layer = self._layers.get(index)
        if layer is None:
            layer = self._layers[index] = self._allocate(key), self._allocate(value)
        return layer

    def clear(self, slot: int) -> None:
        """Forget what ``slot`` holds. What is masked must be numbers all the same."""
        for layer in self._layers.values():
            for tensor in layer:
                tensor[slot].zero_()

    def _allocate(self, like: Tensor) -> Tensor:
        shape = (self.slots, like.shape[1], self.length, like.shape[3])
        return torch.zeros(shape, dtype=like.dtype, device=like.device)


def aligned(length: int) -> int:
    """``length`` rounded up to a multiple of ALIGNMENT."""
    return -(-length // ALIGNMENT) * ALIGNMENT
