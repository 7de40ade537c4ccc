# SPDX-License-Identifier: Apache-2.0
"""From a configuration to the arguments of TensorRT-LLM's ``LLM``: the content of model.yaml. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specbuild.config import Config
from specbuild.engines.llmapi_versions import AcceptanceStop, Dialect

_DEFAULT_NUM_TOKENS = 8192
"""LLM's own default of max_num_tokens."""
_STOP_WINDOWS = {"requests": 100, "rounds": 2000}
"""Long enough that one unlucky prompt does not switch speculation off."""


def model_yaml(
    settings: Config, dialect: Dialect, *, target: str, draft: str, cost_ratio: float | None = None
) -> dict[str, Any]:
    """The arguments for ``target`` and ``draft`` (folders or hub ids) in the words of ``dialect``.

    ``cost_ratio`` is the cost of one draft token over one target step; with it, ``speculation.adaptive``
    becomes a stop at the acceptance below which speculation cannot pay. The draft always has the target's
    parallelism: the LLM API knows one.
    """
    limits, options = settings.limits, settings.target
    document: dict[str, Any] = {
        "model": target,
        "backend": "pytorch",
        "tensor_parallel_size": options.tp_size,
        "pipeline_parallel_size": options.pp_size,
        "max_batch_size": limits.max_batch_size,
        "max_input_len": limits.max_input_len,
        "max_seq_len": limits.max_seq_len,
        "max_num_tokens": _num_tokens(settings),
        "kv_cache_config": _kv_cache(settings),
        "disable_overlap_scheduler": not dialect.overlap_scheduler,
        "speculative_config": _speculation(settings, dialect, draft, cost_ratio),
    }
    if options.dtype != "auto":
        document["dtype"] = options.dtype
    if options.trust_remote_code or settings.draft.trust_remote_code:
        document["trust_remote_code"] = True
    return _merged(document, settings.llmapi.arguments)


def _merged(document: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` with ``extra`` put over it, section by section."""
    result = dict(document)
    for key, value in extra.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _num_tokens(settings: Config) -> int:
    """The longest prompt in one piece, and the verification of a full batch, must fit one pass."""
    limits = settings.limits
    verification = limits.max_batch_size * (settings.speculation.draft_length + 1)
    return max(_DEFAULT_NUM_TOKENS, limits.max_input_len, verification)


def _kv_cache(settings: Config) -> dict[str, Any]:
    cache = settings.kv_cache
    return {
        "free_gpu_memory_fraction": cache.free_gpu_memory_fraction,
        "enable_block_reuse": cache.reuse,
        "dtype": cache.dtype,
    }


def _speculation(settings: Config, dialect: Dialect, draft: str, cost_ratio: float | None) -> dict[str, Any]:
    speculation = settings.speculation
    section: dict[str, Any] = {
        "decoding_type": dialect.decoding_type,
        "max_draft_len": speculation.draft_length,
        dialect.draft_model: draft,
    }
    if speculation.acceptance == "logits" and dialect.rejection_sampling:
        section[dialect.rejection_sampling] = True
    if speculation.adaptive and dialect.acceptance_stop and cost_ratio is not None:
        section |= _stop(dialect.acceptance_stop, speculation.draft_length, cost_ratio)
    return section


def _stop(stop: AcceptanceStop, draft_length: int, cost_ratio: float) -> dict[str, Any]:
    """A round costs 1 + γc target steps and gives 1 + accepted tokens: below accepted = γc it only loses."""
    accepted = draft_length * min(cost_ratio, 1.0)
    threshold = accepted if stop.averages == "accepted tokens per round" else accepted / draft_length
    return {stop.window: _STOP_WINDOWS[stop.counts], stop.threshold: round(threshold, 4)}
