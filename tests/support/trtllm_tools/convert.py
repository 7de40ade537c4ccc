# SPDX-License-Identifier: Apache-2.0
"""The convert_checkpoint.py of each family."""

from __future__ import annotations

import sys
from pathlib import Path

from support.trtllm_tools import arguments, weights
from support.trtllm_tools.faults import Faults

_WEIGHT_ONLY = {"int8": "W8A16", "int4": "W4A16", "w4a8_awq": "W4A8_AWQ", "w4a16_awq": "W4A16_AWQ"}


def llama(root: Path) -> None:
    args = arguments.parse("convert_checkpoint_llama", sys.argv[1:])
    algorithm = "FP8_PER_CHANNEL_PER_TOKEN" if args.use_fp8_rowwise else None
    _run(root, args, ["llama", "mistral"], tp=args.tp_size, pp=args.pp_size, algorithm=algorithm)


def qwen(root: Path) -> None:
    args = arguments.parse("convert_checkpoint_qwen", sys.argv[1:])
    _run(root, args, ["qwen", "qwen2", "qwen3"], tp=args.tp_size, pp=args.pp_size)


def gemma(root: Path) -> None:
    args = arguments.parse("convert_checkpoint_gemma", sys.argv[1:])
    if args.ckpt_type != "hf":
        sys.exit(f"KeyError: {args.ckpt_type}")
    if args.use_weight_only and args.weight_only_precision is None:
        sys.exit("AssertionError")
    args.output_dir = args.output_model_dir
    _run(root, args, ["gemma", "gemma2", "gemma3_text"], tp=args.world_size, pp=1)


def _run(root: Path, args, accepted, *, tp: int, pp: int, algorithm: str | None = None) -> None:
    faults = Faults(root, "convert_checkpoint.py")
    config = weights.read_model(Path(args.model_dir), accepted)
    print("FutureWarning: convert_checkpoint.py is deprecated", file=sys.stderr)
    faults.before_work()
    if args.use_weight_only:
        algorithm = _WEIGHT_ONLY[args.weight_only_precision]
    cache = "FP8" if getattr(args, "fp8_kv_cache", False) else "INT8" if args.int8_kv_cache else None
    weights.write(
        Path(args.output_dir),
        config,
        dtype=weights.resolved_dtype(args.dtype, config),
        tp_size=tp,
        pp_size=pp,
        quantization={"quant_algo": algorithm, "kv_cache_quant_algo": cache},
        faults=faults,
    )
    print("Total time of converting checkpoints: 00:00:00")
