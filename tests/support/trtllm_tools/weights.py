# SPDX-License-Identifier: Apache-2.0
"""TensorRT-LLM checkpoints of the stand-ins: config.json and rank{N}.safetensors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from support.trtllm_tools.faults import Faults


def read_model(folder: Path, accepted: list[str]) -> dict[str, Any]:
    """config.json of a Hugging Face checkpoint with safetensors, of an accepted family."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in accepted:
        sys.exit(f"AssertionError: Unsupported type: {config['model_type']}, only {accepted} are acceptable.")
    if not list(folder.glob("*.safetensors")):
        sys.exit(f"OSError: no file named model.safetensors found in directory {folder}")
    return config


def resolved_dtype(wanted: str, config: dict[str, Any]) -> str:
    stored = config.get("torch_dtype") or config.get("dtype") or "float16"
    if wanted == "auto":
        return "float16" if stored == "float32" else stored
    return wanted


def write(
    folder: Path,
    config: dict[str, Any],
    *,
    dtype: str,
    tp_size: int,
    pp_size: int,
    quantization: dict[str, Any],
    faults: Faults,
) -> None:
    """The checkpoint of a model split over tp_size x pp_size ranks."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    if heads % tp_size or (kv_heads % tp_size and tp_size % kv_heads):
        sys.exit("AssertionError: heads are not divisible by tp_size")
    world = tp_size * pp_size
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "architecture": config["architectures"][0],
        "dtype": dtype,
        "logits_dtype": "float32",
        "vocab_size": config["vocab_size"] + (128 if faults.kind == "wrong-vocab" else 0),
        "hidden_size": config["hidden_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": config["max_position_embeddings"],
        "mapping": {"world_size": world, "tp_size": tp_size, "pp_size": pp_size},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None, "group_size": 128} | quantization,
    }
    (folder / "config.json").write_text(json.dumps(document, indent=4), encoding="utf-8")
    for rank in range(world):
        if faults.kind == "missing-rank" and rank == world - 1:
            continue
        faults.pause()
        data = _safetensors(rank)
        cut = len(data) // 2 if faults.kind == "cut-off" else len(data)
        (folder / f"rank{rank}.safetensors").write_bytes(data[:cut])


def _safetensors(rank: int) -> bytes:
    values = bytes([rank]) * 4096
    tensor = {"dtype": "F16", "shape": [len(values) // 2], "data_offsets": [0, len(values)]}
    header = json.dumps({"transformer.vocab_embedding.weight": tensor}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + values
