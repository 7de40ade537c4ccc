# SPDX-License-Identifier: Apache-2.0
"""trtllm-build: refuses and adjusts as tensorrt_llm/commands/build.py and builder.py do."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from support.trtllm_tools import arguments, devices
from support.trtllm_tools.faults import Faults

_CONTRACT = arguments.document("engine_config")
_MODES = _CONTRACT["speculative_decoding_mode"]
_ARCHITECTURES = {
    *("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    *("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"),
}
_INTEGER = ("W8A16", "W4A16", "W4A16_AWQ", "W4A8_AWQ", "W8A8_SQ_PER_CHANNEL", "FP8_PER_CHANNEL_PER_TOKEN")


def main(root: Path) -> None:
    args = arguments.parse("trtllm_build", sys.argv[1:])
    faults = Faults(root, "trtllm-build")
    _refuse_combinations(args)
    model = _read_checkpoint(Path(args.checkpoint_dir), root)
    faults.before_work()
    document = _engine_config(args, model, root, faults)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    for rank in range(model["mapping"]["world_size"]):
        faults.pause()
        if rank == 0:
            Path(args.output_timing_cache).write_bytes(b"timings")
            _write_json(output / "config.json", document)
        if faults.kind == "missing-rank" and rank == model["mapping"]["world_size"] - 1:
            continue
        _write_slowly(output / f"rank{rank}.engine", faults, b"engine %d " % rank)
    print("[TRT-LLM] [I] Total time of building all engines: 00:00:00")


def _refuse_combinations(args: argparse.Namespace) -> None:
    if (args.gather_context_logits or args.gather_all_token_logits) and args.max_draft_len > 0:
        sys.exit("RuntimeError: Gather context logits is not support with draft len > 0.")
    if args.multiple_profiles == "enable" and args.opt_num_tokens is not None:
        sys.exit("RuntimeError: multiple_profiles is enabled, while opt_num_tokens is set.")
    if args.streamingllm == "enable":
        sys.exit("AssertionError: StreamingLLM is no longer supported")
    if args.checkpoint_dir is None:
        sys.exit("AttributeError: 'NoneType' object has no attribute 'lower'")


def _read_checkpoint(folder: Path, root: Path) -> dict[str, Any]:
    model = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if model["architecture"] not in _ARCHITECTURES:
        sys.exit(f"AssertionError: Unsupported model architecture: {model['architecture']}")
    for rank in range(model["mapping"]["world_size"]):
        assert (folder / f"rank{rank}.safetensors").is_file()
    if not devices.listed(root):
        sys.exit("RuntimeError: No CUDA GPUs are available")
    algorithm = model["quantization"]["quant_algo"]
    if (10, 0) <= devices.capability(root) < (12, 0) and algorithm in _INTEGER:
        sys.exit("RuntimeError: INT8/INT4 quantization is not supported on SM>=100.")
    return model


def _engine_config(args, model: dict[str, Any], root: Path, faults: Faults) -> dict[str, Any]:
    mode = _MODES[(args.speculative_decoding_mode or "none").upper()]
    max_seq_len = args.max_seq_len or model["max_position_embeddings"]
    max_num_tokens = min(args.max_num_tokens, max_seq_len * args.max_batch_size)
    if mode != _MODES["NONE"]:
        max_seq_len += args.max_draft_len
        max_num_tokens = max(max_num_tokens, args.max_batch_size * (args.max_draft_len + 1))
    build = {
        "max_input_len": min(args.max_input_len, args.max_seq_len or args.max_input_len),
        "max_seq_len": max_seq_len,
        "opt_batch_size": 8,
        "max_batch_size": args.max_batch_size,
        "max_beam_width": args.max_beam_width,
        "max_num_tokens": max_num_tokens,
        "opt_num_tokens": args.opt_num_tokens or args.max_batch_size,
        "max_prompt_embedding_table_size": args.max_prompt_embedding_table_size,
        "kv_cache_type": _kv_cache_type(args.kv_cache_type, root),
        "gather_context_logits": args.gather_context_logits,
        "gather_generation_logits": args.gather_generation_logits,
        "strongly_typed": True,
        "max_draft_len": args.max_draft_len,
        "speculative_decoding_mode": 1 if faults.kind == "no-draft-tokens" else mode,
        "output_timing_cache": args.output_timing_cache,
        "plugin_config": _plugins(args, model, root),
    }
    assert set(build) == set(_CONTRACT["build_config"])
    pretrained = {**model, "mapping": {"gpus_per_node": 8, "cp_size": 1, **model["mapping"]}}
    return {"version": _version(root), "pretrained_config": pretrained, "build_config": build}


def _plugins(args, model: dict[str, Any], root: Path) -> dict[str, Any]:
    """Paged context FMHA goes off, with a warning only, where the cache's type does not allow it."""
    algorithm, cache = model["quantization"]["quant_algo"], model["quantization"]["kv_cache_quant_algo"]
    paged = args.use_paged_context_fmha == "enable" and args.context_fmha == "enable"
    fp8 = algorithm in ("FP8", "W4A8_AWQ", "NVFP4") and devices.capability(root) >= (8, 9)
    if cache == "INT8" or (cache == "FP8" and not fp8):
        print("[TRT-LLM] [W] Paged Context FMHA is disabled")
        paged = False
    return {
        "dtype": model["dtype"],
        "gemm_plugin": model["dtype"] if args.gemm_plugin == "auto" else args.gemm_plugin,
        "context_fmha": args.context_fmha == "enable",
        "remove_input_padding": args.remove_input_padding == "enable",
        "use_paged_context_fmha": paged,
        "use_fp8_context_fmha": args.use_fp8_context_fmha == "enable" and fp8 and cache == "FP8",
        "tokens_per_block": args.tokens_per_block,
    }


def _kv_cache_type(wanted: str, root: Path) -> str:
    """In lower case from 1.2 on, where the configuration became a pydantic model (pull request 8330)."""
    name = "paged" if wanted.startswith("(") else wanted
    return name if _version(root) >= "1.2" else name.upper()


def _version(root: Path) -> str:
    return (root / "version").read_text(encoding="utf-8")


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=4), encoding="utf-8")


def _write_slowly(path: Path, faults: Faults, content: bytes) -> None:
    """In pieces, so that a kill or a full disk can strike in the middle."""
    size = faults.options.get("engine_bytes", 4096)
    with path.open("wb") as file:
        for _ in range(max(1, size // 4096)):
            file.write((content * 4096)[:4096])
            faults.pause()
