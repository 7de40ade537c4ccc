# SPDX-License-Identifier: Apache-2.0
"""What a pair needs of a GPU's memory on the torch runtime, by configuration and settings.

All figures are bytes on one GPU. e is the size of an element (2 for bfloat16), S the slots (requests decoded
together), γ the draft length, C the tokens of a prefill chunk. For each model with L layers, hidden size h,
H heads and K key-value heads of size d, intermediate size i and vocabulary V:

- weights      e·(L·(2·h·d·(H + K) + 3·h·i + 2·h) + h + V·h·(1 if the ends are tied, else 2)), the Llama
               architecture, unless the caller knows the bytes of the files
               In 8 bits each matrix has one byte an entry and 4 for each row; an embedding keeps its own.
- KV cache     e·2·L·K·d·S·P, with P the positions of a slot rounded up to 32
- logits       e·V·S·(γ + 1) for the verification, e·V·S for a draft step; float32 distributions of sampled
               requests, 4·V·S·(γ + 1) for the target and 4·V·S·γ for the draft
- workspace    e·C·(4·h + d·(H + 2·K) + 3·i): what the widest layer of one prefill chunk holds at once. Graphs
               run fewer tokens than a chunk, and their pool takes the same place again.

Weights and KV cache are exact; the rest is what the tensors of a pass add up to, before the allocator
rounds. The process's own CUDA context (about half a GiB), which no allocation shows, is not counted.

Sources: the shapes of transformers' ``LlamaForCausalLM`` (models/llama/modeling_llama.py) and of
``specbuild.torch_runtime``'s cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ALIGNMENT = 32
_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
_FLOAT32 = 4
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """The sizes of one model that its memory depends on."""

    weight_bytes: int
    embedding_bytes: int
    """Of the input embedding, of which a step reads one row a token; 0 where it is the output layer too."""
    kv_bytes_per_token: int
    """Keys and values of one token in all layers."""
    activation_bytes_per_token: int
    """What the widest layer holds of one token."""
    vocab_size: int
    element_bytes: int

    @property
    def bytes_per_step(self) -> int:
        """Weights that one forward pass reads, however few its tokens."""
        return self.weight_bytes - self.embedding_bytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on one GPU, by what they hold."""

    target_weights: int
    draft_weights: int
    target_kv: int
    draft_kv: int
    logits: int
    workspace: int

    @property
    def weights(self) -> int:
        """Of both models."""
        return self.target_weights + self.draft_weights

    @property
    def kv_cache(self) -> int:
        """Of both models."""
        return self.target_kv + self.draft_kv

    @property
    def total(self) -> int:
        """Everything that is allocated."""
        return self.weights + self.kv_cache + self.logits + self.workspace

    def describe(self) -> str:
        """One line for people."""
        parts = {
            "weights": self.weights,
            "KV cache": self.kv_cache,
            "logits": self.logits,
            "workspace": self.workspace,
        }
        listed = ", ".join(f"{name} {size / _GIB:.1f}" for name, size in parts.items())
        return f"{self.total / _GIB:.1f} GiB ({listed})"


def model_memory(
    config: Mapping[str, Any],
    *,
    weight_bytes: int | None = None,
    element_bytes: int | None = None,
    eight_bits: bool = False,
) -> ModelMemory:
    """The memory of the model that ``config`` (config.json of a Llama-like model) describes.

    ``weight_bytes`` is what the files hold, where that is known: the formula knows no biases, experts or
    norms of heads. ``eight_bits`` counts all matrices as rounded (int8_wo), whatever the files hold. Raises
    KeyError when ``config`` lacks a size.
    """
    element = element_bytes or _SIZES.get(str(config.get("dtype") or config.get("torch_dtype")), 4)
    hidden, layers, heads = (
        int(config[key]) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    )
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or hidden // heads)
    intermediate, vocab_size = int(config["intermediate_size"]), int(config["vocab_size"])
    embedding = vocab_size * hidden * element
    tied = bool(config.get("tie_word_embeddings"))
    shared = tied and not eight_bits
    matrices = layers * (2 * hidden * head_dim * (heads + kv_heads) + 3 * hidden * intermediate)
    norms = element * hidden * (2 * layers + 1)
    if eight_bits:
        rows = layers * (head_dim * (heads + 2 * kv_heads) + 2 * hidden + 2 * intermediate) + vocab_size
        weight_bytes = matrices + vocab_size * hidden + _FLOAT32 * rows + norms + embedding
    elif weight_bytes is None:
        weight_bytes = element * matrices + norms + embedding * (1 if shared else 2)
    return ModelMemory(
        weight_bytes=weight_bytes,
        embedding_bytes=0 if shared else embedding,
        kv_bytes_per_token=2 * layers * kv_heads * head_dim * element,
        activation_bytes_per_token=element
        * (4 * hidden + head_dim * (heads + 2 * kv_heads) + 3 * intermediate),
        vocab_size=vocab_size,
        element_bytes=element,
    )


def plan(
    target: ModelMemory,
    draft: ModelMemory | None,
    *,
    slots: int,
    max_seq_len: int,
    draft_length: int,
    prefill_chunk: int = 256,
    sampled: bool = True,
) -> MemoryPlan:
    """The memory of an engine with ``slots`` slots of ``max_seq_len`` tokens.

    A slot has γ + 1 positions to spare, where a round writes tokens that the request no longer takes.
    ``sampled`` says whether the distributions of sampled requests have a place of their own.
    """
    positions = slots * _aligned(max_seq_len + draft_length + 1)
    logits = target.element_bytes * target.vocab_size * slots * (draft_length + 1)
    distributions = _FLOAT32 * target.vocab_size * slots * (2 * draft_length + 1) if sampled else 0
    workspace = target.activation_bytes_per_token * max(prefill_chunk, slots * (draft_length + 1))
    if draft is not None:
        logits += draft.element_bytes * draft.vocab_size * slots
    return MemoryPlan(
        target_weights=target.weight_bytes,
        draft_weights=0 if draft is None else draft.weight_bytes,
        target_kv=target.kv_bytes_per_token * positions,
        draft_kv=0 if draft is None else draft.kv_bytes_per_token * positions,
        logits=logits + distributions,
        workspace=workspace,
    )


def most_slots(
    available: int, target: ModelMemory, draft: ModelMemory | None, *, limit: int = 1024, **settings: Any
) -> int:
    """The most slots, up to ``limit``, whose plan fits into ``available`` bytes; 0 when not even one does.

    ``settings`` are those of ``plan`` but the slots.
    """
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if plan(target, draft, slots=middle, **settings).total <= available:
            low = middle
        else:
            high = middle - 1
    return low


def _aligned(positions: int) -> int:
    return -(-positions // _ALIGNMENT) * _ALIGNMENT
