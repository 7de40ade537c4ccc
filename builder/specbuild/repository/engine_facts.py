# SPDX-License-Identifier: Apache-2.0
"""What a TensorRT engine was built for, read from the config.json beside it.

Keys as tensorrt_llm/builder.py writes them (NVIDIA/TensorRT-LLM at 008b2b8d, ``EngineConfig.to_dict``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specbuild.engines.readback import read_config
from specbuild.errors import BuildError, RepositoryError

EXTERNAL_DRAFT_TOKENS = 2
"""``speculative_decoding_mode`` of an engine that verifies draft tokens."""
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine: limits, shape and size."""

    folder: Path
    version: str
    tp_size: int
    pp_size: int
    layers: int
    kv_heads: int
    head_size: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    kv_element_bytes: int
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int
    max_draft_len: int
    speculative_decoding_mode: int
    paged_context: bool
    generation_logits: bool
    tokens_per_block: int
    weight_bytes: int
    """Size of the largest rank's engine file."""

    @classmethod
    def read(cls, folder: Path) -> EngineFacts:
        """The facts of the engine in ``folder``. Raises RepositoryError when there is none."""
        document = _config(folder)
        try:
            return cls(folder=folder, **_facts(document), weight_bytes=_weight_bytes(folder))
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise RepositoryError(
                f"{folder / 'config.json'} is not that of a TensorRT engine: {type(error).__name__} {error}",
                remedy="Build the engine again: `specbuild engines --config FILE`.",
            ) from None

    @property
    def world_size(self) -> int:
        """GPUs that it needs."""
        return self.tp_size * self.pp_size

    @property
    def verifies_drafts(self) -> bool:
        """Whether requests may carry draft tokens."""
        return self.speculative_decoding_mode == EXTERNAL_DRAFT_TOKENS and self.max_draft_len > 0

    @property
    def kv_bytes_per_token(self) -> int:
        """KV cache of one token on the GPU that holds most of it."""
        layers = -(-self.layers // self.pp_size)
        heads = -(-self.kv_heads // self.tp_size)  # fewer heads than GPUs are replicated
        return 2 * layers * heads * self.head_size * self.kv_element_bytes


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        return read_config(folder)
    except BuildError as error:
        raise RepositoryError(
            error.message, remedy="Build the engine: `specbuild engines --config FILE`."
        ) from None


def _facts(document: Mapping[str, Any]) -> dict[str, Any]:
    model, build = document["pretrained_config"], document["build_config"]
    mapping, plugins = model.get("mapping") or {}, build.get("plugin_config") or {}
    heads = int(model["num_attention_heads"])
    hidden = int(model["hidden_size"])
    quantized_kv = (model.get("quantization") or {}).get("kv_cache_quant_algo")
    return {
        "version": str(document.get("version")),
        "tp_size": int(mapping.get("tp_size", 1)),
        "pp_size": int(mapping.get("pp_size", 1)),
        "layers": int(model["num_hidden_layers"]),
        "kv_heads": int(model.get("num_key_value_heads") or heads),
        "head_size": int(model.get("head_size") or hidden // heads),
        "hidden_size": hidden,
        "intermediate_size": int(model.get("intermediate_size") or 4 * hidden),
        "vocab_size": int(model["vocab_size"]),
        "kv_element_bytes": 1 if quantized_kv else _DTYPE_BYTES[model["dtype"]],
        "max_batch_size": int(build["max_batch_size"]),
        "max_input_len": int(build["max_input_len"]),
        "max_seq_len": int(build["max_seq_len"]),
        "max_num_tokens": int(build["max_num_tokens"]),
        "max_beam_width": int(build.get("max_beam_width", 1)),
        "max_draft_len": int(build.get("max_draft_len", 0)),
        "speculative_decoding_mode": int(build.get("speculative_decoding_mode", 1)),
        "paged_context": bool(plugins.get("use_paged_context_fmha", False)),
        "generation_logits": bool(build.get("gather_generation_logits", False)),
        "tokens_per_block": int(plugins.get("tokens_per_block", 32)),
    }


def _weight_bytes(folder: Path) -> int:
    return max((path.stat().st_size for path in folder.glob("rank*.engine")), default=0)
