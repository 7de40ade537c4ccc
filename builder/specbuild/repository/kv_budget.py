# SPDX-License-Identifier: Apache-2.0
"""One budget of KV cache memory, split between two engines so that both can hold the same tokens. Pure.

The backend takes two limits and applies the smaller: ``kv_cache_free_gpu_mem_fraction``, a share of the
memory that is free at the moment an engine has loaded its weights, and ``max_tokens_in_paged_kv_cache``
(cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp, ``calculateFreeMemBytes``, of NVIDIA/TensorRT-LLM).
Triton loads models in parallel and in no defined order, so what a fraction amounts to depends on which engine
comes first (docs/llama_multi_instance.md of tensorrtllm_backend says so). A number of tokens does not. Hence:

- GPU memory known: both engines get the number of tokens that the budget holds, and the configured fraction
  stays as the limit that keeps either from taking what is not there. Whichever loads first, the second finds
  room for its weights and its share.
- GPU memory unknown: no number can be given. The fraction is split by bytes per token; in either order the
  sum stays below the configured fraction, but the engine that loads second gets less than its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from specbuild.errors import RepositoryError
from specbuild.repository.engine_facts import EngineFacts
from specbuild.repository.placement import Placement, Role

_PROCESS_BYTES = 1 << 30
"""CUDA context, cuBLAS and NCCL of one worker; an estimate, which the unused fraction covers."""


@dataclass(frozen=True, slots=True)
class KvShare:
    """What one engine's model is told."""

    fraction: float
    tokens: int | None
    """None when the GPU's memory is unknown."""


def split(
    engines: Mapping[Role, EngineFacts],
    placement: Placement,
    *,
    fraction: float,
    gpu_memory_bytes: int | None,
) -> dict[Role, KvShare]:
    """The share of each engine of ``fraction`` of what remains beside weights and activations.

    ``gpu_memory_bytes`` is the memory of one GPU. Raises RepositoryError when an engine's cache would not
    hold one sequence of full length.
    """
    if gpu_memory_bytes is None:
        return {role: KvShare(_by_bytes(engines, placement, fraction, role), None) for role in engines}
    tokens = {
        role: min(
            _tokens_on(gpu, engines, placement, fraction, gpu_memory_bytes) for gpu in placement.gpus[role]
        )
        for role in engines
    }
    if placement.shared:
        # More tokens in one cache than in the other are of no use: each round needs its text in both.
        tokens = dict.fromkeys(engines, min(tokens.values()))
    shares = {role: KvShare(fraction, _blocks(tokens[role], engines[role])) for role in engines}
    for role, engine in engines.items():
        _require_room(role, engine, shares[role].tokens or 0, gpu_memory_bytes)
    return shares


def _by_bytes(
    engines: Mapping[Role, EngineFacts], placement: Placement, fraction: float, role: Role
) -> float:
    if not placement.shared:
        return fraction
    total = sum(engine.kv_bytes_per_token for engine in engines.values())
    return round(fraction * engines[role].kv_bytes_per_token / total, 4)


def _tokens_on(
    gpu: int,
    engines: Mapping[Role, EngineFacts],
    placement: Placement,
    fraction: float,
    gpu_memory_bytes: int,
) -> int:
    """Tokens that every engine on ``gpu`` can hold beside the others."""
    here = [engine for role, engine in engines.items() if gpu in placement.gpus[role]]
    budget = fraction * (gpu_memory_bytes - reserved_bytes(here))
    return int(budget / sum(engine.kv_bytes_per_token for engine in here))


def reserved_bytes(engines: Iterable[EngineFacts]) -> int:
    """Weights, activations and runtime of ``engines`` on one GPU; the latter two are estimates."""
    return sum(engine.weight_bytes + _activation_bytes(engine) + _PROCESS_BYTES for engine in engines)


def _activation_bytes(engine: EngineFacts) -> int:
    """Hidden states and the widest layer of one pass in 16 bits, and float32 logits for each sequence."""
    per_token = 2 * (4 * engine.hidden_size + 2 * engine.intermediate_size // engine.tp_size)
    logits = 4 * engine.vocab_size * engine.max_batch_size * (engine.max_draft_len + 1)
    return engine.max_num_tokens * per_token + 2 * logits


def _blocks(tokens: int, engine: EngineFacts) -> int:
    return max(0, tokens // engine.tokens_per_block * engine.tokens_per_block)


def _require_room(role: Role, engine: EngineFacts, tokens: int, gpu_memory_bytes: int) -> None:
    if tokens < engine.max_seq_len:
        raise RepositoryError(
            f"the {role}'s KV cache would hold {tokens} tokens on a GPU of {gpu_memory_bytes / 1e9:.0f} GB, "
            f"less than one sequence of {engine.max_seq_len}",
            remedy="Lower limits.max_seq_len, set kv_cache.dtype: fp8 with fp8 weights, quantise the target, "
            "or raise tp_size; then build the engines again.",
        )
