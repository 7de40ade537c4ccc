# SPDX-License-Identifier: Apache-2.0
"""Folders as trtllm-build leaves them, without a build: config.json, engine files, tokenizer, manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from specbuild import artifacts
from specbuild.config import Config

LLAMA_8B = {
    "architecture": "LlamaForCausalLM",
    "dtype": "bfloat16",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
LLAMA_1B = {
    **LLAMA_8B,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "head_size": 64,
}


def settings_for(output: Path, **sections: Any) -> Config:
    """A configuration of the tensorrt_llm runtime; ``sections`` change or add to it."""
    document: dict[str, Any] = {
        "name": "pair",
        "runtime": "tensorrt_llm",
        "target": {"checkpoint": "target"},
        "draft": {"checkpoint": "draft"},
        "limits": {"max_batch_size": 16, "max_input_len": 3072, "max_seq_len": 4096},
        "output": str(output),
    }
    for section, values in sections.items():
        document[section] = {**document.get(section, {}), **values}
    return Config.model_validate(document)


def write(settings: Config, *, gpu_memory: int | None = 80 << 30, weights: int = 1000) -> None:
    """Both engines of ``settings``; without ``gpu_memory`` the manifest names no GPU."""
    for role in ("target", "draft"):
        gpus = [] if gpu_memory is None else [{"name": "H100", "memory_bytes": gpu_memory}]
        with artifacts.publish(settings.engines_dir / role, key=role, facts={"gpus": gpus}) as staging:
            document = config(settings, role)
            (staging / "config.json").write_text(json.dumps(document))
            for rank in range(document["pretrained_config"]["mapping"]["world_size"]):
                with (staging / f"rank{rank}.engine").open("wb") as file:
                    file.truncate(weights)
            (staging / "tokenizer").mkdir()
            (staging / "tokenizer" / "tokenizer.json").write_text("{}")


def config(settings: Config, role: Literal["target", "draft"]) -> dict[str, Any]:
    """config.json of one engine, as the plan for ``settings`` makes trtllm-build write it."""
    model = settings.target if role == "target" else settings.draft
    drafted = settings.speculation.draft_length if role == "target" else 0
    limits = settings.limits
    mapping = {
        "world_size": model.tp_size * model.pp_size,
        "tp_size": model.tp_size,
        "pp_size": model.pp_size,
    }
    return {
        "version": settings.tensorrt_llm.version,
        "pretrained_config": {
            **(LLAMA_8B if role == "target" else LLAMA_1B),
            "mapping": mapping,
            "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
        },
        "build_config": {
            "max_input_len": limits.max_seq_len,
            "max_seq_len": limits.max_seq_len + drafted,
            "max_batch_size": limits.max_batch_size,
            "max_beam_width": 1,
            "max_num_tokens": 8192,
            "gather_generation_logits": False,
            "max_draft_len": drafted,
            "speculative_decoding_mode": 2 if drafted else 1,
            "plugin_config": {"use_paged_context_fmha": True, "tokens_per_block": 32},
        },
    }


def change(folder: Path, section: str, **values: Any) -> None:
    """Give an engine other facts than the configuration says."""
    path = folder / "config.json"
    document = json.loads(path.read_text())
    document[section].update(values)
    path.write_text(json.dumps(document))
