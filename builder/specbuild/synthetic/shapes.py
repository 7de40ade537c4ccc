# SPDX-License-Identifier: Apache-2.0
"""Shapes of synthetic pairs: how large the two models are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama architecture without its vocabulary."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int

    @property
    def max_rank(self) -> int:
        """The largest rank of the table it can hold: one dimension evens out the rows' norms."""
        return self.hidden - 1

    def parameters(self, vocab_size: int) -> int:
        """Weights of the whole model, norms included."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + 2 * vocab_size * self.hidden + self.hidden


@dataclass(frozen=True, slots=True)
class PairShape:
    """Two models and the defaults that suit them."""

    target: ModelShape
    draft: ModelShape
    vocab_size: int
    target_rank: int
    draft_rank: int
    max_positions: int


SHAPES: Mapping[str, PairShape] = MappingProxyType(
    {
        # 200 M parameters: a forward pass on a CPU is bound by memory, as a large model's is on a GPU.
        "demo": PairShape(
            target=ModelShape(hidden=768, layers=18, heads=12, kv_heads=4, head_dim=64, intermediate=4608),
            draft=ModelShape(hidden=512, layers=1, heads=4, kv_heads=1, head_dim=64, intermediate=256),
            vocab_size=4096,
            target_rank=767,
            draft_rank=511,
            max_positions=4096,
        ),
        # For tests: made in a second or two from a small text.
        "tiny": PairShape(
            target=ModelShape(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=128),
            draft=ModelShape(hidden=48, layers=1, heads=3, kv_heads=1, head_dim=16, intermediate=64),
            vocab_size=512,
            target_rank=63,
            draft_rank=47,
            max_positions=512,
        ),
    }
)
