# SPDX-License-Identifier: Apache-2.0
"""examples/quantization/quantize.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from support.trtllm_tools import arguments, devices, weights
from support.trtllm_tools.faults import Faults

_ALGORITHMS = arguments.document("engine_config")["quant_algo"]
_FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"]


def main(root: Path) -> None:
    args = arguments.parse("quantize", sys.argv[1:])
    faults = Faults(root, "quantize.py")
    if args.model_dir is None:
        sys.exit("ValueError: One of source checkpoint (model_dir, nemo_ckpt_path) must be specified")
    for word in ("mpt", "vila", "llava-onevision-qwen2"):
        if word in args.model_dir:
            sys.exit(f"ValueError: {args.model_dir} was taken for another kind of model")
    if args.export_format != "tensorrt_llm":
        sys.exit("the stand-in exports tensorrt_llm checkpoints only")
    config = weights.read_model(Path(args.model_dir), _FAMILIES)
    if not devices.listed(root):
        sys.exit("OSError: GPU is required for inference.")
    _calibration_data(args.calib_dataset)
    print("Starting quantization...")
    if args.qformat in {"int4_awq", "w4a8_awq"}:  # ModelOpt pads the embedding and the output layer
        config["vocab_size"] = -(-config["vocab_size"] // 64) * 64
    faults.before_work()
    weights.write(
        Path(args.output_dir),
        config,
        dtype=weights.resolved_dtype(args.dtype, config),
        tp_size=args.tp_size,
        pp_size=args.pp_size,
        quantization={
            "quant_algo": _ALGORITHMS.get(args.qformat),
            "kv_cache_quant_algo": args.kv_cache_dtype and args.kv_cache_dtype.upper(),
        },
        faults=faults,
    )


def _calibration_data(name: str) -> None:
    if Path(name).is_dir():
        return
    if name not in {"cnn_dailymail", "pileval"}:
        sys.exit(f"NotImplementedError: Unsupported dataset name or local repo directory: {name}.")
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        sys.exit(f"ConnectionError: Couldn't reach {name!r} on the Hub (OfflineModeIsEnabled)")
