# SPDX-License-Identifier: Apache-2.0
"""Triton repositories with TensorRT engines in NVIDIA's layout, of both generations, and engine folders.

The structure follows NVIDIA/TensorRT-LLM, triton_backend/all_models/inflight_batcher_llm at 2a9abd95 and
tensorrtllm_backend v0.19.0 (where seed is random_seed and min_tokens is min_length); only what a reader of
the files meets is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Generation = Literal["new", "old"]
_RENAMED = {"new": ("seed", "min_tokens"), "old": ("random_seed", "min_length")}
# What fill_template.py leaves of parameters that nobody sets.
UNSET = ("participant_ids", "decoding_mode", "lora_cache_max_adapter_size", "medusa_choices")


@dataclass(frozen=True)
class Layout:
    """What ``write`` writes."""

    generation: Generation = "new"
    target: Mapping[str, str] = field(default_factory=dict)
    """Parameters of tensorrt_llm."""
    draft: Mapping[str, str] | None = field(default_factory=dict)
    """Parameters of tensorrt_llm_draft; None is a repository that does not speculate."""
    names: tuple[str, str] = ("tensorrt_llm", "tensorrt_llm_draft")
    max_batch_size: int = 16
    max_queue_size: int = 0
    tokenizer: str = "${tokenizer_dir}"


def write(root: Path, layout: Layout) -> Path:
    """The repository ``layout`` in ``root``."""
    target, draft = layout.names
    _model(root, target, _engine_model(target, layout, layout.target))
    if layout.draft is not None:
        _model(root, draft, _engine_model(draft, layout, layout.draft))
    _model(root, "tensorrt_llm_bls", _bls(layout))
    tokenizer = _parameters(
        {"tokenizer_dir": layout.tokenizer, "add_special_tokens": "${add_special_tokens}"}
    )
    for name in ("preprocessing", "postprocessing"):
        head = f'name: "{name}"\nbackend: "python"\nmax_batch_size: {layout.max_batch_size}\n'
        _model(root, name, head + _tensors("input", {"QUERY": "TYPE_STRING"}) + tokenizer)
    _model(
        root, "ensemble", f'name: "ensemble"\nplatform: "ensemble"\nmax_batch_size: {layout.max_batch_size}\n'
    )
    return root


def _model(root: Path, name: str, text: str) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(text, encoding="utf-8")


def _engine_model(name: str, layout: Layout, given: Mapping[str, str]) -> str:
    seed, shortest = _RENAMED[layout.generation]
    inputs = {"input_ids": "TYPE_INT32", "input_lengths": "TYPE_INT32", "request_output_len": "TYPE_INT32"}
    inputs |= {"draft_input_ids": "TYPE_INT32", "end_id": "TYPE_INT32"}
    inputs |= {shortest: "TYPE_INT32", seed: "TYPE_UINT64", "streaming": "TYPE_BOOL"}
    values = {key: f"${{{key}}}" for key in UNSET}
    values |= {"FORCE_CPU_ONLY_INPUT_TENSORS": "no", "gpt_model_type": "inflight_fused_batching"}
    values |= {"enable_kv_cache_reuse": "True", "exclude_input_in_output": "False"} | dict(given)
    return (
        f'name: "{name}"\nbackend: "tensorrtllm"\nmax_batch_size: {layout.max_batch_size}\n'
        "model_transaction_policy { decoupled: false }\n"
        "dynamic_batching {\n  preferred_batch_size: [ 4 ]\n  max_queue_delay_microseconds: 0\n"
        f"  default_queue_policy: {{ max_queue_size: {layout.max_queue_size} }}\n}}\n"
        + _tensors("input", inputs)
        + _tensors("output", {"output_ids": "TYPE_INT32", "sequence_length": "TYPE_INT32"})
        + "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
        + _parameters(values)
    )


def _bls(layout: Layout) -> str:
    seed, shortest = _RENAMED[layout.generation]
    inputs = {"text_input": "TYPE_STRING", "max_tokens": "TYPE_INT32", "num_draft_tokens": "TYPE_INT32"}
    inputs |= {shortest: "TYPE_INT32", seed: "TYPE_UINT64", "stream": "TYPE_BOOL"}
    target, draft = layout.names
    names = {"tensorrt_llm_model_name": target, "accumulate_tokens": "${accumulate_tokens}"}
    names["tensorrt_llm_draft_model_name"] = draft if layout.draft is not None else "${x}"
    head = f'name: "tensorrt_llm_bls"\nbackend: "python"\nmax_batch_size: {layout.max_batch_size}\n'
    return head + _tensors("input", inputs) + _parameters(names)


def _tensors(kind: str, tensors: Mapping[str, str]) -> str:
    rows = (f'{{ name: "{name}" data_type: {type} dims: [ -1 ] }}' for name, type in tensors.items())
    return f"{kind} [\n  " + ",\n  ".join(rows) + "\n]\n"


def _parameters(values: Mapping[str, str]) -> str:
    rows = (
        f'parameters: {{\n  key: "{key}"\n  value: {{ string_value: "{value}" }}\n}}\n'
        for key, value in values.items()
    )
    return "".join(rows)


def write_engine(folder: Path, *, draft_length: int = 0, version: str = "1.2.1", **changes: Any) -> Path:
    """An engine folder as trtllm-build leaves it; the engine itself is not real.

    ``changes`` go into build_config, or with a ``pretrained_`` prefix into pretrained_config.
    """
    build: dict[str, Any] = {
        "max_input_len": 3200,
        "max_seq_len": 4800 + draft_length,
        "opt_batch_size": 8,
        "max_batch_size": 8,
        "max_beam_width": 1,
        "max_num_tokens": 8192,
        "kv_cache_type": "PAGED",
        "gather_context_logits": False,
        "gather_generation_logits": False,
        "max_draft_len": draft_length,
        "speculative_decoding_mode": 2 if draft_length else 1,
        "plugin_config": {"use_paged_context_fmha": True, "tokens_per_block": 32},
    }
    pretrained: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "vocab_size": 128256,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
    }
    for key, value in changes.items():
        section = pretrained if key.startswith("pretrained_") else build
        section[key.removeprefix("pretrained_")] = value
    folder.mkdir(parents=True)
    document = {"version": version, "pretrained_config": pretrained, "build_config": build}
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "rank0.engine").write_bytes(b"engine")
    return folder
