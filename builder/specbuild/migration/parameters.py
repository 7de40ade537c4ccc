# SPDX-License-Identifier: Apache-2.0
"""Parameters of the tensorrtllm backend's models, and what becomes of them.

Names: triton_backend/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt at 2a9abd95 of
NVIDIA/TensorRT-LLM, the same since tensorrtllm_backend v0.19.0. Arguments of the LLM API: llm_args.py at
0004396 (kv_cache_config, scheduler_config); earlier releases were not compared key by key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from specbuild.migration.note import Note

# Read elsewhere, or without meaning outside Triton's own backend.
_HANDLED = frozenset(
    {
        *("gpt_model_path", "kv_cache_free_gpu_mem_fraction", "enable_kv_cache_reuse"),
        *("FORCE_CPU_ONLY_INPUT_TENSORS", "executor_worker_path", "worker_path", "tokenizer_dir"),
        *("max_beam_width", "gpu_device_ids"),
    }
)


def truth(text: str) -> bool:
    """Whether a parameter's text means true, as the backend reads it."""
    return text.strip().lower() in {"true", "1"}


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


# Parameter -> (path of the LLM API argument, how to read the text).
_ARGUMENTS: Mapping[str, tuple[tuple[str, ...], Callable[[str], Any]]] = {
    "enable_chunked_context": (("enable_chunked_prefill",), truth),
    "max_tokens_in_paged_kv_cache": (("kv_cache_config", "max_tokens"), int),
    "max_attention_window_size": (("kv_cache_config", "max_attention_window"), _integers),
    "kv_cache_host_memory_bytes": (("kv_cache_config", "host_cache_size"), int),
    "batch_scheduler_policy": (("scheduler_config", "capacity_scheduler_policy"), str.upper),
    "guided_decoding_backend": (("guided_decoding_backend",), str),
}
_FRONT = "The LLM API's runtime does it by itself."
_REASONS: Mapping[str, str] = {
    "gpt_model_type": "In-flight batching is always on.",
    "exclude_input_in_output": "The repository's front model decides it per request.",
    "decoding_mode": "Chosen per request from its sampling parameters.",
    "cancellation_check_period_ms": "Cancellation is asynchronous.",
    "stats_check_period_ms": "Counters are kept per request.",
    "participant_ids": "There is one process group, without an orchestrator.",
    "num_nodes": "Several nodes are started with trtllm-llmapi-launch.",
    "speculative_decoding_fast_logits": "Draft and target share one process: nothing has to be transferred.",
    "gpu_weights_percent": "The PyTorch backend does not stream weights.",
    "normalize_log_probs": "Log-probabilities are those of the model.",
    "multi_block_mode": _FRONT,
    "enable_context_fmha_fp32_acc": _FRONT,
    "cuda_graph_mode": "CUDA graphs are on by default.",
    "cuda_graph_cache_size": "CUDA graphs are captured once per batch size.",
    "encoder_model_path": "The LLM API serves decoder-only models here.",
    "xgrammar_tokenizer_info_path": "The tokenizer is read from the checkpoint.",
}
# Values that ask for what happens anyway.
_NEUTRAL = {
    "gpt_model_type": {"inflight_fused_batching", "inflight_batching"},
    "exclude_input_in_output": {"false"},
    "decoding_mode": {"top_k_top_p"},
    "normalize_log_probs": {"true"},
    "num_nodes": {"1"},
}
_METHODS = ("medusa_", "eagle_", "lookahead_", "redrafter_")
_NO_COUNTERPART = "The LLM API has no such setting that specbuild knows."


def arguments(parameters: Mapping[str, str]) -> tuple[dict[str, Any], list[Note]]:
    """``llmapi.arguments`` for the set parameters of the target model, and a note about each of them."""
    result: dict[str, Any] = {}
    notes = []
    for key, text in parameters.items():
        if key not in _ARGUMENTS:
            continue
        path, read = _ARGUMENTS[key]
        try:
            value = read(text)
        except ValueError:
            notes.append(Note("lost", f"tensorrt_llm/{key}", text, "The value cannot be understood."))
            continue
        _put(result, path, value)
        reason = ".".join(("llmapi", "arguments", *path))
        notes.append(Note("changed", f"tensorrt_llm/{key}", text, f"Now {reason}"))
    return result, notes


def _put(document: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *sections, last = path
    for section in sections:
        document = document.setdefault(section, {})
    document[last] = value


def losses(models: Mapping[str, Mapping[str, str]]) -> Iterator[Note]:
    """A note for every parameter, set in any of the models, that nothing else takes up."""
    for key in dict.fromkeys(key for values in models.values() for key in values):
        if key in _HANDLED or key in _ARGUMENTS:
            continue
        texts = {name: values[key] for name, values in models.items() if key in values}
        if all(text.lower() in _NEUTRAL.get(key, ()) for text in texts.values()):
            continue
        spelled = " and ".join(dict.fromkeys(texts.values()))
        yield Note("lost", f"{', '.join(texts)}/{key}", spelled, _reason(key))


def _reason(key: str) -> str:
    if key.startswith(_METHODS):
        return "It belongs to another method of speculation."
    if key.startswith(("lora_", "sink_token", "cross_kv")):
        return "Not combined with draft-target speculation here."
    return _REASONS.get(key, _NO_COUNTERPART)
